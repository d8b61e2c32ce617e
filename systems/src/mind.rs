//! What to do next: the action that is worth most now.
//!
//! Utility by the "infinite axis" method (Mark and Lewis 2015, "Building a better centaur", GDC AI Summit; Graham 2013, "An
//! introduction to utility theory", Game AI Pro): a choice is worth its weight times the product of its considerations, each
//! an axis seen through a response curve, made up for their number; what is being done is worth a little more; chance breaks
//! ties. Choices, axes and curves are data: `configs/minds/townsfolk.toml`, and the input `set_mind` replaces them in a running
//! world. Decisions are spread over ten ticks; needs change in the same ones, so that whatever passes its alarm is decided on
//! at once.

use crate::{memory::FRIEND, needs::is_there, scenario::line_of};
use everworld_components::{
    Action, Choice, Condition, Consideration, Curve, CurveKind, DAY_MINUTES, Day, Goal, Health, Home, Market,
    Mind, Mood, Needs, Occupation, Pack, Position, Purse, Ties, TownMap, Traits, Visit, Yield,
};
use everworld_engine::{Registry, column::Fault, input::InputWorld, prelude::*, random::Draws};
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// The mind that comes with the town.
pub(crate) const TOWNSFOLK: &str = include_str!("../../configs/minds/townsfolk.toml");
/// What errors call it.
pub(crate) const TOWNSFOLK_FILE: &str = "configs/minds/townsfolk.toml";

/// A mind as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    momentum: Spanned<f32>,
    action: Vec<WrittenChoice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChoice {
    name: Spanned<String>,
    weight: Spanned<f32>,
    consider: Vec<WrittenConsideration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenConsideration {
    axis: Spanned<String>,
    curve: CurveKind,
    #[serde(default)]
    slope: Option<Spanned<f32>>,
    #[serde(default)]
    exponent: Option<Spanned<f32>>,
    #[serde(default)]
    shift: Option<Spanned<f32>>,
    #[serde(default)]
    lift: Option<Spanned<f32>>,
}

/// So many choices a mind may have, and so many considerations each (L1).
const CHOICES_MAX: usize = 64;
const CONSIDERATIONS_MAX: usize = 16;

/// Actions that nobody chooses.
const NEVER_CHOSEN: [Action; 1] = [Action::Leave];

/// Reads a mind. `origin` names the file in errors, each with its line.
pub(crate) fn parse(text: &str, origin: &str) -> Result<Mind, Vec<String>> {
    let fault = |at: usize, what: String| format!("{origin}:{}: {what}", line_of(text, at));
    let written: Written = toml::from_str(text).map_err(|error: toml::de::Error| {
        vec![fault(error.span().map_or(0, |span| span.start), error.message().to_owned())]
    })?;
    let mut faults = Vec::new();
    let mut number = |value: &Spanned<f32>, what: &str, low: f32, high: f32| {
        let found = *value.get_ref();
        if !(low..=high).contains(&found) {
            faults
                .push(fault(value.span().start, format!("{what}: expected {low} to {high}, found {found}")));
        }
        found
    };
    let momentum = number(&written.momentum, "momentum", 1.0, 10.0);
    let mut choices = Vec::new();
    let mut unknown = Vec::new();
    for choice in &written.action {
        let name = choice.name.get_ref();
        let known = Action::from_name(name).filter(|action| !NEVER_CHOSEN.contains(action));
        if known.is_none() {
            let names: Vec<&str> = Action::NAMES.iter().copied().filter(|name| *name != "leave").collect();
            let what = format!("there is no action \"{name}\": expected one of {}", names.join(", "));
            unknown.push(fault(choice.name.span().start, what));
        }
        if choice.consider.len() > CONSIDERATIONS_MAX {
            let what =
                format!("{} considerations: expected at most {CONSIDERATIONS_MAX}", choice.consider.len());
            unknown.push(fault(choice.name.span().start, what));
        }
        let mut considerations = Vec::new();
        for consideration in &choice.consider {
            let axis = consideration.axis.get_ref();
            let found = Mind::AXES.iter().position(|known| known == axis);
            if found.is_none() {
                let what = format!("there is no axis \"{axis}\": expected one of {}", Mind::AXES.join(", "));
                unknown.push(fault(consideration.axis.span().start, what));
            }
            let mut part = |value: &Option<Spanned<f32>>, what, default, most: f32| {
                value.as_ref().map_or(default, |value| number(value, what, -most, most))
            };
            let curve = Curve {
                kind: consideration.curve,
                slope: part(&consideration.slope, "slope", 1.0, 1e3),
                exponent: part(&consideration.exponent, "exponent", 2.0, 16.0),
                shift: part(&consideration.shift, "shift", 0.0, 1e3),
                lift: part(&consideration.lift, "lift", 0.0, 1e3),
            };
            considerations.push(Consideration { axis: found.unwrap_or(0) as u8, curve });
        }
        let weight = number(&choice.weight, "weight", 0.0, 10.0);
        choices.push(Choice { action: known.unwrap_or_default().0, weight, considerations });
    }
    faults.extend(unknown);
    if choices.is_empty() || choices.len() > CHOICES_MAX {
        faults.push(fault(0, format!("{} actions: expected 1 to {CHOICES_MAX}", choices.len())));
    }
    if faults.is_empty() { Ok(Mind { momentum, choices }) } else { Err(faults) }
}

/// Replaces how the townsfolk decide.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMind {
    /// The text of a file as `configs/minds/townsfolk.toml` is.
    pub toml: String,
}

