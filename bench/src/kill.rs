//! `kill`: a real server, killed with SIGKILL at random times while clients post inputs and look at it.
//!
//! After each kill the data directory is brought back twice, from copies: from the log alone on one thread, and
//! from the newest keyframe on four. Both must agree, have every acknowledged entity (D1, D3), and contradict
//! nothing that was shown (D2).

use crate::{
    Outcome,
    report::{Bound, Report, Row},
};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use everworld::{
    client::Client,
    clock,
    spine::{Spine, SpineOptions},
    status::WorldStatus,
    worlds,
};
use everworld_components::Home;
use everworld_engine::{Image, Options, Parallel, Pool, StateHash, TableImage, Tick, random::Draws};
use everworld_systems::WorldRecord;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

#[derive(Args)]
pub(crate) struct KillArgs {
    /// Kills
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// What the random times are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// NPCs at the start
    #[arg(long, default_value_t = 500)]
    npcs: u64,
    /// Where the data directory is made; kept when something is wrong
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What clients were told while the server lived.
#[derive(Default)]
struct Told {
    /// Markers of acknowledged entities.
    acknowledged: Mutex<BTreeSet<u32>>,
    /// State hashes that were shown, by tick.
    shown: Mutex<BTreeMap<Tick, StateHash>>,
    shown_tick: Mutex<Tick>,
    /// Markers are numbered by it.
    posted: AtomicU32,
}

/// Markers begin here, metres to the east of the town: homes of the scenario are below.
const FIRST_MARKER: u32 = 1_000_000;
const CLIENTS: usize = 4;

pub(crate) fn run(args: &KillArgs) -> Outcome {
    let base = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("everworld-kill-{}", std::process::id())));
    let mut draws = Draws::new(args.seed, 0, 0, 0);
    let mut total = Counts::default();
    let mut round = 0;
    // Worlds of ten lives each: older ones would spend their time in coming back.
    for world in 0..args.rounds.div_ceil(LIVES) {
        let dir = base.join(format!("world-{world}"));
        let told = Told::default();
        for _ in 0..LIVES.min(args.rounds - round) {
            round += 1;
            // One in eight dies while it starts or comes back, the others after they have served.
            let while_starting = draws.below(8) == 0;
            let lifetime =
                Duration::from_millis(u64::from(draws.below(if while_starting { 60 } else { 1_000 })));
            let counts = kill_once(args, &dir, lifetime, while_starting, &told);
            total.add(&counts.with_context(|| format!("round {round}; the data is in {}", dir.display()))?);
        }
        total.acknowledged += told.acknowledged.lock().expect("no client panics").len();
        total.shown += told.shown.lock().expect("no client panics").len();
        total.posted += told.posted.load(Relaxed);
        if total.is_clean() && args.dir.is_none() && dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
    }
    ensure!(
        total.recovered > 0 && total.shown > 0,
        "nothing was recovered or shown: the harness did no work"
    );
    let none = Bound::AtMost(0.0);
    let case = format!("{} kills, seed {}", args.rounds, args.seed);
    Ok(Report::new(
        "kill",
        vec![
            Row::plain(&case, "before it served", f64::from(total.while_starting), "kills"),
            Row::bounded(
                &case,
                "acknowledged",
                total.acknowledged as f64,
                "inputs",
                Bound::AtLeast(f64::from(args.rounds)),
            ),
            Row::plain(&case, "posted", f64::from(total.posted), "inputs"),
            Row::plain(&case, "state hashes shown", total.shown as f64, "ticks"),
            Row::bounded(&case, "acknowledged and lost", total.lost as f64, "inputs", none),
            Row::bounded(&case, "shown and contradicted", total.contradictions as f64, "ticks", none),
            Row::bounded(&case, "log and keyframe differ", total.differences as f64, "rounds", none),
        ],
        None,
    ))
}

/// Kills of one world before the next is begun.
const LIVES: u32 = 10;

#[derive(Default)]
struct Counts {
    while_starting: u32,
    acknowledged: usize,
    posted: u32,
    shown: usize,
    recovered: usize,
    lost: usize,
    contradictions: usize,
    differences: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.while_starting += other.while_starting;
        self.recovered += other.recovered;
        self.lost += other.lost;
        self.contradictions += other.contradictions;
        self.differences += other.differences;
    }

    fn is_clean(&self) -> bool {
        self.lost + self.contradictions + self.differences == 0
    }
}

