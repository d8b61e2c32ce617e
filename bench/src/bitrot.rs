//! `bitrot`: bits of a world's files are turned over. What comes back is the right state, from an older snapshot and a
//! longer replay, or a refusal by name; never a wrong state, and nothing that was acknowledged is gone (D5).
//!
//! The flips are judged in a process of its own: a library that aborts on damaged bytes is a finding, not the end.

use crate::{
    Outcome,
    crash::{Case, Findings, Trial, data},
    harness,
    harness::{none, some},
    report::{Report, Row},
};
use anyhow::ensure;
use clap::Args;
use everworld_engine::random::Draws;
use everworld_persistence::{
    Disk, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES,
    sim::{Cut, SimDisk},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
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
    /// Of the files only those whose names end so get random flips
    #[arg(long)]
    ending: Option<String>,
    /// The process that does it
    #[arg(long, hide = true)]
    worker: Option<PathBuf>,
}

/// What the worker says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rotten {
    flips: u64,
    exhaustive: u64,
    kinds: BTreeMap<String, u64>,
    refused: u64,
    right: u64,
    /// With a state that is not the one of the log.
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
    panics: u64,
    notes: Vec<String>,
}

/// A process that dies this often is not started again.
const ABORTS_MAX: u64 = 5;

pub(crate) fn run(args: &BitrotArgs) -> Outcome {
    if let Some(progress) = &args.worker {
        end_when_it_hangs();
        let rotten = work(args, Some(progress))?;
        println!("{}", serde_json::to_string(&rotten)?);
        return Ok(Report::new("bitrot", Vec::new(), None));
    }
    let progress = std::env::temp_dir().join(format!("everworld-bitrot-{}", std::process::id()));
    let mut aborts = 0;
    let rotten = loop {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["bitrot", "--seed", &(args.seed + aborts).to_string()]);
        child.args(["--file-flips", &args.file_flips.to_string(), "--stride", &args.stride.to_string()]);
        child.args(args.only.iter().flat_map(|only| ["--only", only]));
        child.args(args.ending.iter().flat_map(|ending| ["--ending", ending]));
        child.args(args.exhaustive.then_some("--exhaustive")).arg("--worker").arg(&progress);
        let output = child.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(rotten) = text.lines().next().and_then(|line| serde_json::from_str::<Rotten>(line).ok()) {
            break rotten;
        }
        ensure!(output.status.code().is_none(), "the worker ended with {}: {text}", output.status);
        aborts += 1;
        let at = std::fs::read_to_string(&progress).unwrap_or_default();
        eprintln!("bitrot: the process died with {} at {at}", output.status);
        if aborts == ABORTS_MAX {
            break Rotten::default();
        }
    };
    // There is none when nothing was flipped.
    let _ = std::fs::remove_file(&progress);
    Ok(Report::new("bitrot", rotten.rows(args, aborts), None))
}

/// Flips so far.
static FLIPS: AtomicU64 = AtomicU64::new(0);

/// A flip that takes longer is a hang: then the process ends itself, which counts as an abort.
const FLIP_SECS_MAX: u64 = 120;

fn end_when_it_hangs() {
    std::thread::spawn(|| {
        let (mut flips, mut secs) = (0, 0);
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = FLIPS.load(Relaxed);
            secs = if now == flips { secs + 1 } else { 0 };
            flips = now;
            if secs > FLIP_SECS_MAX {
                eprintln!("bitrot: it hangs");
                std::process::abort();
            }
        }
    });
}

impl Rotten {
    fn rows(&self, args: &BitrotArgs, aborts: u64) -> Vec<Row> {
        self.notes.iter().for_each(|note| eprintln!("bitrot: {note}"));
        let case = format!("seed {}", args.seed);
        let mut rows = vec![
            some(&case, "flips", self.flips + self.exhaustive, "flips"),
            some(&case, "right state all the same", self.right, "flips"),
            some(&case, "refused by name", self.refused, "flips"),
            none(&case, "wrong state", self.wrong, "flips"),
            none(&case, "acknowledged and lost", self.lost, "inputs"),
            none(&case, "panics that got out", self.panics, "panics"),
            none(&case, "aborts of the process", aborts, "aborts"),
        ];
        for (kind, bits) in &self.kinds {
            rows.push(some(&case, &format!("every bit: {kind}"), *bits, "bits"));
        }
        rows
    }
}

