//! WolfSheep: sheep eat grass, wolves eat sheep, and all have young.
//!
//! Wilensky 1997, "NetLogo Wolf Sheep Predation model", with the rules by which the agent-based field compares frameworks
//! (JuliaDynamics, ABMFrameworksComparison): first all sheep, then all wolves, then the grass; animals one after the other,
//! in an order that is drawn anew in each tick. An animal goes to one of the up to 8 sites around, loses 1 of energy, eats
//! (a sheep grown grass, a wolf one sheep of its site, any as likely), dies below 0, else may have young: its energy is
//! halved, and a copy of it begins to live in the next tick.
//!
//! That an animal acts before another matters only where both want the same: the grass of a site, or a sheep of it. Where all
//! act at once (`update = "synchronous"`), all go first, and each site then draws who of those on it comes first. So it is the
//! same model, computed in parallel: its figures are those of the other one over seeds, though not seed by seed.

use crate::scenario::{Plugin, Scenario, ScenarioError, Statistic, Update};
use everworld_components::{Animal, Grass, Pasture, Site, Species};
use everworld_engine::{
    Geometry, Grid, Image, InCells, Space, TableImage,
    grid::build,
    input::InputWorld,
    prelude::*,
    random::{Draws, mix},
};
use serde::Deserialize;

/// WolfSheep, as a kind of world.
pub const PLUGIN: Plugin =
    Plugin::new("wolfsheep", include_str!("../../configs/wolfsheep.toml"), plugin).measured_by(statistics);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    wolfsheep: WolfSheepParams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WolfSheepParams {
    update: Update,
    side: u32,
    sheep: u32,
    wolves: u32,
    regrow: u32,
    sheep_birth: f64,
    wolf_birth: f64,
    sheep_gain: f64,
    wolf_gain: f64,
}

const ANIMALS: Phase = Phase("animals");
const HUNT: Phase = Phase("hunt");
const GROWTH: Phase = Phase("growth");

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { wolfsheep } = scenario.params()?;
    check(&wolfsheep, scenario)?;
    let WolfSheepParams { side, regrow, sheep_birth, wolf_birth, sheep_gain, wolf_gain, .. } = wolfsheep;
    let regrow = regrow as i32;
    world
        .column::<Site>()
        .column::<Animal>()
        .column::<Grass>()
        .resource(Pasture { side, regrow, sheep_gain, wolf_gain, sheep_birth, wolf_birth })
        .prototype("animal", &[("site", None), ("animal", None)])
        .phases(&[ANIMALS, HUNT, GROWTH])
        .system(system(grow).phase(GROWTH));
    match wolfsheep.update {
        Update::Asynchronous => _ = world.system(system(live).phase(ANIMALS)),
        Update::Synchronous => {
            world
                .grid::<Patches>(|grid| grid.phase(ANIMALS))
                .system(system(roam).phase(ANIMALS))
                .grid::<Grazing>(|grid| grid.phase(ANIMALS).after(roam))
                .system(system(graze).phase(ANIMALS).after(build::<Grazing>).after(build::<Patches>))
                .system(system(crop).phase(ANIMALS).after(build::<Grazing>).after(build::<Patches>))
                // Lambs are born by then, and the starved are gone.
                .grid::<Hunting>(|grid| grid.phase(HUNT))
                .system(system(hunt).phase(HUNT).after(build::<Hunting>));
        }
    }
    world.setup(move |world| stock(world, &wolfsheep));
    Ok(())
}

fn check(params: &WolfSheepParams, scenario: &Scenario) -> Result<(), ScenarioError> {
    let mut expected = scenario.expected();
    let (side, regrow) = (params.side, params.regrow);
    expected.that((2..=10_000).contains(&side), "wolfsheep.side", "2 to 10000", side);
    for (name, count) in [("sheep", params.sheep), ("wolves", params.wolves)] {
        expected.that(count <= 100_000_000, format!("wolfsheep.{name}"), "at most 100000000", count);
    }
    expected.that((1..=1_000_000).contains(&regrow), "wolfsheep.regrow", "1 to 1000000", regrow);
    for (name, birth) in [("sheep_birth", params.sheep_birth), ("wolf_birth", params.wolf_birth)] {
        expected.that((0.0..=1.0).contains(&birth), format!("wolfsheep.{name}"), "0 to 1", birth);
    }
    for (name, gain) in [("sheep_gain", params.sheep_gain), ("wolf_gain", params.wolf_gain)] {
        expected.that((1.0..=1e6).contains(&gain), format!("wolfsheep.{name}"), "1 to 1000000", gain);
    }
    expected.met()
}

