//! The town: people with needs, moods, minds, memories and ties, who work, trade, talk and sleep; a cast of named characters
//! lives among them under the same rules.
//!
//! In a tick, a simulated minute, they sense, feel, decide, act, move, meet, remember, and settle with the market. What need
//! not be done for everybody in each minute is spread over ten of them.

use crate::{
    annals,
    cast::{self, AddCharacter, Character, Person, PlantRumour, party_of},
    chronicle, day, lives, market,
    market::{Bid, Traded},
    meet,
    memory::{self, Befriended, Met, Quarrelled, Reached, Reconciled, Told},
    mind::{self, Baked, SetMind},
    needs::{self, Hungered, Recovered},
    portrait,
    scenario::{Plugin, Scenario, ScenarioError, Statistic, Story},
    sense::{self, FellIll, People, number_of},
    visits, walk, work,
    work::Hired,
};
use everworld_components::{
    Annals, AnnalsOne, Census, Condition, Contagion, Customs, DAY_MINUTES, Day, Faction, Goal, Health, Home,
    Market, Memory, Mood, Needs, Occupation, Pack, Position, Purse, Ties, TownMap, Trade, Traits, Treasury,
    Velocity,
};
use everworld_engine::{
    Class, Image, Migration, TableImage, column::row_bytes_of, grid::build, input::InputWorld, prelude::*,
    random::Draws,
};
use lives::{Born, Died};
use meet::Talked;
use serde::Deserialize;

pub(crate) const PLUGIN: Plugin = Plugin::new("town", include_str!("../../configs/town.toml"), plugin)
    .measured_by(statistics)
    .told_by(Story {
        chronicle: chronicle::chronicle,
        characters: chronicle::characters,
        portrait: portrait::portrait,
    });

const SENSE: Phase = Phase("sense");
const FEEL: Phase = Phase("feel");
const DECIDE: Phase = Phase("decide");
const ACT: Phase = Phase("act");
const MOVE: Phase = Phase("move");
const MEET: Phase = Phase("meet");
const REMEMBER: Phase = Phase("remember");
const SETTLE: Phase = Phase("settle");

/// Everybody senses, feels, decides and acts once in so many ticks.
const TURN: u64 = 10;

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
    people_per_tavern: u32,
    people_per_household: u32,
    commute_metres: f32,
    coins: u32,
    wage: u32,
    meal_price: f64,
    wares_price: f64,
    meals_per_hour: f32,
    wares_per_hour: f32,
    ill_by_contact: f32,
    ill_by_day: f32,
    ill_hours: u8,
    births_and_deaths: bool,
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let params: Params = scenario.params()?;
    check(&params, scenario)?;
    let town = params.town.clone();
    let people = scenario.population.max(1) as f32;
    let side = (people * town.square_metres_per_person).sqrt();
    let along = |each: u32| ((people / each as f32).sqrt().round() as u32).max(1);
    let map =
        TownMap { side, markets: along(town.people_per_market), taverns: along(town.people_per_tavern) };
    let coins = i64::from(town.coins) * scenario.population as i64;
    let base_price = [town.meal_price, town.wares_price];
    let store = [scenario.population * 2, scenario.population / 2];
    let mind =
        mind::parse(mind::TOWNSFOLK, mind::TOWNSFOLK_FILE).map_err(|faults| ScenarioError { faults })?;
    everworld_components::register(world);
    world
        .resource(map)
        .resource(Day::default())
        .resource(Census { people: scenario.population, ..Census::default() })
        .resource(Treasury { coins: coins / 2 })
        .resource(Market {
            stock: store,
            price: base_price,
            till: coins / 2,
            wage: town.wage,
            ..Market::default()
        })
        .resource(Customs {
            meals_per_hour: town.meals_per_hour,
            wares_per_hour: town.wares_per_hour,
            wage: town.wage,
            base_price,
            mortal: u8::from(town.births_and_deaths),
        })
        .resource(Contagion {
            by_contact: town.ill_by_contact,
            by_day: town.ill_by_day,
            hours: town.ill_hours,
        })
        .resource(Annals { seed: scenario.seed, ..Annals::default() })
        .migrate(Migration::from("annals", 1).value::<AnnalsOne, Annals>(Annals::from))
        .resource(mind)
        .derived::<Baked>()
        .input::<SetMind>()
        .input::<AddCharacter>()
        .input::<PlantRumour>()
        .prototype("townsman", &townsman())
        .phases(&[SENSE, FEEL, DECIDE, ACT, MOVE, MEET, REMEMBER, SETTLE, ANNALS]);
    world
        .event::<Met>()
        .event::<Told>()
        .event::<Reached>()
        .event::<Befriended>()
        .event::<Quarrelled>()
        .event::<Reconciled>()
        .message::<Talked>()
        .message::<Bid>()
        .event::<Traded>()
        .event::<Hired>()
        .event::<Hungered>()
        .event::<FellIll>()
        .event::<Recovered>()
        .event::<Born>()
        .event::<Died>();
    systems(world);
    world.setup({
        let population = scenario.population;
        move |world| settle(world, population, &params)
    });
    Ok(())
}

