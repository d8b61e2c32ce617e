//! What a log means, told a second time: slowly, from the beginning, without snapshots, and without the code that
//! recovery uses. What comes back after a crash is compared with this.

use crate::harness;
use anyhow::{Context as _, anyhow};
use everworld_engine::{Image, InputEnvelope, LiveWorld, StateHash, Tick};
use everworld_persistence::{Control, InputRecord, Record};
use everworld_systems::WorldRecord;
use std::collections::{BTreeMap, BTreeSet};

/// A line of history, as its records tell it.
#[derive(Default)]
struct Line {
    parent: u32,
    /// The last tick that it shares with its parent.
    from: Tick,
    /// The last input that belongs to older lines.
    floor: u64,
    seals: BTreeMap<Tick, u64>,
    fixes: BTreeMap<Tick, Vec<Control>>,
    horizon: Tick,
}

/// A log, replayed.
pub(crate) struct Replayed {
    /// The line that goes on.
    pub(crate) branch: u32,
    /// Where recovery has to end.
    pub(crate) tick: Tick,
    /// The hash of every tick that matters, of every line.
    pub(crate) hashes: BTreeMap<(u32, Tick), StateHash>,
    /// The inputs that no tick has taken.
    pub(crate) queued: Vec<u64>,
    /// Every input of the log, with its mark if it has one.
    pub(crate) marks: BTreeMap<u64, Option<u64>>,
    /// The hash one tick later, with what is queued.
    pub(crate) after: StateHash,
}

impl Replayed {
    /// The line that has a tick, seen from `branch`.
    pub(crate) fn hash(&self, branch: u32, tick: Tick) -> Option<StateHash> {
        self.hashes.get(&(branch, tick)).copied()
    }
}

/// Replays all records of a world; `seen` is how far each line was shown.
pub(crate) fn replay(
    records: &BTreeMap<u64, Record>,
    seen: &BTreeMap<u32, Tick>,
    threads: usize,
) -> anyhow::Result<Replayed> {
    let mut lines: BTreeMap<u32, Line> = BTreeMap::from([(0, Line::default())]);
    let mut current = 0;
    let mut world: Option<WorldRecord> = None;
    let mut inputs: BTreeMap<u64, &InputRecord> = BTreeMap::new();
    for record in records.values() {
        let line = lines.get_mut(&current).context("the current line")?;
        match record {
            Record::Create { world_record } => world = Some(serde_json::from_slice(world_record)?),
            Record::Input(input) => _ = inputs.insert(input.seq, input),
            Record::Seal { tick, up_to_seq } => _ = line.seals.insert(*tick, *up_to_seq),
            Record::Horizon { tick } => line.horizon = *tick,
            Record::Control { tick, control, .. } => match control {
                Control::Branch { branch, parent, tick, floor_seq, .. } => {
                    let (parent, from, floor) = (*parent, *tick, *floor_seq);
                    lines.insert(*branch, Line { parent, from, floor, horizon: from, ..Line::default() });
                    current = *branch;
                }
                Control::Quarantine { .. } | Control::Skip { .. } => {
                    line.fixes.entry(*tick).or_default().push(control.clone());
                }
                _ => {}
            },
            Record::Checkpoint { .. }
            | Record::Build { .. }
            | Record::Hung { .. }
            | Record::Server { .. } => {}
        }
    }
    let world = world.context("the log has no Create")?;
    let builder = world.scenario.builder(crate::scenarios::plugins())?;
    let mut live = builder.build(harness::options(threads)?)?;
    live.create()?;
    // The states that lines begin with.
    let mut begins: BTreeMap<(u32, Tick), (Image, Vec<String>)> = BTreeMap::new();
    let wanted: BTreeSet<(u32, Tick)> =
        lines.iter().filter(|(b, _)| **b > 0).map(|(_, line)| (line.parent, line.from)).collect();
    let mut hashes = BTreeMap::new();
    let mut end = (Tick(0), Vec::new(), StateHash::default());
    for (&branch, line) in &lines {
        if branch > 0 {
            let (image, disabled) =
                begin(&begins, &lines, line).context("the state that a line begins with")?;
            let builder = world.scenario.builder(crate::scenarios::plugins())?;
            live = builder.build(harness::options(threads)?)?;
            live.restore(image)?;
            for system in disabled {
                live.set_enabled(system, false).map_err(|error| anyhow!("{error}"))?;
            }
        }
        let sealed = line.seals.last_key_value().map_or(Tick(0), |(tick, _)| *tick);
        let own =
            if branch == current { line.horizon } else { seen.get(&branch).copied().unwrap_or_default() };
        // A line may begin again where an abandoned one was never shown.
        let parent_of =
            wanted.range((branch, Tick(0))..=(branch, Tick(u64::MAX))).map(|(_, tick)| *tick).max();
        let target = own.max(sealed).max(line.from).max(if branch == current {
            Tick(0)
        } else {
            parent_of.unwrap_or_default()
        });
        let mut note = |live: &LiveWorld| {
            hashes.insert((branch, live.now()), live.state_hash());
            if wanted.contains(&(branch, live.now())) {
                let disabled = live.disabled().map(str::to_owned).collect();
                begins.insert((branch, live.now()), (live.image(), disabled));
            }
        };
        note(&live);
        while live.now() < target {
            let inputs = step(&mut live, line, &inputs);
            live.tick(&inputs).map_err(|error| anyhow!("replaying line {branch}: {error}"))?;
            note(&live);
        }
        if branch == current {
            let taken = live.taken_seq().max(line.floor);
            let queued: Vec<InputEnvelope> =
                inputs.range(taken + 1..).map(|(_, input)| envelope(input)).collect();
            let seqs = queued.iter().map(|input| input.seq).collect();
            apply_fixes(&mut live, line);
            let after = live.tick(&queued).map(|_| ()).map(|()| live.state_hash()).unwrap_or_default();
            end = (target, seqs, after);
        }
    }
    let marks = inputs.values().map(|input| (input.seq, mark(input))).collect();
    let (tick, queued, after) = end;
    Ok(Replayed { branch: current, tick, hashes, queued, marks, after })
}

