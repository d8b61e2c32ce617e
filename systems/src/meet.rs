//! Conversations: of two who have both chosen each other, once in their turn.
//!
//! Who is alike gets on (Byrne 1961, "Interpersonal attraction and attitude similarity"), the more so the friendlier both are,
//! the better their mood, and the better they got on before. One tells the other the most tellable thing that they
//! remember. What comes of it is handed to both as an event, and made part of them by `remember`.

use crate::{
    memory::{self, TOLD_LEAST},
    sense::{EARSHOT, number_of},
};
use everworld_components::{
    Action, Episode, EpisodeKind, Faction, Goal, Memory, Mood, Party, Position, Ties, Traits,
};
use everworld_engine::{event, prelude::*};

event! {
    /// Somebody talked with another, and may have been told something.
    pub struct Talked("talked") {
        /// With whom.
        with: Uid,
        /// How it went, from -1 to 1.
        quality: f32,
        /// How much what they were told weighs; 0 where they were told nothing.
        weight: f32,
        /// When that happened, as a tick.
        tick: u32,
        /// To whom it happened, by the number of their Uid.
        subject: u32,
        /// Where it happened: the quarter of the town.
        place: u16,
        /// What it was.
        kind: EpisodeKind,
        /// How it felt, from -100 to 100.
        valence: i8,
        /// How agreeable the other one is, from 0 to 1.
        agreeableness: f32,
    }
}

type Talker = (
    &'static Uid,
    &'static Goal,
    &'static Position,
    &'static Traits,
    &'static Mood,
    &'static Memory,
    &'static Ties,
    &'static Faction,
);

struct Side<'a> {
    uid: Uid,
    traits: &'a Traits,
    mood: &'a Mood,
    memory: &'a Memory,
    ties: &'a Ties,
    faction: &'a Faction,
}

/// Lets those talk whose turn it is; the one who came first into the world has it for both.
pub(crate) fn talk(
    turn: Turn,
    time: Res<TickTime>,
    random: Random,
    index: Res<UidIndex>,
    talked: Emit<Talked>,
    others: Query<Talker>,
    mut people: Rows<Talker>,
) {
    let now = time.tick.0 as u32;
    people.for_each(|(uids, goals, positions, traits, moods, memories, ties, factions)| {
        for i in turn.rows(uids) {
            let (uid, goal) = (uids[i], &goals[i]);
            let (me, other) = (number_of(uid), goal.target);
            if goal.action != Action::Talk || other == 0 || other <= me || me == 0 {
                continue;
            }
            let found = index.get(Uid::new(u64::from(other))).and_then(|entity| others.get(entity).ok());
            let Some((with, their_goal, place, their_traits, their_mood, memory, their_ties, faction)) =
                found
            else {
                continue;
            };
            let is_near = positions[i].distance_squared(place.x, place.y) <= EARSHOT * EARSHOT;
            if their_goal.target != me || their_goal.action != Action::Talk || !is_near {
                explain!(uid, "would talk with {with}, who has not chosen them");
                continue;
            }
            let a = Side {
                uid,
                traits: &traits[i],
                mood: &moods[i],
                memory: &memories[i],
                ties: &ties[i],
                faction: &factions[i],
            };
            let b = Side {
                uid: *with,
                traits: their_traits,
                mood: their_mood,
                memory,
                ties: their_ties,
                faction,
            };
            let mut draws = random.of(uid);
            let quality = quality(&a, &b, draws.unit32() + draws.unit32() - 1.0);
            let [to_a, to_b] = [tells(&b, &a, now, draws.unit32()), tells(&a, &b, now, draws.unit32())];
            explain!(uid, "talks with {with}: it goes {quality:.2}");
            explain!(*with, "talks with {uid}: it goes {quality:.2}");
            talked.emit(a.uid, said(&b, quality, to_a));
            talked.emit(b.uid, said(&a, quality, to_b));
        }
    });
}

fn said(by: &Side<'_>, quality: f32, told: Episode) -> Talked {
    let Episode { tick, subject, weight, place, kind, valence } = told;
    let agreeableness = by.traits.agreeableness;
    Talked { with: by.uid, quality, weight, tick, subject, place, kind, valence, agreeableness }
}

/// How a conversation goes, from -1 to 1. `luck` is from -1 to 1, mostly near to 0.
fn quality(a: &Side<'_>, b: &Side<'_>, luck: f32) -> f32 {
    let differences = [
        a.traits.openness - b.traits.openness,
        a.traits.conscientiousness - b.traits.conscientiousness,
        a.traits.extraversion - b.traits.extraversion,
        a.traits.agreeableness - b.traits.agreeableness,
        a.traits.neuroticism - b.traits.neuroticism,
    ];
    let difference = differences.iter().map(|difference| difference.abs()).sum::<f32>() / 5.0;
    let liking = |of: &Side<'_>, to: &Side<'_>| of.ties.to(number_of(to.uid)).map_or(0.0, |tie| tie.affinity);
    let liking = 0.5 * (liking(a, b) + liking(b, a));
    let agree = 0.5 * (a.traits.agreeableness + b.traits.agreeableness);
    let mood = 0.5 * (a.mood.valence + b.mood.valence);
    let zeal = f32::from(a.faction.zeal.min(b.faction.zeal)) / 255.0;
    let parties = match (a.faction.party, b.faction.party) {
        (Party::None, _) | (_, Party::None) => 0.0,
        (a, b) if a == b => 0.1 * zeal,
        _ => -0.2 * zeal,
    };
    let quality =
        1.0 * (0.22 - difference) + 0.6 * (agree - 0.4) + 0.4 * liking + 0.25 * mood + parties + 0.6 * luck;
    quality.clamp(-1.0, 1.0)
}

/// What one tells another: the most tellable thing, if they speak of anything at all.
fn tells(speaker: &Side<'_>, hearer: &Side<'_>, now: u32, chance: f32) -> Episode {
    if chance >= 0.15 + 0.8 * speaker.traits.extraversion {
        return Episode::default();
    }
    let (own, their) = (number_of(speaker.uid), number_of(hearer.uid));
    // What nobody may know is for friends' ears.
    let confides = speaker.ties.to(their).is_some_and(|tie| tie.affinity >= 0.6);
    let tellable = speaker.memory.episodes.iter().filter(|episode| {
        let is_secret = episode.kind == EpisodeKind::Rumour && episode.subject == own;
        episode.kind != EpisodeKind::None && episode.subject != their && (!is_secret || confides)
    });
    let worth = |episode: &Episode| memory::tellable(episode, now);
    let best = tellable.max_by(|a, b| worth(a).total_cmp(&worth(b)).then(b.tick.cmp(&a.tick)));
    let told = best.filter(|episode| worth(episode) >= TOLD_LEAST).copied().unwrap_or_default();
    Episode { weight: told.weight * memory::LOSS, ..told }
}
