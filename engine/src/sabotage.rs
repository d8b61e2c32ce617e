//! Bugs on request, for the canaries of the harness: each harness has to show that it would have noticed.
//!
//! Inert unless [`WorldBuilder::sabotage`](crate::WorldBuilder) was called, which only the harness does. Not an interface.

/// What is broken on purpose in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The plan forgets that the second system waits for the first.
    LoseEdge(&'static str, &'static str),
    /// A capture overlooks those who took the row of somebody who is gone, the newly born above all.
    ForgetSpawns,
    /// A system runs in every second tick only.
    Seldom(&'static str),
    /// A system never runs.
    Never(&'static str),
}
