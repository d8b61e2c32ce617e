//! `models`: the standard models against reference figures, seed by seed, by Welch's z; the wrong variant and planted
//! faults must be told.

use crate::{
    Outcome, harness,
    report::{Bound, Report, Row},
    scenarios::models_planted,
};
use anyhow::Context as _;
use clap::Args;
use everworld::{PLUGINS, Plugin, WorldRecord, worlds};
use everworld_engine::{Image, Tick};
use everworld_systems::Statistic;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

#[derive(Args, Clone)]
pub(crate) struct ModelsArgs {
    /// The models
    #[arg(long, value_delimiter = ',', default_value = "flocking,schelling,forestfire,wolfsheep")]
    models: Vec<String>,
    /// The variants
    #[arg(long, value_delimiter = ',', default_value = "small,large")]
    variants: Vec<String>,
    /// Seeds, from 1 on
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// Tell each figure that is further off than this many standard errors
    #[arg(long, default_value_t = 3.0)]
    tell: f64,
    /// Leave the planted faults out
    #[arg(long)]
    sound_only: bool,
}

/// One way to play a model, and the implementation whose figures it must meet.
struct Case {
    model: &'static str,
    variant: &'static str,
    implementation: &'static str,
    sets: &'static [&'static str],
    /// Played by these, if not by the sound ones.
    plugin: Option<&'static Plugin>,
}

/// All animals at once are the same model as one after the other, and must meet the same figures.
const AT_ONCE: &str = "wolfsheep.update=synchronous";

macro_rules! large_sheep {
    ($($more:expr)?) => {
        &["wolfsheep.side=100", "wolfsheep.sheep=1000", "wolfsheep.wolves=500", "wolfsheep.regrow=10",
            "wolfsheep.sheep_birth=0.4", "wolfsheep.wolf_birth=0.2", $($more)?]
    };
}

macro_rules! cases {
    ($($model:literal $variant:literal $implementation:literal $sets:expr;)+) => {
        &[$(Case {
            model: $model,
            variant: $variant,
            implementation: $implementation,
            sets: $sets,
            plugin: None,
        }),+]
    };
}

const CASES: &[Case] = cases! {
    "flocking" "small" "reference-sync" &["population=200", "flocking.side=100.0", "flocking.radius=5.0"];
    "flocking" "small" "reference-async"
        &["population=200", "flocking.side=100.0", "flocking.radius=5.0", "flocking.update=asynchronous"];
    "flocking" "large" "reference-sync" &["population=400"];
    "flocking" "large" "reference-async" &["population=400", "flocking.update=asynchronous"];
    "schelling" "small" "reference-sync" &[];
    "schelling" "small" "reference-async" &["schelling.update=asynchronous"];
    "schelling" "large" "reference-sync"
        &["population=8000", "schelling.side=100", "schelling.reach=2", "schelling.wanted=8"];
    "schelling" "large" "reference-async"
        &["population=8000", "schelling.side=100", "schelling.reach=2", "schelling.wanted=8",
            "schelling.update=asynchronous"];
    "forestfire" "small" "reference-sync(left column all burning)" &[];
    "forestfire" "small" "reference-sync(only trees of left column burning)"
        &["forestfire.ignition=trees"];
    "forestfire" "large" "reference-sync(left column all burning)"
        &["forestfire.side=500", "forestfire.density=0.9"];
    "forestfire" "large" "reference-sync(only trees of left column burning)"
        &["forestfire.side=500", "forestfire.density=0.9", "forestfire.ignition=trees"];
    "wolfsheep" "small" "reference-async" &[];
    "wolfsheep" "large" "reference-async" large_sheep!();
    "wolfsheep" "small" "reference-async" &[AT_ONCE];
    "wolfsheep" "large" "reference-async" large_sheep!(AT_ONCE);
};

