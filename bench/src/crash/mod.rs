//! `crash`: worlds whose disk loses power, whose process is killed, and that crash again while they come back.
//!
//! Lives of the product's own host run on a disk in memory that keeps an image before some of its operations; from
//! each image disks are made as a crash could leave them, and each of those is brought back and held against what was
//! known outside at that moment (D1, D2, D3). Some hundred real processes are killed beside that.

mod gated;
mod hook;
mod judge;
mod life;
mod past;
mod real;
mod reference;
mod region;
mod scarce;
mod small;
mod tale;
mod trial;

pub(crate) use gated::{
    inputs_rot_while_they_wait, power_fails_after_acknowledgements, power_fails_at_a_seal,
};
pub(crate) use hook::frames;
pub(crate) use judge::{Case, Findings, data};
pub(crate) use real::{ChildArgs, child};
pub(crate) use scarce::{Scarcity, full_disk, no_room_for_snapshots};
pub(crate) use trial::Trial;

use crate::{
    Outcome, harness,
    harness::{none, some},
    report::{Report, Row},
    scenarios,
};
use anyhow::{Context as _, ensure};
use clap::Args;
use everworld::{Plugin, rig::Rig};
use everworld_engine::{Tick, random::Draws};
use everworld_persistence::{
    Control, Disk, Record,
    sim::{Cut, SimDisk},
};
pub(crate) use life::Fact;
use life::{Lived, Script, Step, Teller};
use reference::Base;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Args, Clone)]
pub(crate) struct CrashArgs {
    /// Kills: everything that was issued stays
    #[arg(long, default_value_t = 200)]
    kill: u64,
    /// Images after a loss of power: of what was not synced, any of it stays
    #[arg(long, default_value_t = 2_000)]
    power_loss: u64,
    /// Crashes while coming back from a crash
    #[arg(long, default_value_t = 200)]
    double: u64,
    /// Of the kills, so many of real processes; 0 is by the number of kills, 500 from 10,000 on
    #[arg(long, default_value_t = 0)]
    real: u64,
    /// Rounds of some seconds on a slow disk
    #[arg(long, default_value_t = 2)]
    slow_rounds: u32,
    /// Leave out the world whose file is past a redb region: it takes some hundred MiB and seconds
    #[arg(long)]
    no_region: bool,
    /// So many worlds at least, however few crashes are wanted
    #[arg(long, default_value_t = WORLDS_MIN)]
    worlds: u64,
    /// What the scripts and the images are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where images that show a fault are kept
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Shares of a life: images, and cuts of each.
const IMAGES_PER_LIFE: u64 = 120;
/// All counts are spread over so many lives at least: worlds of each kind are among them.
const LIVES_MIN: u64 = 12;

/// Prints what the log of a kept image says: to look at a fault.
pub(crate) fn look(dir: &std::path::Path) {
    let disk: Arc<dyn Disk> = Arc::new(everworld_persistence::RealDisk);
    println!("{}", tale::tale(&disk, &dir.join("data")));
}

/// A teller that counts a disk's operations.
struct Counting<'d> {
    disk: &'d SimDisk,
    facts: Vec<(u64, Fact)>,
}

impl Teller for Counting<'_> {
    fn tell(&mut self, fact: Fact) {
        self.facts.push((self.disk.operations(), fact));
    }
}

/// What still is to be done.
struct Wanted {
    kill: AtomicU64,
    power_loss: AtomicU64,
    double: AtomicU64,
}

