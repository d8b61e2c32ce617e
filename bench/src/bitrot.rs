//! `bitrot`: bits of a world's files are turned over. What comes back is the right state, from an older snapshot and a
//! longer replay, or a refusal by name; never a wrong state, and nothing that was acknowledged is gone (D5).
//!
//! The flips are judged in processes of their own, which tell what they are about to do: a library that aborts on
//! damaged bytes, or never comes back, is a finding with its place, and the others go on behind it.

use crate::{
    Outcome,
    crash::{Case, Fact, Findings, Trial, data, frames},
    harness,
    harness::{none, some},
    report::{Report, Row},
};
use anyhow::{Context as _, ensure};
use clap::Args;
use everworld_engine::random::Draws;
use everworld_persistence::{
    Disk, SEGMENT_HEADER_BYTES,
    sim::{Cut, SimDisk},
};
use everworld_systems::WorldRecord;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Args, Clone)]
pub(crate) struct BitrotArgs {
    /// Every bit of the smallest record of each kind, of a segment's header and of the mark
    #[arg(long)]
    exhaustive: bool,
    /// Random flips in all files
    #[arg(long, default_value_t = 1_000)]
    file_flips: u64,
    /// What the world and the flips are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of the bits of a record only every so-manieth
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Of the kinds of records only those whose names begin so
    #[arg(long)]
    only: Option<String>,
    /// The process that does a share of it: where the files are, which share, and the flip that it begins with
    #[arg(long, hide = true)]
    worker: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    share: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    from: usize,
}

/// What flips came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Rotten {
    flips: u64,
    exhaustive: u64,
    kinds: BTreeMap<String, u64>,
    refused: u64,
    right: u64,
    /// With a state that is not the one of the log.
    wrong: u64,
    lost: u64,
    panics: u64,
    aborts: u64,
    stuck: u64,
    notes: Vec<String>,
}

/// What a worker is about to do, and what it has found so far.
#[derive(Default, Serialize, Deserialize)]
struct Progress {
    flip: usize,
    at: String,
    rotten: Rotten,
}

/// A worker that dies this often is not started again.
const ABORTS_MAX: u64 = 200;
/// No flip takes so long.
const STUCK: Duration = Duration::from_mins(3);
const NOTES_MAX: usize = 12;

/// The kinds of records that there are: all of them must be among the files. See docs/FORMAT.md.
const KINDS: [&str; 19] = [
    "log record kind 1",
    "log record kind 2",
    "log record kind 3",
    "log record kind 4",
    "log record kind 5",
    "log record kind 6",
    "log record kind 7",
    "log record kind 8",
    "log segment end",
    "log segment header",
    "log mark",
    "server log record kind 9",
    "server log mark",
    "store record kind 1",
    "store record kind 2",
    "store record kind 3",
    "store record kind 4",
    "store record kind 5",
    "store record kind 6",
];

pub(crate) fn run(args: &BitrotArgs) -> Outcome {
    if let Some(dir) = &args.worker {
        work(args, dir)?;
        return Ok(Report::new("bitrot", Vec::new(), None));
    }
    harness::count_panics();
    let dir = std::env::temp_dir().join(format!("everworld-bitrot-{}", std::process::id()));
    Bases::new(args.seed)?.write_to(&dir)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let rotten = std::thread::scope(|scope| -> anyhow::Result<Rotten> {
        let shares: Vec<_> = (0..jobs)
            .map(|share| {
                let dir = &dir;
                scope.spawn(move || watch(args, dir, (share, jobs)))
            })
            .collect();
        let mut rotten = Rotten::default();
        for share in shares {
            rotten.add(share.join().map_err(|_| anyhow::anyhow!("who watches a worker panicked"))??);
        }
        Ok(rotten)
    });
    std::fs::remove_dir_all(&dir)?;
    Ok(Report::new("bitrot", rotten?.rows(args), None))
}