const GRASS_STREAM: u64 = 1;
const ANIMAL_STREAM: u64 = 2;

/// Grass on each site, by its number the first of all; then sheep, then wolves.
fn stock(world: &mut InputWorld<'_>, params: &WolfSheepParams) {
    let (seed, side) = (world.time().seed, params.side);
    let sites = (0..side).flat_map(|y| (0..side).map(move |x| Site { x, y }));
    world.spawn_many(sites.zip(0..).map(|(site, i)| {
        let mut draws = Draws::new(seed, 0, GRASS_STREAM, i);
        let countdown = if draws.below(2) == 0 { 0 } else { 1 + draws.below(params.regrow) as i32 };
        (site, Grass { countdown })
    }));
    let sheep = (0..params.sheep).map(|_| (Species::Sheep, params.sheep_gain));
    let wolves = (0..params.wolves).map(|_| (Species::Wolf, params.wolf_gain));
    world.spawn_many(sheep.chain(wolves).zip(0..).map(|((species, gain), i)| {
        let mut draws = Draws::new(seed, 0, ANIMAL_STREAM, i);
        let site = Site { x: draws.below(side), y: draws.below(side) };
        let energy = f64::from(1 + draws.below((2.0 * gain) as u32));
        (site, Animal { energy, species, turn: 0 })
    }));
}

/// An animal while its tick is computed; also one that is born in it.
struct Living {
    /// Its own, or its mother's.
    uid: Uid,
    is_born: bool,
    site: Site,
    animal: Animal,
    is_alive: bool,
}

/// All sheep, then all wolves.
pub(crate) fn live(
    pasture: Res<Pasture>,
    random: Random,
    effects: Effects,
    mut animals: Query<(&Uid, &mut Site, &mut Animal)>,
    mut patches: Query<(&Uid, &Site, &mut Grass), Without<Animal>>,
) {
    let side = pasture.side as usize;
    let number = |site: Site| site.y as usize * side + site.x as usize;
    // Whom an input put off the lattice, its edge takes back.
    let on = |site: &Site| Site { x: site.x.min(pasture.side - 1), y: site.y.min(pasture.side - 1) };
    let mut all: Vec<Living> = animals
        .iter()
        .map(|(uid, site, animal)| Living {
            uid: *uid,
            is_born: false,
            site: on(site),
            animal: *animal,
            is_alive: true,
        })
        .collect();
    all.sort_unstable_by_key(|living| living.uid);
    let grown = all.len();
    let mut grass = vec![i32::MAX; side * side];
    patches.iter().for_each(|(_, site, patch)| {
        _ = grass.get_mut(number(on(site))).map(|countdown| *countdown = patch.countdown);
    });
    // Who is there to be eaten, once all sheep have moved.
    let mut flock: Vec<Vec<usize>> = vec![Vec::new(); side * side];
    for species in [Species::Sheep, Species::Wolf] {
        let mut order: Vec<usize> = (0..grown).filter(|i| all[*i].animal.species == species).collect();
        // The two kinds draw one after the other: no animal has these Uids.
        let mut draws = random.of(Uid::new(if species == Species::Sheep { 0 } else { u64::MAX }));
        draws.shuffle(&mut order);
        let birth = if species == Species::Sheep { pasture.sheep_birth } else { pasture.wolf_birth };
        for i in order {
            if !all[i].is_alive {
                continue;
            }
            let site = step(all[i].site, pasture.side, &mut draws);
            all[i].site = site;
            all[i].animal.energy -= 1.0;
            if species == Species::Sheep {
                let countdown = &mut grass[number(site)];
                if *countdown <= 0 {
                    *countdown = pasture.regrow;
                    all[i].animal.energy += pasture.sheep_gain;
                }
            } else if !flock[number(site)].is_empty() {
                let sheep = &mut flock[number(site)];
                let eaten = sheep.swap_remove(draws.below(sheep.len() as u32) as usize);
                all[eaten].is_alive = false;
                all[i].animal.energy += pasture.wolf_gain;
            }
            if all[i].animal.energy < 0.0 {
                all[i].is_alive = false;
                continue;
            }
            if draws.unit64() < birth {
                all[i].animal.energy /= 2.0;
                let Living { uid, animal, .. } = all[i];
                if species == Species::Sheep {
                    flock[number(site)].push(all.len());
                }
                all.push(Living { uid, is_born: true, site, animal, is_alive: true });
            }
            if species == Species::Sheep {
                flock[number(site)].push(i);
            }
        }
    }
    for Living { uid, is_born, site, animal, is_alive } in &all {
        match (is_born, is_alive) {
            (false, false) => effects.despawn(*uid, *uid),
            (true, true) => effects.spawn(*uid, (*site, *animal)),
            _ => {}
        }
    }
    all.truncate(grown);
    for (uid, mut site, mut animal) in &mut animals {
        if let Ok(at) = all.binary_search_by_key(uid, |living| living.uid) {
            (*site, *animal) = (all[at].site, all[at].animal);
        }
    }
    for (_, site, mut patch) in &mut patches {
        let eaten = grass.get(number(on(site))).copied().unwrap_or(patch.countdown);
        if eaten != patch.countdown {
            patch.countdown = eaten;
        }
    }
}

