//! The town: people who walk between home, work and market, a cast of named characters among them.

use crate::{
    day, market, mind, needs,
    scenario::{Plugin, Scenario, ScenarioError, Statistic},
    sense, visits, walk, work,
};
use everworld_components::{
    Action, Census, Company, Day, Goal, Home, Name, Needs, Occupation, Persona, Position, Purse, TownMap,
    Trade, Traits, Treasury, Velocity,
};
use everworld_engine::{
    Image, TableImage, column::row_bytes_of, grid, input::InputWorld, prelude::*, random::Draws,
};
use sense::People;
use serde::Deserialize;

pub(crate) const PLUGIN: Plugin =
    Plugin::new("town", include_str!("../../configs/town.toml"), plugin).measured_by(statistics);

const SENSE: Phase = Phase("sense");
const FEEL: Phase = Phase("feel");
const DECIDE: Phase = Phase("decide");
const MOVE: Phase = Phase("move");
const SETTLE: Phase = Phase("settle");

/// The parameters of a town.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    town: TownParams,
    #[serde(default)]
    cast: Vec<Character>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TownParams {
    square_metres_per_person: f32,
    people_per_market: u32,
    people_per_household: u32,
    commute_metres: f32,
    coins: u32,
    wage: u16,
}

/// A named character.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Character {
    name: String,
    trade: String,
    /// Where they live, as parts of the town's side.
    home: [f32; 2],
    /// Openness, conscientiousness, extraversion, agreeableness, neuroticism.
    traits: [f32; 5],
    wish: String,
    secret: String,
    #[serde(default)]
    ties: Vec<String>,
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let params: Params = scenario.params()?;
    check(&params, scenario)?;
    let people = scenario.population.max(1) as f32;
    let side = (people * params.town.square_metres_per_person).sqrt();
    let quarters = (people / params.town.people_per_market as f32).sqrt();
    let map = TownMap { side, markets: (quarters.round() as u32).max(1) };
    everworld_components::register(world);
    world
        .resource(map)
        .resource(Day::default())
        .resource(Census::default())
        .resource(Treasury { coins: i64::from(params.town.coins) * scenario.population as i64 })
        .prototype(
            "townsman",
            &[
                ("position", None),
                ("velocity", None),
                ("needs", None),
                (
                    "traits",
                    Some(row_bytes_of(&Traits {
                        openness: 0.5,
                        conscientiousness: 0.5,
                        extraversion: 0.5,
                        agreeableness: 0.5,
                        neuroticism: 0.5,
                    })),
                ),
                ("occupation", None),
                ("home", None),
                ("purse", None),
                ("goal", None),
                ("company", None),
            ],
        )
        .phases(&[SENSE, FEEL, DECIDE, MOVE, SETTLE])
        .system(system(day::pass).phase(SENSE).priority(Priority::High))
        .grid::<People>(|grid| grid.phase(SENSE))
        .system(system(sense::look).phase(SENSE).after(grid::build::<People>))
        .system(system(needs::change).phase(FEEL))
        .system(system(mind::decide).phase(DECIDE))
        .system(system(visits::leave).phase(DECIDE))
        .system(system(visits::announce).phase(DECIDE))
        .system(system(walk::steer).phase(MOVE))
        .system(system(walk::step).phase(MOVE).after(walk::steer))
        .system(system(work::pay).phase(SETTLE))
        .system(system(market::trade).phase(SETTLE).after(work::pay))
        .system(system(market::count).phase(SETTLE))
        .system(system(visits::arrive).phase(SETTLE))
        .setup({
            let population = scenario.population;
            move |world| settle(world, population, &params)
        });
    Ok(())
}

/// How the town is: who lives in it, what they lack, and what they own.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let needs: Vec<Needs> = image.tables.iter().filter_map(TableImage::rows_of).flatten().collect();
    let purses = image.tables.iter().filter_map(TableImage::rows_of::<Purse>).flatten();
    let owned: u64 = purses.map(|purse| u64::from(purse.coins)).sum();
    let treasury = image.value::<Treasury>().map_or(0, |treasury| treasury.coins);
    let mean = |need: fn(&Needs) -> f32| {
        needs.iter().map(|needs| f64::from(need(needs))).sum::<f64>() / needs.len() as f64
    };
    vec![
        Statistic::new("people", needs.len() as f64),
        Statistic::new("mean_hunger", mean(|needs| needs.hunger)),
        Statistic::new("mean_fatigue", mean(|needs| needs.fatigue)),
        Statistic::new("mean_loneliness", mean(|needs| needs.loneliness)),
        Statistic::new("mean_purpose", mean(|needs| needs.purpose)),
        Statistic::new("coins", treasury as f64 + owned as f64),
    ]
}

