//! The parts of `http` that write and that attack: durable inputs over a kill -9, slow clients, readers that read nothing,
//! ten times more inputs than the world takes.

use crate::{
    ack::Bare,
    http::{HttpArgs, Sides},
    persist::percentile,
    report::{Bound, Row, Told},
    serving::Server,
};
use anyhow::{Context as _, ensure};
use everworld::client::Client;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

const INPUT: &str = r#"{"kind":"spawn_entities","payload":{"entities":[{"prototype":"townsman"}]}}"#;
const INPUTS: &str = "/v1/worlds/town/inputs";

/// What came of a client's posts.
#[derive(Default)]
struct Posted {
    latencies: Vec<f64>,
    /// The numbers of the inputs that were acknowledged.
    seqs: Vec<u64>,
    by_status: BTreeMap<u16, u64>,
    /// Refusals that did not say when to try again, and answers that there must not be.
    wrong: u64,
}

/// Posts at fixed times until told to stop, or the server is gone.
fn post_until(
    address: SocketAddr,
    inputs_of_each: usize,
    interval: Duration,
    begin: Instant,
    stop: &AtomicBool,
) -> anyhow::Result<Posted> {
    let mut client = Client::connect(address)?;
    let batch = format!("{INPUT}\n").repeat(inputs_of_each);
    let mut posted = Posted::default();
    let mut due = begin;
    while !stop.load(Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = if inputs_of_each == 1 {
            client.request("POST", INPUTS, INPUT)
        } else {
            client.request_with("POST", INPUTS, "content-type: application/x-ndjson\r\n", &batch)
        };
        // The server was killed: what was on its way is nobody's.
        let Ok((status, answer)) = answer else { break };
        *posted.by_status.entry(status).or_default() += 1;
        match status {
            202 => {
                posted.latencies.push(due.elapsed().as_secs_f64() * 1e3);
                match answer["seqs"].as_array() {
                    Some(seqs) => posted.seqs.extend(seqs.iter().filter_map(Value::as_u64)),
                    None => posted.seqs.extend(answer["seq"].as_u64()),
                }
            }
            429 | 503 => {}
            _ => posted.wrong += 1,
        }
        due = if interval < Duration::from_millis(1) { Instant::now() } else { due + interval };
    }
    Ok(posted)
}

/// Clients that post until the server is killed; what they were told, all together.
fn post_and_kill(
    server: &mut Server,
    clients: usize,
    inputs_of_each: usize,
    per_sec: f64,
    secs: u64,
) -> anyhow::Result<Posted> {
    let (address, stop) = (server.address, AtomicBool::new(false));
    let interval = Duration::from_secs_f64((clients * inputs_of_each) as f64 / per_sec);
    let begin = Instant::now() + Duration::from_millis(100);
    thread::scope(|scope| {
        let client = |number: usize| {
            let (begin, stop) = (begin + interval.mul_f64(number as f64 / clients as f64), &stop);
            scope.spawn(move || post_until(address, inputs_of_each, interval, begin, stop))
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        thread::sleep(Duration::from_secs(secs));
        let killed = server.kill();
        stop.store(true, Relaxed);
        let mut all = Posted::default();
        for client in clients {
            let posted = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            all.latencies.extend(posted.latencies);
            all.seqs.extend(posted.seqs);
            all.wrong += posted.wrong;
            for (status, count) in posted.by_status {
                *all.by_status.entry(status).or_default() += count;
            }
        }
        killed.map(|()| all)
    })
}

/// How many of these inputs a server that comes back does not have, and the bytes of memory that it needs once it has been
/// asked for all of them.
fn lost(data: &Path, seqs: &[u64]) -> anyhow::Result<(u64, f64)> {
    let mut server = Server::start(data, 20.0, 5_000)?;
    server.ready()?;
    let mut client = Client::connect(server.address)?;
    let mut lost = 0;
    for seq in seqs {
        let (status, answer) = client.request("GET", &format!("{INPUTS}/{seq}"), "")?;
        let is_there =
            status == 200 && ["waiting", "taken"].contains(&answer["state"].as_str().unwrap_or_default());
        lost += u64::from(!is_there);
    }
    let memory = server.memory("VmRSS")?;
    server.kill()?;
    Ok((lost, memory))
}

/// 1,000 durable inputs a second, one by one and in batches, and a kill -9 among them.
pub(crate) fn inputs(args: &HttpArgs, rows: &mut Told) -> anyhow::Result<()> {
    for (how, clients, inputs_of_each, per_sec) in [
        ("single, 64 clients", 64, 1, 1_000.0),
        ("batches of 1,000, one client", 1, 1_000, 1_000.0),
        ("batches of 1,000, one client, as fast as it is answered", 1, 1_000, 1e9),
    ] {
        let dir = tempfile::tempdir()?;
        let disk = Bare::start(dir.path())?;
        let mut server = Server::start(dir.path(), 20.0, 5_000)?;
        server.ready()?;
        let syncs: Vec<f64> = (0..500).map(|number| disk.sync(number)).collect::<anyhow::Result<_>>()?;
        let posted = post_and_kill(&mut server, clients, inputs_of_each, per_sec, args.secs)?;
        let case = format!("durable inputs, {how}");
        ensure!(!posted.seqs.is_empty(), "{case}: nothing was acknowledged: {:?}", posted.by_status);
        rows.push(Row::plain(&case, "acknowledged", posted.seqs.len() as f64 / args.secs as f64, "inputs/s"));
        for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
            let ack = percentile(posted.latencies.clone(), share);
            rows.push(Row::plain(&case, &format!("{what} ack"), ack, "ms"));
            rows.push(Row::plain(
                &case,
                &format!("{what} write + fdatasync"),
                percentile(syncs.clone(), share),
                "ms",
            ));
        }
        rows.push(Row::bounded(
            &case,
            "answers but 202, 429, 503",
            posted.wrong as f64,
            "answers",
            Bound::AtMost(0.0),
        ));
        let (lost, _) = lost(dir.path(), &posted.seqs)?;
        rows.push(Row::bounded(&case, "lost over a kill -9", lost as f64, "inputs", Bound::AtMost(0.0)));
    }
    Ok(())
}

