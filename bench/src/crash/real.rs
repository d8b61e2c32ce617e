//! Real processes on a real disk, killed with SIGKILL: half of them by themselves before a counted operation on their
//! files, half by this process at a random time. What a child told before it died is what was known outside.

use super::{
    hook::{HookDisk, Verdict},
    judge::{Case, Findings},
    life::{self, Fact, Script, Teller},
};
use crate::harness;
use anyhow::{Context as _, ensure};
use clap::Args;
use everworld::rig::Rig;
use everworld_engine::{StateHash, Tick, random::Draws};
use everworld_persistence::{Disk, RealDisk, Record};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Before which of its operations the child kills itself. Read by the child alone.
const KILL_AT: &str = "EVERWORLD_BENCH_KILL_AT";
const SEGMENT_BYTES: u64 = 64 << 10;
/// A process that killed itself does not come this far.
const PATIENCE: Duration = Duration::from_mins(1);
const LIVES: u64 = 8;
const SIGKILL: i32 = 9;

/// What a child is told.
#[derive(Args, Clone)]
pub(crate) struct ChildArgs {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    life: u64,
    #[arg(long)]
    first_mark: u64,
}

/// Kills of real processes.
#[derive(Default)]
pub(crate) struct Kills {
    pub(crate) findings: Findings,
    /// By signal 9, before a counted operation.
    pub(crate) at_operations: u64,
    /// By signal 9, at a random time.
    pub(crate) at_times: u64,
    /// Whose life was over before.
    pub(crate) over_before: u64,
}

/// Kills so many.
pub(crate) fn kill(count: u64, seed: u64, keep: Option<&Path>) -> anyhow::Result<Kills> {
    let base = std::env::temp_dir().join(format!("everworld-crash-{}", std::process::id()));
    let mut kills = Kills::default();
    if count == 0 {
        return Ok(kills);
    }
    let mut world = 0;
    while kills.at_operations + kills.at_times < count {
        world += 1;
        let data = base.join(format!("world-{world}"));
        std::fs::create_dir_all(&data)?;
        let result = one_world(&data, count, seed * 1_000_000 + world, keep, &mut kills);
        std::fs::remove_dir_all(&data)?;
        result.with_context(|| format!("world {world}"))?;
        ensure!(world <= count * 2, "the children are not killed");
    }
    std::fs::remove_dir_all(&base)?;
    Ok(kills)
}

fn one_world(
    data: &Path,
    count: u64,
    seed: u64,
    keep: Option<&Path>,
    kills: &mut Kills,
) -> anyhow::Result<()> {
    let mut draws = Draws::new(seed, 0, 5, 0);
    let mut facts: Vec<(u64, Fact)> = Vec::new();
    let mut first_mark = 1;
    for life in 0..LIVES {
        if kills.at_operations + kills.at_times >= count {
            return Ok(());
        }
        let at_operation = kills.at_operations <= kills.at_times;
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["crash-child", "--seed", &seed.to_string(), "--life", &life.to_string()]);
        child.args(["--first-mark", &first_mark.to_string(), "--data"]).arg(data);
        if at_operation {
            child.env(KILL_AT, draws.below(if life == 0 { 300 } else { 200 }).to_string());
        }
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let told = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let reader = std::thread::spawn(move || told.lines().map_while(Result::ok).collect::<Vec<String>>());
        if !at_operation {
            std::thread::sleep(Duration::from_micros(u64::from(draws.below(150_000))));
            // It may have ended by itself: that is told by how it ended.
            let _ = child.kill();
        }
        let status = child.wait()?;
        let lines = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        match status.signal() {
            Some(SIGKILL) if at_operation => kills.at_operations += 1,
            Some(SIGKILL) => kills.at_times += 1,
            None if status.success() => kills.over_before += 1,
            _ => anyhow::bail!("the child ended with {status}"),
        }
        for line in &lines {
            // The last line may be cut off: it was not told then.
            if let Some(fact) = parse(line) {
                facts.push((0, fact));
            }
            if let Some(mark) = line.strip_prefix("M ").and_then(|mark| mark.parse::<u64>().ok()) {
                first_mark = first_mark.max(mark + 1);
            }
        }
        let record = record(seed)?;
        let case = Case::new(record, facts.clone(), BTreeMap::<u64, Record>::new(), SEGMENT_BYTES);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let findings = case.judge(&disk, data, u64::MAX, 1);
        if findings.faults() > 0 {
            if let Some(keep) = keep {
                let dir = keep.join(format!("kill-{seed}-{life}"));
                std::fs::create_dir_all(&dir)?;
                let told: Vec<String> = facts.iter().map(|(_, fact)| format!("{fact:?}")).collect();
                std::fs::write(dir.join("told.txt"), told.join("\n"))?;
                std::fs::write(dir.join("findings.txt"), findings.first.join("\n"))?;
                std::fs::rename(data, dir.join("data"))?;
                std::fs::create_dir_all(data)?;
            }
            kills.findings.add(findings);
            // What is wrong once is wrong in all later lives.
            return Ok(());
        }
        kills.findings.add(findings);
    }
    Ok(())
}

