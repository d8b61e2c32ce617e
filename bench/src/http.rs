//! `http`: what the tick feels of readers, and what readers get of a world that keeps both cores busy.
//!
//! `--parts` names what is measured: pull, reads and inputs here, the clients that mean no good (slow, stuck, overload) in
//! [`hostile`]. A real server; the clients are on the same machine, at nice +19 where they pull rows. Latencies of the open loop
//! count from when a request was due.
//!
//! What a tick feels is measured on two servers of the same world, one of which has readers: they tick in turn, in blocks, and
//! the ticks of a side are pooled. As the worlds are equal, both sides compute the same ticks. (One world with and without readers
//! in turn compares parts of the day: an evening's tick takes five times as long as a morning's.)

use crate::{
    Outcome, canary, hostile,
    persist::percentile,
    report::{Bound, Report, Row, Told},
    serving::Server,
};
use anyhow::{Context as _, ensure};
use clap::Args;
use everworld::client::Client;
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Args)]
pub(crate) struct HttpArgs {
    /// Numbers of NPCs of the worlds whose rows are pulled
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    npcs: Vec<u64>,
    /// Ticks of a side
    #[arg(long, default_value_t = 2_000)]
    pub(crate) ticks: usize,
    /// Ticks of a block
    #[arg(long, default_value_t = 250)]
    pub(crate) block: usize,
    /// Clients of the open loop
    #[arg(long, default_value_t = 2_000)]
    clients: usize,
    /// Its requests per second
    #[arg(long, default_value_t = 5_000.0)]
    per_sec: f64,
    /// Its seconds
    #[arg(long, default_value_t = 20)]
    pub(crate) secs: u64,
    /// NPCs of the world that it asks
    #[arg(long, default_value_t = 100_000)]
    pub(crate) busy_npcs: u64,
    /// Seconds of ten times more inputs than the world takes
    #[arg(long, default_value_t = 60)]
    pub(crate) overload_secs: u64,
    /// Which parts
    #[arg(long, value_enum, value_delimiter = ',', default_value = "pull,reads,inputs,slow,stuck,overload")]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A client that pulls rows, again and again
    Pull,
    /// Many small reads of a world that keeps both cores busy
    Reads,
    /// Durable inputs, one by one and in batches, and a kill -9
    Inputs,
    /// 1,000 sockets that are slow in their headers, bodies, or reading
    Slow,
    /// 100 followers that read nothing
    Stuck,
    /// Ten times more inputs than the world takes
    Overload,
}

pub(crate) fn run(args: &HttpArgs) -> Outcome {
    let (gain, mut void) = canary::sing();
    let mut rows = Told::default();
    rows.push(Row::plain("canary", "random gather", gain, "gain"));
    for part in &args.parts {
        let watch = canary::Watch::start();
        match part {
            Part::Pull => {
                for npcs in &args.npcs {
                    pull(args, *npcs, &mut rows)?;
                }
            }
            Part::Reads => open_loop(args, &mut rows)?,
            Part::Inputs => hostile::inputs(args, &mut rows)?,
            Part::Slow => hostile::slow(args, &mut rows)?,
            Part::Stuck => hostile::stuck(args, &mut rows)?,
            Part::Overload => hostile::overload(args, &mut rows)?,
        }
        let (row, slow) = watch.stop(&format!("{part:?}").to_lowercase());
        rows.push(row);
        void = void.or(slow);
    }
    Ok(Report::new("http", rows.into_rows(), void))
}

fn town(server: &Server, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
    let mut client = Client::connect(server.address)?;
    let (status, answer) = client.request(method, &format!("/v1/worlds/town{path}"), body)?;
    ensure!(status < 300, "{method} {path}: {status}: {answer}");
    Ok(answer)
}

/// Milliseconds of the ticks after that one, oldest first.
fn ticks_after(server: &Server, after: u64) -> anyhow::Result<Vec<f64>> {
    let answer = town(server, "GET", "/ticks?last=4096", "")?;
    let items = answer["items"].as_array().context("a list")?;
    let items = items.iter().filter(|item| item["tick"].as_u64() > Some(after));
    Ok(items.filter_map(|item| Some(item["total_us"].as_f64()? / 1e3)).collect())
}