impl Wanted {
    fn take(counter: &AtomicU64) -> bool {
        counter.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn is_done(&self) -> bool {
        [&self.kill, &self.power_loss, &self.double].iter().all(|left| left.load(Relaxed) == 0)
    }
}

#[derive(Default)]
struct Total {
    lives: u64,
    operations: u64,
    records: u64,
    snapshots: u64,
    steps: BTreeMap<Step, u64>,
    kinds: BTreeMap<&'static str, u64>,
    /// Worlds that an older build began.
    migrations: u64,
    past: past::Verified,
    kills: Findings,
    cuts: Findings,
    doubles: Findings,
    first_start: u64,
}

/// However few crashes are wanted: the first of them is begun by an older build.
const WORLDS_MIN: u64 = 2;

pub(crate) fn run(args: &CrashArgs) -> Outcome {
    harness::count_panics();
    // Both kinds of them.
    let real = if args.real > 0 { args.real.max(2) } else { (args.kill / 20).min(500) }.min(args.kill);
    let wanted = Wanted {
        kill: AtomicU64::new(args.kill - real),
        power_loss: AtomicU64::new(args.power_loss),
        double: AtomicU64::new(args.double),
    };
    let total = Mutex::new(Total::default());
    let next_life = AtomicU64::new(0);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    // Lives wait for their disks, real processes wait to be killed: one more than there are cores.
    let (kills, slow, region) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let others = scope.spawn(|| -> anyhow::Result<_> {
            let region = (!args.no_region).then(|| region::past_region(args.seed)).transpose()?;
            let slow = scarce::slow_disk(args.slow_rounds)?;
            Ok((real::kill(real, args.seed, args.keep.as_deref())?, slow, region))
        });
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    loop {
                        let number = next_life.fetch_add(1, Relaxed);
                        if wanted.is_done() && number >= args.worlds {
                            return Ok(());
                        }
                        one_world(args, number, &wanted, &total).with_context(|| format!("life {number}"))?;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        others.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?
    })?;
    let total = total.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    let mut rows = rows(args, &total, &kills);
    let case = "syncs of 500 ms";
    rows.extend([
        some(case, "inputs taken", slow.taken, "inputs"),
        some(case, "inputs refused", slow.refused, "inputs"),
        some(case, "ticks computed", slow.ticks, "ticks"),
        none(case, "ticks that waited for a sync", slow.held_up, "ticks"),
    ]);
    rows.extend(findings_rows(case, &slow.findings));
    if let Some(region) = region {
        let case = "past a redb region";
        rows.push(Row::plain(case, "file", (region.file_bytes >> 20) as f64, "MiB"));
        rows.push(some(case, "images", region.images, "images"));
        rows.extend(findings_rows(case, &region.findings));
    }
    Ok(Report::new("crash", rows, None))
}

fn rows(args: &CrashArgs, total: &Total, kills: &real::Kills) -> Vec<Row> {
    let case = format!("seed {}", args.seed);
    let mut rows = vec![
        Row::plain(&case, "lives", total.lives as f64, "lives"),
        Row::plain(&case, "disk operations", total.operations as f64, "operations"),
        Row::plain(&case, "log records", total.records as f64, "records"),
        some(&case, "snapshots", total.snapshots, "snapshots"),
        some(&case, "crashes at first start", total.first_start, "images"),
    ];
    for step in Step::ALL {
        let count = total.steps.get(&step).copied().unwrap_or(0);
        rows.push(some(&case, &format!("{step:?}"), count, "steps"));
    }
    for (kind, count) in &total.kinds {
        // Few lives have no room for what is seldom.
        let row = if total.lives < LIVES_MIN {
            Row::plain(&case, kind, *count as f64, "times")
        } else {
            some(&case, kind, *count, "times")
        };
        rows.push(row);
    }
    rows.push(some(&case, "brought along from an older build", total.migrations, "worlds"));
    rows.push(some(&case, "ticks of the past computed again", total.past.ticks, "ticks"));
    rows.push(some(&case, "hashes of them that are known", total.past.hashes, "hashes"));
    for wrong in &total.past.wrong {
        eprintln!("{case}: {wrong}");
    }
    rows.push(none(&case, "past that came out differently", total.past.wrong.len() as u64, "lines"));
    rows.push(some(
        &case,
        "forks opened",
        total.kills.forks + total.cuts.forks + total.doubles.forks,
        "worlds",
    ));
    rows.push(none(&case, "panics of any thread", harness::panics(), "panics"));
    if kills.findings.recoveries > 0 {
        let case = format!("kill -9, {case}");
        rows.push(some(&case, "at counted operations", kills.at_operations, "processes"));
        rows.push(some(&case, "at random times", kills.at_times, "processes"));
        rows.push(Row::plain(&case, "ended before", kills.over_before as f64, "processes"));
        rows.extend(findings_rows(&case, &kills.findings));
    }
    for (name, findings) in [("kills", &total.kills), ("power loss", &total.cuts), ("double", &total.doubles)]
    {
        rows.extend(findings_rows(&format!("{name}, {case}"), findings));
        // A crash damages nothing.
        rows.push(none(
            &format!("{name}, {case}"),
            "snapshots passed over",
            findings.passed_over,
            "snapshots",
        ));
    }
    rows
}