/// One of the up to 8 sites around, any as likely.
fn step(from: Site, side: u32, draws: &mut Draws) -> Site {
    let around = |at: u32| at.saturating_sub(1)..=at.saturating_add(1).min(side - 1);
    let width = around(from.x).count() as u32;
    let sites = width * around(from.y).count() as u32;
    let site = |i: u32| Site { x: around(from.x).start() + i % width, y: around(from.y).start() + i / width };
    // Any but its own: the last one takes the place of that.
    let chosen = site(draws.below(sites - 1));
    if chosen == from { site(sites - 1) } else { chosen }
}

/// The animals of a lattice by where they are, in two grids: before lambs are born, and after.
macro_rules! animals_by_site {
    ($($(#[$doc:meta])* $Name:ident($name:literal)),+) => {$(
        $(#[$doc])*
        pub(crate) struct $Name;

        impl Space for $Name {
            const NAME: &'static str = $name;
            type Map = Pasture;
            type Columns = (Site, Animal, Uid);
            type Filter = ();

            fn geometry(map: &Pasture) -> Geometry {
                Geometry::lattice([map.side; 2], 0, false)
            }

            fn place((site, ..): &Self::Columns) -> [f64; 3] {
                site.place()
            }
        }
    )+};
}
animals_by_site! {
    /// When all have gone where they go.
    Grazing("grazing"),
    /// When the sheep have fed.
    Hunting("hunting")
}

/// The grass by where it grows.
pub(crate) struct Patches;

impl Space for Patches {
    const NAME: &'static str = "patches";
    type Map = Pasture;
    type Columns = (Site, Grass);
    type Filter = ();

    fn geometry(map: &Pasture) -> Geometry {
        Geometry::lattice([map.side; 2], 0, false)
    }

    fn place((site, _): &(Site, Grass)) -> [f64; 3] {
        site.place()
    }
}

/// What is on a site, of what may be: a cell of a grid can be of several sites.
fn on_site<S: Space>(grid: &Grid<S>, site: Site, mut see: impl FnMut(&S::Columns)) {
    grid.around(site.place(), |run| grid.rows()[run.members].iter().for_each(&mut see));
}

/// All animals go to a site around, and draw their turn there.
pub(crate) fn roam(
    pasture: Res<Pasture>,
    random: Random,
    mut animals: Rows<(&'static Uid, Write<Site>, Write<Animal>)>,
) {
    let last = pasture.side - 1;
    animals.for_each(|(uids, mut sites, mut animals)| {
        for (i, uid) in uids.iter().enumerate() {
            let mut draws = random.of(*uid);
            let from = Site { x: sites[i].x.min(last), y: sites[i].y.min(last) };
            sites.set(i, step(from, pasture.side, &mut draws));
            let animal = animals.row_mut(i);
            animal.energy -= 1.0;
            animal.turn = draws.u32();
        }
    });
}

/// How many of a kind are on a site, and how many of them come before one.
fn rank(
    others: &[(Site, Animal, Uid)],
    (site, kind): (Site, Species),
    turn: impl Fn(&Animal, Uid) -> (u64, Uid),
    own: (u64, Uid),
) -> (usize, usize) {
    let mut found = (0, 0);
    for (_, animal, uid) in others.iter().filter(|(at, animal, _)| *at == site && animal.species == kind) {
        found.0 += 1;
        found.1 += usize::from(turn(animal, *uid) < own);
    }
    found
}

fn turn(animal: &Animal, uid: Uid) -> (u64, Uid) {
    (u64::from(animal.turn), uid)
}

/// Who is hunted first has nothing to do with who grazed first.
fn hunted_turn(animal: &Animal, uid: Uid) -> (u64, Uid) {
    (mix(u64::from(animal.turn)), uid)
}

/// Lives on or starves, and may have young, which live from the next tick on.
fn lives(
    (uid, site): (Uid, Site),
    animal: &mut Animal,
    birth: f64,
    random: &Random<'_, '_>,
    effects: &Effects<'_>,
) {
    if animal.energy < 0.0 {
        effects.despawn(uid, uid);
        return;
    }
    let mut draws = random.of(uid);
    if draws.unit64() < birth {
        animal.energy /= 2.0;
        effects.spawn(uid, (site, Animal { turn: draws.u32(), ..*animal }));
    }
}

/// Of the sheep of a site with grown grass the first one eats it.
pub(crate) fn graze(
    pasture: Res<Pasture>,
    random: Random,
    effects: Effects,
    patches: Res<Grid<Patches>>,
    mut animals: InCells<Grazing, (&'static Uid, &'static Site, Write<Animal>), bool>,
) {
    animals.for_each(
        |cell, fed| {
            for ((site, animal, uid), fed) in cell.rows().iter().zip(fed) {
                let is_first = || rank(cell.rows(), (*site, Species::Sheep), turn, turn(animal, *uid)).1 == 0;
                if animal.species == Species::Sheep && is_first() {
                    on_site(&patches, *site, |(at, grass)| *fed |= at == site && grass.countdown <= 0);
                }
            }
        },
        |(uids, sites, mut animals), fed| {
            for i in 0..animals.len() {
                if animals[i].species == Species::Sheep {
                    let animal = animals.row_mut(i);
                    animal.energy += if fed.of(i) { pasture.sheep_gain } else { 0.0 };
                    lives((uids[i], sites[i]), animal, pasture.sheep_birth, &random, &effects);
                }
            }
        },
    );
}

/// Where a sheep is on grown grass, that is eaten.
pub(crate) fn crop(
    pasture: Res<Pasture>,
    animals: Res<Grid<Grazing>>,
    mut patches: Rows<(&'static Site, Write<Grass>), Without<Animal>>,
) {
    patches.for_each(|(sites, mut patches)| {
        for (i, site) in sites.iter().enumerate().filter(|(_, site)| site.x.max(site.y) < pasture.side) {
            if patches[i].countdown > 0 {
                continue;
            }
            let mut is_eaten = false;
            on_site(&animals, *site, |(at, animal, _)| {
                is_eaten |= at == site && animal.species == Species::Sheep;
            });
            if is_eaten {
                patches.set(i, Grass { countdown: pasture.regrow });
            }
        }
    });
}

/// As many of the wolves of a site eat a sheep as there are sheep on it.
pub(crate) fn hunt(
    pasture: Res<Pasture>,
    random: Random,
    effects: Effects,
    mut animals: InCells<Hunting, (&'static Uid, &'static Site, Write<Animal>), bool>,
) {
    animals.for_each(
        |cell, eats_or_is_eaten| {
            let all = cell.rows();
            for ((site, animal, uid), result) in all.iter().zip(eats_or_is_eaten) {
                let wolves = rank(all, (*site, Species::Wolf), turn, turn(animal, *uid));
                let sheep = rank(all, (*site, Species::Sheep), hunted_turn, hunted_turn(animal, *uid));
                *result = match animal.species {
                    Species::Wolf => wolves.1 < sheep.0,
                    _ => sheep.1 < wolves.0,
                };
            }
        },
        |(uids, sites, mut animals), results| {
            for i in 0..animals.len() {
                match animals[i].species {
                    Species::Wolf => {
                        let animal = animals.row_mut(i);
                        animal.energy += if results.of(i) { pasture.wolf_gain } else { 0.0 };
                        lives((uids[i], sites[i]), animal, pasture.wolf_birth, &random, &effects);
                    }
                    _ if results.of(i) => effects.despawn(uids[i], uids[i]),
                    _ => {}
                }
            }
        },
    );
}

/// The grass grows.
pub(crate) fn grow(mut patches: Rows<Write<Grass>>) {
    patches.for_each(|mut patches| {
        for i in 0..patches.len() {
            if patches[i].countdown > 0 {
                patches.row_mut(i).countdown -= 1;
            }
        }
    });
}

/// How many there are.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let animals = || image.tables.iter().filter_map(TableImage::rows_of::<Animal>).flatten();
    let count = |species| animals().filter(|animal| animal.species == species).count() as f64;
    let grass = image.tables.iter().filter_map(TableImage::rows_of::<Grass>).flatten();
    vec![
        Statistic::new("sheep", count(Species::Sheep)),
        Statistic::new("wolves", count(Species::Wolf)),
        Statistic::new("grown_grass", grass.filter(|grass| grass.countdown <= 0).count() as f64),
    ]
}
