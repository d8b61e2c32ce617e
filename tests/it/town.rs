//! What must come out of a town, whatever the seed; and that what comes out tells a town with a broken rule from a sound one.

use crate::support::{created, everworld, options, stderr, town};
use everworld::{PLUGINS, worlds};
use everworld_components::{
    Annals, Census, DAY_MINUTES, Day, EpisodeKind, Market, Memory, Needs, Position, Purse, Ties, TownMap,
    Traits, Treasury,
};
use everworld_engine::{
    Column, Image, InputEnvelope, LiveWorld, Parallel, Phase, Sabotage, TableImage, WorldBuilder,
    migrate_image, prelude::*,
};
use everworld_systems::chronicle::Asked;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SEEDS: u64 = 20;

fn all<T: Column>(image: &Image) -> Vec<T> {
    image.tables.iter().filter_map(TableImage::rows_of::<T>).flatten().collect()
}

fn by_uid<T: Column>(image: &Image) -> BTreeMap<u64, T> {
    let tables = image.tables.iter().filter_map(|table| Some(table.uids().zip(table.rows_of::<T>()?)));
    tables.flatten().map(|(uid, row)| (uid.get(), row)).collect()
}

fn coins(image: &Image) -> i64 {
    let purses: i64 = all::<Purse>(image).iter().map(|purse| i64::from(purse.coins)).sum();
    purses + image.value::<Treasury>().unwrap().coins + image.value::<Market>().unwrap().till
}

/// Runs over seeds on the threads that there are.
fn over_seeds<R: Send>(run: impl Fn(u64) -> R + Sync) -> Vec<R> {
    let next = std::sync::atomic::AtomicU64::new(1);
    let some = || {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        seeds.take_while(|seed| *seed <= SEEDS).map(|seed| (seed, run(seed))).collect::<Vec<_>>()
    };
    let mut runs = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    runs.sort_by_key(|(seed, _)| *seed);
    runs.into_iter().map(|(_, run)| run).collect()
}

fn small(seed: u64, more: &[&str]) -> WorldBuilder {
    let mut sets = vec![format!("seed={seed}"), "population=400".into()];
    sets.extend(more.iter().map(|set| (*set).to_owned()));
    town(&sets)
}

fn input(live: &LiveWorld, kind: &str, payload: &Value) -> InputEnvelope {
    let registry = live.registry().clone();
    let payload =
        registry.input(kind).unwrap().check(payload, &registry).unwrap_or_else(|faults| panic!("{faults:?}"));
    InputEnvelope { seq: live.image().taken_seq() + 1, kind: kind.into(), at_tick: None, payload }
}