fn systems(world: &mut WorldBuilder) {
    world
        .system(system(day::pass).phase(SENSE).priority(Priority::High))
        .system(system(mind::bake).phase(SENSE))
        .grid::<People>(|grid| grid.phase(SENSE))
        .system(system(sense::look).phase(SENSE).after(build::<People>).spread(TURN).weight(4))
        .system(system(needs::change).phase(FEEL).spread(TURN).weight(2))
        .system(system(work::pay).phase(FEEL).spread(TURN))
        .system(system(mind::decide).phase(DECIDE).spread(TURN).weight(8))
        .system(system(visits::leave).phase(DECIDE))
        .system(system(visits::announce).phase(DECIDE))
        .system(system(work::act).phase(ACT).spread(TURN).weight(2))
        .system(system(walk::step).phase(MOVE).spread(TURN).class(Class::Critical))
        .system(system(meet::talk).phase(MEET).spread(TURN).weight(4))
        .system(system(market::clear).phase(MEET).class(Class::Critical))
        .system(system(memory::take_in).phase(REMEMBER).weight(4))
        .system(system(memory::live_through).phase(REMEMBER).after(memory::take_in))
        .system(system(market::receive).phase(REMEMBER).class(Class::Critical))
        .system(system(memory::fade).phase(SETTLE).spread(DAY_MINUTES).class(Class::Background))
        .system(system(lives::pass).phase(SETTLE).spread(DAY_MINUTES).class(Class::Background))
        .system(system(market::count).phase(SETTLE).every(TURN).class(Class::Background))
        .system(system(market::price).phase(SETTLE).after(market::count))
        .system(system(visits::arrive).phase(SETTLE))
        // After those who are born and die.
        .system(system(annals::record).phase(ANNALS));
}

/// After all else, so that what happened at the end is told of too.
const ANNALS: Phase = Phase("annals");

/// What an input that makes people need not say.
fn townsman() -> Vec<(&'static str, Option<&'static [u8]>)> {
    const AVERAGE: Traits = Traits {
        openness: 0.5,
        conscientiousness: 0.5,
        extraversion: 0.5,
        agreeableness: 0.5,
        neuroticism: 0.5,
    };
    let plain = [
        "position",
        "velocity",
        "needs",
        "occupation",
        "home",
        "purse",
        "pack",
        "goal",
        "mood",
        "health",
        "faction",
        "memory",
        "ties",
    ];
    let mut columns: Vec<(&str, Option<&[u8]>)> = plain.into_iter().map(|name| (name, None)).collect();
    columns.push(("traits", Some(row_bytes_of(&AVERAGE))));
    columns
}

