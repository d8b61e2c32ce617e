//! What we compare with: bevy's own executors and loops, and bare arrays.

pub(crate) mod arrays;
pub(crate) mod bevy;
pub(crate) mod bevy_flock;
pub(crate) mod flock;
mod raw;
