//! Walking: toward the goal, slower near it, never past the edge of the town.
//!
//! Steering by "arrive" (Reynolds 1999, "Steering behaviors for autonomous characters").

use everworld_components::{Goal, Position, TownMap, Velocity};
use everworld_engine::prelude::*;

/// Metres in a minute: a person's usual 1.3 m/s.
const WALK: f32 = 78.0;
/// From here on someone slows down, in metres.
const SLOW: f32 = 30.0;
/// Nearer than this someone stands still, in metres.
const STAND: f32 = 0.5;

/// Turns goals into velocities.
pub(crate) fn steer(mut walkers: Rows<(Write<Velocity>, &'static Position, &'static Goal)>) {
    walkers.for_each(|(mut velocities, positions, goals)| {
        for i in 0..velocities.len() {
            let (dx, dy) = (goals[i].x - positions[i].x, goals[i].y - positions[i].y);
            let distance = (dx * dx + dy * dy).sqrt();
            // Further than can be told is as good as here: no infinity may become a velocity.
            let wanted = if distance < STAND || !distance.is_finite() {
                Velocity::default()
            } else {
                // Never further than the goal itself, so that nobody overshoots.
                let speed = (WALK * (distance / SLOW).clamp(0.25, 1.0)).min(distance);
                Velocity { x: dx / distance * speed, y: dy / distance * speed }
            };
            velocities.set(i, wanted);
        }
    });
}

/// Moves everyone by their velocity.
pub(crate) fn step(map: Res<TownMap>, mut walkers: Rows<(Write<Position>, &'static Velocity)>) {
    let side = map.side;
    walkers.for_each(|(mut positions, velocities)| {
        for i in 0..positions.len() {
            let (from, by) = (positions[i], velocities[i]);
            if by.x != 0.0 || by.y != 0.0 {
                let to =
                    Position { x: (from.x + by.x).clamp(0.0, side), y: (from.y + by.y).clamp(0.0, side) };
                positions.set(i, to);
            }
        }
    });
}