/// Waits for that many ticks after `begin`; their milliseconds.
fn ticks_from(server: &Server, begin: u64, count: usize) -> anyhow::Result<Vec<f64>> {
    loop {
        thread::sleep(Duration::from_millis(100));
        let times = ticks_after(server, begin)?;
        if times.len() >= count {
            return Ok(times[..count].to_vec());
        }
    }
}

fn now(server: &Server) -> anyhow::Result<u64> {
    town(server, "GET", "", "")?["tick"].as_u64().context("a tick")
}

/// Two servers of the same world. One ticks at a time.
pub(crate) struct Sides {
    pub(crate) without: Server,
    /// What is measured happens to this one.
    pub(crate) with: Server,
    _dirs: [tempfile::TempDir; 2],
}

impl Sides {
    /// Paused when this returns.
    pub(crate) fn start(rate: f64, npcs: u64, sets: &[&str]) -> anyhow::Result<Self> {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        let start = |dir: &tempfile::TempDir| -> anyhow::Result<Server> {
            let mut server = Server::start_with(dir.path(), rate, npcs, sets)?;
            server.ready()?;
            pause(&server)?;
            Ok(server)
        };
        let (without, with) = (start(&dirs[0])?, start(&dirs[1])?);
        Ok(Self { without, with, _dirs: dirs })
    }