impl Input for SetMind {
    const KIND: &'static str = "set_mind";
    const DOC: &'static str = "Replaces how the townsfolk decide: {\"toml\"} is the text of a file like configs/minds/townsfolk.toml.";

    fn check(&self, _: &Registry) -> Vec<Fault> {
        let faults = parse(&self.toml, "toml").err().unwrap_or_default();
        faults.into_iter().map(|fault| Fault::new("/toml", fault)).collect()
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let mind = parse(&self.toml, "toml").map_err(|faults| InputError::Malformed(faults.join("; ")))?;
        *world.resource_mut::<Mind>() = mind;
        Ok(Outcome::default())
    }
}

/// Curves as tables: what a mind says, worked out for so many steps of each axis.
const STEPS: usize = 64;

/// A mind that is ready to decide.
#[derive(bevy_ecs::resource::Resource, Clone, Debug, Default)]
pub(crate) struct Baked {
    of: Mind,
    choices: Vec<BakedChoice>,
}

#[derive(Clone, Debug)]
struct BakedChoice {
    action: Action,
    weight: f32,
    considerations: Vec<(usize, [f32; STEPS + 1])>,
}

/// A choice at one time of the day.
struct ChoiceNow<'m> {
    /// Among the choices of the mind.
    number: u32,
    action: Action,
    /// With what its considerations of what is the same for all make of it.
    weight: f32,
    own: Vec<(usize, &'m [f32; STEPS + 1])>,
}

/// The axes that are the same for everybody in a tick.
const COMMON_AXES: [&str; 4] = ["light", "night", "hour", "market_time"];
/// So much chance adds at the most.
const LUCK_MOST: f32 = 5e-4;

/// Works the curves out where the mind is another one than before.
pub(crate) fn bake(mind: Res<Mind>, mut baked: ResMut<Baked>) {
    if baked.of != *mind {
        *baked = Baked::of(&mind);
    }
}

/// What a curve makes of a value.
fn response(curve: &Curve, x: f32) -> f32 {
    let Curve { kind, slope, exponent, shift, lift } = *curve;
    let y = match kind {
        CurveKind::Linear => slope * (x - shift),
        CurveKind::Quadratic => slope * math::pow32((x - shift).abs(), exponent),
        CurveKind::Logistic => math::logistic32(slope * (x - shift)),
        CurveKind::Logit => {
            let u = (x - shift).clamp(0.01, 0.99);
            0.5 + slope * math::ln32(u / (1.0 - u)) / (2.0 * math::ln32(99.0))
        }
    };
    math::unit32(y + lift)
}