/// The other implementation of a model and variant, whose figures are of a different model.
const WRONG: &[(&str, &str, &str)] = &[
    ("flocking", "reference-sync", "reference-async"),
    ("flocking", "reference-async", "reference-sync"),
    ("schelling", "reference-sync", "reference-async"),
    ("schelling", "reference-async", "reference-sync"),
    (
        "forestfire",
        "reference-sync(left column all burning)",
        "reference-sync(only trees of left column burning)",
    ),
    ("wolfsheep", "reference-async", "reference-async(von Neumann as Mesa)"),
];

/// A figure of the reference.
struct Known {
    /// The step; none of the whole run.
    step: Option<u64>,
    statistic: String,
    runs: f64,
    mean: f64,
    sd: f64,
}

/// Of which step and name.
type Place = (Option<u64>, String);

fn known(model: &str, variant: &str, implementation: &str) -> anyhow::Result<Vec<Known>> {
    let rows = include_str!("../reference/models.csv").lines().skip(1);
    let rows = rows.map(|line| line.split(',').collect::<Vec<_>>());
    let ours = rows.filter(|row| row[..3] == [model, variant, implementation]);
    let read = |row: Vec<&str>| -> anyhow::Result<Known> {
        let number = |at: usize| row[at].parse::<f64>().with_context(|| format!("{row:?}"));
        Ok(Known {
            step: row[4].parse().ok(),
            statistic: row[5].to_owned(),
            runs: number(3)?,
            mean: number(6)?,
            sd: number(7)?,
        })
    };
    ours.map(read).collect()
}

/// The figures of one seed that are known.
fn play(case: &Case, seed: u64, known: &[Known]) -> anyhow::Result<BTreeMap<Place, f64>> {
    let mut sets: Vec<String> = case.sets.iter().map(|set| (*set).to_owned()).collect();
    sets.push(format!("seed={seed}"));
    let plugin = case.plugin.or_else(|| PLUGINS.iter().find(|plugin| plugin.name == case.model));
    let plugin = plugin.context("a plugin of that name")?;
    let mut scenario = worlds::load_scenario(case.model, PLUGINS, &sets)?;
    plugin.name.clone_into(&mut scenario.plugin);
    let record = WorldRecord { world: scenario.name.clone(), scenario };
    let mut live = worlds::create(&record, std::slice::from_ref(plugin), harness::options(1)?)?;
    let statistics = plugin.statistics.context("the model is measured")?;
    let last = known.iter().filter_map(|known| known.step).max().unwrap_or(0);
    let is_known = |tick: Tick| known.iter().any(|known| known.step == Some(tick.0));
    let burns_out = known.iter().any(|known| known.statistic == "extinction_step");
    // What is known of the run as a whole and is no end of a fire needs each step.
    let needs_each = !burns_out && known.iter().any(|known| known.step.is_none());
    let (mut figures, mut series) = (BTreeMap::new(), BTreeMap::<&str, Vec<f64>>::new());
    let (mut fire, mut out) = (None, !burns_out);
    loop {
        let tick = live.now();
        let looks_for_fire = !out && tick.0.is_multiple_of(FIRE_TICKS);
        if needs_each || is_known(tick) || looks_for_fire {
            let image = live.image();
            for Statistic { name, value } in statistics(&image) {
                let Some(value) = value else { continue };
                figures.insert((Some(tick.0), name.to_owned()), value);
                series.entry(name).or_default().push(value);
                out |= looks_for_fire && name == "burning_cells" && value == 0.0;
            }
            if out && looks_for_fire {
                went_out(&mut figures, case, plugin, fire.take().unwrap_or(image))?;
            } else if looks_for_fire {
                fire = Some(image);
            }
        }
        if tick >= Tick(last) && out {
            break;
        }
        live.tick(&[])?;
    }
    if needs_each {
        of_the_run(&mut figures, &series);
    }
    Ok(figures)
}

/// So often it is looked whether a fire still burns: an image of a large forest takes as long as many ticks.
const FIRE_TICKS: u64 = 16;

