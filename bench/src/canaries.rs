//! `canaries`: each planted bug must be noticed by the harness that is there for it, and the same world without the
//! bug must not be. A harness that cannot fail proves nothing; nor does one that notices only by luck, on a machine
//! that is quick enough: each bug is given its moment.

use crate::{
    Outcome, crash,
    det::{self, DetArgs},
    harness,
    heavy::{Heavy, HeavyArgs},
    report::{Bound, Report, Row},
    scenarios::planted,
};
use clap::Args;
use everworld::Plugin;
use everworld_engine::{Sabotage, WorldBuilder};
use everworld_persistence::sim;

#[derive(Args)]
pub(crate) struct CanaryArgs {
    /// Only those that this harness has to catch
    #[arg(long)]
    harness: Option<String>,
}

/// A planted bug: its name, the harness that has to catch it, and what that finds with the bug and without it.
struct Canary {
    name: &'static str,
    harness: &'static str,
    findings: fn() -> anyhow::Result<(u64, u64)>,
}

const CANARIES: [Canary; 9] = [
    Canary {
        name: "a system reads a HashMap in its order",
        harness: "det",
        findings: || Ok((hashes(&planted::HASH_MAP)?, hashes(&planted::SOUND)?)),
    },
    Canary {
        name: "a system takes dt from the wall clock",
        harness: "det",
        findings: || Ok((hashes(&planted::WALL_CLOCK)?, hashes(&planted::SOUND)?)),
    },
    Canary {
        name: "the plan loses a dependency",
        harness: "det",
        findings: || Ok((hashes_apart(true)?, hashes_apart(false)?)),
    },
    Canary {
        name: "a row number is kept across ticks",
        harness: "heavy",
        findings: || Ok((shuffled(&planted::CACHED_ROW)?, shuffled(&planted::SOUND)?)),
    },
    Canary {
        name: "chance is salted by a row number",
        harness: "heavy",
        findings: || Ok((shuffled(&planted::ROW_SALT)?, shuffled(&planted::SOUND)?)),
    },
    Canary {
        name: "a spawn is not marked",
        harness: "heavy",
        findings: || Ok((unmarked(true)?, unmarked(false)?)),
    },
    Canary {
        name: "an acknowledgement before the sync",
        harness: "crash",
        findings: || {
            let faults = |lying| Ok(crash::power_fails_after_acknowledgements(lying)?.faults());
            both(faults)
        },
    },
    Canary {
        name: "a tick is shown before its Seal is synced",
        harness: "crash",
        findings: || both(|show_unsealed| Ok(crash::power_fails_at_a_seal(show_unsealed)?.faults())),
    },
    Canary {
        name: "checksums are not compared",
        harness: "bitrot",
        findings: || {
            let wrong = |skipped| {
                sim::skip_checksums(skipped);
                let findings = crash::inputs_rot_while_they_wait();
                sim::skip_checksums(false);
                Ok(findings?.wrong())
            };
            both(wrong)
        },
    },
];

/// What is found with the bug, and without it.
fn both(found: impl Fn(bool) -> anyhow::Result<u64>) -> anyhow::Result<(u64, u64)> {
    Ok((found(true)?, found(false)?))
}

pub(crate) fn run(args: &CanaryArgs) -> Outcome {
    harness::count_panics();
    let mut rows = Vec::new();
    let wanted = |canary: &&Canary| args.harness.as_ref().is_none_or(|harness| canary.harness == harness);
    for Canary { name, harness, findings } in CANARIES.iter().filter(wanted) {
        let (caught, sound) = findings()?;
        let by = format!("caught by {harness}");
        rows.push(Row::bounded(name, &by, caught as f64, "findings", Bound::AtLeast(1.0)));
        rows.push(Row::bounded(name, "without the bug", sound as f64, "findings", Bound::AtMost(0.0)));
    }
    Ok(Report::new("canaries", rows, None))
}

fn det_args() -> DetArgs {
    DetArgs {
        scenarios: Vec::new(),
        threads: vec![1, 2, 4, 8],
        seeds: 1,
        npcs: 300,
        ticks: 60,
        shuffle_systems: 2,
        shuffle_rows_every: 10,
    }
}

/// Hashes beside the first one.
fn hashes(plugin: &Plugin) -> anyhow::Result<u64> {
    Ok(det::hashes(&det_args(), plugin, 1, |_| {})?.0.len() as u64 - 1)
}

/// Of two systems that only a dependency keeps apart, which the plan may have lost.
fn hashes_apart(lost: bool) -> anyhow::Result<u64> {
    // Fewer runs: each waits some time for a reader that comes too early.
    let few = DetArgs {
        threads: vec![1, 2, 4],
        ticks: 20,
        shuffle_systems: 0,
        shuffle_rows_every: 0,
        ..det_args()
    };
    let tamper = |world: &mut WorldBuilder| {
        if lost {
            world.sabotage(Sabotage::LoseEdge("planted::fill", "planted::read"));
        }
    };
    Ok(det::hashes(&few, &planted::APART, 1, tamper)?.0.len() as u64 - 1)
}

/// Ticks after which a world that is restored with its rows in another order differs.
fn shuffled(plugin: &Plugin) -> anyhow::Result<u64> {
    Ok(Heavy::default().play(&HeavyArgs::small(60, true), plugin, |_| {})?.differences)
}

/// Ticks at which the mirror has overlooked a spawn.
fn unmarked(forgets: bool) -> anyhow::Result<u64> {
    let tamper = |world: &mut WorldBuilder| {
        if forgets {
            world.sabotage(Sabotage::ForgetSpawns);
        }
    };
    Ok(Heavy::default().play(&HeavyArgs::small(60, false), &planted::BIRTHS, tamper)?.mirror_differences)
}