/// The rows of one kind of crash.
pub(crate) fn findings_rows(case: &str, findings: &Findings) -> Vec<Row> {
    for note in &findings.first {
        eprintln!("{case}: {note}");
    }
    vec![
        Row::plain(case, "recoveries", findings.recoveries as f64, "recoveries"),
        some(case, "with ticks replayed", findings.replays, "recoveries"),
        some(case, "acknowledgements checked", findings.acknowledged, "checks"),
        some(case, "shown ticks checked", findings.shown + findings.hashes, "checks"),
        none(case, "acknowledged and lost", findings.lost, "inputs"),
        none(case, "shown and contradicted", findings.contradicted, "facts"),
        none(case, "other hash than by the log", findings.differences, "recoveries"),
        none(case, "refused", findings.refused, "recoveries"),
        none(case, "panics", findings.panics, "panics"),
    ]
}

/// A world with up to three lives, each beginning with what a crash left of the one before; or, of one that an older build
/// began, with what that one left in order.
fn one_world(args: &CrashArgs, number: u64, wanted: &Wanted, total: &Mutex<Total>) -> anyhow::Result<()> {
    let mut draws = Draws::new(args.seed, number, 0, 0);
    // One in eight has inputs of up to 1 MiB, and segments that hold them.
    let large = number % 8 == 2;
    let of_an_older_build = number.is_multiple_of(4);
    // One in eight keeps all of its past, so that all of it is computed again.
    let store = if number % 8 == 5 { life::keeping_store() } else { life::quick_store() };
    let (segment_bytes, bytes_max) = if large { (4 << 20, 1 << 20) } else { (48 << 10, 40_000) };
    let record =
        harness::record("churn", u64::from(20 + draws.below(120)), 1 + u64::from(draws.below(1_000)))?;
    let mut disk = SimDisk::default();
    let mut facts: Vec<(u64, Fact)> = Vec::new();
    let mut records = BTreeMap::new();
    let mut next_mark = 1;
    let mut base: Option<Base> = None;
    for life in 0..3 {
        let older = of_an_older_build && life == 0;
        let plugins = if older { scenarios::plugins_before() } else { scenarios::plugins() };
        let images = if large { IMAGES_PER_LIFE / 8 } else { IMAGES_PER_LIFE };
        plan_images(&disk, &mut draws, images, life == 0 || (of_an_older_build && life == 1));
        let script = Script {
            failures: life == 0,
            first_mark: next_mark,
            first_lsn: records.last_key_value().map_or(1, |(lsn, _): (&u64, _)| lsn + 1),
            plugins,
            rewind_min: base.as_ref().map_or(Tick(0), |base| base.image.tick),
            ..Script::first(24 * (2 + draws.below(3)), bytes_max)
        };
        // What was known in former lives is known from the beginning.
        facts.iter_mut().for_each(|(op, _)| *op = 0);
        let mut teller = Counting { disk: &disk, facts };
        let rig = Rig {
            disk: Arc::new(disk.clone()),
            store: Some(store.clone()),
            build_id: scenarios::build_id_of(plugins),
            ..Rig::default()
        };
        let config = life::config(judge::data(), segment_bytes);
        let lived = life::live(rig, config, &record, script, &mut draws, &mut teller)?;
        facts = teller.facts;
        next_mark = lived.next_mark;
        // Who is stopped while it comes back from a failed tick has not failed.
        if let Some(error) = lived.ended.as_ref().err().filter(|error| error.exit_code() != 0) {
            anyhow::bail!("the host failed: {}", everworld::spine::chain(error));
        }
        records.extend(lived.records.clone());
        count(total, &lived, &disk);
        // Who was stopped while it came back from a failed tick has not said yet what is left out of it.
        if lived.ended.is_ok() {
            let name = format!("seed-{}-{}-life-{life}", args.seed, record.scenario.seed);
            verify_past(args, &disk, &name, (plugins, segment_bytes, base.is_some()), total)?;
        }
        let images = disk.take_images();
        let build = (plugins, base.clone());
        let case = Case::with_base(record.clone(), facts.clone(), records.clone(), segment_bytes, build);
        judge_images(args, &case, &images, life == 0, wanted, total, &mut draws)?;
        if images.is_empty() || (wanted.is_done() && !older && number >= args.worlds) {
            return Ok(());
        }
        if older {
            disk = disk.copy();
            // The last snapshot of a life that ended while it came back from a failed tick is not of its end.
            case.stop_in_order(&(Arc::new(disk.clone()) as Arc<dyn Disk>), judge::data())?;
            records = continue_from(&case, &disk)?;
            let left: Arc<dyn Disk> = Arc::new(disk.copy());
            let (state, was_older) = case.end(&left, judge::data(), scenarios::plugins())?;
            ensure!(was_older, "the state is of this build already");
            // What another build showed is told by rows that this one does not have.
            facts.retain(|(_, fact)| matches!(fact, Fact::Acknowledged { .. } | Fact::Shown { .. }));
            // Bringing it back may have written.
            records.retain(|lsn, _| *lsn <= state.lsn);
            base = Some(state);
            if let Ok(mut total) = total.lock() {
                total.migrations += 1;
            }
            continue;
        }
        // The next life begins where this one could have ended.
        let (op, image) = &images[draws.below(images.len() as u32) as usize];
        facts.retain(|(known, _)| known <= op);
        disk = image.cut(Cut::Any(draws.u64()));
        records = continue_from(&case, &disk)?;
    }
    Ok(())
}

