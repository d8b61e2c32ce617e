//! Who is around: looked at by everybody in turn, a tenth of the town in each tick, through a grid over all people.

use everworld_components::{Company, Position, TownMap};
use everworld_engine::{Geometry, InCells, Space, prelude::*};

/// How far one hears another talk, in metres. Across a noisy square; in a quiet room it is more.
const EARSHOT: f32 = 8.0;
/// Between two looks of one, in ticks.
const LOOK_EVERY: u64 = 10;

/// The people by where they are.
pub(crate) struct People;

impl Space for People {
    const NAME: &'static str = "people";
    type Map = TownMap;
    type Columns = (Position, Uid);
    type Filter = With<Company>;

    fn geometry(map: &TownMap) -> Geometry {
        Geometry::bounded([f64::from(map.side); 2], f64::from(EARSHOT))
    }

    fn place((position, _): &(Position, Uid)) -> [f64; 3] {
        [f64::from(position.x), f64::from(position.y), 0.0]
    }
}

fn is_due(time: &TickTime, uid: Uid) -> bool {
    (time.tick.0 + uid.get()).is_multiple_of(LOOK_EVERY)
}

/// Looks around.
pub(crate) fn look(
    time: Res<TickTime>,
    mut people: InCells<People, (&'static Uid, Write<Company>), Company>,
) {
    people.for_each(
        |cell, company| {
            for ((position, uid), company) in cell.rows().iter().zip(company) {
                if is_due(&time, *uid) {
                    let hears = |(other, _): &&(Position, Uid)| {
                        position.distance_squared(other.x, other.y) <= EARSHOT * EARSHOT
                    };
                    let near: usize =
                        cell.runs().map(|(_, others)| others.iter().filter(hears).count()).sum();
                    // But oneself.
                    company.near = (near as u32).saturating_sub(1);
                }
            }
        },
        |(uids, mut companies), seen| {
            for (i, uid) in uids.iter().enumerate() {
                if is_due(&time, *uid) {
                    explain!(*uid, "has {} people within earshot", seen.of(i).near);
                    companies.set(i, seen.of(i));
                }
            }
        },
    );
}
