//! Wages: paid for a day of work at its end, out of the treasury.

use crate::needs::is_there;
use everworld_components::{Action, Day, Goal, Occupation, Position, Purse, Treasury};
use everworld_engine::prelude::*;

type Worker = (&'static Uid, Write<Purse>, &'static Occupation, &'static Goal, &'static Position);

/// Pays who is at work when their working day ends.
pub(crate) fn pay(day: Res<Day>, mut treasury: ResMut<Treasury>, mut people: Rows<Worker>) {
    let minute = day.minute;
    let paid: i64 = people.sum(|(uids, mut purses, works, goals, positions)| {
        let watched = explain::row(uids);
        let mut paid = 0;
        for i in 0..purses.len() {
            let work = &works[i];
            let done = work.lasts > 0 && minute + 1 == u64::from(work.starts) + u64::from(work.lasts);
            if watched == Some(i) && done {
                let at_work = goals[i].action == Action::Work && is_there(&goals[i], &positions[i]);
                let what = if at_work { "at work: the wage is paid" } else { "elsewhere: no wage is paid" };
                explain!(uids[i], "the working day ends {what} ({} coins)", work.wage);
            }
            if done && goals[i].action == Action::Work && is_there(&goals[i], &positions[i]) {
                let purse = purses.row_mut(i);
                purse.coins = purse.coins.saturating_add(u32::from(work.wage));
                paid += i64::from(work.wage);
            }
        }
        paid
    });
    if paid != 0 {
        treasury.coins -= paid;
    }
}
