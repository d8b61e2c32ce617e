//! Travellers: they come through the gate in the morning, stay for some hours, and go.

use everworld_components::{
    Action, Day, Goal, Home, Needs, Occupation, Position, Purse, TownMap, Trade, Traits, Velocity, Visit,
};
use everworld_engine::prelude::*;

/// The minute of the day at which they come.
const ARRIVE_MINUTE: u64 = 480;
/// The kind of timer that ends a stay.
const LEAVE: u32 = 1;

/// A traveller comes for each so many people.
const PEOPLE_PER_TRAVELLER: usize = 400;

/// Brings the travellers of a day.
pub(crate) fn arrive(
    time: Res<TickTime>,
    day: Res<Day>,
    map: Res<TownMap>,
    random: Random,
    people: Rows<&'static Goal>,
    births: Effects,
) {
    if day.minute != ARRIVE_MINUTE {
        return;
    }
    let (x, y) = map.gate();
    for number in 0..people.count() / PEOPLE_PER_TRAVELLER {
        // A key of their own, as no parent asks for them: it orders them, and is what their chance is drawn by.
        let key = Uid::new(number as u64);
        let mut draws = random.of(key);
        let (market_x, market_y) = map.market_near(draws.unit32() * map.side, draws.unit32() * map.side);
        births.spawn(
            key,
            (
                Position { x, y },
                Velocity::default(),
                Needs { hunger: draws.unit32() * 0.5, ..Needs::default() },
                Traits { openness: 0.9, extraversion: draws.unit32(), ..Traits::default() },
                Occupation { trade: Trade::Traveller, ..Occupation::default() },
                Home { x, y },
                Purse { coins: 0 },
                goal(&time, market_x, market_y, Action::Trade),
                Visit { until: time.tick.0 + 240 + u64::from(draws.below(240)), announced: 0 },
            ),
        );
    }
}

fn goal(time: &TickTime, x: f32, y: f32, action: Action) -> Goal {
    Goal { since: time.tick.0 as u32, x, y, score: 1_000, action, ..Goal::default() }
}

/// Sets the timer of who has just come.
pub(crate) fn announce(time: Res<TickTime>, timers: Timers, mut visits: Rows<(&'static Uid, Write<Visit>)>) {
    visits.for_each(|(uids, mut visits)| {
        for i in 0..visits.len() {
            if visits[i].announced == 0 {
                let visit = visits.row_mut(i);
                visit.announced = 1;
                explain!(uids[i], "has just come: stays until tick {}", visit.until);
                timers.after(visit.until.saturating_sub(time.tick.0), uids[i], LEAVE);
            }
        }
    });
}

/// Sends home whose time is up; takes out of the world who has reached the gate.
pub(crate) fn leave(
    time: Res<TickTime>,
    due: Due,
    index: Res<UidIndex>,
    map: Res<TownMap>,
    mut goals: Query<(&Uid, &Position, &mut Goal), With<Visit>>,
    deaths: Effects,
) {
    let (x, y) = map.gate();
    for uid in due.of(LEAVE) {
        let entity = index.get(uid);
        if let Some((_, _, mut goal)) = entity.and_then(|entity| goals.get_mut(entity).ok()) {
            explain!(uid, "its stay is over: heads for the gate");
            *goal = self::goal(&time, x, y, Action::Leave);
        }
    }
    for (uid, position, goal) in &goals {
        if goal.action == Action::Leave && crate::needs::is_there(goal, position) {
            explain!(*uid, "has reached the gate: leaves the town");
            deaths.despawn(*uid, *uid);
        }
    }
}
