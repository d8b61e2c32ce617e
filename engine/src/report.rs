//! What a tick did and how long it took. Measured for people and the governor; never an input of a system.

use crate::{
    effects::Lives,
    event::EventBatch,
    ids::Tick,
    input::{InputError, Outcome},
};

/// The clocks of the host, as functions: this crate has none. Both count nanoseconds from any origin.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    /// Time on the wall.
    pub wall_nanos: fn() -> u64,
    /// CPU time of the calling thread.
    pub thread_cpu_nanos: fn() -> u64,
}

impl Stopwatch {
    /// Time stands still: for tests and replays that nobody measures.
    pub fn stopped() -> Self {
        Self { wall_nanos: || 0, thread_cpu_nanos: || 0 }
    }
}

/// CPU time is sampled in one of so many ticks at the most: reading it costs ten times what the wall clock does.
pub const CPU_SAMPLE_TICKS: u64 = 16;

/// And not again within this time, in nanoseconds.
pub(crate) const CPU_SAMPLE_NANOS: u64 = 10_000_000;

/// In tiny ticks wall time is not taken again within this time, in nanoseconds.
pub(crate) const TINY_SAMPLE_NANOS: u64 = 1_000_000;

/// A finished tick.
#[derive(Clone, Debug, Default)]
pub struct TickReport {
    /// Which one.
    pub tick: Tick,
    /// When it began, by the wall clock.
    pub began_nanos: u64,
    /// How many entities there are.
    pub entities: usize,
    /// Who came and who went.
    pub lives: Lives,
    /// What happened, kind by kind; those kinds of which something did.
    pub events: Vec<EventBatch>,
    /// What became of each input, by its number.
    pub outcomes: Vec<(u64, Result<Outcome, InputError>)>,
    /// The whole tick.
    pub wall_nanos: u64,
    /// Applying inputs and timers, before the first system.
    pub inputs_nanos: u64,
    /// True when one thread ran all systems, one after the other.
    pub serial: bool,
    /// Per node of the plan, in its order.
    pub systems: Vec<SystemReport>,
}

/// A node's part of a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemReport {
    /// False when its rate left this tick out, or it is disabled.
    pub ran: bool,
    /// Whether it runs when its rate says so.
    pub enabled: bool,
    /// How long it took. In ticks so tiny that looking at the clock costs as much as the systems do, taken about
    /// once a millisecond.
    pub wall_nanos: Option<u64>,
    /// CPU time of the thread that ran it (not of those that helped with its rows); sampled.
    pub cpu_nanos: Option<u64>,
    /// When it began by the wall clock, and on which thread of the pool, none for the tick's own; while ticks are traced.
    pub began: Option<(u64, Option<u32>)>,
}
