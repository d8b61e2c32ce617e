//! `recover`: a server is killed at the worst point, just before its next snapshot would be there, and started again:
//! how long until it is ready, on what the time goes, and what memory it needs.

use crate::{
    Outcome, canary,
    report::{Bound, Report, Row, Told},
    serving::Server,
};
use anyhow::{Context as _, bail};
use clap::Args;
use everworld::client::Client;
use serde_json::Value;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// NPCs
    #[arg(long, default_value_t = 1_000_000)]
    npcs: u64,
    /// Rounds of kill and start, for each rate
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Ticks per second; 0 is as fast as possible
    #[arg(long, value_delimiter = ',', default_value = "20,0")]
    rates: Vec<f64>,
    /// Seconds that a server runs at least
    #[arg(long, default_value_t = 30)]
    secs: u64,
}

pub(crate) fn run(args: &RecoverArgs) -> Outcome {
    let (gain, void) = canary::sing();
    let mut rows = Told::default();
    rows.push(Row::plain("canary", "random gather", gain, "gain"));
    for rate in &args.rates {
        measure(args, *rate, &mut rows)?;
    }
    Ok(Report::new("recover", rows.into_rows(), void))
}

fn measure(args: &RecoverArgs, rate: f64, rows: &mut Told) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let case = format!("town, {} NPCs, {rate} Hz", args.npcs);
    let mut server = Server::start(dir.path(), rate, args.npcs)?;
    server.ready()?;
    let (mut worst, mut split, mut steady, mut peak) = (0.0f64, Value::Null, 0.0f64, 0.0f64);
    for _ in 0..args.rounds {
        let run_until = Instant::now() + Duration::from_secs(args.secs);
        let mut samples = Vec::new();
        while Instant::now() < run_until {
            samples.push(server.memory("VmRSS")?);
            std::thread::sleep(Duration::from_millis(200));
        }
        samples.sort_by(f64::total_cmp);
        steady = steady.max(samples[samples.len() / 2]);
        peak = peak.max(server.memory("VmHWM")?);
        // A connection that says nothing for so long is closed.
        wait_for_the_worst(&mut Client::connect(server.address)?)?;
        server.kill()?;
        let begun = Instant::now();
        server = Server::start(dir.path(), rate, args.npcs)?;
        let ready = server.ready()?;
        let secs = begun.elapsed().as_secs_f64();
        if secs > worst {
            (worst, split) = (secs, ready);
        }
    }
    server.kill()?;
    rows.push(Row::bounded(&case, "killed to ready, worst", worst, "s", Bound::AtMost(5.0)));
    for part in ["opening", "reading", "restoring", "replaying", "mirroring"] {
        let millis = split["fields"][format!("{part}_millis")].as_f64().unwrap_or(f64::NAN);
        rows.push(Row::plain(&case, part, millis / 1e3, "s"));
    }
    let replayed = split["fields"]["replayed"].as_f64().unwrap_or(f64::NAN);
    rows.push(Row::plain(&case, "replayed", replayed, "ticks"));
    let per_npc = |bytes: f64| bytes / args.npcs as f64;
    rows.push(Row::bounded(&case, "memory, steady", per_npc(steady), "B/NPC", Bound::AtMost(1_500.0)));
    rows.push(Row::bounded(&case, "memory, peak", per_npc(peak), "B/NPC", Bound::AtMost(1_800.0)));
    Ok(())
}

/// Waits until the next snapshot is nearly due: after the last one there were as many ticks as between the two
/// before it.
fn wait_for_the_worst(client: &mut Client) -> anyhow::Result<()> {
    let mut look = || -> anyhow::Result<(u64, u64)> {
        let (_, world) = client.request("GET", "/v1/worlds/town", "")?;
        let number = |name: &str| world[name].as_u64().with_context(|| format!("{name} in {world}"));
        Ok((number("last_snapshot")?, number("tick")?))
    };
    let end = Instant::now() + Duration::from_mins(2);
    let mut snapshots = Vec::new();
    while Instant::now() < end {
        let (snapshot, tick) = look()?;
        if snapshots.last() != Some(&snapshot) {
            snapshots.push(snapshot);
        }
        // Two whole periods were seen: the third ends here, a little before its snapshot is written.
        if let [.., before, last] = snapshots[..]
            && snapshots.len() >= 4
            && tick - last >= (last - before) * 19 / 20
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("no snapshots were written: {snapshots:?}")
}