impl Baked {
    pub(crate) fn of(mind: &Mind) -> Self {
        let choices = mind.choices.iter().map(|choice| {
            let left = 1.0 - 1.0 / choice.considerations.len().max(1) as f32;
            let table = |consideration: &Consideration| {
                let score = |step: usize| {
                    let score = response(&consideration.curve, step as f32 / STEPS as f32);
                    score + (1.0 - score) * left * score
                };
                (usize::from(consideration.axis), std::array::from_fn(score))
            };
            BakedChoice {
                action: choice.action(),
                weight: choice.weight,
                considerations: choice.considerations.iter().map(table).collect(),
            }
        });
        Self { of: mind.clone(), choices: choices.collect() }
    }

    /// The choices that there are at this time for anybody, the heaviest first: what all have in common is looked at once.
    fn now(&self, day: &Day, market: &Market) -> Vec<ChoiceNow<'_>> {
        let nobody = Inner {
            needs: &Needs::default(),
            traits: &Traits::default(),
            mood: &Mood::default(),
            work: &Occupation::default(),
            purse: &Purse::default(),
            pack: &Pack::default(),
            health: &Health::default(),
            near: 0,
        };
        let axes = Axes::of(day, market, &nobody);
        let is_common = |axis: usize| COMMON_AXES.contains(&Mind::AXES[axis]);
        let now = self.choices.iter().enumerate().map(|(number, choice)| {
            let (common, own): (Vec<_>, Vec<_>) = choice
                .considerations
                .iter()
                .map(|(axis, table)| (*axis, table))
                .partition(|(axis, _)| is_common(*axis));
            let of_all = common.into_iter().map(|(axis, table)| at(table, axes.0[axis]));
            ChoiceNow {
                number: number as u32,
                action: choice.action,
                weight: of_all.fold(choice.weight, |weight, score| weight * score),
                own,
            }
        });
        let mut now: Vec<ChoiceNow<'_>> = now.filter(|choice| choice.weight > 0.0).collect();
        now.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        now
    }

    /// The best of these choices, with what it is worth; `chance` breaks ties.
    fn best(&self, choices: &[ChoiceNow<'_>], axes: &Axes, now: Action, chance: u32) -> (Action, f32) {
        let mut best = (Action::Idle, f32::MIN);
        for choice in choices {
            // It only becomes less, and so do those that follow.
            if choice.weight * self.of.momentum.max(1.0) + LUCK_MOST <= best.1 {
                break;
            }
            let momentum = if choice.action == now { self.of.momentum } else { 1.0 };
            // Below a thousandth: equals only.
            let luck = (chance.rotate_left(choice.number * 5) & 0xFF) as f32 * (LUCK_MOST / 255.0);
            let mut score = choice.weight * momentum;
            for (axis, table) in &choice.own {
                if score + luck <= best.1 {
                    break;
                }
                score *= at(table, axes.0[*axis]);
            }
            if score + luck > best.1 {
                best = (choice.action, score + luck);
            }
        }
        best
    }

    /// What each action is worth, the best first.
    pub(crate) fn scores(&self, axes: &Axes, now: Action) -> Vec<(Action, f32)> {
        let mut scores: Vec<(Action, f32)> = Vec::new();
        for choice in &self.choices {
            let score = choice.worth(axes, if choice.action == now { self.of.momentum } else { 1.0 });
            match scores.iter_mut().find(|(action, _)| *action == choice.action) {
                Some((_, best)) => *best = best.max(score),
                None => scores.push((choice.action, score)),
            }
        }
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores
    }

    /// What an action's choices make of each axis that they look at.
    pub(crate) fn reasons(&self, axes: &Axes, action: Action) -> Vec<(&'static str, f32, f32)> {
        let choices = self.choices.iter().filter(|choice| choice.action == action);
        let best = choices.max_by(|a, b| a.worth(axes, 1.0).total_cmp(&b.worth(axes, 1.0)));
        let reasons = best.iter().flat_map(|choice| &choice.considerations);
        reasons.map(|(axis, table)| (Mind::AXES[*axis], axes.0[*axis], at(table, axes.0[*axis]))).collect()
    }
}