/// Computes the past again that a life has left.
fn verify_past(
    args: &CrashArgs,
    disk: &SimDisk,
    name: &str,
    of: (&'static [Plugin], u64, bool),
    total: &Mutex<Total>,
) -> anyhow::Result<()> {
    let verified = past::verify(disk, judge::data(), of)?;
    if let Some(dir) = args.keep.as_ref().filter(|_| !verified.wrong.is_empty()) {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir)?;
        disk.copy().write_to(&dir)?;
        std::fs::write(dir.join("findings.txt"), verified.wrong.join("\n"))?;
    }
    let Ok(mut total) = total.lock() else { return Ok(()) };
    total.past.ticks += verified.ticks;
    total.past.hashes += verified.hashes;
    total.past.wrong.extend(verified.wrong);
    Ok(())
}

/// All records that a world had when it goes on from that disk.
fn continue_from(
    case: &Case,
    disk: &SimDisk,
) -> anyhow::Result<BTreeMap<u64, everworld_persistence::Record>> {
    case.records_at(&(Arc::new(disk.copy()) as Arc<dyn Disk>), judge::data())
}

fn count(total: &Mutex<Total>, lived: &Lived, disk: &SimDisk) {
    let Ok(mut total) = total.lock() else { return };
    total.lives += 1;
    total.operations += disk.operations();
    total.records += lived.records.len() as u64;
    total.snapshots += lived.snapshots.saturating_sub(1);
    for (step, count) in &lived.steps {
        *total.steps.entry(*step).or_default() += count;
    }
    for (kind, count) in kinds(lived, disk) {
        *total.kinds.entry(kind).or_default() += count;
    }
}