fn record(seed: u64) -> anyhow::Result<everworld_systems::WorldRecord> {
    harness::record("churn", 40, seed % 1_000_000)
}

/// Tells by lines on stdout: what is in the pipe is known, whatever becomes of the process.
struct Lines;

impl Teller for Lines {
    fn tell(&mut self, fact: Fact) {
        let line = match fact {
            Fact::Acknowledged { seq, mark } => format!("A {seq} {mark} .\n"),
            Fact::Shown { branch, tick } => format!("S {branch} {tick} .\n"),
            Fact::Hash { branch, tick, hash } => format!("H {branch} {tick} {hash} .\n"),
            Fact::Forked { name } => format!("F {name} .\n"),
        };
        print_line(&line);
    }

    fn marked(&mut self, mark: u64) {
        print_line(&format!("M {mark}\n"));
    }
}

fn print_line(line: &str) {
    // Without its parent it will be killed soon.
    let _ = std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush());
}

fn parse(line: &str) -> Option<Fact> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    match *words.as_slice() {
        ["A", _, _, "."] => Some(Fact::Acknowledged { seq: number(1)?, mark: number(2)? }),
        ["F", name, "."] => Some(Fact::Forked { name: name.to_owned() }),
        ["S", _, _, "."] => Some(Fact::Shown { branch: number(1)? as u32, tick: Tick(number(2)?) }),
        ["H", _, _, hash, "."] => {
            let hash = StateHash(u64::from_str_radix(hash, 16).ok()?);
            Some(Fact::Hash { branch: number(1)? as u32, tick: Tick(number(2)?), hash })
        }
        _ => None,
    }
}

/// The child: one life on the real disk.
pub(crate) fn child(args: &ChildArgs) -> anyhow::Result<()> {
    harness::count_panics();
    let kill_at: Option<u64> = std::env::var(KILL_AT).ok().and_then(|at| at.parse().ok());
    let operations = AtomicU64::new(0);
    let disk = HookDisk::new(Arc::new(RealDisk), move |_, _| {
        if Some(operations.fetch_add(1, Relaxed)) == kill_at {
            let own = rustix::process::getpid();
            // It does not return from this.
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            std::thread::sleep(PATIENCE);
        }
        Verdict::Do
    });
    let rig = Rig {
        disk: Arc::new(disk),
        // The parent wants to read the whole log.
        store: Some(life::keeping_store()),
        ..Rig::default()
    };
    let script =
        Script { failures: args.life == 0, first_mark: args.first_mark, ..Script::first(200, 12_000) };
    let mut draws = Draws::new(args.seed, args.life, 6, 0);
    let config = life::config(&args.data, SEGMENT_BYTES);
    let lived = life::live(rig, config, &record(args.seed)?, script, &mut draws, &mut Lines)?;
    match lived.ended.err().filter(|error| error.exit_code() != 0) {
        Some(error) => Err(error.into()),
        None if harness::panics() > 0 => anyhow::bail!("there were {} panics", harness::panics()),
        None => Ok(()),
    }
}