/// Has a share of the flips done by processes, one after the other when they die.
fn watch(args: &BitrotArgs, dir: &Path, (share, shares): (usize, usize)) -> anyhow::Result<Rotten> {
    let mut rotten = Rotten::default();
    let mut from = 0;
    let path = progress_path(dir, share);
    loop {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["bitrot", "--seed", &args.seed.to_string(), "--stride", &args.stride.to_string()]);
        child.args(["--file-flips", &args.file_flips.to_string(), "--from", &from.to_string()]);
        child.args(["--share", &(share * SHARES_MAX + shares).to_string()]);
        child.args(args.only.iter().flat_map(|only| ["--only", only]));
        child.args(args.exhaustive.then_some("--exhaustive")).arg("--worker").arg(dir);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut last = (String::new(), Instant::now());
        let mut stuck = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(50));
            // It may just be writing it.
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > STUCK {
                stuck = true;
                // It may have ended by itself.
                let _ = child.kill();
            }
        };
        let mut text = String::new();
        child.stdout.take().context("stdout is piped")?.read_to_string(&mut text)?;
        if let Some(found) = text.lines().next().and_then(|line| serde_json::from_str::<Rotten>(line).ok()) {
            rotten.add(found);
            return Ok(rotten);
        }
        ensure!(status.code().is_none(), "the worker ended with {status}: {text}");
        let progress = std::fs::read_to_string(&path).unwrap_or_default();
        let progress: Progress = serde_json::from_str(&progress).context("what the worker was doing")?;
        rotten.add(progress.rotten);
        rotten.stuck += u64::from(stuck);
        rotten.aborts += u64::from(!stuck);
        let how = if stuck { "does not come back".to_owned() } else { format!("died with {status}") };
        rotten.note(format!("seed {}: the process {how} at {}", args.seed, progress.at));
        from = progress.flip + 1;
        ensure!(
            rotten.aborts + rotten.stuck < ABORTS_MAX,
            "the worker dies again and again: {:?}",
            rotten.notes
        );
    }
}

/// More processes than any machine runs for this.
const SHARES_MAX: usize = 1 << 16;

fn progress_path(dir: &Path, share: usize) -> PathBuf {
    dir.join(format!("progress-{share}"))
}

impl Rotten {
    fn rows(&self, args: &BitrotArgs) -> Vec<Row> {
        self.notes.iter().for_each(|note| eprintln!("bitrot: {note}"));
        let case = format!("seed {}", args.seed);
        let mut rows = vec![
            some(&case, "flips", self.flips + self.exhaustive, "flips"),
            some(&case, "right state all the same", self.right, "flips"),
            some(&case, "refused by name", self.refused, "flips"),
            none(&case, "wrong state", self.wrong, "flips"),
            none(&case, "acknowledged and lost", self.lost, "inputs"),
            none(&case, "panics that got out", self.panics, "panics"),
            none(&case, "aborts of the process", self.aborts, "aborts"),
            none(&case, "never came back", self.stuck, "processes"),
        ];
        if args.exhaustive && args.only.is_none() {
            for kind in KINDS {
                let bits = self.kinds.get(kind).copied().unwrap_or(0);
                rows.push(some(&case, &format!("every bit: {kind}"), bits, "bits"));
            }
        }
        for (kind, bits) in self.kinds.iter().filter(|(kind, _)| !KINDS.contains(&kind.as_str())) {
            rows.push(some(&case, &format!("every bit: {kind}"), *bits, "bits"));
        }
        rows
    }

