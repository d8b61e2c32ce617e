//! `ack`: how long a durable acknowledgement over HTTP takes, beside a bare write + fdatasync on the same disk.

use crate::{
    Outcome, canary,
    persist::percentile,
    report::{Bound, Report, Row},
    serving::Server,
};
use anyhow::ensure;
use clap::Args;
use everworld::client::Client;
use std::{
    fs::File,
    net::SocketAddr,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

#[derive(Args)]
pub(crate) struct AckArgs {
    /// Inputs of the lone client, at each rate
    #[arg(long, default_value_t = 1_000)]
    inputs: usize,
    /// Ticks per second; 0 is as fast as possible
    #[arg(long, value_delimiter = ',', default_value = "1,20,0")]
    rates: Vec<f64>,
    /// Clients of the crowd
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Inputs per second of the crowd
    #[arg(long, default_value_t = 1_000.0)]
    per_sec: f64,
    /// Seconds that the crowd posts
    #[arg(long, default_value_t = 20)]
    secs: u64,
}

pub(crate) fn run(args: &AckArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let watch = canary::Watch::start();
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    for rate in &args.rates {
        let dir = tempfile::tempdir()?;
        let disk = Bare::start(dir.path())?;
        let mut server = Server::start(dir.path(), *rate, 5_000)?;
        server.ready()?;
        let mut client = Client::connect(server.address)?;
        let (mut acks, mut syncs) = (Vec::new(), Vec::new());
        // The first ones do not count: connections, pages, the first segment.
        for number in 0..args.inputs + 50 {
            let ack = post(&mut client)?;
            let sync = disk.sync(number)?;
            if number >= 50 {
                acks.push(ack);
                syncs.push(sync);
            }
        }
        let case = format!("one client, {rate} Hz");
        let (ack, sync) = (percentile(acks, 0.5), percentile(syncs, 0.5));
        rows.push(Row::ratio(&case, "p50 ack / write + fdatasync", ack, "ms", sync, Bound::AtMost(3.0)));
        if *rate == 20.0 {
            crowd(args, server.address, &disk, &mut rows)?;
        }
        server.kill()?;
    }
    let (row, slow) = watch.stop("canary");
    rows.push(row);
    Ok(Report::new("ack", rows, void.or(slow)))
}

/// Blocks of the crowd and of the bare disk, in turn.
const BLOCKS: u64 = 4;

/// Clients that post at fixed times, whatever the answers take, and the disk by itself, synced as often.
fn crowd(args: &AckArgs, address: SocketAddr, disk: &Bare, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let (mut latencies, mut syncs) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        latencies.extend(crowd_block(args, address)?);
        syncs.extend(disk_block(args, disk)?);
    }
    let case = format!("{} clients, {} inputs/s, 20 Hz", args.clients, args.per_sec);
    let (ack, sync) = (percentile(latencies.clone(), 0.99), percentile(syncs.clone(), 0.99));
    rows.push(Row::ratio(&case, "p99 ack / fdatasync p99", ack, "ms", sync, Bound::AtMost(3.0)));
    rows.push(Row::plain(&case, "acknowledged", latencies.len() as f64, "inputs"));
    rows.push(Row::plain(&case, "p50 ack", percentile(latencies, 0.5), "ms"));
    rows.push(Row::plain(&case, "p50 write + fdatasync", percentile(syncs, 0.5), "ms"));
    Ok(())
}

fn crowd_block(args: &AckArgs, address: SocketAddr) -> anyhow::Result<Vec<f64>> {
    let interval = Duration::from_secs_f64(args.clients as f64 / args.per_sec);
    let posts = (args.secs as f64 / BLOCKS as f64 / interval.as_secs_f64()) as u32;
    let begun = Instant::now() + Duration::from_millis(100);
    thread::scope(|scope| -> anyhow::Result<Vec<f64>> {
        let client = |number: usize| {
            move || -> anyhow::Result<Vec<f64>> {
                sleep_exactly()?;
                let mut client = Client::connect(address)?;
                // Spread over the interval.
                let begun = begun + interval.mul_f64(number as f64 / args.clients as f64);
                let mut latencies = Vec::new();
                for post_number in 0..posts {
                    let due = begun + interval * post_number;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    post(&mut client)?;
                    // From when it was due: who waits for a slow answer is late for the next one.
                    latencies.push(due.elapsed().as_secs_f64() * 1e3);
                }
                Ok(latencies)
            }
        };
        let clients: Vec<_> = (0..args.clients).map(|number| scope.spawn(client(number))).collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

/// Syncs at the crowd's rate, on a thread like its own.
fn disk_block(args: &AckArgs, disk: &Bare) -> anyhow::Result<Vec<f64>> {
    let interval = Duration::from_secs_f64(1.0 / args.per_sec);
    let syncs = (args.secs as f64 / BLOCKS as f64 * args.per_sec) as u32;
    let block = || -> anyhow::Result<Vec<f64>> {
        sleep_exactly()?;
        let begun = Instant::now();
        let sync = |number: u32| {
            thread::sleep((begun + interval * number).saturating_duration_since(Instant::now()));
            disk.sync(number as usize)
        };
        (0..syncs).map(sync).collect()
    };
    thread::scope(|scope| scope.spawn(block).join())
        .map_err(|_| anyhow::anyhow!("the thread of bare syncs panicked"))?
}

/// The system may wake a sleeping thread 50 us late, which no server could help.
fn sleep_exactly() -> anyhow::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?)
}

/// Posts an entity; milliseconds until it is acknowledged.
fn post(client: &mut Client) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let (status, answer) =
        client.request("POST", "/v1/worlds/town/entities?ack=durable", r#"{"prototype":"townsman"}"#)?;
    ensure!(status == 202, "unexpected answer {status}: {answer}");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// The disk by itself: a file that is there in full, written and synced in small pieces.
pub(crate) struct Bare(File);

const BARE_BYTES: usize = 4 << 20;

impl Bare {
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        let file = File::create(dir.join("bare"))?;
        file.write_all_at(&vec![1; BARE_BYTES], 0)?;
        file.sync_all()?;
        Ok(Self(file))
    }

    /// Milliseconds of a write of some hundred bytes and its fdatasync.
    pub(crate) fn sync(&self, number: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.0.write_all_at(&[2; 256], (number * 256 % BARE_BYTES) as u64)?;
        self.0.sync_data()?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }
}
