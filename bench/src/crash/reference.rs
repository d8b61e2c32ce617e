//! What a log means, told a second time: slowly, from the beginning, without snapshots, and without the code that
//! recovery uses. What comes back after a crash is compared with this.
//!
//! Many logs of a life are told, each a little longer than another. A state is computed once: it is known by all the
//! inputs and fixes that led to it, tick by tick.

use crate::harness;
use anyhow::{Context as _, anyhow};
use everworld::Plugin;
use everworld_engine::{Image, InputEnvelope, LiveWorld, Parallel, StateHash, Tick};
use everworld_persistence::{Control, InputRecord, Record};
use everworld_systems::WorldRecord;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

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

/// A state with which a world goes on: what came before it in the log is not told again.
#[derive(Clone)]
pub(crate) struct Base {
    /// The line that goes on.
    pub(crate) branch: u32,
    /// The last record that it holds, but for inputs that no tick has taken.
    pub(crate) lsn: u64,
    /// The last input that belongs to older lines.
    pub(crate) floor: u64,
    pub(crate) image: Arc<Image>,
    /// Systems that are left out.
    pub(crate) disabled: Vec<String>,
}

/// A log, replayed.
pub(crate) struct Replayed {
    /// The line that goes on.
    pub(crate) branch: u32,
    /// Where recovery has to end.
    pub(crate) tick: Tick,
    /// Every line, with the one that it left and the last tick of both.
    pub(crate) lines: BTreeMap<u32, (u32, Tick)>,
    /// The hash of every tick that matters, of every line.
    hashes: BTreeMap<(u32, Tick), StateHash>,
    /// Every input of the log, with its mark if it has one.
    pub(crate) marks: BTreeMap<u64, Option<u64>>,
    /// What led to the end, and what comes next.
    way: Way,
    next: Step,
}

/// States from the beginning on, each with what happened at its tick.
type Way = Vec<(Known, Arc<Step>)>;

impl Replayed {
    /// The inputs that no tick has taken.
    pub(crate) fn queued(&self) -> &[InputEnvelope] {
        &self.next.inputs
    }

    /// The hashes of a tick, by line.
    pub(crate) fn of_tick(&self, tick: Tick) -> String {
        let hashes = self.hashes.iter().filter(|((_, known), _)| *known == tick);
        let hashes: Vec<String> = hashes.map(|((branch, _), hash)| format!("{branch}/{hash}")).collect();
        hashes.join(" ")
    }

    /// The line that has a tick, seen from `branch`.
    pub(crate) fn hash(&self, branch: u32, tick: Tick) -> Option<StateHash> {
        self.hashes.get(&(branch, tick)).copied()
    }

    /// The hash of a tick of a line, or of an older one that it has it from.
    pub(crate) fn hash_on(&self, mut branch: u32, tick: Tick) -> Option<StateHash> {
        loop {
            if let Some(hash) = self.hash(branch, tick) {
                return Some(hash);
            }
            let (parent, from) = *self.lines.get(&branch)?;
            if parent == branch || tick > from {
                return None;
            }
            branch = parent;
        }
    }
}

/// What happens at a tick.
#[derive(Clone, Default)]
struct Step {
    inputs: Vec<InputEnvelope>,
    fixes: Vec<Control>,
}

/// A state, by all that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known(u64);

