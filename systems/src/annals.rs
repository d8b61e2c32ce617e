//! What the town remembers of its cast: each tick, what happened to them, with how much it matters.

use crate::{
    lives::{Born, Died},
    memory::{Befriended, Met, Quarrelled, Reached, Reconciled, Told},
    needs::{Hungered, Recovered},
    sense::FellIll,
    work::Hired,
};
use everworld_components::{Annals, DAY_MINUTES, DEEDS_MAX, Deed, EpisodeKind};
use everworld_engine::prelude::*;

/// So many deeds of one day are kept.
const DAY_MAX: usize = 48;

/// What happened between two, or to one.
type OfTwo<'w> = (
    Res<'w, Happened<Met>>,
    Res<'w, Happened<Befriended>>,
    Res<'w, Happened<Quarrelled>>,
    Res<'w, Happened<Reconciled>>,
    Res<'w, Happened<Told>>,
    Res<'w, Happened<Reached>>,
);
type OfOne<'w> = (
    Res<'w, Happened<Hungered>>,
    Res<'w, Happened<FellIll>>,
    Res<'w, Happened<Recovered>>,
    Res<'w, Happened<Hired>>,
    Res<'w, Happened<Born>>,
    Res<'w, Happened<Died>>,
);

fn kind(name: &str) -> u8 {
    Deed::KINDS.iter().position(|known| *known == name).expect("a kind of deed") as u8
}

/// Writes down what matters.
pub(crate) fn record(
    time: Res<TickTime>,
    (met, befriended, quarrelled, reconciled, told, reached): OfTwo<'_>,
    (hungered, fell_ill, recovered, hired, born, died): OfOne<'_>,
    mut annals: ResMut<Annals>,
) {
    let mut deeds = Vec::new();
    for who in &annals.cast {
        let uid = Uid::new(*who);
        let is_cast = |other: Uid| annals.cast.binary_search(&other.get()).is_ok();
        let mut note = |name: &str, whom: Uid, base: u8, both: u8, valence: f32, of: u8| {
            let salience = if is_cast(whom) { both } else { base };
            let valence = (valence.clamp(-1.0, 1.0) * 100.0) as i8;
            let (kind, whom) = (kind(name), whom.get());
            deeds.push(Deed { tick: time.tick.0, kind, who: *who, whom, of, valence, salience });
        };
        let none = 0;
        met.of(uid).for_each(|met| note("met", met.with, 20, 120, met.quality, none));
        befriended.of(uid).for_each(|two| note("befriended", two.with, 140, 235, two.affinity, none));
        quarrelled.of(uid).for_each(|two| note("quarrelled", two.with, 130, 230, two.affinity, none));
        reconciled.of(uid).for_each(|two| note("reconciled", two.with, 150, 240, two.affinity, none));
        for told in told.of(uid).filter(|told| told.kind != EpisodeKind::Rumour) {
            note("told", told.subject, 10, 90, f32::from(told.valence) / 100.0, told.kind.0);
        }
        reached.of(uid).for_each(|rumour| note("rumour", rumour.subject, 100, 210, -rumour.weight, none));
        hungered.of(uid).for_each(|_| note("hungered", Uid::NONE, 125, 125, -0.6, none));
        fell_ill.of(uid).for_each(|_| note("fell_ill", Uid::NONE, 160, 160, -0.7, none));
        recovered.of(uid).for_each(|_| note("recovered", Uid::NONE, 150, 150, 0.5, none));
        // The trade itself, where else the kind of an episode is.
        hired.of(uid).for_each(|hired| note("hired", Uid::NONE, 170, 170, 0.4, hired.trade.0));
        born.of(uid).for_each(|born| note("born", born.with, 245, 250, 0.9, none));
        died.of(uid).for_each(|_| note("died", Uid::NONE, 255, 255, -1.0, none));
    }
    if !deeds.is_empty() {
        deeds.into_iter().for_each(|deed| add(&mut annals.deeds, deed));
    }
}

/// Adds a deed, and leaves out what matters least, where there are too many: of a day, or of all.
fn add(deeds: &mut Vec<Deed>, deed: Deed) {
    let today = deeds.partition_point(|known| day_of(known) < day_of(&deed));
    deeds.push(deed);
    let from = if deeds.len() - today > DAY_MAX {
        today
    } else if deeds.len() > DEEDS_MAX {
        0
    } else {
        return;
    };
    let least = (from..deeds.len()).min_by_key(|i| (deeds[*i].salience, *i));
    least.map(|least| deeds.remove(least));
}

pub(crate) fn day_of(deed: &Deed) -> u64 {
    (deed.tick + crate::day::START_MINUTE) / DAY_MINUTES
}
