//! ForestFire: what burns lights the green trees beside it, and is burnt in the next tick.
//!
//! A deterministic spread on a site percolation lattice, as the agent-based field compares frameworks by it (JuliaDynamics,
//! ABMFrameworksComparison): all sites at once, four neighbours, walls.

use crate::scenario::{Plugin, Scenario, ScenarioError, Statistic};
use everworld_components::{Fire, Forest, Site, Tree};
use everworld_engine::{
    Geometry, Image, InCells, Space, TableImage, input::InputWorld, prelude::*, random::Draws,
};
use serde::Deserialize;

/// ForestFire, as a kind of world.
pub const PLUGIN: Plugin =
    Plugin::new("forestfire", include_str!("../../configs/forestfire.toml"), plugin).measured_by(statistics);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    forestfire: ForestParams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForestParams {
    side: u32,
    density: f64,
    ignition: Ignition,
}

/// What burns at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ignition {
    /// All sites of the first column, with a tree or not.
    Column,
    /// The trees of the first column.
    Trees,
}

/// The trees by where they stand.
pub struct Trees;

impl Space for Trees {
    const NAME: &'static str = "trees";
    type Map = Forest;
    type Columns = (Site, Tree);
    type Filter = ();

    fn geometry(forest: &Forest) -> Geometry {
        Geometry::lattice([forest.side; 2], 1, false)
    }

    fn place((site, _): &(Site, Tree)) -> [f64; 3] {
        site.place()
    }
}

fn plugin(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    ground(world, scenario)?;
    world.grid::<Trees>(|grid| grid).system(system(burn).after(everworld_engine::grid::build::<Trees>));
    Ok(())
}

/// The trees of a scenario, some of them burning, without any system.
///
/// # Errors
/// When a parameter is no good.
pub fn ground(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    let Params { forestfire } = scenario.params()?;
    let ForestParams { side, density, .. } = forestfire;
    let mut expected = scenario.expected();
    expected.that((1..=10_000).contains(&side), "forestfire.side", "1 to 10000", side);
    expected.that((0.0..=1.0).contains(&density), "forestfire.density", "0 to 1", density);
    expected.met()?;
    world.column::<Site>().column::<Tree>().resource(Forest { side });
    world.prototype("tree", &[("site", None), ("tree", None)]);
    world.setup(move |world| plant(world, &forestfire));
    Ok(())
}

const TREE_STREAM: u64 = 1;

fn plant(world: &mut InputWorld<'_>, params: &ForestParams) {
    let (seed, side) = (world.time().seed, params.side);
    let sites = (0..side).flat_map(|x| (0..side).map(move |y| Site { x, y }));
    let trees = sites.filter_map(|site| {
        let number = u64::from(site.x) * u64::from(side) + u64::from(site.y);
        let is_tree = Draws::new(seed, 0, TREE_STREAM, number).unit64() < params.density;
        let burns = site.x == 0 && (is_tree || params.ignition == Ignition::Column);
        let fire = if burns { Fire::Burning } else { Fire::Green };
        (is_tree || burns).then_some((site, Tree { fire, is_tree: u32::from(is_tree) }))
    });
    world.spawn_many(trees);
}

/// The fire goes on by one site.
pub(crate) fn burn(mut trees: InCells<Trees, Write<Tree>, Fire>) {
    trees.for_each(
        |cell, fires| {
            for ((site, tree), fire) in cell.rows().iter().zip(fires) {
                *fire = match tree.fire {
                    Fire::Green if is_lit(cell.runs().flat_map(|(_, trees)| trees), *site) => Fire::Burning,
                    Fire::Burning => Fire::Burnt,
                    other => other,
                };
            }
        },
        |mut trees, fires| {
            for i in 0..trees.len() {
                let tree = trees[i];
                trees.set(i, Tree { fire: fires.of(i), ..tree });
            }
        },
    );
}

/// Whether one of these burns beside a site.
fn is_lit<'t>(mut around: impl Iterator<Item = &'t (Site, Tree)>, at: Site) -> bool {
    around
        .any(|(site, tree)| tree.fire == Fire::Burning && site.x.abs_diff(at.x) + site.y.abs_diff(at.y) == 1)
}

/// How far the fire is.
pub fn statistics(image: &Image) -> Vec<Statistic> {
    let trees: Vec<Tree> = image.tables.iter().filter_map(TableImage::rows_of).flatten().collect();
    let count = |is: fn(&Tree) -> bool| trees.iter().filter(|tree| is(tree)).count() as f64;
    let burnt = count(|tree| tree.fire == Fire::Burnt);
    vec![
        Statistic::new("burnt_cells", burnt),
        Statistic::new("burning_cells", count(|tree| tree.fire == Fire::Burning)),
        Statistic::new("green_cells", count(|tree| tree.fire == Fire::Green)),
        Statistic::new("burnt_over_initial_trees", burnt / count(|tree| tree.is_tree == 1)),
    ]
}