/// How the town is: who lives in it, what they lack, and what they own.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let needs: Vec<Needs> = image.tables.iter().filter_map(TableImage::rows_of).flatten().collect();
    let purses = image.tables.iter().filter_map(TableImage::rows_of::<Purse>).flatten();
    let owned: u64 = purses.map(|purse| u64::from(purse.coins)).sum();
    let healths = image.tables.iter().filter_map(TableImage::rows_of::<Health>).flatten();
    let ill = healths.filter(|health| health.condition == Condition::Ill).count();
    let moods: Vec<Mood> = image.tables.iter().filter_map(TableImage::rows_of).flatten().collect();
    let valence = moods.iter().map(|mood| f64::from(mood.valence)).sum::<f64>() / moods.len() as f64;
    let treasury = image.value::<Treasury>().map_or(0, |treasury| treasury.coins);
    let market = image.value::<Market>().unwrap_or_default();
    let census = image.value::<Census>().unwrap_or_default();
    let mean = |need: fn(&Needs) -> f32| {
        needs.iter().map(|needs| f64::from(need(needs))).sum::<f64>() / needs.len() as f64
    };
    vec![
        Statistic::new("people", needs.len() as f64),
        Statistic::new("mean_hunger", mean(|needs| needs.hunger)),
        Statistic::new("mean_fatigue", mean(|needs| needs.fatigue)),
        Statistic::new("mean_loneliness", mean(|needs| needs.loneliness)),
        Statistic::new("mean_purpose", mean(|needs| needs.purpose)),
        Statistic::new("mean_valence", valence),
        Statistic::new("awake", census.awake as f64),
        Statistic::new("at_work", census.at_work as f64),
        Statistic::new("at_market", census.at_market as f64),
        Statistic::new("starving", census.starving as f64),
        Statistic::new("ill", ill as f64),
        Statistic::new("coins", (treasury + market.till) as f64 + owned as f64),
        Statistic::new("meal_price", market.price[0]),
        Statistic::new("wares_price", market.price[1]),
        Statistic::new("meals_in_store", market.stock[0] as f64),
    ]
}

fn check(params: &Params, scenario: &Scenario) -> Result<(), ScenarioError> {
    let mut expected = scenario.expected();
    let town = &params.town;
    let (room, commute) = (town.square_metres_per_person, town.commute_metres);
    expected.that((1.0..=1e6).contains(&room), "town.square_metres_per_person", "1 to 1000000", room);
    expected.that((0.0..=1e5).contains(&commute), "town.commute_metres", "0 to 100000", commute);
    for (key, people) in [
        ("town.people_per_market", town.people_per_market),
        ("town.people_per_tavern", town.people_per_tavern),
        ("town.people_per_household", town.people_per_household),
    ] {
        expected.that((1..=1_000_000).contains(&people), key, "1 to 1000000", people);
    }
    for (key, coins) in [("town.coins", town.coins), ("town.wage", town.wage)] {
        expected.that(coins <= 1_000_000, key, "at most 1000000", coins);
    }
    for (key, price) in [("town.meal_price", town.meal_price), ("town.wares_price", town.wares_price)] {
        expected.that((1.0..=1e5).contains(&price), key, "1 to 100000", price);
    }
    for (key, rate) in
        [("town.meals_per_hour", town.meals_per_hour), ("town.wares_per_hour", town.wares_per_hour)]
    {
        expected.that((0.0..=100.0).contains(&rate), key, "0 to 100", rate);
    }
    for (key, part) in [("town.ill_by_contact", town.ill_by_contact), ("town.ill_by_day", town.ill_by_day)] {
        expected.that((0.0..=1.0).contains(&part), key, "0 to 1", part);
    }
    expected.that(town.ill_hours > 0, "town.ill_hours", "1 to 255", town.ill_hours);
    cast::check(&params.cast, &mut expected);
    let cast = params.cast.len() as u64;
    expected.that(params.cast.len() <= cast::CAST_MAX, "cast", format!("at most {}", cast::CAST_MAX), cast);
    let enough = format!("at least {cast}, the cast");
    expected.that(cast <= scenario.population, "population", enough, scenario.population);
    expected.met()
}

/// Of a hundred people so many have each trade.
const TRADES: &[(Trade, u32)] = &[
    (Trade::Farmer, 34),
    (Trade::Baker, 8),
    (Trade::Weaver, 12),
    (Trade::Carpenter, 10),
    (Trade::Smith, 8),
    (Trade::Merchant, 7),
    (Trade::Guard, 6),
    (Trade::Innkeeper, 5),
    (Trade::Priest, 3),
    (Trade::Healer, 3),
    (Trade::None, 4),
];

fn trade_of(mut chance: u32) -> Trade {
    for (trade, share) in TRADES {
        match chance.checked_sub(*share) {
            Some(left) => chance = left,
            None => return *trade,
        }
    }
    Trade::None
}

