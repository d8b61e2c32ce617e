//! Work that is spread over ticks: each row has its turn in one of them.
//!
//! What need not be done for everybody in each tick is declared so on the system, `.spread(10)`, and done for those whose
//! turn it is. Turns go by Uid, [`GROUP`] of them together, so that what is read and written lies together too: rows are
//! mostly in the order of their Uids. Who has a turn depends on Uid and tick alone (W3, W4).

use crate::{ids::Uid, state::TickTime, system::CurrentSystem};
use bevy_ecs::{prelude::*, system::SystemParam};

/// So many Uids that follow each other have their turns together.
pub const GROUP: u64 = 64;

/// Whose turn it is in this tick, in a system that is declared with [`SystemConfig::spread`](crate::SystemConfig::spread).
#[derive(SystemParam)]
pub struct Turn<'w, 's> {
    time: Res<'w, TickTime>,
    spread: Local<'s, Spread>,
}

struct Spread(u64);

impl FromWorld for Spread {
    fn from_world(world: &mut World) -> Self {
        let mut current = world.resource_mut::<CurrentSystem>();
        current.takes_turns = true;
        Self(current.spread.max(1))
    }
}

impl Turn<'_, '_> {
    /// True when it is the turn of that one.
    #[inline]
    pub fn is_of(&self, uid: Uid) -> bool {
        self.waits(uid) == 0
    }

    /// In how many ticks its turn comes; 0 in its own.
    #[inline]
    pub fn waits(&self, uid: Uid) -> u64 {
        (self.spread.0 - (uid.get() / GROUP + self.time.tick.0) % self.spread.0) % self.spread.0
    }

    /// How many ticks go by from one turn to the next.
    pub fn ticks(&self) -> u64 {
        self.spread.0
    }

    /// The rows whose turn it is, by their place among these.
    #[inline]
    pub fn rows<'u>(&self, uids: &'u [Uid]) -> impl Iterator<Item = usize> + use<'u> {
        TurnRows { uids, at: 0, until: 0, spread: self.spread.0, tick: self.time.tick.0 }
    }
}

struct TurnRows<'u> {
    uids: &'u [Uid],
    at: usize,
    /// The rows up to here have their turn.
    until: usize,
    spread: u64,
    tick: u64,
}

impl Iterator for TurnRows<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.at == self.until {
            let rest = &self.uids[self.at..];
            let group = rest.first()?.get() / GROUP;
            self.until = self.at + of_group(rest, group);
            if !(group + self.tick).is_multiple_of(self.spread) {
                self.at = self.until;
            }
        }
        self.at += 1;
        Some(self.at - 1)
    }
}

/// How many of these, from the first on, are of a group. Most rows are skipped, so that they are looked at eight at a time.
fn of_group(uids: &[Uid], group: u64) -> usize {
    let beyond = |uid: &Uid| uid.get() ^ (group * GROUP);
    let all = |eight: &&[Uid; 8]| eight.iter().fold(0, |bits, uid| bits | beyond(uid)) < GROUP;
    let eights = uids.as_chunks::<8>().0.iter().take_while(all).count() * 8;
    eights + uids[eights..].iter().take_while(|uid| beyond(uid) < GROUP).count()
}
