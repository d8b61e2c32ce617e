//! What is remembered: of conversations, of what befell one, and of what one was told; and what that makes of ties.
//!
//! An episode is worth keeping by recency, importance and relevance together, as in Park et al. 2023, "Generative agents:
//! interactive simulacra of human behavior"; the least worth makes room. What is told loses weight with each mouth, and never
//! gains any; with time it is forgotten (Ebbinghaus 1885, "Über das Gedächtnis"). Ties grow by meeting and by how that
//! went, and fade where nobody meets.

use crate::{
    meet::Talked,
    needs::{Hungered, Recovered},
    sense::{FellIll, number_of},
    work::Hired,
};
use everworld_components::{Episode, EpisodeKind, Memory, Mood, Needs, Position, Tie, Ties, TownMap, Traits};
use everworld_engine::{event, prelude::*};

/// What is told weighs so much of what it weighed for who tells it.
pub(crate) const LOSS: f32 = 0.8;
/// What is worth less is not told.
pub(crate) const TOLD_LEAST: f32 = 0.1;
/// What weighs less is forgotten.
const FORGOTTEN: f32 = 0.05;
/// A day takes so much of the weight of what is remembered.
const FORGETTING: f32 = 0.85;
/// The time in which what is remembered becomes half as recent, in ticks: a day.
const RECENT: f32 = 1_440.0;
/// Friends are those whom one likes so much, and knows so well.
pub(crate) const FRIEND: f32 = 0.4;
const FAMILIAR: f32 = 0.25;
/// A conversation that goes worse is a quarrel.
const QUARREL: f32 = -0.5;
/// Between those who dislike each other so much, one that goes well is a reconciliation.
const ESTRANGED: f32 = -0.2;
const WELL: f32 = 0.2;
/// What a day without meeting leaves of a tie.
const FADING: f32 = 0.97;

event! {
    /// Two met who did not know each other.
    pub struct Met("met") {
        /// The other one.
        with: Uid,
        /// How it went, from -1 to 1.
        quality: f32,
        /// The quarter of the town.
        place: u32,
    }
}
event! {
    /// Somebody was told something that they did not know.
    pub struct Told("told") {
        /// Who told it.
        by: Uid,
        /// To whom it happened.
        subject: Uid,
        /// How much it weighs for them.
        weight: f32,
        /// When it happened, as a tick.
        tick: u32,
        /// Where: the quarter of the town.
        place: u16,
        /// What.
        kind: EpisodeKind,
        /// How it felt, from -100 to 100.
        valence: i8,
        /// How well it went with who told it, from -1 to 1.
        quality: f32,
    }
}
event! {
    /// A rumour reached somebody for the first time.
    pub struct Reached("rumour") {
        /// Who told it.
        by: Uid,
        /// Whom it is about.
        subject: Uid,
        /// How much of it is left.
        weight: f32,
        /// When it began, as a tick.
        tick: u32,
    }
}

