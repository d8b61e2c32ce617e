//! Bare arrays on rayon: what no entity system can beat.

use rayon::prelude::*;

/// A point or a velocity.
#[derive(Clone, Copy)]
pub(crate) struct Vec3 {
    pub x: f32,
    pub y: f32,
    pub z: f32,
}

/// Rows of a task: the same as the engine's.
const TASK_ROWS: usize = 2_048;

/// position += velocity, on the pool of this thread.
pub(crate) fn integrate(positions: &mut [Vec3], velocities: &[Vec3]) {
    positions.par_chunks_mut(TASK_ROWS).zip(velocities.par_chunks(TASK_ROWS)).for_each(
        |(positions, velocities)| {
            for (position, velocity) in positions.iter_mut().zip(velocities) {
                position.x += velocity.x;
                position.y += velocity.y;
                position.z += velocity.z;
            }
        },
    );
}
