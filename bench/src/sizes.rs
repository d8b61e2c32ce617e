//! `sizes`: what the town costs on disk: bytes of a snapshot per person, files over live records, growth of the log of
//! a world that nobody asks for anything. Ratios over entropy and whole blocks are in persistence/tests/it/sizes.rs.

use crate::{
    Outcome,
    report::{Bound, Report, Row},
    serving::Server,
};
use anyhow::Context as _;
use clap::Args;
use everworld::{PLUGINS, clock, spine, worlds};
use everworld_engine::{Mirror, MirrorHooks, Options, Parallel, Pool, Tick};
use everworld_persistence::{RealDisk, Snapshot, SnapshotMeta, Store, StoreOptions};
use std::{sync::Arc, thread, time::Duration};

#[derive(Args)]
pub(crate) struct SizesArgs {
    /// NPCs whose snapshots are measured
    #[arg(long, default_value_t = 200_000)]
    npcs: u64,
    /// Snapshots
    #[arg(long, default_value_t = 40)]
    snapshots: u64,
    /// Ticks between two of them
    #[arg(long, value_delimiter = ',', default_value = "1,20")]
    ticks: Vec<u64>,
    /// NPCs of the worlds whose log is measured
    #[arg(long, value_delimiter = ',', default_value = "1000,1000000")]
    idle: Vec<u64>,
    /// Seconds that the log is watched
    #[arg(long, default_value_t = 20)]
    secs: u64,
}

pub(crate) fn run(args: &SizesArgs) -> Outcome {
    let mut rows = Vec::new();
    for ticks in &args.ticks {
        snapshots(args, *ticks, &mut rows)?;
    }
    for npcs in &args.idle {
        idle_log(args, *npcs, &mut rows)?;
    }
    Ok(Report::new("sizes", rows, None))
}

fn snapshots(args: &SizesArgs, ticks: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let scenario = worlds::load_scenario("town", PLUGINS, &[format!("population={}", args.npcs)])?;
    let pool = Arc::new(Pool::start(2, "tick", |_| {})?);
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let mut live = worlds::build(&scenario, PLUGINS, options)?;
    live.create()?;
    let mirror = Mirror::start("bench", live.buffers().clone(), MirrorHooks::default())?;
    mirror.allow(Tick(u64::MAX));
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(Arc::new(RealDisk), dir.path(), StoreOptions::default())?;
    let mut deltas = Vec::new();
    for number in 0..=args.snapshots {
        mirror.offer(live.capture());
        let image = mirror.handle().settled().context("the mirror has died")?;
        let meta = SnapshotMeta {
            branch: 0,
            tick: image.tick,
            hash: image.hash,
            applied_seq: image.taken_seq(),
            lsn: number + 1,
            chain: 0,
            build_id: spine::build_id(),
            entities: image.entities() as u64,
            unix_millis: number * 1_000,
        };
        let entities = image.entities() as f64;
        let stats = store.write(&Snapshot { meta, image, host: &[], ledger: &[] })?;
        // The first one is whole, and so are those that an epoch begins with.
        if number > 0 {
            deltas.push(stats.written_bytes as f64 / entities);
        }
        for _ in 0..ticks {
            live.tick(&[])?;
        }
    }
    let mean = deltas.iter().sum::<f64>() / deltas.len() as f64;
    let case = format!("town, {} NPCs, every {ticks} ticks", args.npcs);
    rows.push(Row::bounded(&case, "a snapshot, mean", mean, "B/NPC", Bound::AtMost(30.0)));
    let worst = deltas.iter().copied().fold(0.0, f64::max);
    rows.push(Row::plain(&case, "the largest", worst, "B/NPC"));
    let (file, stored) = (store.file_bytes()? as f64, store.live_bytes()? as f64);
    rows.push(Row::ratio(&case, "files / records", file / 1e6, "MB", stored / 1e6, Bound::AtMost(2.0)));
    Ok(())
}

fn idle_log(args: &SizesArgs, npcs: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start(dir.path(), 20.0, npcs)?;
    server.ready()?;
    let written = || server.metric("everworld_log_written_bytes_total{");
    thread::sleep(Duration::from_secs(2));
    let before = written()?;
    thread::sleep(Duration::from_secs(args.secs));
    let per_sec = (written()? - before) / args.secs as f64;
    let case = format!("idle log, {npcs} NPCs, 20 Hz");
    rows.push(Row::bounded(&case, "growth", per_sec, "B/s", Bound::AtMost(1_000.0)));
    server.kill()
}