/// One life, and what is left of it.
fn kill_once(
    args: &KillArgs,
    dir: &Path,
    lifetime: Duration,
    while_starting: bool,
    told: &Told,
) -> anyhow::Result<Counts> {
    let data = dir.join("data");
    fs::create_dir_all(&data)?;
    let served = live_and_die(args, &data, lifetime, while_starting, told)?;
    let mut counts = Counts { while_starting: u32::from(!served), ..Counts::default() };
    let acknowledged = told.acknowledged.lock().expect("no client panics").clone();
    if !data.join("worlds/town/log").is_dir() {
        ensure!(acknowledged.is_empty(), "there is no world, but there are acknowledged inputs");
        return Ok(counts);
    }
    let by_log = bring_back(args, &data, &dir.join("by-log"), 1, false, told).context("from the log")?;
    let by_keyframe =
        bring_back(args, &data, &dir.join("by-keyframe"), 4, true, told).context("from the keyframe")?;
    if by_log.at != by_keyframe.at || by_log.after != by_keyframe.after {
        counts.differences = 1;
        eprintln!("by log {:?}, by keyframe {:?}", by_log.at, by_keyframe.at);
    }
    counts.contradictions = by_log.contradictions;
    let missing: Vec<_> = acknowledged.difference(&by_log.markers).collect();
    counts.lost = missing.len();
    if !missing.is_empty() {
        eprintln!("lost {missing:?}");
    }
    counts.recovered = by_log.markers.len();
    Ok(counts)
}

