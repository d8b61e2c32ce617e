//! Needs rise with time and fall by what someone does.

use everworld_components::{Action, Company, Goal, Needs, Position, Traits};
use everworld_engine::prelude::*;

/// How far from its place an action can be done, in metres.
pub(crate) const REACH: f32 = 4.0;

/// Per minute: from sated to starving in 16 hours, awake to exhausted in 18, content to lonely in two days.
const HUNGER: f32 = 1.0 / (16.0 * 60.0);
const FATIGUE: f32 = 1.0 / (18.0 * 60.0);
const LONELINESS: f32 = 1.0 / (48.0 * 60.0);
const PURPOSE: f32 = 1.0 / (48.0 * 60.0);

/// True when someone is where their goal is done.
pub(crate) fn is_there(goal: &Goal, position: &Position) -> bool {
    position.distance_squared(goal.x, goal.y) <= REACH * REACH
}

type Person =
    (&'static Uid, Write<Needs>, &'static Goal, &'static Position, &'static Traits, &'static Company);

/// One minute of living.
pub(crate) fn change(mut people: Rows<Person>) {
    people.for_each(|(uids, mut needs, goals, positions, traits, companies)| {
        let rows = needs.all_mut().iter_mut().zip(goals).zip(positions).zip(traits).zip(companies);
        for ((((needs, goal), position), traits), company) in rows {
            let doing = if is_there(goal, position) { goal.action } else { Action::Idle };
            let asleep = doing == Action::Sleep;
            let hunger = if asleep { HUNGER * 0.5 } else { HUNGER };
            needs.hunger =
                math::unit32(needs.hunger + if doing == Action::Eat { -1.0 / 30.0 } else { hunger });
            needs.fatigue = math::unit32(needs.fatigue + if asleep { -1.0 / (8.0 * 60.0) } else { FATIGUE });
            // Among others: alone on the square there is nobody to talk to.
            let company = company.near > 0 && (doing == Action::Socialise || doing == Action::Trade);
            let longing = LONELINESS * (0.5 + traits.extraversion);
            needs.loneliness = math::unit32(needs.loneliness + if company { -1.0 / 120.0 } else { longing });
            needs.purpose = math::unit32(
                needs.purpose + if doing == Action::Work { -1.0 / (6.0 * 60.0) } else { PURPOSE },
            );
        }
        // Outside of the loop, which is a hot one.
        if let Some(i) = explain::row(uids) {
            let action = goals[i].action.name().unwrap_or("nothing known");
            if is_there(&goals[i], &positions[i]) {
                explain!(uids[i], "spends the minute with its goal: {action}");
            } else {
                let metres = positions[i].distance_squared(goals[i].x, goals[i].y).sqrt();
                explain!(uids[i], "is on the way to {action}, {metres:.1} m to go: all needs rise");
            }
        }
    });
}