/// The first people of a town: the cast, then as many others as it takes.
fn settle(world: &mut InputWorld<'_>, population: u64, params: &Params) {
    let map = *world.resource::<TownMap>();
    let seed = world.time().seed;
    let mut cast: Vec<(String, Uid)> = Vec::new();
    for (i, character) in params.cast.iter().enumerate() {
        let mut draws = Draws::new(seed, 0, CAST_STREAM, i as u64);
        let [x, y] = character.home.map(|part| part * map.side);
        let trade = Trade::from_name(&character.trade).unwrap_or(Trade::None);
        let person = person(&mut draws, &map, &params.town, Home { x, y }, trade, Ties::default());
        cast.push((character.name.clone(), world.spawn(person)));
    }
    for (character, (_, uid)) in params.cast.iter().zip(&cast) {
        let find = |name: &str| cast.iter().find(|(known, _)| known == name).map(|(_, uid)| *uid);
        cast::introduce(world, *uid, character, find);
    }
    // Their Uids follow those of the cast.
    let first = cast.last().map_or(1, |(_, uid)| uid.get() + 1);
    let (begin, size) = (cast.len() as u64, u64::from(params.town.people_per_household));
    let wards = u64::from(map.taverns);
    let households = population.div_ceil(size).max(1);
    let spawned = world.spawn_many((begin..population).map(|i| {
        let household = i / size;
        // All of a household live in one house: its place is drawn by its number.
        let mut house = Draws::new(seed, 0, HOUSE_STREAM, household);
        // House by house along the wards of the taverns, there and back: neighbours are near in memory too.
        let ward = household * wards * wards / households;
        let (row, along) = (ward / wards, ward % wards);
        let column = if row % 2 == 0 { along } else { wards - 1 - along };
        let mut within = |part: u64| (part as f32 + house.unit32()) / wards as f32 * map.side;
        let home = Home { x: within(column), y: within(row) };
        let mut draws = Draws::new(seed, 0, PERSON_STREAM, i);
        let mut ties = Ties::default();
        let members = (household * size).max(begin)..((household + 1) * size).min(population);
        for other in members.filter(|other| *other != i).take(8) {
            let tie = ties.with(number_of(Uid::new(first + other - begin)));
            (tie.affinity, tie.familiarity) = (0.2 + 0.5 * draws.unit32(), 0.8);
        }
        let trade = trade_of(draws.below(100));
        person(&mut draws, &map, &params.town, home, trade, ties)
    }));
    assert!(begin == population || spawned.get() == first, "the households know each other by their Uids");
}

const CAST_STREAM: u64 = 1;
const HOUSE_STREAM: u64 = 2;
const PERSON_STREAM: u64 = 3;

fn person(
    draws: &mut Draws,
    map: &TownMap,
    town: &TownParams,
    home: Home,
    trade: Trade,
    ties: Ties,
) -> Person {
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
    let (x, y) = match trade {
        Trade::Innkeeper => map.tavern_near(home.x, home.y),
        Trade::Priest | Trade::Healer => map.temple_near(home.x, home.y),
        Trade::Merchant | Trade::Guard => map.market_near(home.x, home.y),
        _ => (near(home.x), near(home.y)),
    };
    // Work begins between half past seven and half past nine, and lasts seven to nine hours.
    let (starts, lasts) = (30 + draws.below(8) as u8, 28 + draws.below(9) as u8);
    let lasts = if trade == Trade::None { 0 } else { lasts };
    let occupation = Occupation { x, y, trade, starts, lasts, skill: draws.below(256) as u8 };
    let needs = Needs {
        hunger: 0.3 + 0.3 * draws.unit32(),
        fatigue: 0.2 * draws.unit32(),
        loneliness: 0.6 * draws.unit32(),
        purpose: 0.6 * draws.unit32(),
    };
    let goal = Goal { x: home.x, y: home.y, ..Goal::default() };
    let party = party_of(trade);
    (
        (
            Position { x: home.x, y: home.y },
            Velocity::default(),
            needs,
            traits,
            Mood { valence: 0.2, arousal: 0.3 },
            home,
            occupation,
        ),
        (
            Purse { coins: draws.below(2 * town.coins + 1) },
            Pack { food: 2 + draws.below(5) as u16, wares: draws.below(3) as u16 },
            goal,
            Health::default(),
            Faction { party, zeal: draws.below(256) as u8 },
            Memory::default(),
            ties,
        ),
    )
}
