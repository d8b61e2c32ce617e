//! `reliability`: runs all harnesses and prints docs/RELIABILITY.md from what they found.

use crate::{
    Outcome,
    bitrot::{self, BitrotArgs},
    canaries::{self, CanaryArgs},
    crash::{self, CrashArgs},
    det::{self, DetArgs},
    heavy::{self, HeavyArgs},
    iofault::{self, IofaultArgs},
    report::Report,
};
use clap::{Args, Parser as _};
use std::fmt::Write as _;

#[derive(Args)]
pub(crate) struct ReliabilityArgs {
    /// The counts that a release must pass, most of an hour; without it, some minutes
    #[arg(long)]
    full: bool,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The arguments of a harness, as its command line has them: defaults and checks are the same.
#[derive(clap::Parser)]
struct Line<T: Args> {
    #[command(flatten)]
    args: T,
}

fn parse<T: Args>(line: &str) -> anyhow::Result<T> {
    Ok(Line::<T>::try_parse_from(line.split_whitespace())?.args)
}

const INTRO: &str = "# Reliability

What the harnesses of `everworld-bench` found, written by `everworld-bench reliability`. Each row is a count of one run; a
bound that is kept is *met*. Every harness also counts that its faults really fired, and `canaries` shows that each
would notice the bug that it is there for.

- `crash`: lives of the product's host on a disk in memory, with inputs of 1 B to 1 MiB, inputs for later ticks, repeated
  keys, pauses, rewinds, forks, failing inputs and systems, snapshots, rolling and pruned epochs; some worlds were begun by
  an older build, with another version of a column. Before some operations the disk is kept; of each image disks are made
  as a crash leaves them: all that was issued (a kill), only what was synced, any sectors of it in any order (a loss of
  power), and both again while coming back (double). Real processes are killed with SIGKILL, half of them before a counted
  operation. One world has a file past a redb region, one a disk whose syncs take half a second. What comes back is held
  against a second telling of the log from its beginning, by other code, and against what was known outside. What a life
  leaves of its past is computed again, from each kept snapshot to the next.
- `iofault`: each operation fails, once or for good, with EIO, for want of space, or half done; reads fail while a world
  runs and while it starts; the disk is full for some time.
- `bitrot`: every bit of each kind of record, and random bits of all files.
- `heavy`: a world that goes through capture, mirror, store and restore at every tick, beside one that is left alone.
- `det`: threads, registration orders, row orders.
- `canaries`: planted bugs.
";

/// Prints the document; false when a bound was missed.
pub(crate) fn run(args: &ReliabilityArgs) -> anyhow::Result<bool> {
    let seed = args.seed;
    let pick = |full: &str, quick: &str| if args.full { full.to_owned() } else { quick.to_owned() };
    let crash_line = format!(
        "crash {} --seed {seed}",
        pick(
            "--kill 10000 --power-loss 100000 --double 10000",
            "--kill 1000 --real 50 --power-loss 10000 --double 500"
        )
    );
    let iofault_line = format!("iofault --all --seed {seed}");
    let bitrot_line = format!(
        "bitrot --exhaustive {} --seed {seed}",
        pick("--file-flips 100000", "--stride 7 --file-flips 5000")
    );
    let heavy_line = format!("heavy --ticks 1000 --seed {seed}");
    let shuffled_line = format!("{heavy_line} --shuffle-rows");
    let det_line = format!("det --threads 1,2,4,8 --shuffle-systems {}", pick("100", "20"));
    let mut is_met = true;
    // As soon as it is there: what ends a run of an hour does not take all of it.
    let mut tell = |line: &str, outcome: Outcome| -> anyhow::Result<()> {
        let report = outcome?;
        is_met &= report.is_met();
        let about = format!("On {}.", report.machine_line());
        println!("## `everworld-bench {line}`\n\n{about}\n\n{}", report.table());
        Ok(())
    };
    println!("{INTRO}");
    tell("canaries", canaries::run(&parse::<CanaryArgs>("canaries")?))?;
    tell(&det_line, det::run(&parse::<DetArgs>(&det_line)?))?;
    tell(&crash_line, crash::run(&parse::<CrashArgs>(&crash_line)?))?;
    tell(&iofault_line, iofault::run(&parse::<IofaultArgs>(&iofault_line)?))?;
    tell(&bitrot_line, bitrot::run(&parse::<BitrotArgs>(&bitrot_line)?))?;
    tell(&heavy_line, heavy::run(&parse::<HeavyArgs>(&heavy_line)?))?;
    tell(&shuffled_line, heavy::run(&parse::<HeavyArgs>(&shuffled_line)?))?;
    Ok(is_met)
}

impl Report {
    /// The rows as a table in Markdown.
    fn table(&self) -> String {
        let mut text = String::from("| case | what | count | bound |\n|---|---|---:|---|\n");
        for row in self.rows() {
            let bound = row.verdict();
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {} | {} | {} {} | {bound} |", row.case, row.mode, row.value, row.unit);
        }
        text
    }
}
