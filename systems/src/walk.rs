//! Walking: toward the goal, and no further; never past the edge of the town.
//!
//! Steering by "seek" and "arrive" (Reynolds 1999, "Steering behaviors for autonomous characters"): who has a goal elsewhere
//! sets out when it is their turn, walks on in each tick, and ends exactly there. Who stands still costs nothing.

use everworld_components::{Goal, Position, TownMap, Velocity};
use everworld_engine::prelude::*;

/// Metres in a minute: a person's usual 1.3 m/s.
const WALK: f32 = 78.0;
/// From here on someone slows down, in metres.
const SLOW: f32 = 30.0;
/// Nearer than this someone stands still, in metres.
const STAND: f32 = 0.5;

/// The way to a goal: along both axes, and how long it is; none when it is reached. Further than can be told is as good as
/// here: no infinity may become a velocity.
fn way(goal: &Goal, position: &Position) -> Option<(f32, f32, f32)> {
    let (x, y) = (goal.x - position.x, goal.y - position.y);
    let distance = (x * x + y * y).sqrt();
    (distance >= STAND && distance.is_finite()).then_some((x, y, distance))
}

/// How far someone goes in this minute.
fn toward(goal: &Goal, position: &Position) -> Velocity {
    way(goal, position).map_or(Velocity::default(), |(x, y, distance)| {
        // Never further than the goal itself, so that nobody overshoots.
        let speed = (WALK * (distance / SLOW).clamp(0.25, 1.0)).min(distance);
        Velocity { x: x / distance * speed, y: y / distance * speed }
    })
}

type Walker = (&'static Uid, Write<Position>, Write<Velocity>, &'static Goal);

/// Moves everyone who walks; who stands, and has a goal elsewhere, sets out in their turn.
pub(crate) fn step(turn: Turn, map: Res<TownMap>, mut walkers: Rows<Walker>) {
    let side = map.side;
    walkers.for_each(|(uids, mut positions, mut velocities, goals)| {
        for i in 0..positions.len() {
            if velocities[i] == Velocity::default() && !turn.is_of(uids[i]) {
                continue;
            }
            let (from, by) = (positions[i], toward(&goals[i], &positions[i]));
            let to = Position { x: (from.x + by.x).clamp(0.0, side), y: (from.y + by.y).clamp(0.0, side) };
            positions.set(i, to);
            // Where there is no further way, they stand from now on.
            velocities.set(i, toward(&goals[i], &to));
            if explain::is_watched(uids[i]) {
                let metres = way(&goals[i], &from).map_or(0.0, |(_, _, metres)| metres);
                let action = goals[i].action.name().unwrap_or("nothing known");
                let speed = (by.x * by.x + by.y * by.y).sqrt();
                explain!(
                    uids[i],
                    "{metres:.1} m to the place of its goal ({action}): {speed:.1} m in this minute"
                );
            }
        }
    });
}
