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
use everworld_engine::{Chunk, Image, Options, Parallel, Pool, StateHash, Tick, random::Draws};
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
    time::Duration,
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
    posted: AtomicU32,
}

/// Markers begin here: households of the scenario are below.
const FIRST_MARKER: u32 = 1_000_000;
const CLIENTS: usize = 4;

pub(crate) fn run(args: &KillArgs) -> Outcome {
    let base = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("everworld-kill-{}", std::process::id())));
    let data = base.join("data");
    fs::create_dir_all(&data)?;
    let told = Told::default();
    let marker = AtomicU32::new(FIRST_MARKER);
    let mut draws = Draws::new(args.seed, 0, 0, 0);
    let (mut lost, mut contradictions, mut differences, mut during_start, mut recovered) =
        (0, 0, 0usize, 0, 0u64);
    for round in 1..=args.rounds {
        // Some die while they start or come back, most while they serve.
        let lifetime = Duration::from_millis(u64::from(30 + draws.below(1_500)));
        let served = live_and_die(args, &data, lifetime, &told, &marker)
            .with_context(|| format!("round {round}; the data is in {}", base.display()))?;
        during_start += u32::from(!served);
        if !data.join("worlds/town/log").is_dir() {
            ensure!(
                told.acknowledged.lock().expect("no client panics").is_empty(),
                "there is no world, but acknowledged inputs"
            );
            continue;
        }
        let by_log = bring_back(args, &data, &base.join("by-log"), 1, false, &told);
        let by_log = by_log
            .with_context(|| format!("round {round}, from the log; the data is in {}", base.display()))?;
        let by_keyframe = bring_back(args, &data, &base.join("by-keyframe"), 4, true, &told);
        let by_keyframe = by_keyframe.with_context(|| {
            format!("round {round}, from the keyframe; the data is in {}", base.display())
        })?;
        if by_log.at != by_keyframe.at || by_log.after != by_keyframe.after {
            differences += 1;
            eprintln!("round {round}: by log {:?}, by keyframe {:?}", by_log.at, by_keyframe.at);
        }
        contradictions += by_log.contradictions;
        let acknowledged = told.acknowledged.lock().expect("no client panics");
        let missing: Vec<_> = acknowledged.difference(&by_log.markers).collect();
        if !missing.is_empty() {
            lost += missing.len();
            eprintln!("round {round}: lost {missing:?}");
        }
        recovered += u64::from(by_log.markers.len() as u32);
    }
    let acknowledged = told.acknowledged.lock().expect("no client panics").len();
    let shown = told.shown.lock().expect("no client panics").len();
    if lost + contradictions + differences == 0 && args.dir.is_none() {
        fs::remove_dir_all(&base)?;
    }
    let none = Bound::AtMost(0.0);
    let case = format!("{} kills, seed {}", args.rounds, args.seed);
    ensure!(recovered > 0 && shown > 0, "nothing was recovered or shown: the harness did not do its work");
    Ok(Report::new(
        "kill",
        vec![
            Row::bounded(&case, "before it served", f64::from(during_start), "kills", Bound::AtLeast(0.0)),
            Row::bounded(
                &case,
                "acknowledged",
                acknowledged as f64,
                "inputs",
                Bound::AtLeast(f64::from(args.rounds)),
            ),
            Row::plain(&case, "posted", f64::from(told.posted.load(Relaxed)), "inputs"),
            Row::plain(&case, "state hashes shown", shown as f64, "ticks"),
            Row::bounded(&case, "acknowledged and lost", lost as f64, "inputs", none),
            Row::bounded(&case, "shown and contradicted", contradictions as f64, "ticks", none),
            Row::bounded(&case, "log and keyframe differ", differences as f64, "rounds", none),
        ],
        None,
    ))
}

/// One life of the server. False when it died before it answered.
fn live_and_die(
    args: &KillArgs,
    data: &Path,
    lifetime: Duration,
    told: &Told,
    marker: &AtomicU32,
) -> anyhow::Result<bool> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("server")
        .args(["serve", "--data"])
        .arg(data)
        .args(["--set", "http.bind=127.0.0.1:0", "--set", "logging.format=json", "--set", "tick.rate_hz=100"])
        .args(["--set", "keyframe.period_secs=1", "--set", &format!("world.population={}", args.npcs)])
        .args(["--set", "log.segment_bytes=65536", "--set", "http.linger_millis=0"])
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
                        (0..CLIENTS)
                            .map(|i| scope.spawn(move || post(address, i, told, marker, over, served))),
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
        std::thread::sleep(lifetime);
        over.store(true, Relaxed);
        kill(&mut server)?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
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
    marker: &AtomicU32,
    over: &AtomicBool,
    served: &AtomicBool,
) -> anyhow::Result<()> {
    let Ok(mut client) = Client::connect(address) else { return Ok(()) };
    // Half of them ask for the durable, half for the applied acknowledgement.
    let ack = if number.is_multiple_of(2) { "durable" } else { "applied" };
    while !over.load(Relaxed) {
        let own = marker.fetch_add(1, Relaxed);
        let body = json!({"prototype": "townsman", "components": {"home": {"household": own}}}).to_string();
        told.posted.fetch_add(1, Relaxed);
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
        let store = copy.join("worlds/town/epoch-1.redb");
        if store.exists() {
            fs::remove_file(store)?;
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

/// The markers among the households.
fn markers(image: &Image) -> BTreeSet<u32> {
    let homes = image.tables.iter().filter_map(|table| table.column("home"));
    let chunks = homes.flat_map(|column| &column.chunks);
    let rows = chunks.flat_map(|chunk| match &**chunk {
        Chunk::Plain(bytes) => bytes.chunks_exact(12).collect::<Vec<_>>(),
        Chunk::Slow(_) => Vec::new(),
    });
    let household = |row: &[u8]| u32::from_le_bytes([row[8], row[9], row[10], row[11]]);
    rows.map(household).filter(|household| *household >= FIRST_MARKER).collect()
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
