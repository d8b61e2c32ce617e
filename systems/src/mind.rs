//! What to do next: the action that is worth most now.
//!
//! A score is a product of parts of one, as in utility AI (Graham 2013, "An introduction to utility theory", Game AI Pro).
//! Decisions are spread over ten ticks by Uid; an unbearable need decides at once. Ties go by chance.

use crate::needs::is_there;
use everworld_components::{
    Action, Day, Goal, Home, Needs, Occupation, Position, Purse, TownMap, Traits, Visit,
};
use everworld_engine::{prelude::*, random::Draws};

/// Between two decisions of one mind, in ticks.
const DECIDE_EVERY: u64 = 10;
/// From here on a need cannot wait.
const ALARM: f32 = 0.95;
/// What is being done is worth this much more: nobody dithers.
const MOMENTUM: f32 = 1.25;

/// What a mind weighs.
struct Situation<'a> {
    day: &'a Day,
    needs: &'a Needs,
    traits: &'a Traits,
    work: &'a Occupation,
    coins: u32,
}

type Person = (
    &'static Uid,
    Write<Goal>,
    &'static Needs,
    &'static Traits,
    &'static Position,
    &'static Home,
    &'static Occupation,
    &'static Purse,
);

/// Chooses goals.
pub(crate) fn decide(
    time: Res<TickTime>,
    day: Res<Day>,
    map: Res<TownMap>,
    random: Random,
    mut people: Rows<Person, Without<Visit>>,
) {
    people.for_each(|(uids, mut goals, needs, traits, positions, homes, works, purses)| {
        let watched = explain::row(uids);
        for i in 0..goals.len() {
            let need = &needs[i];
            let due = (time.tick.0 + uids[i].get()).is_multiple_of(DECIDE_EVERY);
            let alarm =
                need.hunger.max(need.fatigue) >= ALARM && time.tick.0.saturating_sub(goals[i].since) > 1;
            if !due && !alarm {
                if watched == Some(i) {
                    let wait = DECIDE_EVERY - (time.tick.0 + uids[i].get()) % DECIDE_EVERY;
                    explain!(
                        uids[i],
                        "does not think now: next in {wait} min, or when a need reaches {ALARM}"
                    );
                }
                continue;
            }
            let situation = Situation {
                day: &day,
                needs: need,
                traits: &traits[i],
                work: &works[i],
                coins: purses[i].coins,
            };
            let mut draws = random.of(uids[i]);
            let (action, score) = best(&situation, goals[i].action, &mut draws);
            if action == goals[i].action && (action != Action::Wander || !is_there(&goals[i], &positions[i]))
            {
                explain!(
                    uids[i],
                    "{}: goes on with {} ({})",
                    occasion(alarm, need),
                    label(action),
                    situation.words(action)
                );
                continue;
            }
            explain!(
                uids[i],
                "{}: {} is worth most, {score:.3} ({})",
                occasion(alarm, need),
                label(action),
                situation.words(goals[i].action)
            );
            let (x, y) = place_of(action, &map, &positions[i], &homes[i], &works[i], &mut draws);
            goals.set(i, Goal { since: time.tick.0, x, y, score, action });
        }
    });
}

const CHOICES: [Action; 7] = [
    Action::Sleep,
    Action::Work,
    Action::Eat,
    Action::Trade,
    Action::Socialise,
    Action::Wander,
    Action::Idle,
];

fn best(situation: &Situation<'_>, now: Action, draws: &mut Draws) -> (Action, f32) {
    let mut best = (Action::Idle, f32::MIN);
    for action in CHOICES {
        let momentum = if action == now { MOMENTUM } else { 1.0 };
        // Chance of a thousandth breaks ties.
        let score = situation.score(action) * momentum + draws.unit32() * 0.001;
        if score > best.1 {
            best = (action, score);
        }
    }
    best
}

/// Why a mind thinks now, for who asks.
fn occasion(alarm: bool, needs: &Needs) -> String {
    match (alarm, needs.hunger >= needs.fatigue) {
        (false, _) => "it is time to think".into(),
        (true, true) => format!("hunger {:.2} cannot wait", needs.hunger),
        (true, false) => format!("fatigue {:.2} cannot wait", needs.fatigue),
    }
}

fn label(action: Action) -> &'static str {
    action.name().unwrap_or("nothing known")
}

impl Situation<'_> {
    /// What each choice is worth before chance, for who asks.
    fn words(&self, now: Action) -> String {
        let word = |action: Action| {
            let momentum = if action == now { MOMENTUM } else { 1.0 };
            let score = self.score(action) * momentum;
            (score >= 0.001).then(|| format!("{} {score:.3}", label(action)))
        };
        CHOICES.into_iter().filter_map(word).collect::<Vec<_>>().join(", ")
    }

    fn score(&self, action: Action) -> f32 {
        let Self { day, needs, traits, work, coins } = self;
        let dark = 1.0 - day.light.min(1.0);
        let at_work = day.minute >= u64::from(work.starts)
            && day.minute < u64::from(work.starts) + u64::from(work.lasts);
        match action {
            // By night one sleeps unless something is pressing; by day only who can no longer stand.
            Action::Sleep if day.is_night() => 0.5 + 0.4 * rises(needs.fatigue, 0.3),
            Action::Sleep => rises(needs.fatigue, 0.95),
            Action::Work if at_work && work.lasts > 0 => {
                (0.35 + 0.3 * traits.conscientiousness) * (0.6 + 0.4 * needs.purpose)
            }
            Action::Eat => rises(needs.hunger, 0.55),
            // With an empty purse there is nothing to buy.
            Action::Trade if *coins > 0 => day.light * 0.35 * (0.4 + 0.6 * needs.hunger),
            Action::Socialise => {
                rises(needs.loneliness, 0.5) * (0.3 + 0.5 * traits.extraversion) * (1.0 - 0.7 * dark)
            }
            Action::Wander => 0.12 * traits.openness * day.light,
            Action::Idle => 0.03,
            _ => 0.0,
        }
    }
}

/// The logistic curve of a need around a threshold.
fn rises(need: f32, threshold: f32) -> f32 {
    math::logistic32((need - threshold) * 12.0)
}

fn place_of(
    action: Action,
    map: &TownMap,
    position: &Position,
    home: &Home,
    work: &Occupation,
    draws: &mut Draws,
) -> (f32, f32) {
    match action {
        Action::Work => (work.x, work.y),
        Action::Trade | Action::Socialise => {
            let (x, y) = map.market_near(home.x, home.y);
            (x + draws.between32(-3.0, 3.0), y + draws.between32(-3.0, 3.0))
        }
        Action::Wander => {
            let mut to = |from: f32| (from + draws.between32(-150.0, 150.0)).clamp(0.0, map.side);
            (to(position.x), to(position.y))
        }
        Action::Idle => (position.x, position.y),
        _ => (home.x, home.y),
    }
}
