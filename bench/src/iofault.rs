//! `iofault`: each write and each sync of a life fails, once or for good. Nothing is acknowledged falsely, nothing lost,
//! nothing panics, and the host ends as it should: with 74 when its log has failed, not at all when it can go on.

use crate::{
    Outcome,
    crash::{Findings, Trial, data, findings_rows},
    harness,
    harness::{none, some},
    report::{Report, Row},
};
use anyhow::Context as _;
use clap::Args;
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
    /// How many operations fail, without --all
    #[arg(long, default_value_t = 60)]
    faults: u64,
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

pub(crate) fn run(args: &IofaultArgs) -> Outcome {
    harness::count_panics();
    let trial = Trial::sound(args.seed, args.steps);
    let undisturbed = SimDisk::default();
    trial.live(&undisturbed)?;
    let operations = undisturbed.operations();
    let count = if args.all { operations } else { args.faults.min(operations) };
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(0);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count * 2 {
                    return Ok(());
                }
                let at = number / 2 * operations / count;
                let fault = Fault { at, for_good: number.is_multiple_of(2), error: FaultKind::Io };
                one(&trial, fault, &total).with_context(|| format!("{fault:?}"))?;
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
    let case = format!("{count} of {operations} operations, seed {}", args.seed);
    let mut rows = vec![
        some(&case, "faults fired", total.fired, "lives"),
        Row::plain(&case, "life was over before", total.not_reached as f64, "lives"),
        some(&case, "went on without a snapshot", total.went_on, "lives"),
        some(&case, "ended with 74", total.ended, "lives"),
        none(&case, "ended otherwise", total.other_exits, "lives"),
    ];
    rows.extend(findings_rows(&case, &total.findings));
    Ok(Report::new("iofault", rows, None))
}

/// A life with one fault, and what is left of it.
fn one(trial: &Trial, fault: Fault, total: &Mutex<Total>) -> anyhow::Result<()> {
    let disk = SimDisk::default();
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
    match lived.ended.as_ref().map_err(everworld::spine::SpineError::exit_code) {
        Ok(()) | Err(0) => total.went_on += 1,
        Err(74) => total.ended += 1,
        Err(other) => {
            total.other_exits += 1;
            total.notes.push(format!("{fault:?}: exit {other}"));
        }
    }
    Ok(())
}
