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
pub(crate) fn steer(mut walkers: Rows<(&'static Uid, Write<Velocity>, &'static Position, &'static Goal)>) {
    walkers.for_each(|(uids, mut velocities, positions, goals)| {
        let watched = explain::row(uids);
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
            if watched == Some(i) {
                let action = goals[i].action.name().unwrap_or("nothing known");
                let speed = (wanted.x * wanted.x + wanted.y * wanted.y).sqrt();
                explain!(
                    uids[i],
                    "{distance:.1} m to the place of its goal ({action}): {speed:.1} m in this minute"
                );
            }
            velocities.set(i, wanted);
        }
    });
}

/// Moves everyone by their velocity.
pub(crate) fn step(map: Res<TownMap>, mut walkers: Rows<(&'static Uid, Write<Position>, &'static Velocity)>) {
    let side = map.side;
    walkers.for_each(|(uids, mut positions, velocities)| {
        let watched = explain::row(uids);
        for i in 0..positions.len() {
            let (from, by) = (positions[i], velocities[i]);
            if by.x != 0.0 || by.y != 0.0 {
                let to =
                    Position { x: (from.x + by.x).clamp(0.0, side), y: (from.y + by.y).clamp(0.0, side) };
                if watched == Some(i) && (to.x, to.y) != (from.x + by.x, from.y + by.y) {
                    explain!(uids[i], "is held back by the edge of the town");
                }
                positions.set(i, to);
            }
        }
    });
}
