//! `iofault`: each operation of a life on its disk fails, once or for good: with EIO, for want of space, or half done; so do
//! reads, while the world runs and while it comes back. Nothing is acknowledged falsely, nothing lost, nothing panics,
//! and the host ends as it should: with 74 when its log has failed, not at all when it can go on.

use crate::{
    Outcome,
    crash::{self, Case, Findings, Scarcity, Trial, data, findings_rows},
    harness,
    harness::{none, some},
    report::{Report, Row},
};
use anyhow::Context as _;
use clap::Args;
use everworld::spine::chain;
use everworld_persistence::{
    Disk,
    sim::{Cut, Fault, FaultKind, SimDisk},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

#[derive(Args, Clone)]
pub(crate) struct IofaultArgs {
    /// Every operation of a life; without it, some of them
    #[arg(long)]
    all: bool,
    /// How many operations of each kind fail, without --all
    #[arg(long, default_value_t = 30)]
    faults: u64,
    /// How many reads of a running world fail, with --all
    #[arg(long, default_value_t = 400)]
    reads: u64,
    /// What the script is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps of a life
    #[arg(long, default_value_t = 24)]
    steps: u32,
}

#[derive(Default)]
struct Total {
    fired: u64,
    not_reached: u64,
    went_on: u64,
    ended: u64,
    other_exits: u64,
    findings: Findings,
    notes: Vec<String>,
}

/// What fails in a kind of run.
struct Kind {
    name: &'static str,
    error: FaultKind,
    /// Opening and reading fail, too.
    reads: bool,
    /// Whether what fails goes on to fail, in one of two runs.
    for_good: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "EIO", error: FaultKind::Io, reads: false, for_good: true },
    Kind { name: "ENOSPC", error: FaultKind::NoSpace, reads: false, for_good: true },
    Kind { name: "short write", error: FaultKind::Short, reads: false, for_good: false },
    Kind { name: "EIO on reads", error: FaultKind::Io, reads: true, for_good: true },
];

pub(crate) fn run(args: &IofaultArgs) -> Outcome {
    harness::count_panics();
    let mut rows = Vec::new();
    for kind in &KINDS {
        rows.extend(run_kind(args, kind)?);
    }
    rows.extend(run_starts(args)?);
    rows.extend(scarcity_rows("disk full", &crash::full_disk()?));
    let snapshots = crash::no_room_for_snapshots()?;
    rows.push(some("no room for snapshots", "operations refused", snapshots.fired, "operations"));
    rows.push(some("no room for snapshots", "ticks meanwhile", snapshots.ticks, "ticks"));
    rows.push(none("no room for snapshots", "inputs refused", snapshots.refused, "inputs"));
    rows.extend(scarcity_rows("no room for snapshots", &snapshots));
    rows.push(none("all of it", "panics of any thread", harness::panics(), "panics"));
    Ok(Report::new("iofault", rows, None))
}

fn scarcity_rows(case: &str, scarcity: &Scarcity) -> Vec<Row> {
    let mut rows = vec![some(case, "inputs taken", scarcity.taken, "inputs")];
    if scarcity.fired == 0 {
        rows.push(some(case, "inputs refused", scarcity.refused, "inputs"));
        rows.push(some(case, "ticks after the first refusal", scarcity.ticks, "ticks"));
    }
    rows.extend(
        findings_rows(case, &scarcity.findings).into_iter().filter(|row| row.mode != "with ticks replayed"),
    );
    rows
}

/// Lives in which an operation fails.
fn run_kind(args: &IofaultArgs, kind: &Kind) -> anyhow::Result<Vec<Row>> {
    // What cannot be read while it runs is read afterwards: nothing is removed then.
    let trial = Trial { keeps_all: kind.reads, ..Trial::sound(args.seed, args.steps) };
    let undisturbed = SimDisk::default();
    undisturbed.count_reads(kind.reads);
    trial.live(&undisturbed)?;
    let operations = undisturbed.operations();
    let count = match (args.all, kind.reads) {
        (true, false) => operations,
        (true, true) => args.reads,
        (false, _) => args.faults,
    };
    // Short writes fall on writes alone, few of them on the log: a sample of them has more places.
    let count = if kind.for_good || args.all { count } else { 3 * count }.min(operations);
    let runs = count * if kind.for_good { 2 } else { 1 };
    let total = in_parallel(runs, |number, total| {
        let at = number % count * operations / count;
        let fault = Fault { at, for_good: number >= count, error: kind.error };
        one(&trial, kind, fault, total).with_context(|| format!("{fault:?}"))
    })?;
    let case = format!("{}: {count} of {operations} operations, seed {}", kind.name, args.seed);
    let mut rows = vec![
        some(&case, "faults fired", total.fired, "lives"),
        Row::plain(&case, "life was over before", total.not_reached as f64, "lives"),
        some(&case, "went on without a snapshot", total.went_on, "lives"),
        some(&case, "ended with 74", total.ended, "lives"),
        none(&case, "ended otherwise", total.other_exits, "lives"),
    ];
    rows.extend(findings_rows(&case, &total.findings));
    Ok(rows)
}