impl BakedChoice {
    /// What it is worth.
    fn worth(&self, axes: &Axes, momentum: f32) -> f32 {
        let scores = self.considerations.iter().map(|(axis, table)| at(table, axes.0[*axis]));
        scores.fold(self.weight * momentum, |score, more| score * more)
    }
}

/// A table at a value from 0 to 1, between its steps along a line.
#[inline]
fn at(table: &[f32; STEPS + 1], x: f32) -> f32 {
    let place = math::unit32(x) * STEPS as f32;
    let step = (place as usize).min(STEPS - 1);
    table[step] + (table[step + 1] - table[step]) * (place - step as f32)
}

/// What a mind looks at, in the order of [`Mind::AXES`].
pub(crate) struct Axes([f32; Mind::AXES.len()]);

/// Somebody's own columns, as far as they matter to a decision.
pub(crate) struct Inner<'a> {
    pub(crate) needs: &'a Needs,
    pub(crate) traits: &'a Traits,
    pub(crate) mood: &'a Mood,
    pub(crate) work: &'a Occupation,
    pub(crate) purse: &'a Purse,
    pub(crate) pack: &'a Pack,
    pub(crate) health: &'a Health,
    pub(crate) near: u8,
}

/// The market is open by daylight, in minutes after midnight.
pub(crate) const MARKET_OPENS: u64 = 480;
pub(crate) const MARKET_CLOSES: u64 = 1_140;

/// What someone keeps of what they make themselves.
pub(crate) const OWN_FOOD: u16 = 6;
pub(crate) const OWN_WARES: u16 = 2;
/// So much to sell fills a day's way to the market.
const LOAD: f32 = 10.0;

/// Pieces that someone has to sell.
pub(crate) fn produce(work: &Occupation, pack: &Pack) -> u16 {
    match work.trade.yields() {
        Yield::Food => pack.food.saturating_sub(OWN_FOOD),
        Yield::Wares => pack.wares.saturating_sub(OWN_WARES),
        _ => 0,
    }
}

impl Axes {
    pub(crate) fn of(day: &Day, market: &Market, inner: &Inner<'_>) -> Self {
        let Inner { needs, traits, mood, work, purse, pack, health, near } = inner;
        let coins = purse.coins as f32;
        let week = 14.0 * market.price[0] as f32 + 1.0;
        let part = |is: bool| f32::from(u8::from(is));
        Self([
            needs.hunger,
            needs.fatigue,
            needs.loneliness,
            needs.purpose,
            0.5 + 0.5 * mood.valence,
            mood.arousal,
            traits.openness,
            traits.conscientiousness,
            traits.extraversion,
            traits.agreeableness,
            traits.neuroticism,
            day.light,
            part(day.is_night()),
            day.minute as f32 / DAY_MINUTES as f32,
            part(work.is_at(day.minute)),
            part((MARKET_OPENS..MARKET_CLOSES).contains(&day.minute)),
            coins / (coins + week),
            f32::from(pack.food) / f32::from(OWN_FOOD),
            f32::from(produce(work, pack)) / LOAD,
            f32::from(pack.wares) / f32::from(OWN_WARES),
            f32::from(*near) / 8.0,
            part(health.condition == Condition::Ill),
        ])
    }
}

type Person = (
    &'static Uid,
    Write<Goal>,
    &'static Needs,
    &'static Traits,
    &'static Mood,
    &'static Position,
    &'static Home,
    &'static Occupation,
    &'static Purse,
    &'static Pack,
    &'static Health,
    &'static Ties,
);