/// In which step a fire went out that still burnt in an image, or is out in it.
fn went_out(
    figures: &mut BTreeMap<Place, f64>,
    case: &Case,
    plugin: &Plugin,
    burning: Image,
) -> anyhow::Result<()> {
    let mut scenario = worlds::load_scenario(
        case.model,
        PLUGINS,
        &case.sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>(),
    )?;
    plugin.name.clone_into(&mut scenario.plugin);
    let mut live = worlds::build(&scenario, std::slice::from_ref(plugin), harness::options(1)?)?;
    live.restore(&burning)?;
    loop {
        let statistics = (plugin.statistics.context("the model is measured")?)(&live.image());
        let of =
            |name: &str| statistics.iter().find(|found| found.name == name).and_then(|found| found.value);
        if of("burning_cells") == Some(0.0) {
            figures.insert((None, "extinction_step".into()), live.now().0 as f64);
            let burnt = of("burnt_over_initial_trees").context("what burnt")?;
            figures.insert((None, "final_burnt_over_initial_trees".into()), burnt);
            return Ok(());
        }
        live.tick(&[])?;
    }
}

/// What is told of a run as a whole.
fn of_the_run(figures: &mut BTreeMap<Place, f64>, series: &BTreeMap<&str, Vec<f64>>) {
    let mut tell = |name: &str, value: f64| _ = figures.insert((None, name.to_owned()), value);
    for kind in ["sheep", "wolves"] {
        if let Some(counts) = series.get(kind) {
            let half = &counts[counts.len() / 2 + 1..];
            tell(&format!("mean_{kind}_second_half"), half.iter().sum::<f64>() / half.len() as f64);
            tell(&format!("max_{kind}"), counts.iter().copied().fold(0.0, f64::max));
            tell(&format!("{kind}_extinct"), f64::from(u8::from(counts.contains(&0.0))));
        }
    }
}

/// How far a figure is off.
#[derive(Debug)]
struct Off {
    place: Place,
    /// Over the seeds: the mean, and the standard deviation.
    found: [f64; 2],
    /// Those of the reference.
    known: [f64; 2],
    z: f64,
}

/// A figure beside its reference, as reports have it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) case: String,
    /// The step; none of the whole run.
    pub(crate) step: Option<u64>,
    pub(crate) statistic: String,
    pub(crate) found: [f64; 2],
    pub(crate) known: [f64; 2],
    pub(crate) z: f64,
}

/// Compares what the seeds came to with what is known, figure by figure.
fn compare(runs: &[BTreeMap<Place, f64>], known: &[Known]) -> anyhow::Result<Vec<Off>> {
    let off = |known: &Known| {
        let place = (known.step, known.statistic.clone());
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(&place).copied()).collect();
        anyhow::ensure!(values.len() == runs.len(), "{place:?} is not measured in each run");
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let square = |value: &f64| (value - mean) * (value - mean);
        let variance = values.iter().map(square).sum::<f64>() / (count - 1.0).max(1.0);
        let error = (variance / count + known.sd * known.sd / known.runs).sqrt();
        // Known to six digits.
        let is_equal = (mean - known.mean).abs() <= 1e-6 * known.mean.abs().max(1.0);
        let z = if is_equal { 0.0 } else { (mean - known.mean) / error };
        Ok(Off { place, found: [mean, variance.sqrt()], known: [known.mean, known.sd], z })
    };
    known.iter().map(off).collect()
}