/// A line may leave its parent where that one is not yet past its own beginning: the state is an older line's then.
fn begin<'b>(
    begins: &'b BTreeMap<(u32, Tick), (Image, Vec<String>)>,
    lines: &BTreeMap<u32, Line>,
    line: &Line,
) -> Option<&'b (Image, Vec<String>)> {
    let mut parent = line.parent;
    loop {
        if let Some(found) = begins.get(&(parent, line.from)) {
            return Some(found);
        }
        let above = lines.get(&parent).filter(|_| parent > 0)?;
        parent = above.parent;
    }
}

/// Applies what the line says about the next tick, and gives its inputs.
fn step(live: &mut LiveWorld, line: &Line, inputs: &BTreeMap<u64, &InputRecord>) -> Vec<InputEnvelope> {
    apply_fixes(live, line);
    let after = live.taken_seq().max(line.floor);
    let up_to = line.seals.get(&live.now().next()).copied().unwrap_or(0);
    if up_to <= after {
        return Vec::new();
    }
    inputs.range(after + 1..=up_to).map(|(_, input)| envelope(input)).collect()
}

fn apply_fixes(live: &mut LiveWorld, line: &Line) {
    for control in line.fixes.get(&live.now().next()).into_iter().flatten() {
        match control {
            Control::Quarantine { system } => _ = live.set_enabled(system, false),
            Control::Skip { seq } => live.skip_input(*seq),
            _ => {}
        }
    }
}

fn envelope(input: &InputRecord) -> InputEnvelope {
    let InputRecord { seq, kind, at_tick, payload, .. } = input.clone();
    InputEnvelope { seq, kind, at_tick, payload }
}

fn mark(input: &InputRecord) -> Option<u64> {
    let payload: serde_json::Value = serde_json::from_slice(&input.payload).ok()?;
    payload["mark"].as_u64()
}
