//! What bodies and hearts lack, and how that feels: needs rise with time and fall by what someone does, moods drift.
//!
//! Needs as drives of a homeostat (Hull 1943, "Principles of behavior"). Moods decay toward a set-point that traits and lacks
//! give, as in ALMA (Gebhard 2005, "ALMA: a layered model of affect").

use everworld_components::{Action, Condition, Goal, Health, Mood, Needs, Position, Traits};
use everworld_engine::{event, prelude::*};

/// How far from its place an action can be done, in metres.
pub(crate) const REACH: f32 = 4.0;

/// Per minute: from sated to starving in 16 hours, awake to exhausted in 18, content to lonely in two days.
const HUNGER: f32 = 1.0 / (16.0 * 60.0);
const FATIGUE: f32 = 1.0 / (18.0 * 60.0);
const LONELINESS: f32 = 1.0 / (48.0 * 60.0);
const PURPOSE: f32 = 1.0 / (48.0 * 60.0);
/// Hunger of which one speaks.
pub(crate) const STARVING: f32 = 0.9;
/// A mood goes half the way to its set-point in so many minutes; an agitated heart calms down in half an hour.
const MOOD_HALF_LIFE: f32 = 240.0;
const AROUSAL_HALF_LIFE: f32 = 30.0;
/// Who has been ill is safe for so many hours.
pub(crate) const IMMUNE_HOURS: u8 = 240;

event! {
    /// Somebody went hungry: their hunger passed 0.9.
    pub struct Hungered("hungered") {
        /// How hungry, from 0 to 1.
        hunger: f32,
        /// Meals that they have.
        food: u32,
    }
}
event! {
    /// Somebody recovered from an illness.
    pub struct Recovered("recovered") {
        /// For so many hours they will not fall ill.
        immune_hours: u32,
    }
}

/// True when someone is where their goal is done.
#[inline]
pub(crate) fn is_there(goal: &Goal, position: &Position) -> bool {
    position.distance_squared(goal.x, goal.y) <= REACH * REACH
}

type Person = (
    &'static Uid,
    Write<Needs>,
    Write<Mood>,
    Write<Health>,
    &'static Goal,
    &'static Position,
    &'static Traits,
    &'static everworld_components::Pack,
);

/// Some minutes of living, for those whose turn it is.
pub(crate) fn change(
    turn: Turn,
    time: Res<TickTime>,
    hungered: Emit<Hungered>,
    recovered: Emit<Recovered>,
    mut people: Rows<Person>,
) {
    let minutes = turn.ticks() as f32;
    let toward_mood = 1.0 - math::pow32(0.5, minutes / MOOD_HALF_LIFE);
    let toward_calm = 1.0 - math::pow32(0.5, minutes / AROUSAL_HALF_LIFE);
    // Of its turns, one in each hour.
    let is_hour = (time.tick.0 / turn.ticks()).is_multiple_of((60 / turn.ticks()).max(1));
    people.for_each(|(uids, mut all_needs, mut moods, mut healths, goals, positions, traits, packs)| {
        for i in turn.rows(uids) {
            let doing = if is_there(&goals[i], &positions[i]) { goals[i].action } else { Action::Idle };
            let (traits, before) = (&traits[i], all_needs[i]);
            let is_asleep = doing == Action::Sleep;
            let is_ill = healths[i].condition == Condition::Ill;
            let hunger = before.hunger + minutes * if is_asleep { HUNGER * 0.5 } else { HUNGER };
            let tired = if is_ill { FATIGUE * 1.5 } else { FATIGUE };
            let fatigue = before.fatigue + minutes * if is_asleep { -1.0 / (8.0 * 60.0) } else { tired };
            // Asleep nobody longs for anything.
            let longing = if is_asleep { 0.0 } else { minutes * LONELINESS * (0.5 + traits.extraversion) };
            let fulfils = match doing {
                Action::Work => -1.0 / (6.0 * 60.0),
                Action::Pray => -1.0 / (4.0 * 60.0),
                _ => PURPOSE,
            };
            let needs = Needs {
                hunger: math::unit32(hunger),
                fatigue: math::unit32(fatigue),
                loneliness: math::unit32(before.loneliness + longing),
                purpose: math::unit32(before.purpose + minutes * fulfils),
            };
            all_needs.set(i, needs);
            if before.hunger < STARVING && needs.hunger >= STARVING {
                let food = u32::from(packs[i].food);
                hungered.emit(uids[i], Hungered { hunger: needs.hunger, food });
            }

            let lacks = needs.hunger.max(needs.fatigue).max(needs.loneliness * 0.8);
            let set_point = 0.25 + 0.4 * (traits.extraversion - traits.neuroticism)
                - 1.2 * (lacks - 0.5).max(0.0)
                - if is_ill { 0.5 } else { 0.0 };
            let mood = moods[i];
            let calm = 0.2 + 0.3 * traits.neuroticism;
            moods.set(
                i,
                Mood {
                    valence: (mood.valence + (set_point - mood.valence) * toward_mood).clamp(-1.0, 1.0),
                    arousal: math::unit32(mood.arousal + (calm - mood.arousal) * toward_calm),
                },
            );

            let health = healths[i];
            if is_hour && health.condition != Condition::Well {
                let hours = health.hours.saturating_sub(1);
                let next = match (hours, health.condition) {
                    (0, Condition::Ill) => {
                        recovered.emit(uids[i], Recovered { immune_hours: u32::from(IMMUNE_HOURS) });
                        Health { condition: Condition::Immune, hours: IMMUNE_HOURS }
                    }
                    (0, _) => Health::default(),
                    _ => Health { hours, ..health },
                };
                healths.set(i, next);
            }
            if explain::is_watched(uids[i]) {
                let action = goals[i].action.name().unwrap_or("nothing known");
                if doing == goals[i].action {
                    explain!(uids[i], "spends {minutes} min with its goal: {action}");
                } else {
                    let metres = positions[i].distance_squared(goals[i].x, goals[i].y).sqrt();
                    explain!(uids[i], "is on the way to {action}, {metres:.1} m to go: all needs rise");
                }
            }
        }
    });
}
