//! Schelling: whoever has too few of their own group around moves to an empty site.
//!
//! Schelling 1971, "Dynamic models of segregation", as the agent-based field compares frameworks by it (JuliaDynamics,
//! ABMFrameworksComparison): two groups on a bounded lattice, neighbours by Chebyshev distance, any empty site is as good
//! as another.

use crate::scenario::{Plugin, Scenario, ScenarioError, Statistic, Update};
use everworld_components::{Group, Neighbourhood, Resident, Site};
use everworld_engine::{Geometry, Grid, Image, InCells, Space, input::InputWorld, prelude::*, random::Draws};
use serde::Deserialize;

/// Schelling's segregation, as a kind of world.
pub const PLUGIN: Plugin =
    Plugin::new("schelling", include_str!("../../configs/schelling.toml"), plugin).measured_by(statistics);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    schelling: SchellingParams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchellingParams {
    update: Update,
    side: u32,
    reach: u32,
    wanted: u32,
}

/// The residents by where they live.
pub struct Residents;

impl Space for Residents {
    const NAME: &'static str = "residents";
    type Map = Neighbourhood;
    type Columns = (Site, Resident);
    type Filter = ();

    fn geometry(map: &Neighbourhood) -> Geometry {
        Geometry::lattice([map.side; 2], map.reach, false)
    }

    fn place((site, _): &(Site, Resident)) -> [f64; 3] {
        site.place()
    }
}

const DECIDE: Phase = Phase("decide");
const MOVE: Phase = Phase("move");

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { schelling: SchellingParams { update, side, reach, wanted } } = scenario.params()?;
    let population = scenario.population;
    let mut expected = scenario.expected();
    expected.that((1..=10_000).contains(&side), "schelling.side", "1 to 10000", side);
    expected.that(reach <= 100, "schelling.reach", "at most 100", reach);
    let sites = u64::from(side) * u64::from(side);
    let room = format!("at most {sites}, a site for each");
    expected.that(population <= sites, "population", room, population);
    expected.met()?;
    world
        .column::<Site>()
        .column::<Resident>()
        .resource(Neighbourhood { side, reach, wanted, moves: 0 })
        .prototype("resident", &[("site", None), ("resident", None)])
        .phases(&[DECIDE, MOVE]);
    match update {
        Update::Synchronous => {
            world.grid::<Residents>(|grid| grid.phase(DECIDE));
            world.system(system(look).phase(DECIDE).after(everworld_engine::grid::build::<Residents>));
            world.system(system(relocate).phase(MOVE));
        }
        Update::Asynchronous => {
            world.system(system(move_in_turn).phase(MOVE));
        }
    }
    world.setup(move |world| settle(world, population));
    Ok(())
}

const SETTLE_STREAM: u64 = 1;

/// Half of the people are of each group; their sites are drawn, each once.
fn settle(world: &mut InputWorld<'_>, population: u64) {
    let (seed, side) = (world.time().seed, world.resource::<Neighbourhood>().side);
    let mut sites: Vec<Site> = (0..side).flat_map(|y| (0..side).map(move |x| Site { x, y })).collect();
    Draws::new(seed, 0, SETTLE_STREAM, 0).shuffle(&mut sites);
    world.spawn_many(sites.into_iter().zip(0..population).map(|(site, i)| {
        let group = if i < population / 2 { Group::One } else { Group::Two };
        (site, Resident { group, same: 0 })
    }));
}

/// Whether a site is around another: a cell of the grid may be of several sites, where few of them are taken.
fn is_around(at: &Site, other: &Site, reach: u32) -> bool {
    at.x.abs_diff(other.x).max(at.y.abs_diff(other.y)) <= reach
}

/// All look around at once.
pub(crate) fn look(map: Res<Neighbourhood>, mut residents: InCells<Residents, Write<Resident>, u32>) {
    residents.for_each(
        |cell, same| {
            for ((site, resident), same) in cell.rows().iter().zip(same) {
                let others = cell.runs().flat_map(|(_, others)| others);
                let is_same = |(at, other): &&(Site, Resident)| {
                    other.group == resident.group && is_around(site, at, map.reach)
                };
                // Themselves are among them.
                *same = others.filter(is_same).count().saturating_sub(1) as u32;
            }
        },
        |mut residents, same| {
            for i in 0..residents.len() {
                let resident = residents[i];
                residents.set(i, Resident { same: same.of(i), ..resident });
            }
        },
    );
}

/// Which sites are empty. Somebody whom an input put off the lattice is on no site of it; where it put two on one site,
/// that is empty when both have left.
struct Sites {
    side: u32,
    residents: Vec<u32>,
    empty: Vec<Site>,
}

impl Sites {
    fn of(side: u32, taken: impl Iterator<Item = Site>) -> Self {
        let mut sites = Self { side, residents: vec![0; side as usize * side as usize], empty: Vec::new() };
        for site in taken {
            _ = sites.number(site).map(|number| sites.residents[number] += 1);
        }
        let all = (0..side).flat_map(|y| (0..side).map(move |x| Site { x, y }));
        sites.empty = all
            .zip(&sites.residents)
            .filter(|(_, residents)| **residents == 0)
            .map(|(site, _)| site)
            .collect();
        sites
    }