    /// Lets the one that is behind step to the tick of the other, and says which that is.
    pub(crate) fn align(&self) -> anyhow::Result<u64> {
        let (one, other) = (now(&self.without)?, now(&self.with)?);
        let (behind, until) = if one < other { (&self.without, other) } else { (&self.with, one) };
        if one != other {
            town(behind, "POST", "/step", &serde_json::json!({ "until": until }).to_string())?;
            while now(behind)? < until {
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(until)
    }

    /// Lets one tick from where both are; the milliseconds of those ticks.
    pub(crate) fn block(server: &Server, begin: u64, count: usize) -> anyhow::Result<Vec<f64>> {
        town(server, "POST", "/resume", "")?;
        let times = ticks_from(server, begin, count)?;
        pause(server)?;
        Ok(times)
    }

    fn rate(&self, rate: f64) -> anyhow::Result<()> {
        for server in [&self.without, &self.with] {
            town(server, "PUT", "/rate", &serde_json::json!({"rate_hz": rate}).to_string())?;
        }
        Ok(())
    }

    /// A rate at which the ticks take 60 % of their period at the most.
    fn pace(&self) -> anyhow::Result<f64> {
        let times = Self::block(&self.without, self.align()?, 60)?;
        let rate = (0.6e3 / percentile(times, 0.5)).min(1_000.0);
        self.rate(rate)?;
        Ok(rate)
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.without.kill()?;
        self.with.kill()
    }
}

fn pause(server: &Server) -> anyhow::Result<()> {
    town(server, "POST", "/pause", "")?;
    while town(server, "GET", "", "")?["state"] != "paused" {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn pull(args: &HttpArgs, npcs: u64, rows: &mut Told) -> anyhow::Result<()> {
    let mut sides = Sides::start(20.0, npcs, &[])?;
    let rate = sides.pace()?;
    Sides::block(&sides.without, sides.align()?, args.block)?;
    let most = if npcs >= 500_000 { 1.4 } else { 1.2 };
    for (what, rows_max) in [("100,000 rows", 100_000), ("all rows", u64::MAX)] {
        let case = format!("town, {npcs} NPCs, {rate:.0} Hz, {what} again and again");
        let (mut without, mut with, mut pulled) = (Vec::new(), Vec::new(), 0);
        let mut secs = 0.0;
        while without.len() < args.ticks {
            let begin = sides.align()?;
            without.extend(Sides::block(&sides.without, begin, args.block)?);
            let puller = Puller::start(sides.with.address, rows_max);
            let begun = Instant::now();
            with.extend(Sides::block(&sides.with, begin, args.block)?);
            secs += begun.elapsed().as_secs_f64();
            pulled += puller.stop()?;
        }
        let p99 = |times: &Vec<f64>| percentile(times.clone(), 0.99);
        let (alone, read) = (p99(&without), p99(&with));
        rows.push(Row::ratio(&case, "p99 tick with / without", read, "ms", alone, Bound::AtMost(most)));
        let longest = percentile(with.clone(), 1.0);
        rows.push(Row::ratio(&case, "longest / p99", longest, "ms", read, Bound::AtMost(2.0)));
        let longest = percentile(without.clone(), 1.0);
        rows.push(Row::beside(&case, "longest / p99 without", longest, "ms", alone));
        rows.push(Row::plain(&case, "rows pulled", pulled as f64 / secs, "rows/s"));
        // Of a world with no more these are all.
        if npcs <= rows_max {
            break;
        }
    }
    sides.kill()
}

/// A client at nice +19 that reads rows as fast as they come.
struct Puller {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Puller {
    fn start(address: SocketAddr, rows_max: u64) -> Self {
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counted) = (stop.clone(), rows.clone());
        let body = move || -> anyhow::Result<()> {
            let own = rustix::thread::gettid();
            rustix::process::setpriority_process(Some(own), 19)?;
            let mut bytes = vec![0; 1 << 16];
            while !stopping.load(Relaxed) {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                stream.write_all(
                    b"GET /v1/worlds/town/entities HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\nconnection: close\r\n\r\n",
                )?;
                let mut of_this = 0;
                loop {
                    let count = stream.read(&mut bytes)?;
                    if count == 0 || stopping.load(Relaxed) {
                        break;
                    }
                    let lines = bytes[..count].split(|byte| *byte == b'\n').count() as u64 - 1;
                    counted.fetch_add(lines, Relaxed);
                    of_this += lines;
                    if of_this >= rows_max {
                        break;
                    }
                }
            }
            Ok(())
        };
        Self { stop, rows, thread: thread::spawn(body) }
    }

    /// How many rows came.
    fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the puller panicked"))??;
        let rows = self.rows.load(Relaxed);
        ensure!(rows > 0, "no rows came");
        Ok(rows)
    }
}

/// What the clients of the open loop ask, in turn.
const READS: [&str; 5] = [
    "/v1/worlds/town",
    "/v1/worlds/town/entities/{uid}",
    "/v1/status",
    "/v1/worlds/town/entities/{uid}",
    "/v1/worlds/town/systems",
];

fn open_loop(args: &HttpArgs, rows: &mut Told) -> anyhow::Result<()> {
    let mut sides =
        Sides::start(0.0, args.busy_npcs, &["http.connections_max=8192", "http.in_flight_max=4096"])?;
    town(&sides.with, "POST", "/resume", "")?;
    ticks_from(&sides.with, 0, 1_000)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let case = format!("{} clients, {} reads/s, {} NPCs, 0 Hz", args.clients, args.per_sec, args.busy_npcs);
    let address = sides.with.address;
    let never = Arc::new(AtomicBool::new(false));
    let done =
        runtime.block_on(reads(args.clients, args.per_sec, args.secs, address, args.busy_npcs, never))?;
    pause(&sides.with)?;
    let success = done.latencies.len() as f64 / (done.latencies.len() as f64 + done.failed as f64);
    rows.push(Row::bounded(&case, "success", success * 100.0, "%", Bound::AtLeast(99.9)));
    rows.push(Row::bounded(
        &case,
        "p99 from when it was due",
        percentile(done.latencies.clone(), 0.99),
        "ms",
        Bound::AtMost(25.0),
    ));
    rows.push(Row::plain(&case, "p50 from when it was due", percentile(done.latencies, 0.5), "ms"));
    rows.push(Row::plain(&case, "connects, all together", done.connected_secs, "s"));
    let case = format!("2000 small reads/s, {} NPCs, 0 Hz", args.busy_npcs);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    while without.len() < args.ticks {
        let begin = sides.align()?;
        without.extend(Sides::block(&sides.without, begin, args.block * 2)?);
        let npcs = args.busy_npcs;
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let readers = thread::spawn(move || -> anyhow::Result<Done> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(reads(100, 2_000.0, READ_SECS_MAX, address, npcs, ended))
        });
        thread::sleep(Duration::from_millis(300));
        let times = Sides::block(&sides.with, begin, args.block * 2);
        // They read for as long as the block takes.
        ensure!(!readers.is_finished(), "the readers ended before the block did");
        end.store(true, Relaxed);
        let done = readers.join().map_err(|_| anyhow::anyhow!("the readers panicked"))??;
        ensure!(done.failed == 0, "{} reads failed", done.failed);
        with.extend(times?);
    }
    let (alone, read) = (percentile(without, 0.99), percentile(with, 0.99));
    rows.push(Row::ratio(&case, "p99 tick with / without", read, "ms", alone, Bound::AtMost(1.25)));
    sides.kill()
}

/// Whoever reads beside a block stops by himself, however long that takes.
const READ_SECS_MAX: u64 = 120;

struct Done {
    latencies: Vec<f64>,
    failed: u64,
    connected_secs: f64,
}

/// Requests at fixed times until the end, each client its own connection.
async fn reads(
    clients: usize,
    per_sec: f64,
    secs: u64,
    address: SocketAddr,
    npcs: u64,
    end: Arc<AtomicBool>,
) -> anyhow::Result<Done> {
    let begun = Instant::now();
    let connecting: Vec<_> =
        (0..clients).map(|_| tokio::spawn(tokio::net::TcpStream::connect(address))).collect();
    let mut streams = Vec::new();
    for stream in connecting {
        let stream = stream.await??;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let connected_secs = begun.elapsed().as_secs_f64();
    let interval = Duration::from_secs_f64(clients as f64 / per_sec);
    let count = (secs as f64 / interval.as_secs_f64()) as u32;
    let begin = tokio::time::Instant::now() + Duration::from_millis(200);
    let client = |(number, mut stream): (usize, tokio::net::TcpStream)| {
        let end = end.clone();
        tokio::spawn(async move {
            let begin = begin + interval.mul_f64(number as f64 / clients as f64);
            let (mut latencies, mut failed) = (Vec::new(), 0);
            for i in 0..count {
                let due = begin + interval * i;
                tokio::time::sleep_until(due).await;
                if end.load(Relaxed) {
                    break;
                }
                let uid = 1 + (number as u64 * 7_919 + u64::from(i) * 104_729) % npcs;
                let path = READS[(number + i as usize) % READS.len()].replace("{uid}", &uid.to_string());
                match one(&mut stream, &path).await {
                    Ok(200) => latencies.push(due.elapsed().as_secs_f64() * 1e3),
                    Ok(_) => failed += 1,
                    Err(_) => {
                        failed += 1;
                        match tokio::net::TcpStream::connect(address).await {
                            Ok(again) => stream = again,
                            Err(_) => return (latencies, failed + u64::from(count - i - 1)),
                        }
                    }
                }
            }
            (latencies, failed)
        })
    };
    let tasks: Vec<_> = streams.into_iter().enumerate().map(client).collect();
    let mut done = Done { latencies: Vec::new(), failed: 0, connected_secs };
    for task in tasks {
        let (latencies, failed) = task.await?;
        done.latencies.extend(latencies);
        done.failed += failed;
    }
    Ok(done)
}

/// Asks once; the status.
async fn one(stream: &mut tokio::net::TcpStream, path: &str) -> anyhow::Result<u16> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::with_capacity(4_096);
    loop {
        let count = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut bytes)).await??;
        ensure!(count > 0, "the connection ended");
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("a length")?
            .trim()
            .parse()?;
        if bytes.len() >= end + 4 + length {
            return Ok(head.split_whitespace().nth(1).context("a status")?.parse()?);
        }
    }
}