fn runs_of(case: &Case, known: &[Known], seeds: u64) -> anyhow::Result<Vec<BTreeMap<Place, f64>>> {
    // Threads of its own: one of a pool that waits for a world's would begin the next seed on top of this one.
    let (next, threads) = (AtomicU64::new(1), std::thread::available_parallelism()?.get());
    let play_some = || {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, Relaxed)).take_while(|seed| *seed <= seeds);
        seeds.map(|seed| play(case, seed, known)).collect::<anyhow::Result<Vec<_>>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
        let runs = threads.into_iter().map(|thread| thread.join().expect("a run does not panic"));
        Ok(runs.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

/// The most that a figure may be off.
const Z_MAX: f64 = 4.5;
/// So far off only one in a hundred may be.
const Z_SELDOM: f64 = 3.0;

fn beyond(off: &[Off], z: f64) -> usize {
    off.iter().filter(|off| off.z.abs() > z).count()
}

fn farthest(off: &[Off]) -> f64 {
    off.iter().map(|off| off.z.abs()).fold(0.0, f64::max)
}

pub(crate) fn run(args: &ModelsArgs) -> Outcome {
    let (mut rows, mut figures, mut seldom) = (Vec::new(), Vec::new(), 0);
    let wanted = |case: &&Case| {
        args.models.iter().any(|model| model == case.model)
            && args.variants.iter().any(|variant| variant == case.variant)
    };
    for case in CASES.iter().filter(wanted) {
        let figures_known = known(case.model, case.variant, case.implementation)?;
        let runs = runs_of(case, &figures_known, args.seeds)?;
        let off = compare(&runs, &figures_known)?;
        let at_once = if case.sets.contains(&AT_ONCE) { ", all at once" } else { "" };
        let name = format!("{} {}, {}{at_once}", case.model, case.variant, case.implementation);
        for Off { place: (step, statistic), z, .. } in off.iter().filter(|off| off.z.abs() > args.tell) {
            let step = step.map_or_else(|| "end".into(), |step| format!("step {step}"));
            rows.push(Row::plain(&name, &format!("{statistic}, {step}"), *z, "errors"));
        }
        seldom += beyond(&off, Z_SELDOM);
        figures.extend(off.iter().map(|Off { place: (step, statistic), found, known, z }| Figure {
            case: name.clone(),
            step: *step,
            statistic: statistic.clone(),
            found: *found,
            known: *known,
            // A number, also where nothing varies and all is off.
            z: z.clamp(-1e3, 1e3),
        }));
        let mode = format!("farthest of {} figures, {} seeds", off.len(), args.seeds);
        rows.push(Row::bounded(&name, &mode, farthest(&off), "errors", Bound::AtMost(Z_MAX)));
        for (model, right, wrong) in WRONG {
            if (*model, *right) == (case.model, case.implementation) {
                let known = known(model, case.variant, wrong)?;
                if known.is_empty() {
                    continue;
                }
                let off = compare(&runs, &known)?;
                let mode = format!("as {wrong}: farthest");
                rows.push(Row::bounded(&name, &mode, farthest(&off), "errors", Bound::AtLeast(Z_MAX)));
            }
        }
    }
    let share = 100.0 * seldom as f64 / figures.len().max(1) as f64;
    rows.push(Row::bounded(
        "all",
        &format!("beyond {Z_SELDOM}, of {} figures", figures.len()),
        share,
        "%",
        Bound::AtMost(1.0),
    ));
    if !args.sound_only {
        for (what, model, plugin) in models_planted::ALL {
            let found = CASES.iter().find(|case| case.model == *model && case.variant == "small");
            let Case { variant, implementation, sets, .. } = *found.context("a case of the model")?;
            let case = Case { model, variant, implementation, sets, plugin: Some(plugin) };
            let mut known = known(model, variant, implementation)?;
            // A planted fire may never go out.
            known.retain(|known| known.step.is_some() || !matches!(*model, "forestfire"));
            let off = compare(&runs_of(&case, &known, args.seeds)?, &known)?;
            rows.push(Row::bounded(
                &format!("planted: {what}"),
                &format!("{model} small, farthest"),
                farthest(&off),
                "errors",
                Bound::AtLeast(Z_MAX),
            ));
        }
    }
    Ok(Report::new("models", rows, None).with(serde_json::to_value(figures)?))
}