fn check(params: &Params, scenario: &Scenario) -> Result<(), ScenarioError> {
    let mut expected = scenario.expected();
    let town = &params.town;
    let (room, commute) = (town.square_metres_per_person, town.commute_metres);
    expected.that((1.0..=1e6).contains(&room), "town.square_metres_per_person", "1 to 1000000", room);
    expected.that((0.0..=1e5).contains(&commute), "town.commute_metres", "0 to 100000", commute);
    for (key, people) in [
        ("town.people_per_market", u64::from(town.people_per_market)),
        ("town.people_per_household", u64::from(town.people_per_household)),
    ] {
        expected.that(people > 0, key, "at least 1", people);
    }
    for (i, character) in params.cast.iter().enumerate() {
        let key = |key: &str| format!("cast {} ({}): {key}", i + 1, character.name);
        let trades = format!("one of {}", Trade::NAMES.join(", "));
        let trade = &character.trade;
        expected.that(Trade::from_name(trade).is_some(), key("trade"), trades, trade);
        for (name, parts) in [("home", &character.home[..]), ("traits", &character.traits[..])] {
            let are_parts = parts.iter().all(|part| (0.0..=1.0).contains(part));
            expected.that(are_parts, key(name), "0 to 1 each", format!("{parts:?}"));
        }
        let name = &character.name;
        let is_taken = params.cast[..i].iter().any(|other| other.name == *name);
        let is_own = !is_taken && !name.is_empty();
        expected.that(is_own, key("name"), "one that nobody else has", format!("{name:?}"));
    }
    let cast = params.cast.len() as u64;
    let enough = format!("at least {cast}, the cast");
    expected.that(cast <= scenario.population, "population", enough, scenario.population);
    expected.met()
}

/// The first people of a town: the cast, then as many others as it takes.
fn settle(world: &mut InputWorld<'_>, population: u64, params: &Params) {
    let map = *world.resource::<TownMap>();
    let seed = world.time().seed;
    for (i, character) in params.cast.iter().enumerate() {
        let mut draws = Draws::new(seed, 0, CAST_STREAM, i as u64);
        let [x, y] = character.home.map(|part| part * map.side);
        let trade = Trade::from_name(&character.trade).unwrap_or(Trade::None);
        let person = person(&mut draws, &map, &params.town, Home { x, y, household: i as u32 }, trade);
        let [openness, conscientiousness, extraversion, agreeableness, neuroticism] = character.traits;
        let uid = world.spawn(person);
        world.insert(uid, Traits { openness, conscientiousness, extraversion, agreeableness, neuroticism });
        world.insert(uid, Name { name: character.name.clone() });
        let Character { wish, secret, ties, .. } = character.clone();
        world.insert(uid, Persona { wish, secret, ties });
    }
    let households = params.cast.len() as u64;
    world.spawn_many((households..population).map(|i| {
        let household = (i / u64::from(params.town.people_per_household)) as u32;
        // All of a household live in one house: its place is drawn by its number.
        let mut house = Draws::new(seed, 0, HOUSE_STREAM, u64::from(household));
        let home = Home { x: house.unit32() * map.side, y: house.unit32() * map.side, household };
        let mut draws = Draws::new(seed, 0, PERSON_STREAM, i);
        let trade = Trade(1 + draws.below(10) as u16);
        person(&mut draws, &map, &params.town, home, trade)
    }));
}

const CAST_STREAM: u64 = 1;
const HOUSE_STREAM: u64 = 2;
const PERSON_STREAM: u64 = 3;

type Person = (Position, Velocity, Needs, Traits, Occupation, Home, Purse, Goal, Company);

fn person(draws: &mut Draws, map: &TownMap, town: &TownParams, home: Home, trade: Trade) -> Person {
    // The sum of three uniform draws: near enough to a bell, and within 0..1 by itself.
    let mut trait_of = || (draws.unit32() + draws.unit32() + draws.unit32()) / 3.0;
    let traits = Traits {
        openness: trait_of(),
        conscientiousness: trait_of(),
        extraversion: trait_of(),
        agreeableness: trait_of(),
        neuroticism: trait_of(),
    };
    let mut near = |at: f32| (at + draws.between32(-1.0, 1.0) * town.commute_metres).clamp(0.0, map.side);
    let (x, y) = (near(home.x), near(home.y));
    let starts = 450 + draws.below(120) as u16;
    let occupation =
        Occupation { x, y, trade, starts, lasts: 420 + draws.below(120) as u16, wage: town.wage };
    let needs = Needs {
        hunger: 0.3 + 0.3 * draws.unit32(),
        fatigue: 0.2 * draws.unit32(),
        loneliness: 0.6 * draws.unit32(),
        purpose: 0.6 * draws.unit32(),
    };
    let goal = Goal { since: 0, x: home.x, y: home.y, score: 0.0, action: Action::Idle };
    let purse = Purse { coins: draws.below(2 * town.coins + 1) };
    let company = Company::default();
    (
        Position { x: home.x, y: home.y },
        Velocity::default(),
        needs,
        traits,
        occupation,
        home,
        purse,
        goal,
        company,
    )
}
