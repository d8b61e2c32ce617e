//! `events`: what systems emit, in the tick and to a subscriber over HTTP, counted and in order.

use crate::{
    Outcome, canary, harness,
    measure::median,
    report::{Bound, Report, Row},
    scenarios::chatter::{Heard, PLUGIN},
    serving::Server,
};
use anyhow::{Context as _, ensure};
use clap::Args;
use everworld::{Scenario, clock};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

#[derive(Args)]
pub(crate) struct EventsArgs {
    /// Events of a tick in the world
    #[arg(long, default_value_t = 500_000)]
    events: u64,
    /// Ticks of a run
    #[arg(long, default_value_t = 100)]
    ticks: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Runs; medians count
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Events of a tick that one subscriber gets, at 20 ticks a second
    #[arg(long, default_value_t = 5_500)]
    told: u64,
    /// Seconds that the subscriber reads
    #[arg(long, default_value_t = 20)]
    secs: u64,
}

const RATE: f64 = 20.0;

pub(crate) fn run(args: &EventsArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    for (mode, listeners, told) in
        [("nobody listens", 0, 0), ("a system listens", 1, 0), ("a system listens, 10,000 told", 1, 10_000)]
    {
        inside(args, mode, listeners, told, &mut rows)?;
    }
    subscribed(args, args.told, "all are told", &mut rows)?;
    subscribed(args, args.events, "more than are told", &mut rows)?;
    Ok(Report::new("events", rows, void))
}

/// In the tick, as fast as it goes.
fn inside(
    args: &EventsArgs,
    mode: &str,
    listeners: u32,
    told: usize,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let sets = [format!("population={}", args.events), format!("chatter.listeners={listeners}")];
    let scenario = Scenario::parse(PLUGIN.scenario, PLUGIN.name, &sets)?;
    let (mut rates, mut wrong) = (Vec::new(), 0);
    for round in 0..=args.rounds {
        let mut live = scenario.builder(&[PLUGIN])?.build(harness::options(args.threads)?)?;
        live.create()?;
        live.tell_events(told);
        let begun = clock::now_nanos();
        for _ in 0..args.ticks {
            let said = &live.tick(&[])?.events;
            let is_right = |batch: &everworld_engine::EventBatch| {
                batch.count == args.events && batch.len() as u64 == args.events.min(told as u64)
            };
            wrong += u64::from(said.len() != 1 || !said.iter().all(is_right));
        }
        let secs = (clock::now_nanos() - begun) as f64 / 1e9;
        if listeners > 0 {
            let heard: Heard = live.image().value().context("what was heard")?;
            wrong += u64::from(heard.count != args.events * args.ticks) + heard.out_of_order;
        }
        if round > 0 {
            rates.push((args.events * args.ticks) as f64 / secs);
        }
    }
    let case = format!("in the tick, {} events, {} threads", args.events, args.threads);
    let bound = Bound::AtLeast(1e7);
    rows.push(Row::bounded(&case, mode, median(rates.clone()), "events/s", bound).of(&rates));
    rows.push(Row::bounded(
        &case,
        &format!("{mode}: lost or out of order"),
        wrong as f64,
        "events",
        Bound::AtMost(0.0),
    ));
    Ok(())
}

/// One subscriber of a server.
fn subscribed(args: &EventsArgs, events: u64, mode: &str, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = Server::start_with(dir.path(), RATE, events, &["world.scenario=chatter"])?;
    server.ready()?;
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Of this version of HTTP the body is all that comes.
    write!(
        stream,
        "GET /v1/worlds/chatter/events?topic=said HTTP/1.0\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n"
    )?;
    let mut lines = BufReader::with_capacity(1 << 20, stream).lines();
    ensure!(lines.next().context("an answer")??.contains(" 200 "), "the stream is refused");
    lines.by_ref().find(|line| line.as_ref().is_ok_and(String::is_empty));
    let emitted = |server: &Server| server.metric("everworld_events_total{");
    let (before, overruns) = (emitted(&server)?, server.metric("everworld_tick_overruns_total{")?);
    let begun = Instant::now();
    // The tick and Uid that were told last; how many of the tick.
    let (mut last, mut of_tick) = ((0, 0), 0);
    let (mut told, mut dropped, mut lagged, mut wrong, mut ticks) = (0u64, 0u64, 0u64, 0u64, 0u64);
    while begun.elapsed() < Duration::from_secs(args.secs) {
        let line = lines.next().context("the stream ended")??;
        if line.is_empty() {
            continue;
        }
        let event: Value = serde_json::from_str(&line)?;
        if event["type"] == "lagged" {
            lagged += 1;
            // What comes next need not follow.
            last = (0, 0);
            continue;
        }
        let uid: u64 = event["entity"].as_str().context("an entity")?.parse()?;
        let now = (event["tick"].as_u64().context("a tick")?, uid);
        if now.0 == last.0 {
            wrong += u64::from(now.1 <= last.1);
        } else {
            // A whole tick lies between: all of it was told, or counted.
            wrong += u64::from(ticks > 1 && last.0 > 0 && (now.0 != last.0 + 1 || of_tick != events));
            ticks += 1;
            of_tick = 0;
        }
        let beyond = event["dropped"].as_u64().unwrap_or(0);
        (last, of_tick) = (now, of_tick + 1 + beyond);
        (told, dropped) = (told + 1, dropped + beyond);
    }
    let secs = begun.elapsed().as_secs_f64();
    let emitted = (emitted(&server)? - before) / secs;
    let overruns = server.metric("everworld_tick_overruns_total{")? - overruns;
    server.kill()?;
    let case = format!("one subscriber, {events} events a tick at {RATE} Hz: {mode}");
    let is_all = events <= args.told;
    let row = Row::plain(&case, "told", told as f64 / secs, "events/s");
    rows.push(if is_all { Row { bound: Some(Bound::AtLeast(1e5)), ..row } } else { row });
    rows.push(Row::plain(&case, "emitted", emitted, "events/s"));
    rows.push(Row::plain(&case, "counted and not told", dropped as f64 / secs, "events/s"));
    rows.push(Row::bounded(&case, "lost, or out of order", wrong as f64, "events", Bound::AtMost(0.0)));
    let row = Row::plain(&case, "told to have missed some", lagged as f64, "times");
    rows.push(if is_all { Row { bound: Some(Bound::AtMost(0.0)), ..row } } else { row });
    rows.push(Row::plain(&case, "overruns", overruns, "ticks"));
    Ok(())
}