macro_rules! between_two {
    ($($(#[$doc:meta])* $Name:ident($name:literal)),+) => {$(
        event! {
            $(#[$doc])*
            pub struct $Name($name) {
                /// The other one.
                with: Uid,
                /// What they are to them now, from -1 to 1.
                affinity: f32,
                /// The quarter of the town.
                place: u32,
            }
        }
    )+};
}
between_two! {
    /// Somebody made a friend.
    Befriended("befriended"),
    /// Somebody quarrelled with another.
    Quarrelled("quarrelled"),
    /// Somebody made it up with another.
    Reconciled("reconciled")
}

/// How recent something is, from 0 to 1.
fn recency(episode: &Episode, now: u32) -> f32 {
    math::exp32(-std::f32::consts::LN_2 * now.wrapping_sub(episode.tick) as f32 / RECENT)
}

/// How much something is worth telling: what is heavy, the more the newer it is.
pub(crate) fn tellable(episode: &Episode, now: u32) -> f32 {
    episode.weight * (0.4 + 0.6 * recency(episode, now))
}

/// What an episode is worth, from 0 to 1, to who thinks of somebody; the mean of recency, importance and relevance.
pub(crate) fn retrieval(episode: &Episode, now: u32, of: u32) -> f32 {
    let relevance = f32::from(u8::from(of != 0 && episode.subject == of));
    (recency(episode, now) + math::unit32(episode.weight) + relevance) / 3.0
}

/// Remembers an episode: true when it is new. One that is known is as heavy as the heavier of both: talk makes no weight.
pub(crate) fn remember(memory: &mut Memory, episode: Episode, now: u32, me: u32) -> bool {
    if let Some(known) = memory.episodes.iter_mut().find(|known| known.is_same(&episode)) {
        known.weight = known.weight.max(episode.weight);
        return false;
    }
    let worth = |episode: &Episode| match episode.kind {
        EpisodeKind::None => -1.0,
        _ => retrieval(episode, now, me),
    };
    let mut least = 0;
    for i in 1..memory.episodes.len() {
        if worth(&memory.episodes[i]) < worth(&memory.episodes[least]) {
            least = i;
        }
    }
    let is_kept = worth(&memory.episodes[least]) < worth(&episode);
    if is_kept {
        memory.episodes[least] = episode;
    }
    is_kept
}

type Person =
    (&'static Uid, Write<Memory>, Write<Ties>, Write<Needs>, Write<Mood>, &'static Traits, &'static Position);

/// Makes conversations part of those who had them.
#[expect(clippy::too_many_arguments, reason = "six kinds of events come of a conversation")]
pub(crate) fn take_in(
    time: Res<TickTime>,
    map: Res<TownMap>,
    index: Res<UidIndex>,
    talked: Res<Happened<Talked>>,
    met: Emit<Met>,
    told: Emit<Told>,
    reached: Emit<Reached>,
    befriended: Emit<Befriended>,
    quarrelled: Emit<Quarrelled>,
    reconciled: Emit<Reconciled>,
    mut people: Rows<Person>,
) {
    let now = time.tick.0 as u32;
    people.for_those(
        &index,
        &talked,
        |(uids, mut memories, mut all_ties, mut needs, mut moods, traits, positions), talked| {
            for (i, talk) in talked {
                let (i, talk) = (*i, *talk);
                let (uid, me, other) = (uids[i], number_of(uids[i]), number_of(talk.with));
                let Talked { with, quality, .. } = *talk;
                let quarter = map.quarter(positions[i].x, positions[i].y);
                let place = u32::from(quarter);
                let before = all_ties[i].to(other).copied().unwrap_or_default();
                let mut ties = all_ties[i];
                let tie = ties.with(other);
                meet(tie, quality, &traits[i]);
                let after = *tie;

                let mut own = memories[i];
                let memory = &mut own;
                let mut keep = |kind, weight, valence: f32, subject| {
                    let valence = (valence * 100.0) as i8;
                    let episode = Episode { tick: now, subject, weight, place: quarter, kind, valence };
                    remember(memory, episode, now, me);
                };
                if before.who == 0 {
                    met.emit(uid, Met { with, quality, place });
                    keep(EpisodeKind::Met, 0.2, quality, other);
                }
                let is_friend = |tie: &Tie| tie.affinity >= FRIEND && tie.familiarity >= FAMILIAR;
                let affinity = after.affinity;
                if is_friend(&after) && !is_friend(&before) {
                    befriended.emit(uid, Befriended { with, affinity, place });
                    keep(EpisodeKind::Befriended, 0.7, quality, other);
                } else if quality < QUARREL {
                    quarrelled.emit(uid, Quarrelled { with, affinity, place });
                    keep(EpisodeKind::Quarrelled, 0.6, quality, other);
                } else if before.affinity <= ESTRANGED && quality >= WELL {
                    reconciled.emit(uid, Reconciled { with, affinity, place });
                    keep(EpisodeKind::Reconciled, 0.6, quality, other);
                }

                if talk.weight > 0.0 && talk.subject != me {
                    let Talked { tick, subject, place, kind, valence, weight, .. } = *talk;
                    // Who gets on with the other believes more.
                    let weight = weight * (0.75 + 0.25 * quality.max(0.0));
                    let episode = Episode { tick, subject, weight, place, kind, valence };
                    if weight >= FORGOTTEN && remember(memory, episode, now, me) {
                        let subject_uid = Uid::new(u64::from(subject));
                        told.emit(
                            uid,
                            Told {
                                by: with,
                                subject: subject_uid,
                                weight,
                                tick,
                                place,
                                kind,
                                valence,
                                quality,
                            },
                        );
                        if kind == EpisodeKind::Rumour {
                            reached.emit(uid, Reached { by: with, subject: subject_uid, weight, tick });
                        }
                        // One likes whom one hears good of.
                        if let Some(known) =
                            ties.known.iter_mut().find(|tie| tie.who == subject && subject != 0)
                        {
                            let change = 0.1 * weight * f32::from(valence) / 100.0;
                            known.affinity = (known.affinity + change).clamp(-1.0, 1.0);
                        }
                        explain!(
                            uid,
                            "is told by {with} what happened to {subject_uid}: {kind:?}, {weight:.2}"
                        );
                    }
                }
                memories.set(i, own);
                all_ties.set(i, ties);
                let eased = 0.04 * (1.5 + quality);
                needs.set(i, Needs { loneliness: math::unit32(needs[i].loneliness - eased), ..needs[i] });
                let Mood { valence, arousal } = moods[i];
                moods.set(
                    i,
                    Mood {
                        valence: (valence + 0.15 * quality).clamp(-1.0, 1.0),
                        arousal: if quality < QUARREL { math::unit32(arousal + 0.4) } else { arousal },
                    },
                );
            }
        },
    );
}

/// What a conversation makes of a tie: affinity moves toward how it went, less the better they know each other.
fn meet(tie: &mut Tie, quality: f32, traits: &Traits) {
    let rate = 0.3 - 0.15 * tie.familiarity;
    // The nervous take it harder when it goes badly, the agreeable forgive.
    let quality = if quality < 0.0 {
        quality * (0.8 + 0.6 * traits.neuroticism - 0.4 * traits.agreeableness)
    } else {
        quality
    };
    tie.affinity = (tie.affinity + rate * (quality - 0.25 * tie.affinity)).clamp(-1.0, 1.0);
    tie.familiarity = math::unit32(tie.familiarity + 0.12 * (1.0 - tie.familiarity));
}

type Rememberer = (&'static Uid, Write<Memory>, &'static Position);

/// Remembers what befell oneself.
#[expect(clippy::too_many_arguments, reason = "four kinds of events befall one")]
pub(crate) fn live_through(
    time: Res<TickTime>,
    map: Res<TownMap>,
    index: Res<UidIndex>,
    hungered: Res<Happened<Hungered>>,
    fell_ill: Res<Happened<FellIll>>,
    recovered: Res<Happened<Recovered>>,
    hired: Res<Happened<Hired>>,
    mut people: Rows<Rememberer>,
) {
    let now = time.tick.0 as u32;
    macro_rules! keep {
        ($happened:ident, $kind:ident, $weight:literal, $valence:literal) => {
            people.for_those(&index, &$happened, |(uids, mut memories, positions), those| {
                for (i, _) in those {
                    let (place, me) = (map.quarter(positions[*i].x, positions[*i].y), number_of(uids[*i]));
                    let (kind, weight, valence) = (EpisodeKind::$kind, $weight, $valence);
                    let episode = Episode { tick: now, subject: me, weight, place, kind, valence };
                    memories.edit(*i, |memory| remember(memory, episode, now, me));
                }
            });
        };
    }
    keep!(hungered, Hungered, 0.5, -60);
    keep!(fell_ill, FellIll, 0.6, -70);
    keep!(recovered, Recovered, 0.4, 50);
    keep!(hired, Hired, 0.5, 40);
}

/// What a day takes: memories lose weight until they are forgotten, and ties fade.
pub(crate) fn fade(turn: Turn, mut people: Rows<(&'static Uid, Write<Memory>, Write<Ties>)>) {
    people.for_each(|(uids, mut memories, mut ties)| {
        for i in turn.rows(uids) {
            if memories[i].episodes.iter().any(|episode| episode.kind != EpisodeKind::None) {
                memories.edit(i, |memory| {
                    for episode in &mut memory.episodes {
                        episode.weight *= FORGETTING;
                        if episode.weight < FORGOTTEN {
                            *episode = Episode::default();
                        }
                    }
                });
            }
            if ties[i].known.iter().any(|tie| tie.who != 0) {
                ties.edit(i, |ties| {
                    for tie in &mut ties.known {
                        tie.familiarity *= FADING;
                        tie.affinity *= FADING;
                        if tie.strength() < FORGOTTEN {
                            *tie = Tie::default();
                        }
                    }
                });
            }
        }
    });
}