    fn number(&self, site: Site) -> Option<usize> {
        let is_there = site.x < self.side && site.y < self.side;
        is_there.then(|| site.y as usize * self.side as usize + site.x as usize)
    }

    /// Somebody moves to a site that is empty, any as likely; what is left is as good for the next one.
    fn relocate(&mut self, from: Site, draws: &mut Draws) -> Option<Site> {
        let chosen = (!self.empty.is_empty()).then(|| draws.below(self.empty.len() as u32) as usize)?;
        let to = self.empty[chosen];
        _ = self.number(to).map(|number| self.residents[number] += 1);
        let left = self.number(from).map(|number| {
            self.residents[number] -= 1;
            self.residents[number]
        });
        if left == Some(0) {
            self.empty[chosen] = from;
        } else {
            self.empty.swap_remove(chosen);
        }
        Some(to)
    }
}

/// Those who are unhappy move, in an order that is drawn, each to a site that is empty by then.
pub(crate) fn relocate(
    mut map: ResMut<Neighbourhood>,
    random: Random,
    index: Res<UidIndex>,
    mut residents: Query<(&Uid, &mut Site, &Resident)>,
) {
    let unhappy = residents.iter().filter(|(_, _, resident)| resident.same < map.wanted);
    let mut unhappy: Vec<Uid> = unhappy.map(|(uid, ..)| *uid).collect();
    unhappy.sort_unstable();
    let mut draws = random.of(Uid::new(0));
    draws.shuffle(&mut unhappy);
    let mut sites = Sites::of(map.side, residents.iter().map(|(_, site, _)| *site));
    let mut moves = 0;
    for uid in unhappy {
        let entity = index.get(uid).and_then(|entity| residents.get_mut(entity).ok());
        if let Some((_, mut site, _)) = entity
            && let Some(to) = sites.relocate(*site, &mut draws)
        {
            *site = to;
            moves += 1;
        }
    }
    map.moves = moves;
}

/// Each looks around and moves by themselves, in an order that is drawn anew in each tick.
pub(crate) fn move_in_turn(
    mut map: ResMut<Neighbourhood>,
    random: Random,
    mut residents: Query<(&Uid, &mut Site, &mut Resident)>,
) {
    let mut all: Vec<(Uid, Site, Resident)> =
        residents.iter().map(|(uid, site, resident)| (*uid, *site, *resident)).collect();
    all.sort_unstable_by_key(|(uid, ..)| *uid);
    let mut sites = Sites::of(map.side, all.iter().map(|(_, site, _)| *site));
    let mut groups: Vec<Option<Group>> = vec![None; sites.residents.len()];
    for (_, site, resident) in &all {
        _ = sites.number(*site).map(|number| groups[number] = Some(resident.group));
    }
    let mut draws = random.of(Uid::new(0));
    let mut order: Vec<usize> = (0..all.len()).collect();
    draws.shuffle(&mut order);
    let mut moves = 0;
    for i in order {
        let (_, site, resident) = &mut all[i];
        let around = |at: u32| at.saturating_sub(map.reach)..=at.saturating_add(map.reach).min(map.side - 1);
        let others = around(site.y).flat_map(|y| around(site.x).map(move |x| Site { x, y }));
        let group = |other: &Site| sites.number(*other).and_then(|number| groups[number]);
        let same = others.filter(|other| other != site && group(other) == Some(resident.group)).count();
        resident.same = same as u32;
        if resident.same < map.wanted
            && let Some(to) = sites.relocate(*site, &mut draws)
        {
            _ = sites.number(*site).map(|number| groups[number] = None);
            _ = sites.number(to).map(|number| groups[number] = Some(resident.group));
            *site = to;
            moves += 1;
        }
    }
    map.moves = moves;
    for (uid, mut site, mut resident) in &mut residents {
        if let Ok(at) = all.binary_search_by_key(uid, |(uid, ..)| *uid) {
            (*site, *resident) = (all[at].1, all[at].2);
        }
    }
}

/// How many are content, and how far apart the groups live.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let Some((map, residents)) = image.value::<Neighbourhood>().zip(Grid::<Residents>::of(image)) else {
        return Vec::new();
    };
    let (mut happy, mut shares, mut with_others) = (0.0, 0.0, 0.0);
    residents.each_cell(|cell| {
        for (site, resident) in cell.rows() {
            let (mut others, mut same) = (-1.0, -1.0);
            let around = cell.runs().flat_map(|(_, others)| others);
            for (_, other) in around.filter(|(at, _)| is_around(site, at, map.reach)) {
                others += 1.0;
                same += f64::from(u8::from(other.group == resident.group));
            }
            happy += f64::from(u8::from(same >= f64::from(map.wanted)));
            if others > 0.0 {
                shares += same / others;
                with_others += 1.0;
            }
        }
    });
    vec![
        Statistic::new("happy_fraction", happy / residents.len() as f64),
        Statistic::new("mean_same_group_share", shares / with_others),
        Statistic::new("moves_this_step", map.moves as f64),
    ]
}