/// What has happened in a life beside its steps, by what it left.
fn kinds(lived: &Lived, disk: &SimDisk) -> [(&'static str, u64); 9] {
    let records =
        |is: &dyn Fn(&Record) -> bool| lived.records.values().filter(|record| is(record)).count() as u64;
    let controls = |is: &dyn Fn(&Control) -> bool| {
        records(&|record| matches!(record, Record::Control { control, .. } if is(control)))
    };
    let dir = judge::data().join("worlds").join("churn");
    let numbers = |below: &str, prefix: &str| -> Vec<u64> {
        let files = disk.files();
        let names = files.iter().filter(|path| path.parent() == Some(&dir.join(below)));
        let names = names.filter_map(|path| path.file_stem()?.to_str()?.strip_prefix(prefix)?.parse().ok());
        names.collect()
    };
    let epochs = numbers("", "epoch-");
    let begun = epochs.iter().max().copied().unwrap_or(0);
    let first_segment = numbers("log", "").into_iter().min().unwrap_or(1);
    let large = |input: &everworld_persistence::InputRecord| input.payload.len() > 64 << 10;
    [
        ("epochs begun", begun),
        ("epochs removed", begun.saturating_sub(epochs.len() as u64)),
        ("log segments removed", first_segment.saturating_sub(1)),
        ("new lines of history", controls(&|control| matches!(control, Control::Branch { .. }))),
        ("systems quarantined", controls(&|control| matches!(control, Control::Quarantine { .. }))),
        ("inputs skipped", controls(&|control| matches!(control, Control::Skip { .. }))),
        (
            "inputs for later ticks",
            records(&|record| matches!(record, Record::Input(input) if input.at_tick.is_some())),
        ),
        ("inputs over 64 KiB", records(&|record| matches!(record, Record::Input(input) if large(input)))),
        (
            "inputs under 64 B",
            records(&|record| matches!(record, Record::Input(input) if input.payload.len() < 64)),
        ),
    ]
}

/// Draws the operations before which the disk is kept: the first ones of a world all, then further and further apart.
fn plan_images(disk: &SimDisk, draws: &mut Draws, count: u64, is_first: bool) {
    let mut at = 0;
    let images = (0..count).map(|i| {
        at += if is_first && i < count / 3 { 1 } else { 1 + u64::from(draws.below(60)) };
        at
    });
    disk.keep_images_at(images.collect::<Vec<_>>());
}

fn judge_images(
    args: &CrashArgs,
    case: &Case,
    images: &[(u64, SimDisk)],
    is_first: bool,
    wanted: &Wanted,
    total: &Mutex<Total>,
    draws: &mut Draws,
) -> anyhow::Result<()> {
    // In no order, so that a small count is spread over a life as well.
    let share = |count: u64| AtomicU64::new(count / LIVES_MIN + 1);
    let left =
        Wanted { kill: share(args.kill), power_loss: share(args.power_loss), double: share(args.double) };
    let take = |of: fn(&Wanted) -> &AtomicU64| {
        of(&left).load(Relaxed) > 0 && Wanted::take(of(wanted)) && Wanted::take(of(&left))
    };
    let mut order: Vec<usize> = (0..images.len()).collect();
    draws.shuffle(&mut order);
    for (op, image) in order.into_iter().map(|i| &images[i]) {
        let mut kills = Findings::default();
        let mut cuts = Findings::default();
        let mut doubles = Findings::default();
        let judge = |cut: Cut, draw: u64| -> anyhow::Result<Findings> {
            let left = image.cut(cut);
            let findings = case.judge(&(Arc::new(left) as Arc<dyn Disk>), judge::data(), *op, draw);
            if findings.faults() + findings.passed_over > 0
                && let Some(dir) = &args.keep
            {
                let dir = dir.join(format!("seed-{}-{}-{op}-{draw:x}", args.seed, case.record.scenario.seed));
                std::fs::create_dir_all(&dir)?;
                image.cut(cut).write_to(&dir)?;
                std::fs::write(dir.join("findings.txt"), findings.first.join("\n"))?;
            }
            Ok(findings)
        };
        if take(|wanted| &wanted.kill) {
            kills.add(judge(Cut::Issued, draws.u64())?);
        }
        for i in 0..12 {
            if !take(|wanted| &wanted.power_loss) {
                break;
            }
            let seed = draws.u64();
            cuts.add(judge(if i == 0 { Cut::Synced } else { Cut::Any(seed) }, seed)?);
        }
        if take(|wanted| &wanted.double) {
            doubles.add(crash_twice(case, image, *op, draws));
        }
        if let Ok(mut total) = total.lock() {
            total.first_start += u64::from(is_first && *op < 40);
            total.kills.add(kills);
            total.cuts.add(cuts);
            total.doubles.add(doubles);
        }
    }
    Ok(())
}

/// Crashes, and crashes again while coming back: what is left then is what counts.
fn crash_twice(case: &Case, image: &SimDisk, op: u64, draws: &mut Draws) -> Findings {
    let disk = image.cut(Cut::Any(draws.u64()));
    let mut at = 0;
    let operations: Vec<u64> = (0..8)
        .map(|_| {
            at += u64::from(draws.below(6));
            at
        })
        .collect();
    disk.keep_images_at(operations);
    let mut findings = case.judge(&(Arc::new(disk.clone()) as Arc<dyn Disk>), judge::data(), op, draws.u64());
    for (_, again) in disk.take_images() {
        let left = again.cut(Cut::Any(draws.u64()));
        findings.add(case.judge(&(Arc::new(left) as Arc<dyn Disk>), judge::data(), op, draws.u64()));
    }
    findings
}