/// Starts in which an operation fails, a read too: refused with 74, or right; and the next start is right in any case.
fn run_starts(args: &IofaultArgs) -> anyhow::Result<Vec<Row>> {
    let disk = SimDisk::default();
    disk.keep_images_at((20..60).map(|i| i * 9));
    let (case, _) = Trial { keeps_all: true, ..Trial::sound(args.seed, args.steps) }.live(&disk)?;
    let mut bases = vec![(disk.copy(), u64::MAX)];
    if let Some((op, image)) = disk.take_images().pop() {
        bases.push((image.cut(Cut::Issued), op));
    }
    let mut rows = Vec::new();
    for (name, (base, until)) in ["stopped in order", "killed"].into_iter().zip(&bases) {
        let operations = start(&case, base, *until, None).1;
        let count = if args.all { operations } else { args.faults.min(operations) };
        let total = in_parallel(count * 2, |number, total| {
            let at = number % count * operations / count;
            let fault = Fault { at, for_good: number >= count, error: FaultKind::Io };
            let (mut findings, _, left) = start(&case, base, *until, Some(fault));
            let refused = findings.refused > 0;
            let codes = std::mem::take(&mut findings.exit_codes);
            // It is refused by name, which is no fault here; then nothing else can be one.
            findings.refused = 0;
            for cut in [Cut::Issued, Cut::Synced, Cut::Any(at)] {
                findings.add(start(&case, &left.cut(cut), *until, None).0);
            }
            let Ok(mut total) = total.lock() else { return Ok(()) };
            total.fired += u64::from(left.faults_fired() > 0);
            total.went_on += u64::from(!refused);
            total.ended += u64::from(refused && codes.contains(&74));
            total.other_exits += u64::from(codes.iter().any(|code| *code != 74));
            total.findings.add(findings);
            Ok(())
        })?;
        let case = format!("EIO at a start, {name}: {count} of {operations} operations");
        rows.extend([
            some(&case, "faults fired", total.fired, "starts"),
            some(&case, "right all the same", total.went_on, "starts"),
            some(&case, "refused with 74", total.ended, "starts"),
            none(&case, "refused otherwise", total.other_exits, "starts"),
        ]);
        rows.extend(
            findings_rows(&case, &total.findings).into_iter().filter(|row| row.mode != "with ticks replayed"),
        );
    }
    Ok(rows)
}

/// Brings back what a disk has: what was found, how many operations that took, and what is left.
fn start(case: &Case, base: &SimDisk, until: u64, fault: Option<Fault>) -> (Findings, u64, SimDisk) {
    let disk = base.copy();
    disk.count_reads(true);
    disk.set_fault(fault);
    let operations = AtomicU64::new(0);
    let opened = || {
        operations.store(disk.operations(), Relaxed);
        disk.set_fault(None);
    };
    let on: Arc<dyn Disk> = Arc::new(disk.clone());
    let findings = case.judge_opened(&on, data(), (until, fault.map_or(0, |fault| fault.at)), &opened);
    (findings, operations.into_inner(), disk)
}

/// Runs so many on all cores.
fn in_parallel(
    runs: u64,
    run: impl Fn(u64, &Mutex<Total>) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Total> {
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(0);
    // Lives wait for their disks: one more than there are cores.
    let jobs = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= runs {
                    return Ok(());
                }
                run(number, &total)?;
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    let total = total.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    total.notes.iter().for_each(|note| eprintln!("iofault: {note}"));
    Ok(total)
}

/// A life with one fault, and what is left of it.
fn one(trial: &Trial, kind: &Kind, fault: Fault, total: &Mutex<Total>) -> anyhow::Result<()> {
    let disk = SimDisk::default();
    disk.count_reads(kind.reads);
    disk.set_fault(Some(fault));
    let (case, lived) = trial.live(&disk)?;
    let mut findings = Findings::default();
    // Only what the disk took counts, and what the cache still has may be there.
    for (i, cut) in [Cut::Synced, Cut::Issued, Cut::Any(fault.at)].into_iter().enumerate() {
        let left: Arc<dyn Disk> = Arc::new(disk.cut(cut));
        findings.add(case.judge(&left, data(), u64::MAX, fault.at + i as u64));
    }
    let Ok(mut total) = total.lock() else { return Ok(()) };
    total.findings.add(findings);
    if disk.faults_fired() == 0 {
        total.not_reached += 1;
        return Ok(());
    }
    total.fired += 1;
    match &lived.ended {
        Err(error) if error.exit_code() == 74 => total.ended += 1,
        Err(error) if error.exit_code() > 0 => {
            total.other_exits += 1;
            total.notes.push(format!("{fault:?}: exit {}: {}", error.exit_code(), chain(error)));
        }
        _ => total.went_on += 1,
    }
    Ok(())
}