/// Flips and judges.
pub(crate) fn work(args: &BitrotArgs, progress: Option<&Path>) -> anyhow::Result<Rotten> {
    harness::count_panics();
    let disk = SimDisk::default();
    disk.keep_images_at((20..60).map(|i| i * 11));
    let (case, _) = Trial { keeps_all: true, ..Trial::sound(args.seed, 24) }.live(&disk)?;
    // Stopped in order, and killed.
    let mut bases = vec![(disk.copy(), u64::MAX)];
    if let Some((op, image)) = disk.take_images().pop() {
        bases.push((image.cut(Cut::Issued), op));
    }
    // Without a snapshot every record of the log counts.
    let bare = disk.copy();
    bare.files()
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "redb"))
        .for_each(|path| bare.remove_file(path));
    bases.push((bare, u64::MAX));
    let mut rotten = Rotten::default();
    for (base, until) in &bases {
        // The whole log is told once, from the undamaged one.
        let sound = judge(&case, base, *until, 0);
        ensure!(sound.faults() == 0, "the undamaged world is not right: {:?}", sound.first);
    }
    if args.exhaustive {
        let bare = bases.len() - 1;
        let of = |kind: &str| if kind.starts_with("store") { 0 } else { bare };
        for (kind, (path, range)) in records(&bases[0].0) {
            if args.only.as_ref().is_some_and(|only| !kind.starts_with(only.as_str())) {
                continue;
            }
            let (base, until) = &bases[of(&kind)];
            for bit in (range.start * 8..range.end * 8).step_by(args.stride.max(1)) {
                rotten.flip(&case, base, *until, (&path, bit), progress)?;
                rotten.exhaustive += 1;
                *rotten.kinds.entry(kind.clone()).or_default() += 1;
            }
        }
    }
    let mut draws = Draws::new(args.seed, 0, 4, 0);
    for flip in 0..args.file_flips {
        let (base, until) = &bases[flip as usize % bases.len()];
        let mut files = base.files();
        files.retain(|path| args.ending.as_ref().is_none_or(|end| path.to_string_lossy().ends_with(end)));
        if files.is_empty() {
            continue;
        }
        let path = &files[draws.below(files.len() as u32) as usize];
        let bytes = base.file(path).map_or(0, |bytes| bytes.len());
        if bytes == 0 {
            continue;
        }
        let bit = (draws.u64() % (bytes as u64 * 8)) as usize;
        rotten.flip(&case, base, *until, (path, bit), progress)?;
        rotten.flips += 1;
    }
    Ok(rotten)
}

impl Rotten {
    fn flip(
        &mut self,
        case: &Case,
        base: &SimDisk,
        until: u64,
        (path, bit): (&Path, usize),
        progress: Option<&Path>,
    ) -> anyhow::Result<()> {
        if let Some(progress) = progress {
            std::fs::write(progress, format!("{} bit {bit}", path.display()))?;
        }
        FLIPS.fetch_add(1, Relaxed);
        let damaged = base.copy();
        damaged.flip(path, bit);
        let findings = judge(case, &damaged, until, bit as u64);
        self.panics += findings.panics;
        self.lost += findings.lost;
        self.wrong += u64::from(findings.contradicted + findings.differences > 0);
        self.refused += findings.refused;
        self.right += u64::from(findings.faults() == 0);
        if findings.faults() > findings.refused && self.notes.len() < 8 {
            self.notes.push(format!("{} bit {bit}: {}", path.display(), findings.first.join("; ")));
        }
        Ok(())
    }
}

fn judge(case: &Case, disk: &SimDisk, until: u64, draw: u64) -> Findings {
    case.judge(&(Arc::new(disk.copy()) as Arc<dyn Disk>), data(), until, draw)
}

/// The smallest record of each kind: its file and its bytes.
fn records(disk: &SimDisk) -> BTreeMap<String, (PathBuf, Range<usize>)> {
    let mut found: BTreeMap<String, (PathBuf, Range<usize>)> = BTreeMap::new();
    for path in disk.files() {
        let bytes = disk.file(&path).unwrap_or_default();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
        let mut note = |kind: String, range: Range<usize>| {
            let smallest = found.entry(kind).or_insert((path.clone(), range.clone()));
            if range.len() < smallest.1.len() {
                *smallest = (path.clone(), range);
            }
        };
        if is("seg") {
            note("segment header".into(), 0..SEGMENT_HEADER_BYTES);
            frames(&bytes)
                .into_iter()
                .for_each(|(kind, range)| note(format!("log record kind {kind}"), range));
        } else if is("redb") {
            sealed(&bytes)
                .into_iter()
                .for_each(|(kind, range)| note(format!("store record kind {kind}"), range));
        } else if bytes.len() <= 8_192 && path.parent().is_some_and(|dir| dir.ends_with("log")) {
            note(format!("log file {name}"), 0..bytes.len());
        }
    }
    found
}

/// The frames of a segment: kind and bytes.
fn frames(bytes: &[u8]) -> Vec<(u8, Range<usize>)> {
    let mut at = SEGMENT_HEADER_BYTES;
    let mut frames = Vec::new();
    while let Some(header) = bytes.get(at..at + FRAME_HEADER_BYTES) {
        let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
        let end = at + FRAME_HEADER_BYTES + length.next_multiple_of(8);
        if header[..16].iter().all(|byte| *byte == 0) || end > bytes.len() {
            break;
        }
        frames.push((header[20], at..end));
        at = end;
    }
    frames
}

/// What looks like records of a store in a file: kind and bytes. See docs/FORMAT.md.
fn sealed(bytes: &[u8]) -> Vec<(u8, Range<usize>)> {
    let looks_like = |at: &usize| {
        let header = &bytes[*at..*at + 32];
        header[..2] == [2, 0] && (1..=6).contains(&header[2]) && header[3] == 1 && header[4..8] == [0; 4]
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

/// For the canary: some bits of the records of the log.
pub(crate) fn some_of_the_log(seed: u64) -> anyhow::Result<Rotten> {
    let only = Some("log record".into());
    let args =
        BitrotArgs { exhaustive: true, file_flips: 0, seed, stride: 5, only, ending: None, worker: None };
    work(&args, None)
}