    fn add(&mut self, other: Self) {
        self.flips += other.flips;
        self.exhaustive += other.exhaustive;
        self.refused += other.refused;
        self.right += other.right;
        self.wrong += other.wrong;
        self.lost += other.lost;
        self.panics += other.panics;
        self.aborts += other.aborts;
        self.stuck += other.stuck;
        for (kind, bits) in other.kinds {
            *self.kinds.entry(kind).or_default() += bits;
        }
        other.notes.into_iter().for_each(|note| self.note(note));
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    fn judge(&mut self, bases: &Bases, flip: &Flip) {
        let (base, until) = &bases.disks[flip.base];
        let damaged = base.copy();
        damaged.flip(&flip.path, flip.bit);
        // What nobody but the server's own log tells is looked at in one case of four.
        let draw = if flip.path.starts_with(data().join("server")) { 4 * flip.bit } else { flip.bit };
        let findings = judge(&bases.case, &damaged, *until, draw as u64);
        self.panics += findings.panics;
        self.lost += findings.lost;
        self.wrong += u64::from(findings.contradicted + findings.differences > 0);
        self.refused += findings.refused;
        self.right += u64::from(findings.faults() == 0);
        if findings.faults() > findings.refused {
            self.note(format!("{}: {}", flip.name(), findings.first.join("; ")));
        }
        match &flip.kind {
            Some(kind) => {
                self.exhaustive += 1;
                *self.kinds.entry(kind.clone()).or_default() += 1;
            }
            None => self.flips += 1,
        }
    }
}

/// A world, and its disks: stopped in order, killed, and without a snapshot, so that every record of the log counts.
struct Bases {
    case: Case,
    disks: Vec<(SimDisk, u64)>,
}

/// What is known of them, beside their files.
#[derive(Serialize, Deserialize)]
struct Told {
    record: WorldRecord,
    facts: Vec<(u64, Fact)>,
    segment_bytes: u64,
    until: Vec<u64>,
}

struct Flip {
    base: usize,
    path: PathBuf,
    bit: usize,
    /// The record that it is in, if every bit of that one is turned.
    kind: Option<String>,
}

impl Flip {
    fn name(&self) -> String {
        format!("base {}, {} bit {} (byte {})", self.base, self.path.display(), self.bit, self.bit / 8)
    }
}

impl Bases {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let disk = SimDisk::default();
        disk.keep_images_at((20..60).map(|i| i * 11));
        let (case, _) = Trial { keeps_all: true, bytes_max: 60_000, ..Trial::sound(seed, 72) }.live(&disk)?;
        let killed = disk.take_images().pop().map(|(op, image)| (image.cut(Cut::Issued), op));
        let stopped = disk.copy();
        // The process then hung in the next tick.
        case.hang(&(Arc::new(stopped.clone()) as Arc<dyn Disk>), data())?;
        let bare = stopped.copy();
        // A fork has no other beginning than its snapshot.
        let is_snapshot = |path: &PathBuf| {
            path.extension().is_some_and(|kind| kind == "redb")
                && path.parent().is_some_and(|dir| dir.ends_with("churn"))
        };
        let snapshots = bare.files().into_iter().filter(is_snapshot);
        snapshots.for_each(|path| bare.remove_file(&path));
        let mut disks = vec![(stopped.copy(), u64::MAX), (bare, u64::MAX)];
        disks.extend(killed);
        let bases = Self { case, disks };
        bases.check()?;
        Ok(bases)
    }

    /// Undamaged they are right; and the whole log is told once, from an undamaged one.
    fn check(&self) -> anyhow::Result<()> {
        for (disk, until) in &self.disks {
            let sound = judge(&self.case, disk, *until, 0);
            ensure!(sound.faults() == 0, "the undamaged world is not right: {:?}", sound.first);
        }
        Ok(())
    }

    fn write_to(&self, dir: &Path) -> anyhow::Result<()> {
        for (i, (disk, _)) in self.disks.iter().enumerate() {
            disk.write_to(&dir.join(format!("base-{i}")))?;
        }
        let Case { record, facts, segment_bytes, .. } = &self.case;
        let until = self.disks.iter().map(|(_, until)| *until).collect();
        let told =
            Told { record: record.clone(), facts: facts.clone(), segment_bytes: *segment_bytes, until };
        std::fs::write(dir.join("told"), serde_json::to_vec(&told)?)?;
        Ok(())
    }

    fn read_from(dir: &Path) -> anyhow::Result<Self> {
        let told: Told = serde_json::from_slice(&std::fs::read(dir.join("told"))?)?;
        let mut disks = Vec::new();
        for (i, until) in told.until.into_iter().enumerate() {
            disks.push((SimDisk::read_from(&dir.join(format!("base-{i}")))?, until));
        }
        // Nothing was removed from its log: that tells all.
        // That most are refused is as it should be: no word of it.
        let case = Case::new(told.record, told.facts, BTreeMap::new(), told.segment_bytes).without_tales();
        let bases = Self { case, disks };
        bases.check()?;
        Ok(bases)
    }

    /// All flips, in their order; the same for the same files and arguments.
    fn flips(&self, args: &BitrotArgs) -> Vec<Flip> {
        let mut flips = Vec::new();
        // Records of the log count where there are no snapshots.
        let base_of = |kind: &str| usize::from(!kind.starts_with("store"));
        let found = if args.exhaustive { records(&self.disks[0].0) } else { BTreeMap::new() };
        for (kind, (path, range)) in found {
            if args.only.as_ref().is_some_and(|only| !kind.starts_with(only.as_str())) {
                continue;
            }
            for bit in (range.start * 8..range.end * 8).step_by(args.stride.max(1)) {
                let (base, path) = (base_of(&kind), path.clone());
                flips.push(Flip { base, path, bit, kind: Some(kind.clone()) });
            }
        }
        let mut draws = Draws::new(args.seed, 0, 4, 0);
        let files: Vec<Vec<PathBuf>> = self.disks.iter().map(|(disk, _)| disk.files()).collect();
        for flip in 0..args.file_flips {
            let base = flip as usize % self.disks.len();
            let path = files[base][draws.below(files[base].len() as u32) as usize].clone();
            let bits = self.disks[base].0.file_len(&path).unwrap_or(0) * 8;
            let draw = draws.u64();
            if bits > 0 {
                flips.push(Flip { base, path, bit: (draw % bits) as usize, kind: None });
            }
        }
        flips
    }
}

