//! `capture`: how long the tick thread stands still while the town's changes are copied out, beside a memcpy of the
//! columns that change.

use crate::{
    Outcome, canary,
    measure::median,
    report::{Bound, Report, Row},
};
use clap::Args;
use everworld::{clock, worlds};
use everworld_engine::{Mirror, MirrorHooks, Options, Parallel, Pool, Tick};
use std::{sync::Arc, time::Instant};

#[derive(Args)]
pub(crate) struct CaptureArgs {
    /// Numbers of NPCs
    #[arg(long, value_delimiter = ',', default_value = "1000000,100000,20000")]
    npcs: Vec<u64>,
    /// Captures of each
    #[arg(long, default_value_t = 101)]
    captures: usize,
    /// Ticks between two captures
    #[arg(long, default_value_t = 20)]
    ticks: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The columns that people change all along, and the bytes of their rows.
const HOT: [(&str, usize); 5] = [("position", 8), ("velocity", 8), ("needs", 16), ("goal", 20), ("purse", 4)];

pub(crate) fn run(args: &CaptureArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let watch = canary::Watch::start();
    let mut rows = vec![Row::plain("canary", "random gather", gain, "gain")];
    for npcs in &args.npcs {
        rows.extend(measure(args, *npcs)?);
    }
    let (row, slow) = watch.stop("canary");
    rows.push(row);
    Ok(Report::new("capture", rows, void.or(slow)))
}

fn measure(args: &CaptureArgs, npcs: u64) -> anyhow::Result<Vec<Row>> {
    let scenario = worlds::load_scenario("town", everworld::PLUGINS, &[format!("population={npcs}")])?;
    let pool = Arc::new(Pool::start(args.threads, "tick", |_| {})?);
    let options = Options { pool, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
    let mut live = worlds::build(&scenario, everworld::PLUGINS, options)?;
    live.create()?;
    let hooks = MirrorHooks { pace: Box::new(everworld::pool::pace()), ..MirrorHooks::default() };
    let mirror = Mirror::start("bench", live.buffers().clone(), hooks)?;
    mirror.allow(Tick(u64::MAX));
    mirror.offer(live.capture());
    mirror.handle().settled();

    let copied = |bytes: usize| (vec![1u8; bytes], vec![2u8; bytes]);
    let mut hot: Vec<(Vec<u8>, Vec<u8>)> =
        HOT.iter().map(|(_, bytes)| copied(bytes * npcs as usize)).collect();
    let (mut stalls, mut copies, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    // The first captures find no buffers yet.
    for round in 0..args.captures + 3 {
        for _ in 0..args.ticks {
            live.tick(&[])?;
        }
        let begun = Instant::now();
        let capture = live.capture();
        let stall = begun.elapsed().as_secs_f64() * 1e3;
        let size = capture.bytes() as f64;
        mirror.offer(capture);
        while !mirror.is_ready() {
            anyhow::ensure!(!mirror.has_failed(), "the mirror has died");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        // After the mirror, whose work would share the memory with it; the ticks before the next round cool the cache.
        let begun = Instant::now();
        for (from, to) in &mut hot {
            to.copy_from_slice(from);
            std::hint::black_box(to);
        }
        let copy = begun.elapsed().as_secs_f64() * 1e3;
        if round >= 3 {
            stalls.push(stall);
            copies.push(copy);
            bytes.push(size);
        }
    }
    let case = format!("town, {npcs} NPCs, every {} ticks", args.ticks);
    let worst = stalls.iter().copied().fold(0.0, f64::max);
    let (p50, memcpy) = (median(stalls), median(copies));
    let bound = match npcs {
        500_000.. => {
            Row::ratio(&case, "p50 stall / memcpy on 1 thread", p50, "ms", memcpy, Bound::AtMost(1.5))
        }
        50_000.. => Row::bounded(&case, "p50 stall", p50, "ms", Bound::AtMost(2.5)),
        _ => Row::bounded(&case, "p50 stall", p50, "ms", Bound::AtMost(0.25)),
    };
    let hot: Vec<_> = HOT.iter().map(|(name, _)| *name).collect();
    Ok(vec![
        bound,
        Row::ratio(&case, "longest / p50", worst, "ms", p50, Bound::AtMost(2.0)),
        Row::plain(&case, &format!("memcpy of {}", hot.join(", ")), memcpy, "ms"),
        Row::plain(&case, "copied by a capture", median(bytes) / 1e6, "MB"),
    ])
}