/// One life of the server. False when it died before it answered.
fn live_and_die(
    args: &KillArgs,
    data: &Path,
    lifetime: Duration,
    while_starting: bool,
    told: &Told,
) -> anyhow::Result<bool> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("server")
        .args(["serve", "--data"])
        .arg(data)
        .args(["--set", "http.bind=127.0.0.1:0", "--set", "logging.format=json", "--set", "tick.rate_hz=100"])
        .args(["--set", "snapshot.period_millis=1000", "--set", &format!("world.population={}", args.npcs)])
        .args(["--set", "log.segment_bytes=65536", "--set", "recovery.linger_secs=0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let stderr = BufReader::new(server.stderr.take().context("stderr is piped")?);
    let over = AtomicBool::new(false);
    let served = AtomicBool::new(false);
    let result = std::thread::scope(|scope| -> anyhow::Result<()> {
        let (over, served) = (&over, &served);
        let reader = scope.spawn(move || -> anyhow::Result<()> {
            let mut clients = Vec::new();
            let mut lines = Vec::new();
            for line in stderr.lines() {
                let line = line?;
                let entry: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
                if entry["fields"]["message"] == "listening" {
                    let address: SocketAddr =
                        entry["fields"]["address"].as_str().context("an address")?.parse()?;
                    clients.extend(
                        (0..CLIENTS).map(|i| scope.spawn(move || post(address, i, told, over, served))),
                    );
                    clients.push(scope.spawn(move || look(address, told, over)));
                }
                // A panic, or an error that ends the server, is a finding of its own.
                if line.contains("panicked") || entry["level"] == "ERROR" || line.starts_with("everworld:") {
                    lines.push(line);
                }
            }
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            ensure!(lines.is_empty(), "the server said: {}", lines.join("\n"));
            Ok(())
        });
        // Until it serves, unless it is to die before.
        let patience = Instant::now() + Duration::from_secs(30);
        while !while_starting && !served.load(Relaxed) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(lifetime);
        // Clients post on while it dies.
        let killed = kill(&mut server);
        over.store(true, Relaxed);
        let said = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        killed.and(said)
    });
    result.map(|()| served.load(Relaxed))
}

/// SIGKILL, and what the server had said if it had ended by itself.
fn kill(server: &mut Child) -> anyhow::Result<()> {
    if let Some(status) = server.try_wait()? {
        bail!("the server had ended by itself: {status}");
    }
    server.kill()?;
    server.wait()?;
    Ok(())
}

/// Posts entities with markers of their own, one after the other, until the server dies.
fn post(
    address: SocketAddr,
    number: usize,
    told: &Told,
    over: &AtomicBool,
    served: &AtomicBool,
) -> anyhow::Result<()> {
    let Ok(mut client) = Client::connect(address) else { return Ok(()) };
    // Half of them ask for the durable, half for the applied acknowledgement.
    let ack = if number.is_multiple_of(2) { "durable" } else { "applied" };
    while !over.load(Relaxed) {
        let own = FIRST_MARKER + told.posted.fetch_add(1, Relaxed);
        let body = json!({"prototype": "townsman", "components": {"home": {"x": own}}}).to_string();
        match client.request("POST", &format!("/v1/worlds/town/entities?ack={ack}"), &body) {
            Ok((202, answer)) => {
                ensure!(answer.get("rejected").is_none(), "the input was rejected: {answer}");
                told.acknowledged.lock().expect("no client panics").insert(own);
                served.store(true, Relaxed);
            }
            Ok((503, _)) => std::thread::sleep(Duration::from_millis(10)),
            Ok((status, answer)) => bail!("unexpected answer {status}: {answer}"),
            // The kill, most likely; an error that comes before it shows in what the server said.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Looks at ticks and hashes, until the server dies.
fn look(address: SocketAddr, told: &Told, over: &AtomicBool) -> anyhow::Result<()> {
    let Ok(mut client) = Client::connect(address) else { return Ok(()) };
    while !over.load(Relaxed) {
        let Ok((status, world)) = client.request("GET", "/v1/worlds/town", "") else { return Ok(()) };
        let running = world["state"] == "running";
        if let (200, true, Some(tick)) = (status, running, world["tick"].as_u64()) {
            let mut shown = told.shown_tick.lock().expect("no client panics");
            ensure!(Tick(tick) >= *shown, "tick {tick} was shown after tick {shown}");
            *shown = Tick(tick);
        }
        if let (Some(tick), Some(hash)) = (world["state_hash_tick"].as_u64(), world["state_hash"].as_str()) {
            let hash = StateHash(u64::from_str_radix(hash, 16)?);
            let before = told.shown.lock().expect("no client panics").insert(Tick(tick), hash);
            ensure!(before.is_none_or(|before| before == hash), "two hashes were shown of tick {tick}");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

struct Back {
    /// Where recovery ended, with its hash.
    at: (Tick, StateHash),
    /// One tick later, with what was acknowledged and not sealed.
    after: (Tick, StateHash),
    markers: BTreeSet<u32>,
    contradictions: usize,
}

/// Brings a copy of the data back in this process.
fn bring_back(
    args: &KillArgs,
    data: &Path,
    copy: &Path,
    threads: usize,
    keyframes: bool,
    told: &Told,
) -> anyhow::Result<Back> {
    if copy.exists() {
        fs::remove_dir_all(copy)?;
    }
    copy_dir(data, copy)?;
    if !keyframes {
        for entry in fs::read_dir(copy.join("worlds/town"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "redb") {
                fs::remove_file(path)?;
            }
        }
    }
    let scenario = worlds::load_scenario("town", everworld::PLUGINS, &[format!("population={}", args.npcs)])?;
    let record = WorldRecord { world: scenario.name.clone(), scenario };
    let pool = Arc::new(Pool::start(threads, "tick", |_| {})?);
    let options = Options { pool, parallel: Parallel::Always, stopwatch: clock::stopwatch() };
    let shown = told.shown.lock().expect("no client panics").clone();
    let mut contradictions = 0;
    let mut compare = |live: &everworld_engine::LiveWorld| {
        if let Some(hash) = shown.get(&live.now())
            && live.state_hash() != *hash
        {
            contradictions += 1;
            eprintln!(
                "tick {} was shown with hash {hash}, and comes back with {}",
                live.now(),
                live.state_hash()
            );
        }
    };
    let lock = everworld::spine::lock(copy)?;
    let status = WorldStatus::default();
    let (mut spine, mut live) = Spine::open_observed(
        lock,
        copy,
        &record,
        everworld::PLUGINS,
        options,
        &SpineOptions::default(),
        &status,
        &mut compare,
    )?;
    let at = (live.now(), live.state_hash());
    if live.now() < *told.shown_tick.lock().expect("no client panics") {
        contradictions += 1;
        eprintln!("recovery ends at tick {}, later ones were shown", live.now());
    }
    spine.tick_by_hand(&mut live)?;
    let after = (live.now(), live.state_hash());
    let markers = markers(&live.image());
    spine.close(&mut live)?;
    Ok(Back { at, after, markers, contradictions })
}

/// The markers among the homes.
fn markers(image: &Image) -> BTreeSet<u32> {
    let homes = image.tables.iter().filter_map(TableImage::rows_of::<Home>).flatten();
    homes.map(|home| home.x as u32).filter(|x| *x >= FIRST_MARKER).collect()
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