/// Ten times more inputs than the world takes.
pub(crate) fn overload(args: &HttpArgs, rows: &mut Told) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // 20 Hz: 1,000 inputs/s.
    let sets = ["tick.inputs_max=50", "tick.pending_inputs_max=2000"];
    let mut server = Server::start_with(dir.path(), 20.0, 5_000, &sets)?;
    server.ready()?;
    let before = server.memory("VmRSS")?;
    let peak = Arc::new(AtomicU64::new(0));
    let watching = server.watch_memory(peak.clone());
    let posted = post_and_kill(&mut server, 100, 10, 10_000.0, args.overload_secs)?;
    watching.join().map_err(|_| anyhow::anyhow!("the watch of the memory panicked"))?;
    let case = format!("10,000 inputs/s to a world that takes 1,000, {} s", args.overload_secs);
    for (status, count) in &posted.by_status {
        rows.push(Row::plain(&case, &format!("answers {status}"), *count as f64, "answers"));
    }
    rows.push(Row::bounded(&case, "other answers", posted.wrong as f64, "answers", Bound::AtMost(0.0)));
    rows.push(Row::plain(&case, "acknowledged", posted.seqs.len() as f64, "inputs"));
    let (lost, with_the_same_world) = lost(dir.path(), &posted.seqs)?;
    // The world grows by 1,000 NPCs a second, as it is told to. How much of it that is, a server tells that comes back with
    // the same world; the bound is on all of it.
    let grown = peak.load(Relaxed) as f64 - before;
    let by_world = (with_the_same_world - before).max(0.0);
    rows.push(Row::bounded(&case, "memory grown", grown / 1e6, "MB", Bound::AtMost(256.0)));
    rows.push(Row::plain(&case, "by the world, as after a restart", by_world / 1e6, "MB"));
    rows.push(Row::bounded(&case, "lost over a kill -9", lost as f64, "inputs", Bound::AtMost(0.0)));
    Ok(())
}

/// How a slow client is slow.
#[derive(Clone, Copy)]
enum Slow {
    Headers,
    Body,
    Read,
}

