//! Markets: what is spent there goes to the treasury; and the count of who is about what.

use crate::needs::is_there;
use everworld_components::{Action, Census, Goal, Needs, Position, Purse, Treasury};
use everworld_engine::prelude::*;

/// One purchase in so many minutes on the market.
const BUY_EVERY: u64 = 20;

/// Buys.
pub(crate) fn trade(
    time: Res<TickTime>,
    mut treasury: ResMut<Treasury>,
    mut people: Rows<(&'static Uid, Write<Purse>, &'static Goal, &'static Position)>,
) {
    let spent: i64 = people.sum(|(uids, mut purses, goals, positions)| {
        let mut spent = 0;
        for i in 0..purses.len() {
            let buys =
                (time.tick.0 + uids[i].get()).is_multiple_of(BUY_EVERY) && goals[i].action == Action::Trade;
            if buys && purses[i].coins > 0 && is_there(&goals[i], &positions[i]) {
                explain!(uids[i], "buys something for a coin at the market");
                purses.row_mut(i).coins -= 1;
                spent += 1;
            } else if buys {
                let why = if purses[i].coins == 0 { "has no coins" } else { "has not reached the market" };
                explain!(uids[i], "would buy something now, but {why}");
            }
        }
        spent
    });
    if spent != 0 {
        treasury.coins += spent;
    }
}

/// Counts.
pub(crate) fn count(
    mut census: ResMut<Census>,
    mut people: Rows<(&'static Goal, &'static Position, &'static Needs)>,
) {
    let [people, awake, at_work, at_market, starving] = people.sum(|(goals, positions, needs)| {
        let mut counts = [0u64; 5];
        for i in 0..goals.len() {
            let there = is_there(&goals[i], &positions[i]);
            let action = goals[i].action;
            counts[0] += 1;
            counts[1] += u64::from(!(there && action == Action::Sleep));
            counts[2] += u64::from(there && action == Action::Work);
            counts[3] += u64::from(there && (action == Action::Trade || action == Action::Socialise));
            counts[4] += u64::from(needs[i].hunger >= 0.9);
        }
        counts
    });
    *census = Census { people, awake, at_work, at_market, starving };
}