/// Chooses goals.
#[expect(clippy::too_many_arguments, reason = "a mind looks at much")]
pub(crate) fn decide(
    turn: Turn,
    time: Res<TickTime>,
    day: Res<Day>,
    map: Res<TownMap>,
    market: Res<Market>,
    mind: Res<Baked>,
    random: Random,
    index: Res<UidIndex>,
    all_homes: Query<&Home>,
    mut people: Rows<Person, Without<Visit>>,
) {
    let choices = mind.now(&day, &market);
    people.for_each(
        |(uids, mut goals, needs, traits, moods, positions, homes, works, purses, packs, healths, ties)| {
            if let Some(i) = explain::row(uids).filter(|i| !turn.is_of(uids[*i])) {
                explain!(uids[i], "does not think now: next in {} min", turn.waits(uids[i]));
            }
            for i in turn.rows(uids) {
                let goal = goals[i];
                let inner = Inner {
                    needs: &needs[i],
                    traits: &traits[i],
                    mood: &moods[i],
                    work: &works[i],
                    purse: &purses[i],
                    pack: &packs[i],
                    health: &healths[i],
                    near: goal.near,
                };
                let axes = Axes::of(&day, &market, &inner);
                let mut draws = random.of(uids[i]);
                let (action, score) = mind.best(&choices, &axes, goal.action, draws.u32());
                let words = || -> String {
                    let scores = mind.scores(&axes, goal.action).into_iter();
                    let told = scores.filter(|(_, score)| *score >= 0.001);
                    told.map(|(action, score)| format!("{} {score:.3}", label(action)))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                if action == goal.action && (action != Action::Wander || !is_there(&goal, &positions[i])) {
                    explain!(uids[i], "it is time to think: goes on with {} ({})", label(action), words());
                    continue;
                }
                explain!(
                    uids[i],
                    "it is time to think: {} is worth most, {score:.3} ({})",
                    label(action),
                    words()
                );
                let friend = || -> Option<Home> {
                    let dearest = ties[i].known.iter().filter(|tie| tie.affinity >= FRIEND);
                    let dearest =
                        dearest.max_by(|a, b| a.affinity.total_cmp(&b.affinity).then(b.who.cmp(&a.who)))?;
                    all_homes.get(index.get(Uid::new(u64::from(dearest.who)))?).ok().copied()
                };
                // Where friends are, as often as at the next corner.
                let home = if action == Action::Talk && draws.chance(0.5) { friend() } else { None };
                let home = home.unwrap_or(homes[i]);
                let (x, y) = place_of(action, &map, &positions[i], &home, &works[i], &mut draws);
                goals.set(
                    i,
                    Goal {
                        since: time.tick.0 as u32,
                        target: 0,
                        x,
                        y,
                        score: (score * 1_000.0) as u16,
                        action,
                        near: goal.near,
                    },
                );
            }
        },
    );
}

pub(crate) fn label(action: Action) -> &'static str {
    action.name().unwrap_or("nothing known")
}

/// How far around a tavern or a temple people stand, and around a market, in metres.
const CROWD: f32 = 15.0;
const SQUARE: f32 = 25.0;

fn place_of(
    action: Action,
    map: &TownMap,
    position: &Position,
    home: &Home,
    work: &Occupation,
    draws: &mut Draws,
) -> (f32, f32) {
    let among = |(x, y): (f32, f32), around: f32, draws: &mut Draws| {
        let mut near = |at: f32| (at + draws.between32(-around, around)).clamp(0.0, map.side);
        (near(x), near(y))
    };
    match action {
        Action::Work => (work.x, work.y),
        Action::Trade => among(map.market_near(home.x, home.y), SQUARE, draws),
        Action::Talk => among(map.tavern_near(home.x, home.y), CROWD, draws),
        Action::Pray => among(map.temple_near(home.x, home.y), CROWD, draws),
        Action::Wander => {
            let mut to = |from: f32| (from + draws.between32(-150.0, 150.0)).clamp(0.0, map.side);
            (to(position.x), to(position.y))
        }
        Action::Idle => (position.x, position.y),
        _ => (home.x, home.y),
    }
}