/// One that sends or reads a little each second, and comes back when it is thrown out.
async fn slow_client(address: SocketAddr, slow: Slow, stop: Arc<AtomicBool>, thrown_out: Arc<AtomicU64>) {
    let begin: &[u8] = match slow {
        Slow::Headers => b"GET /livez HTTP/1.1\r\nhost: localhost\r\n",
        Slow::Body => b"POST /v1/worlds/town/inputs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000\r\n\r\n",
        Slow::Read => {
            b"GET /v1/worlds/town/entities HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n"
        }
    };
    while !stop.load(Relaxed) {
        let connected = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(4_096)?;
            let mut stream = socket.connect(address).await?;
            stream.write_all(begin).await?;
            let mut byte = [0; 16];
            while !stop.load(Relaxed) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match slow {
                    Slow::Headers => stream.write_all(b"x-a: b\r\n").await?,
                    Slow::Body => stream.write_all(b" ").await?,
                    Slow::Read => {
                        if stream.read(&mut byte).await? == 0 {
                            break;
                        }
                    }
                }
            }
            anyhow::Ok(())
        };
        if connected.await.is_err() {
            thrown_out.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// 1,000 slow sockets of each kind, and probes between them.
pub(crate) fn slow(args: &HttpArgs, rows: &mut Told) -> anyhow::Result<()> {
    for (how, kind) in [("headers", Slow::Headers), ("bodies", Slow::Body), ("reading", Slow::Read)] {
        let dir = tempfile::tempdir()?;
        // Room for the probes beside them.
        let mut server = Server::start_with(dir.path(), 20.0, 20_000, &["http.connections_max=1100"])?;
        server.ready()?;
        let before = server.memory("VmRSS")?;
        let (stop, thrown_out) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (address, stopping, counted) = (server.address, stop.clone(), thrown_out.clone());
        let clients = thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = |_| tokio::spawn(slow_client(address, kind, stopping.clone(), counted.clone()));
                let clients: Vec<_> = (0..1_000).map(client).collect();
                for client in clients {
                    client.await?;
                }
                Ok(())
            })
        });
        thread::sleep(Duration::from_secs(1));
        let (mut latencies, mut failed) = (Vec::new(), 0_u32);
        let begin = Instant::now();
        let mut client = Client::connect(address)?;
        for number in 0..args.secs * 50 {
            let due = begin + Duration::from_millis(20) * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let answer = client.request("GET", "/livez", "");
            if let Ok((200, _)) = answer {
                latencies.push(due.elapsed().as_secs_f64() * 1e3);
            } else {
                if failed == 0 {
                    eprintln!("http: a probe, {how}: {answer:?}");
                }
                failed += 1;
                client = Client::connect(address)?;
            }
        }
        let grown = server.memory("VmRSS")? - before;
        stop.store(true, Relaxed);
        clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        let case = format!("1,000 sockets slow in {how}, {} s", args.secs);
        rows.push(Row::bounded(&case, "probes unanswered", f64::from(failed), "probes", Bound::AtMost(0.0)));
        rows.push(Row::plain(
            &case,
            "p99 of probes from when due",
            if latencies.is_empty() { f64::NAN } else { percentile(latencies, 0.99) },
            "ms",
        ));
        rows.push(Row::plain(&case, "thrown out", thrown_out.load(Relaxed) as f64, "connections"));
        rows.push(Row::bounded(&case, "memory grown", grown / 1e6, "MB", Bound::AtMost(256.0)));
        server.kill()?;
    }
    Ok(())
}

/// 100 followers that read nothing.
pub(crate) fn stuck(args: &HttpArgs, rows: &mut Told) -> anyhow::Result<()> {
    let mut sides = Sides::start(20.0, args.busy_npcs, &[])?;
    // What a world takes once it ticks is its own.
    for server in [&sides.without, &sides.with] {
        Sides::block(server, sides.align()?, args.block)?;
    }
    let before = sides.with.memory("VmRSS")?;
    let (mut without, mut opening, mut with) = (Vec::new(), Vec::new(), Vec::new());
    let (mut peak, mut alone) = (0.0_f64, 0.0_f64);
    while without.len() < args.ticks / 2 {
        let mut readers = Vec::new();
        for _ in 0..100 {
            let mut stream = std::net::TcpStream::connect(sides.with.address)?;
            std::io::Write::write_all(
                &mut stream,
                b"GET /v1/worlds/town/changes HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n",
            )?;
            readers.push(stream);
        }
        // They are not stuck before they have been sent what the system holds for them.
        opening.extend(Sides::block(&sides.with, sides.align()?, args.block / 2)?);
        let begin = sides.align()?;
        without.extend(Sides::block(&sides.without, begin, args.block)?);
        with.extend(Sides::block(&sides.with, begin, args.block)?);
        peak = peak.max(sides.with.memory("VmRSS")?);
        alone = alone.max(sides.without.memory("VmRSS")?);
        drop(readers);
    }
    let case = format!("100 stuck followers, {} NPCs, 20 Hz", args.busy_npcs);
    let p99 = |times: &Vec<f64>| percentile(times.clone(), 0.99);
    rows.push(Row::ratio(
        &case,
        "p99 tick with / without",
        p99(&with),
        "ms",
        p99(&without),
        Bound::AtMost(1.1),
    ));
    rows.push(Row::plain(&case, "p99 tick while they begin", p99(&opening), "ms"));
    rows.push(Row::bounded(&case, "memory grown", (peak - before) / 1e6, "MB", Bound::AtMost(256.0)));
    rows.push(Row::plain(&case, "memory grown without", (alone - before) / 1e6, "MB"));
    sides.kill().context("the servers of the stuck followers")
}