fn accepted(live: &mut LiveWorld, kind: &str, payload: &Value) {
    let envelope = input(live, kind, payload);
    let report = live.tick(&[envelope]).unwrap();
    assert!(report.outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{:?}", report.outcomes);
}

/// What is wrong with three days of a town.
fn wrong(mut live: LiveWorld) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let mut that = |right: bool, what| {
        if !right && !wrong.contains(&what) {
            wrong.push(what);
        }
    };
    let began = coins(&live.image());
    accepted(&mut live, "plant_rumour", &json!({"with": "Sanna Lind", "about": "Odo Rennick"}));
    let sanna = {
        let image = live.image();
        let memories = by_uid::<Memory>(&image);
        let knows = |memory: &Memory| {
            memory.episodes.iter().any(|episode| episode.kind == EpisodeKind::Rumour && episode.weight == 1.0)
        };
        memories.into_iter().find(|(_, memory)| knows(memory)).map(|(uid, _)| uid)
    };
    let side = live.resource::<TownMap>().side;
    let (mut night, mut fullest, mut by_night, mut at_work) = (0, 0, 0, 0);
    let (mut least_hungry, mut most_hungry) = (f32::MAX, 0f32);
    for _ in 0..3 * DAY_MINUTES {
        live.tick(&[]).unwrap();
        let (census, day) = (*live.resource::<Census>(), *live.resource::<Day>());
        if day.minute >= 23 * 60 || day.minute < 4 * 60 {
            night = night.max(census.awake * 100 / census.people.max(1));
            by_night = by_night.max(census.at_market);
        } else if day.light > 0.0 {
            fullest = fullest.max(census.at_market);
            at_work = at_work.max(census.at_work * 100 / census.people.max(1));
        }
        if live.now().0.is_multiple_of(360) {
            let image = live.image();
            let needs = all::<Needs>(&image);
            let is_part = |need: f32| (0.0..=1.0).contains(&need);
            that(
                needs.iter().all(|needs| {
                    [needs.hunger, needs.fatigue, needs.loneliness, needs.purpose].into_iter().all(is_part)
                }),
                "needs stay in 0..1",
            );
            let mean = needs.iter().map(|needs| needs.hunger).sum::<f32>() / needs.len() as f32;
            (least_hungry, most_hungry) = (least_hungry.min(mean), most_hungry.max(mean));
            let within = |at: &Position| (0.0..=side).contains(&at.x) && (0.0..=side).contains(&at.y);
            that(all::<Position>(&image).iter().all(within), "nobody leaves the map");
            that(coins(&image) == began, "coins are neither made nor lost");
            for (uid, memory) in by_uid::<Memory>(&image) {
                for episode in memory.episodes.iter().filter(|episode| episode.kind != EpisodeKind::None) {
                    let days = (live.now().0 - u64::from(episode.tick)) / DAY_MINUTES;
                    that(days < 2 || episode.weight <= 0.75, "what is remembered fades");
                    let is_told = episode.kind == EpisodeKind::Rumour
                        && episode.subject != uid as u32
                        && Some(uid) != sanna;
                    that(!is_told || episode.weight <= 0.8, "talk makes no weight");
                }
            }
        }
    }
    that(night < 10, "few are awake at night");
    that(fullest > 10 && fullest > 5 * by_night, "the market is fullest by day");
    that(at_work > 60, "people work by day");
    that(most_hungry - least_hungry > 0.05 && least_hungry > 0.02, "hunger comes and goes");
    wrong
}

#[test]
fn a_town_is_alive_whatever_the_seed() {
    let found = over_seeds(|seed| wrong(created(small(seed, &[]), 1)));
    assert!(found.iter().all(Vec::is_empty), "{found:?}");
    let hashes = over_seeds(|seed| {
        let mut live = created(small(seed % 4, &[]), 1);
        (0..300).for_each(|_| _ = live.tick(&[]).unwrap());
        (seed % 4, live.state_hash())
    });
    let known: BTreeMap<u64, _> = hashes.iter().copied().collect();
    assert!(hashes.iter().all(|(seed, hash)| known[seed] == *hash), "one seed repeats");
    let different: std::collections::BTreeSet<_> = known.values().collect();
    assert_eq!(different.len(), 4, "two seeds differ");
}

fn coin_for_each(mut purses: Rows<Write<Purse>>) {
    purses.for_each(|mut purses| (0..purses.len()).for_each(|i| purses.row_mut(i).coins += 1));
}

fn louder(mut memories: Rows<Write<Memory>>) {
    memories.for_each(|mut memories| {
        for i in 0..memories.len() {
            let rumours =
                memories.row_mut(i).episodes.iter_mut().filter(|episode| episode.kind == EpisodeKind::Rumour);
            rumours.for_each(|episode| episode.weight = (episode.weight * 1.05).min(1.0));
        }
    });
}

#[test]
fn a_broken_rule_is_told() {
    let settle = Phase("settle");
    for (what, plant) in [
        (
            "hunger comes and goes",
            Box::new(|world: &mut WorldBuilder| world.sabotage(Sabotage::Never("needs::change")))
                as Box<dyn Fn(&mut WorldBuilder)>,
        ),
        ("what is remembered fades", Box::new(|world| world.sabotage(Sabotage::Never("memory::fade")))),
        ("few are awake at night", Box::new(|world| world.sabotage(Sabotage::Never("mind::decide")))),
        ("the market is fullest by day", Box::new(|world| world.sabotage(Sabotage::Never("walk::step")))),
        (
            "coins are neither made nor lost",
            Box::new(move |world| _ = world.system(system(coin_for_each).phase(settle))),
        ),
        ("talk makes no weight", Box::new(move |world| _ = world.system(system(louder).phase(settle)))),
    ] {
        let mut world = small(3, &[]);
        plant(&mut world);
        let found = wrong(created(world, 2));
        assert!(found.contains(&what), "planted against {what:?}: {found:?}");
    }
}