impl Known {
    fn then(self, step: &Step) -> Self {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        for fix in &step.fixes {
            format!("{fix:?}").hash(&mut hasher);
        }
        for InputEnvelope { seq, kind, at_tick, payload } in &step.inputs {
            (seq, kind, at_tick.map(|tick| tick.0), payload).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// Replays logs of one world.
pub(crate) struct Reference {
    record: WorldRecord,
    plugins: &'static [Plugin],
    base: Option<Base>,
    /// How far the lines were shown, whatever a log says.
    seen: BTreeMap<u32, Tick>,
    states: Mutex<States>,
}

#[derive(Default)]
struct States {
    hashes: BTreeMap<Known, StateHash>,
    /// Of some of them all of it, with the systems that are left out.
    images: BTreeMap<Known, (Arc<Image>, Vec<String>)>,
    steps: BTreeMap<Known, Arc<Step>>,
    /// The world that was computed last.
    live: Option<(Known, LiveWorld)>,
}

/// Of so many ticks one state is kept as a whole; images of worlds with large texts are large.
const KEPT_EVERY: u64 = 32;
const BYTES_MAX: usize = 1 << 20;

impl Reference {
    pub(crate) fn new(
        record: WorldRecord,
        plugins: &'static [Plugin],
        base: Option<Base>,
        seen: BTreeMap<u32, Tick>,
    ) -> Self {
        Self { record, plugins, base, seen, states: Mutex::default() }
    }

    /// Replays all records of a world.
    pub(crate) fn replay(&self, records: &BTreeMap<u64, Record>) -> anyhow::Result<Replayed> {
        let base = self.base.as_ref();
        let (lines, current, inputs) = self.read(records)?;
        let wanted: BTreeSet<(u32, Tick)> =
            lines.iter().filter(|(b, _)| **b > 0).map(|(_, line)| (line.parent, line.from)).collect();
        let mut states = self.states.lock();
        let mut hashes = BTreeMap::new();
        // What led to each tick of each line.
        let mut ways: BTreeMap<(u32, Tick), (usize, u64)> = BTreeMap::new();
        let mut all: BTreeMap<u32, Way> = BTreeMap::new();
        let mut end = (Tick(0), Step::default());
        for (&branch, line) in &lines {
            let is_first = all.is_empty();
            let (mut way, mut taken) = if is_first {
                let taken = base.map_or(0, |base| base.image.taken_seq());
                (vec![(self.root(), Arc::default())], taken)
            } else {
                let (parent, (count, taken)) =
                    begin(&ways, &lines, line).context("the state that a line begins with")?;
                (all[&parent][..count].to_vec(), taken)
            };
            let sealed = line.seals.last_key_value().map_or(Tick(0), |(tick, _)| *tick);
            let own = if branch == current {
                line.horizon
            } else {
                self.seen.get(&branch).copied().unwrap_or_default()
            };
            // A line may begin again where an abandoned one was never shown.
            let parent_of =
                wanted.range((branch, Tick(0))..=(branch, Tick(u64::MAX))).map(|(_, tick)| *tick).max();
            let target = own.max(sealed).max(line.from).max(if branch == current {
                Tick(0)
            } else {
                parent_of.unwrap_or_default()
            });
            let mut now = line.from;
            ways.insert((branch, now), (way.len(), taken));
            let first_new = way.len() - 1;
            while now < target {
                now = now.next();
                let step = step(line, now, taken, &inputs);
                taken = step.inputs.last().map_or(taken, |input| input.seq);
                let known = way.last().context("a way has a beginning")?.0;
                let known = known.then(&step);
                way.push((known, states.steps.entry(known).or_insert_with(|| Arc::new(step)).clone()));
                ways.insert((branch, now), (way.len(), taken));
            }
            for (at, tick) in (first_new..way.len()).zip(line.from.0..) {
                let hash = states.hash(self, &way[..=at]).with_context(|| format!("line {branch}"))?;
                hashes.insert((branch, Tick(tick)), hash);
            }
            if branch == current {
                let queued: Vec<InputEnvelope> =
                    inputs.range(taken.max(line.floor) + 1..).map(|(_, input)| envelope(input)).collect();
                let fixes = line.fixes.get(&target.next()).cloned().unwrap_or_default();
                end = (target, Step { inputs: queued, fixes });
            }
            all.insert(branch, way);
        }
        let marks = inputs.values().map(|input| (input.seq, mark(input))).collect();
        let way = all.remove(&current).context("the line that goes on")?;
        let (tick, next) = end;
        Ok(Replayed {
            branch: current,
            tick,
            lines: lines.iter().map(|(branch, line)| (*branch, (line.parent, line.from))).collect(),
            hashes,
            marks,
            way,
            next,
        })
    }

    /// The hash one tick later, with what is queued; none when that tick fails.
    pub(crate) fn after(&self, told: &Replayed) -> anyhow::Result<Option<StateHash>> {
        let mut states = self.states.lock();
        let end = told.way.last().context("a way has a beginning")?.0;
        let mut live = states.world(self, &told.way)?;
        apply(&mut live, &told.next.fixes);
        let ticked = live.tick(&told.next.inputs).is_ok();
        let after = ticked.then(|| live.state_hash());
        if ticked {
            states.live = Some((end.then(&told.next), live));
        }
        Ok(after)
    }

    /// The lines of a log, the one that goes on, and all inputs.
    fn read<'r>(
        &self,
        records: &'r BTreeMap<u64, Record>,
    ) -> anyhow::Result<(BTreeMap<u32, Line>, u32, BTreeMap<u64, &'r InputRecord>)> {
        let mut inputs: BTreeMap<u64, &InputRecord> = BTreeMap::new();
        let mut current = 0;
        let mut first = Line::default();
        if let Some(base) = &self.base {
            current = base.branch;
            (first.from, first.horizon, first.floor) = (base.image.tick, base.image.tick, base.floor);
        }
        let mut lines = BTreeMap::from([(current, first)]);
        for (lsn, record) in records {
            if let Record::Input(input) = record {
                inputs.insert(input.seq, input);
            }
            if self.base.as_ref().is_some_and(|base| *lsn <= base.lsn) {
                continue;
            }
            let line = lines.get_mut(&current).context("the current line")?;
            match record {
                Record::Create { world_record } => {
                    let record: WorldRecord = serde_json::from_slice(world_record)?;
                    anyhow::ensure!(record == self.record, "the log is of another world");
                }
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
                Record::Input(_)
                | Record::Checkpoint { .. }
                | Record::Build { .. }
                | Record::Hung { .. }
                | Record::Server { .. } => {}
            }
        }
        Ok((lines, current, inputs))
    }

    /// The state that all begins with.
    fn root(&self) -> Known {
        Known(self.base.as_ref().map_or(0, |base| base.image.hash.0))
    }

    fn build(&self) -> anyhow::Result<LiveWorld> {
        let mut options = harness::options(1)?;
        options.parallel = Parallel::Never;
        Ok(self.record.scenario.builder(self.plugins)?.build(options)?)
    }

    fn first(&self) -> anyhow::Result<LiveWorld> {
        let mut live = self.build()?;
        match &self.base {
            None => live.create()?,
            Some(base) => restore(&mut live, &base.image, &base.disabled)?,
        }
        Ok(live)
    }
}

impl States {
    /// The hash of the state at the end of a way.
    fn hash(&mut self, reference: &Reference, way: &[(Known, Arc<Step>)]) -> anyhow::Result<StateHash> {
        let end = way.last().context("a way has a beginning")?.0;
        if let Some(hash) = self.hashes.get(&end) {
            return Ok(*hash);
        }
        let live = self.world(reference, way)?;
        let hash = live.state_hash();
        self.hashes.insert(end, hash);
        self.live = Some((end, live));
        Ok(hash)
    }

    /// The world at the end of a way, from the nearest state that is known as a whole.
    fn world(&mut self, reference: &Reference, way: &[(Known, Arc<Step>)]) -> anyhow::Result<LiveWorld> {
        let live = self.live.take();
        let at_hand = live.and_then(|(known, live)| {
            let near = way.iter().rev().take(KEPT_EVERY as usize).position(|(other, _)| *other == known)?;
            Some((way.len() - 1 - near, live))
        });
        let (mut at, mut live) = match at_hand {
            Some(found) => found,
            None => match way.iter().rposition(|(known, _)| self.images.contains_key(known)) {
                Some(at) => {
                    let (image, disabled) = &self.images[&way[at].0];
                    let mut live = reference.build()?;
                    restore(&mut live, image, disabled)?;
                    (at, live)
                }
                None => (0, reference.first()?),
            },
        };
        while at + 1 < way.len() {
            at += 1;
            let (known, step) = &way[at];
            apply(&mut live, &step.fixes);
            live.tick(&step.inputs).map_err(|error| anyhow!("replaying: {error}"))?;
            if (at as u64).is_multiple_of(KEPT_EVERY) && !self.images.contains_key(known) {
                let image = live.image();
                // The few that are large are computed again.
                if image.bytes() <= BYTES_MAX || (at as u64).is_multiple_of(16 * KEPT_EVERY) {
                    let disabled = live.disabled().map(str::to_owned).collect();
                    self.images.insert(*known, (Arc::new(image), disabled));
                }
            }
        }
        Ok(live)
    }
}

/// A world with that state and without those systems.
pub(crate) fn restore(live: &mut LiveWorld, image: &Image, disabled: &[String]) -> anyhow::Result<()> {
    live.restore(image)?;
    for system in disabled {
        live.set_enabled(system, false).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(())
}

/// A line may leave its parent where that one is not yet past its own beginning: the state is an older line's then.
fn begin(
    ways: &BTreeMap<(u32, Tick), (usize, u64)>,
    lines: &BTreeMap<u32, Line>,
    line: &Line,
) -> Option<(u32, (usize, u64))> {
    let mut parent = line.parent;
    loop {
        if let Some(found) = ways.get(&(parent, line.from)) {
            return Some((parent, *found));
        }
        let Some(above) = lines.get(&parent) else {
            // Older than all that is told: the tick that it shares is the one with which that begins.
            let (first, begun) = lines.first_key_value()?;
            let is_base = parent < *first && begun.from == line.from;
            return ways.get(&(*first, line.from)).filter(|_| is_base).map(|found| (*first, *found));
        };
        if above.parent >= parent {
            return None;
        }
        parent = above.parent;
    }
}

/// What the line says about a tick, when the inputs up to `taken` have their ticks.
fn step(line: &Line, tick: Tick, taken: u64, inputs: &BTreeMap<u64, &InputRecord>) -> Step {
    let fixes = line.fixes.get(&tick).cloned().unwrap_or_default();
    let after = taken.max(line.floor);
    let up_to = line.seals.get(&tick).copied().unwrap_or(0);
    let inputs = if up_to > after {
        inputs.range(after + 1..=up_to).map(|(_, input)| envelope(input)).collect()
    } else {
        Vec::new()
    };
    Step { inputs, fixes }
}

fn apply(live: &mut LiveWorld, fixes: &[Control]) {
    for control in fixes {
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