/// The worker: flips and judges a share, and prints what it found.
fn work(args: &BitrotArgs, dir: &Path) -> anyhow::Result<()> {
    harness::count_panics();
    let (share, shares) = (args.share / SHARES_MAX, args.share % SHARES_MAX);
    let bases = Bases::read_from(dir)?;
    let mut progress = Progress::default();
    for (i, flip) in bases.flips(args).iter().enumerate() {
        if i < args.from || i % shares != share {
            continue;
        }
        (progress.flip, progress.at) = (i, flip.name());
        std::fs::write(progress_path(dir, share), serde_json::to_vec(&progress)?)?;
        progress.rotten.judge(&bases, flip);
    }
    println!("{}", serde_json::to_string(&progress.rotten)?);
    Ok(())
}

fn judge(case: &Case, disk: &SimDisk, until: u64, draw: u64) -> Findings {
    case.judge(&(Arc::new(disk.copy()) as Arc<dyn Disk>), data(), until, draw)
}

/// The smallest record of each kind of the world and of the server's own log: its file and its bytes.
fn records(disk: &SimDisk) -> BTreeMap<String, (PathBuf, Range<usize>)> {
    let mut found: BTreeMap<String, (PathBuf, Range<usize>)> = BTreeMap::new();
    for path in disk.files() {
        let bytes = disk.file(&path).unwrap_or_default();
        let of_server = path.starts_with(data().join("server"));
        if !of_server && !path.starts_with(data().join("worlds").join("churn")) {
            continue;
        }
        let log = if of_server { "server log" } else { "log" };
        let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
        let mut note = |kind: String, range: Range<usize>| {
            let smallest = found.entry(kind).or_insert((path.clone(), range.clone()));
            if range.len() < smallest.1.len() {
                *smallest = (path.clone(), range);
            }
        };
        if is("seg") {
            // One that is only reserved has none.
            if bytes.iter().take(SEGMENT_HEADER_BYTES).any(|byte| *byte != 0) {
                note(format!("{log} segment header"), 0..SEGMENT_HEADER_BYTES);
            }
            for (kind, range) in frames(&bytes, SEGMENT_HEADER_BYTES) {
                let name = if kind == 0xFF { "segment end".into() } else { format!("record kind {kind}") };
                note(format!("{log} {name}"), range);
            }
        } else if is("redb") {
            sealed(&bytes)
                .into_iter()
                .for_each(|(kind, range)| note(format!("store record kind {kind}"), range));
            if let Some(at) = bytes.windows(8).position(|bytes| bytes == b"EVRWSTO\0") {
                note("store format".into(), at..at + 24);
            }
        } else if path.file_name().is_some_and(|name| name == "mark") {
            note(format!("{log} mark"), 0..bytes.len());
        }
    }
    found
}

/// What looks like records of a store in a file: kind and bytes. See docs/FORMAT.md.
fn sealed(bytes: &[u8]) -> Vec<(u8, Range<usize>)> {
    let looks_like = |at: &usize| {
        let header = &bytes[*at..*at + 32];
        header[..2] == [3, 0] && (1..=6).contains(&header[2]) && header[3] == 1 && header[4..8] == [0; 4]
    };
    let size = |at: usize| {
        let field = |from: usize| {
            bytes[at + from..at + from + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        (field(8), field(16))
    };
    let places = (0..bytes.len().saturating_sub(32)).filter(looks_like);
    let records = places.filter_map(|at| {
        let (raw, stored) = size(at);
        let end = at as u64 + 32 + stored;
        let plausible = raw < 1 << 24 && stored > 8 && stored < 1 << 20 && end <= bytes.len() as u64;
        plausible.then(|| (bytes[at + 2], at..end as usize))
    });
    records.collect()
}