fn counted(live: &LiveWorld, kind: &str) -> u64 {
    live.report().events.iter().filter(|batch| batch.info.name == kind).map(|batch| batch.count).sum()
}

/// Who died keeps the name, and the story tells of it.
fn the_dead_are_remembered(image: &Image) {
    let annals: Annals = image.value().unwrap();
    let story = PLUGINS.iter().find(|plugin| plugin.name == "town").unwrap().story.unwrap();
    let names: BTreeMap<u64, String> =
        (story.characters)(image).unwrap().into_iter().map(|(uid, name)| (uid.get(), name)).collect();
    let died = |uid: &&u64| image.find(Uid::new(**uid)).is_none();
    for uid in annals.cast.iter().filter(died) {
        let name = &names[uid];
        assert_eq!(*name, annals.remembered[uid].name);
        let told =
            (story.chronicle)(image, &Asked { about: Some(name.clone()), ..Asked::default() }).unwrap();
        assert!(told.starts_with(&format!("# The chronicle of {name}")) && told.contains("## Day"), "{told}");
        let error = (story.portrait)(image, name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} died in tick ")), "{error}");
    }
}

#[test]
fn a_town_without_food_goes_hungry_and_says_so_and_the_mortal_die() {
    let runs = over_seeds(|seed| {
        let mut live = created(small(seed, &["town.meals_per_hour=0.0", "town.births_and_deaths=true"]), 1);
        let (began, people) = (coins(&live.image()), live.entities());
        let (mut said, mut died) = (0, 0);
        for _ in 0..6 * DAY_MINUTES {
            live.tick(&[]).unwrap();
            said += counted(&live, "hungered");
            died += counted(&live, "died");
        }
        let image = live.image();
        assert_eq!(coins(&image), began, "seed {seed}: what the dead own falls to the town");
        the_dead_are_remembered(&image);
        (said, died, people - live.resource::<Census>().people as usize)
    });
    for (seed, (said, died, gone)) in runs.into_iter().enumerate() {
        assert!(said > 200 && died > 20 && gone > 20, "seed {}: {said} went hungry, {died} died", seed + 1);
    }
    let fed = over_seeds(|seed| {
        let mut live = created(small(seed, &[]), 1);
        (0..3 * DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
        live.resource::<Census>().starving
    });
    assert!(fed.iter().all(|starving| *starving < 60), "of 400 in a town with food: {fed:?}");
}

#[test]
fn friends_meet_more_often_than_strangers() {
    let found = over_seeds(|seed| {
        let mut live = created(small(seed, &[]), 1);
        (0..2 * DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
        let before = by_uid::<Ties>(&live.image());
        (0..DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
        let after = by_uid::<Ties>(&live.image());
        // Who met is better known than a day of fading would leave.
        let (mut friends, mut others) = ([0.0, 0.0], [0.0, 0.0]);
        for (uid, ties) in &before {
            for tie in ties.known.iter().filter(|tie| tie.who != 0) {
                let met = after[uid].to(tie.who).is_some_and(|now| now.familiarity > tie.familiarity);
                let side = if tie.affinity >= 0.4 { &mut friends } else { &mut others };
                side[0] += f64::from(u8::from(met));
                side[1] += 1.0;
            }
        }
        (friends[0] / friends[1], others[0] / others[1])
    });
    let mean = |of: fn(&(f64, f64)) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
    let (friends, others) = (mean(|found| found.0), mean(|found| found.1));
    assert!(friends > 1.3 * others, "of friends {friends:.3} met in a day, of others {others:.3}");
    let more = found.iter().filter(|(friends, others)| friends > others).count();
    assert!(more >= 18, "in {more} of {} towns: {found:?}", found.len());
}

/// How many a rumour reached in four days, in a town where all are as outgoing as that.
fn reached(seed: u64, extraversion: f32) -> usize {
    let mut live = created(small(seed, &[]), 1);
    let traits: BTreeMap<u64, Traits> = by_uid(&live.image());
    let entities: Vec<Value> = traits
        .keys()
        .map(|uid| json!({"uid": uid.to_string(), "components": {"traits": {"extraversion": extraversion}}}))
        .collect();
    accepted(&mut live, "update_entities", &json!({"entities": entities}));
    accepted(&mut live, "plant_rumour", &json!({"with": "Sanna Lind", "about": "Odo Rennick"}));
    let mut reached = 0;
    for _ in 0..4 * DAY_MINUTES {
        live.tick(&[]).unwrap();
        reached += counted(&live, "rumour") as usize;
    }
    reached
}

#[test]
fn a_rumour_goes_further_among_the_outgoing() {
    let found = over_seeds(|seed| [0.1, 0.5, 0.9].map(|extraversion| reached(seed, extraversion)));
    let mean = |i: usize| found.iter().map(|reached| reached[i] as f64).sum::<f64>() / found.len() as f64;
    let (quiet, common, outgoing) = (mean(0), mean(1), mean(2));
    assert!(quiet < common && common < outgoing, "{quiet} {common} {outgoing}");
    assert!(outgoing > 3.0 * quiet && outgoing > 20.0, "{quiet} {common} {outgoing}: {found:?}");
}

/// W1, W3, W4: with all that there is, births and deaths too, on any threads, and through restores of shuffled rows.
#[test]
fn w1_w3_w4_a_town_of_mortals_has_one_hash() {
    let sets =
        ["town.births_and_deaths=true", "town.meals_per_hour=0.2", "town.ill_by_day=0.2", "population=300"];
    let mut runs = Vec::new();
    for (threads, restores) in [(1, false), (2, false), (4, false), (8, false), (3, true)] {
        let mut live = small(5, &sets)
            .build(everworld_engine::Options { parallel: Parallel::Always, ..options(threads) })
            .unwrap();
        live.create().unwrap();
        for tick in 0..700 {
            if restores {
                let image = live.image().shuffled(tick);
                live.restore(&image).unwrap();
            }
            live.tick(&[]).unwrap();
        }
        runs.push(live.state_hash());
    }
    assert!(runs.iter().all(|hash| *hash == runs[0]), "{runs:?}");
}

/// What a town of version 1 of the annals remembers goes on; whoever died before is gone.
#[test]
fn the_annals_of_former_builds_are_read() {
    let mut live = created(small(1, &[]), 1);
    (0..DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
    let annals = live.resource::<Annals>().clone();
    let mut image = live.image();
    let stored = image.resources.iter_mut().find(|stored| stored.name == "annals").unwrap();
    let first = (annals.seed, &annals.cast, &annals.deeds);
    (stored.version, stored.bytes) = (1, postcard::to_allocvec(&first).unwrap().into());
    image.hash = image.compute_hash();
    let (migrated, _) = migrate_image(live.registry(), image).unwrap();
    assert!(annals.deeds.len() > 5 && !annals.remembered.is_empty());
    assert_eq!(migrated.value::<Annals>(), Some(Annals { remembered: BTreeMap::new(), ..annals }));
}

#[test]
fn the_cast_is_there_by_name_and_the_annals_tell_of_it() {
    let mut live = created(town(&[]), 2);
    let cast = live.resource::<Annals>().cast.clone();
    assert!(cast.len() >= 12 && cast[..12] == (1..=12).collect::<Vec<_>>(), "{cast:?}");
    (0..2 * DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
    let annals = live.resource::<Annals>().clone();
    assert!(annals.deeds.len() > 20 && annals.deeds.iter().all(|deed| cast.contains(&deed.who)));
    let story = PLUGINS.iter().find(|plugin| plugin.name == "town").unwrap().story.unwrap();
    let image = live.image();
    let names: Vec<String> = (story.characters)(&image).unwrap().into_iter().map(|(_, name)| name).collect();
    assert!(names.contains(&"Marta Vell".to_owned()), "{names:?}");
    let text = (story.chronicle)(&image, &Asked::default()).unwrap();
    assert_eq!(text, (story.chronicle)(&image, &Asked::default()).unwrap());
    let sentences: Vec<&str> = text.split(". ").collect();
    assert!(sentences.windows(2).all(|pair| pair[0] != pair[1]), "{text}");
    assert!(text.contains("## Day 1") && text.contains("## Day 2"), "{text}");
    let portrait = (story.portrait)(&image, "marta").unwrap();
    assert_eq!((&portrait["name"], &portrait["uid"]), (&json!("Marta Vell"), &json!("1")));
    assert!(
        portrait["scores"].as_array().unwrap().len() >= 3 && portrait["ties"].as_array().unwrap().len() >= 3
    );
    assert!((story.portrait)(&image, "Nobody").unwrap_err().to_string().contains("Marta Vell"));
    assert!((story.portrait)(&image, "99999999").unwrap_err().to_string().contains("99999999"));
}

#[test]
fn characters_minds_and_rumours_come_by_inputs() {
    let mut live = created(small(1, &[]), 1);
    let newcomer = json!({
        "name": "Hedda Stern", "trade": "weaver", "home": [0.5, 0.5], "traits": [0.5, 0.5, 0.5, 0.5, 0.5],
        "wish": "to stay", "secret": "she came with nothing", "ties": [{"to": "Marta Vell", "as": "friend"}],
    });
    accepted(&mut live, "add_character", &newcomer);
    let uid = *live.resource::<Annals>().cast.last().unwrap();
    assert_eq!(by_uid::<Ties>(&live.image())[&uid].to(1).unwrap().affinity, 0.6);
    // Again, or bound to nobody: refused, and nothing is lost.
    let mut stranger = newcomer.clone();
    stranger["name"] = json!("Uwe Zorn");
    stranger["ties"] = json!([{"to": "Nobody", "as": "friend"}]);
    for (payload, says) in [(newcomer, "is called"), (stranger, "nobody of the cast")] {
        let before = live.entities();
        let envelope = input(&live, "add_character", &payload);
        let outcome = live.tick(&[envelope]).unwrap().outcomes[0].1.clone();
        assert!(outcome.unwrap_err().to_string().contains(says) && live.entities() == before);
    }
    let registry = live.registry().clone();
    let mind = include_str!("../../configs/minds/townsfolk.toml");
    let idle = "momentum = 1.0\n[[action]]\nname = \"idle\"\nweight = 1.0\nconsider = []\n";
    accepted(&mut live, "set_mind", &json!({"toml": mind}));
    let before = live.state_hash();
    accepted(&mut live, "set_mind", &json!({"toml": idle}));
    (0..10).for_each(|_| _ = live.tick(&[]).unwrap());
    let goals = all::<everworld_components::Goal>(&live.image());
    let idle = goals.iter().filter(|goal| goal.action == everworld_components::Action::Idle).count();
    assert!(idle >= 400 && live.state_hash() != before, "{idle}");
    for (from, to, says) in [
        ("axis = \"hunger\"", "axis = \"thirst\"", "there is no axis \"thirst\""),
        ("name = \"eat\"", "name = \"drink\"", "there is no action \"drink\""),
        ("momentum = 1.2", "momentum = 0.2", "momentum: expected 1 to 10"),
        ("curve = \"logit\"", "curve = \"logit\"", ""),
    ] {
        let text = mind.replacen(from, to, 1);
        let fault = registry.input("set_mind").unwrap().check(&json!({"toml": text}), &registry);
        if says.is_empty() {
            assert!(fault.is_ok());
            continue;
        }
        let fault = fault.unwrap_err()[0].detail.clone();
        let line = mind[..mind.find(from).unwrap()].matches('\n').count() + 1;
        assert!(fault.contains(says) && fault.contains(&format!("toml:{line}:")), "line {line}: {fault}");
    }
}

#[test]
fn a_cast_that_contradicts_itself_is_refused_with_its_line() {
    let text = include_str!("../../configs/town.toml");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("town.toml");
    for (from, to, says) in [
        ("trade = \"baker\"", "trade = \"wizard\"", "cast[0].trade: expected one of none, farmer"),
        (
            "to = \"Ilse Vell\", as = \"child\"",
            "to = \"Ilse Vell\", as = \"mother\"",
            "Ilse Vell is the mother of Marta Vell",
        ),
        ("to = \"Ilse Vell\", as = \"child\"", "to = \"Elsa Vell\", as = \"child\"", "found \"Elsa Vell\""),
        ("name = \"Wido\"", "name = \"Teo Brandt\"", "cast[10].name: expected one that nobody else has"),
        ("coins = 400", "coins = 4000000", "town.coins: expected at most 1000000, found 4000000"),
        (
            "traits = [0.4, 0.9, 0.7, 0.8, 0.3]",
            "traits = [0.4, 0.9, 0.7, 0.8, 3.0]",
            "cast[0].traits: expected 0 to 1 each",
        ),
    ] {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text, "{from}");
        std::fs::write(&path, &broken).unwrap();
        let output = everworld(&["run", path.to_str().unwrap(), "--ticks", "1"]);
        let error = stderr(&output);
        assert!(!output.status.success() && error.contains(says), "{error}");
        assert!(error.contains("town.toml:"), "no line: {error}");
    }
    let scenario = worlds::load_scenario("town", PLUGINS, &[]).unwrap();
    assert_eq!(scenario.population, 5_000);
}

/// Whatever an input puts into packs and purses, the market goes on, and coins stay what they are.
#[test]
fn full_packs_and_purses_break_no_market() {
    let mut live = created(small(1, &[]), 1);
    let uids: Vec<u64> = by_uid::<Purse>(&live.image()).into_keys().collect();
    let full = json!({"pack": {"food": u16::MAX, "wares": u16::MAX}, "purse": {"coins": u32::MAX}});
    let entities: Vec<Value> =
        uids.iter().map(|uid| json!({"uid": uid.to_string(), "components": full})).collect();
    accepted(&mut live, "update_entities", &json!({"entities": entities}));
    let began = coins(&live.image());
    (0..DAY_MINUTES).for_each(|_| _ = live.tick(&[]).unwrap());
    assert_eq!(coins(&live.image()), began);
}

#[test]
fn travellers_come_in_the_morning_and_go_again() {
    let mut live = created(town(&["population=2000".into()]), 1);
    let mut most = 0;
    for _ in 0..DAY_MINUTES {
        live.tick(&[]).unwrap();
        most = most.max(live.entities());
    }
    assert_eq!((most, live.entities()), (2_005, 2_000));
}

/// The design gives a townsman 568 bytes.
#[test]
fn a_townsman_fits_into_his_bytes() {
    let live = created(town(&["population=12".into()]), 1);
    let image = live.image();
    let table = image.tables.iter().find(|table| table.column("ties").is_some()).unwrap();
    let bytes: usize = table.columns.iter().filter_map(|column| column.schema.row_bytes()).sum();
    assert!(bytes <= 568, "{bytes}");
}

/// Renew with `UPDATE_EXPECT=1 cargo test`.
#[test]
fn the_sample_chronicle_still_comes_out() {
    let mut live = created(town(&[]), 2);
    (0..3_959).for_each(|_| _ = live.tick(&[]).unwrap());
    let story = PLUGINS.iter().find(|plugin| plugin.name == "town").unwrap().story.unwrap();
    let text = (story.chronicle)(&live.image(), &Asked::default()).unwrap();
    expect_test::expect_file!["../../docs/CHRONICLE.md"].assert_eq(&text);
    // Another seed reads differently, from the first chapter on.
    let mut other = created(town(&["seed=2".into()]), 2);
    (0..1_080).for_each(|_| _ = other.tick(&[]).unwrap());
    let other = (story.chronicle)(&other.image(), &Asked::default()).unwrap();
    assert!(other.contains("## Day 1") && !text.starts_with(other.trim_end()));
    // And about one of the cast it is about them.
    let about = Asked { about: Some("Marta".into()), ..Asked::default() };
    let marta = (story.chronicle)(&live.image(), &about).unwrap();
    assert!(marta.starts_with("# The chronicle of Marta Vell\n"));
    let days = marta.split("\n\n").filter(|part| !part.starts_with('#') && !part.trim().is_empty()).skip(1);
    assert!(days.into_iter().all(|paragraph| paragraph.contains("Marta")), "{marta}");
}
