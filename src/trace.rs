//! Traces of ticks: which system ran when and where, what it waited for, what was left out and why.
//!
//! In the Trace Event Format (Google, "Trace Event Format", 2016), which Perfetto and chrome://tracing open. Times are
//! microseconds since the first traced tick began. Deliberately absent: what systems did; that is `why`.

use everworld_engine::{Plan, SystemReport, Tick, TickReport};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::oneshot;

/// The most ticks of one trace (L1).
pub const TICKS_MAX: u64 = 1_000;

/// A tick as it was.
#[derive(Clone, Debug)]
pub struct TracedTick {
    /// Which one.
    pub tick: Tick,
    began_nanos: u64,
    inputs: usize,
    inputs_nanos: u64,
    wall_nanos: u64,
    /// With what came after the systems: publishing, and the capture.
    total_nanos: u64,
    capture_nanos: u64,
    serial: bool,
    systems: Vec<SystemReport>,
    quarantined: Vec<String>,
}

/// Traces of a world's ticks, one at a time.
#[derive(Default)]
pub struct Tracer {
    is_on: AtomicBool,
    job: Mutex<Option<Job>>,
}

struct Job {
    wanted: usize,
    ticks: Vec<TracedTick>,
    done: oneshot::Sender<Vec<TracedTick>>,
}

impl Tracer {
    /// Traces the next ticks; none while a trace is being taken.
    pub fn start(&self, ticks: u64) -> Option<oneshot::Receiver<Vec<TracedTick>>> {
        let mut job = self.job.lock();
        if job.as_ref().is_some_and(|job| !job.done.is_closed()) {
            return None;
        }
        let (done, traced) = oneshot::channel();
        *job = Some(Job { wanted: ticks.min(TICKS_MAX) as usize, ticks: Vec::new(), done });
        self.is_on.store(true, Relaxed);
        Some(traced)
    }

    /// Ends the trace that is being taken, with the ticks that it has.
    pub fn finish(&self) {
        let mut slot = self.job.lock();
        self.end(slot.take());
    }

    /// Whether the next tick is to be traced.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// A tick that was traced, with what it took from its first input to the end of the capture.
    pub(crate) fn note(
        &self,
        report: &TickReport,
        (total_nanos, capture_nanos): (u64, u64),
        quarantined: Vec<String>,
    ) {
        // A tick that was tried again by another world was not traced there.
        if report.systems.iter().any(|system| system.ran && system.began.is_none()) {
            return;
        }
        let mut slot = self.job.lock();
        let is_done = slot.as_mut().is_none_or(|job| {
            job.ticks.push(TracedTick {
                tick: report.tick,
                began_nanos: report.began_nanos,
                inputs: report.outcomes.len(),
                inputs_nanos: report.inputs_nanos,
                wall_nanos: report.wall_nanos,
                total_nanos,
                capture_nanos,
                serial: report.serial,
                systems: report.systems.clone(),
                quarantined,
            });
            job.ticks.len() >= job.wanted || job.done.is_closed()
        });
        if is_done {
            self.end(slot.take());
        }
    }

    fn end(&self, job: Option<Job>) {
        self.is_on.store(false, Relaxed);
        if let Some(Job { ticks, done, .. }) = job {
            // Who asked may have gone.
            let _ = done.send(ticks);
        }
    }
}

/// Threads of the trace that are none.
const CRITICAL_PATH: u64 = 1_000;
const LEFT_OUT: u64 = 1_001;

/// The ticks of a plan as a document of trace events.
pub fn document(world: &str, plan: &Plan, ticks: &[TracedTick]) -> Value {
    let mut events = vec![meta("process_name", 0, &format!("everworld: {world}"))];
    let threads = ticks.iter().flat_map(|tick| &tick.systems).filter_map(|system| system.began?.1).max();
    events.push(meta("thread_name", 0, "tick"));
    events.extend(
        (0..threads.map_or(0, |most| u64::from(most) + 1))
            .map(|thread| meta("thread_name", thread + 1, &format!("worker {thread}"))),
    );
    events.push(meta("thread_name", CRITICAL_PATH, "critical path"));
    events.push(meta("thread_name", LEFT_OUT, "left out"));
    let origin = ticks.first().map_or(0, |tick| tick.began_nanos);
    ticks.iter().for_each(|tick| Drawing { plan, tick, origin }.draw(&mut events));
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

fn meta(what: &str, thread: u64, name: &str) -> Value {
    json!({"ph": "M", "name": what, "pid": 1, "tid": thread, "args": {"name": name}})
}

struct Drawing<'t> {
    plan: &'t Plan,
    tick: &'t TracedTick,
    origin: u64,
}

/// When a node could begin, and when it was done.
#[derive(Clone, Copy, Default)]
struct Ran {
    ready: u64,
    end: u64,
    /// The node that it waited for last.
    after: Option<usize>,
}

impl Drawing<'_> {
    fn draw(&self, events: &mut Vec<Value>) {
        let TracedTick { tick, began_nanos, inputs, inputs_nanos, wall_nanos, .. } = self.tick;
        let whole = json!({"tick": tick, "inputs": inputs, "serial": self.tick.serial});
        let total = self.tick.total_nanos.max(*wall_nanos);
        events.push(self.span(&format!("tick {tick}"), "tick", 0, (*began_nanos, total), whole));
        if *inputs_nanos > 0 {
            let inputs = json!({"inputs": inputs});
            events.push(self.span("inputs and timers", "tick", 0, (*began_nanos, *inputs_nanos), inputs));
        }
        if self.tick.capture_nanos > 0 {
            let start = began_nanos + total - self.tick.capture_nanos;
            events.push(self.span("capture", "tick", 0, (start, self.tick.capture_nanos), json!({})));
        }
        let ran = self.ran();
        for (i, (node, report)) in self.plan.nodes.iter().zip(&self.tick.systems).enumerate() {
            match (report.began, report.wall_nanos) {
                (Some((start, thread)), Some(nanos)) => {
                    let waited = start.saturating_sub(ran[i].ready);
                    let args = json!({
                        "tick": tick, "phase": node.phase, "waited_us": micros(waited),
                        "after": ran[i].after.map(|after| self.plan.nodes[after].name.as_str()),
                    });
                    let thread = thread.map_or(0, |thread| u64::from(thread) + 1);
                    events.push(self.span(&node.name, "system", thread, (start, nanos), args));
                    if waited > 0 {
                        events.extend(self.wait(i, ran[i].ready, start));
                    }
                }
                _ => events.push(self.left_out(i)),
            }
        }
        let mut at = (0..ran.len()).filter(|i| self.tick.systems[*i].ran).max_by_key(|i| ran[*i].end);
        while let Some(i) = at {
            if let (Some((start, _)), Some(nanos)) =
                (self.tick.systems[i].began, self.tick.systems[i].wall_nanos)
            {
                let args = json!({"tick": tick});
                events.push(self.span(
                    &self.plan.nodes[i].name,
                    "critical",
                    CRITICAL_PATH,
                    (start, nanos),
                    args,
                ));
            }
            at = ran[i].after;
        }
    }

    /// By the edges of the plan: a node may begin once the last of those before it has ended; what is left out hands on
    /// what it waited for.
    fn ran(&self) -> Vec<Ran> {
        let begun = self.tick.began_nanos + self.tick.inputs_nanos;
        let mut ran = vec![Ran { ready: begun, end: begun, after: None }; self.plan.nodes.len()];
        // The nodes are in an order in which each comes after those that it waits for.
        for i in 0..ran.len() {
            for edge in self.plan.edges.iter().filter(|edge| edge.to == i) {
                let before = ran[edge.from];
                if before.end > ran[i].ready {
                    let is_there = self.tick.systems[edge.from].ran;
                    ran[i].ready = before.end;
                    ran[i].after = if is_there { Some(edge.from) } else { before.after };
                }
            }
            let report = &self.tick.systems[i];
            ran[i].end = match (report.began, report.wall_nanos) {
                (Some((start, _)), Some(nanos)) => start + nanos,
                _ => ran[i].ready,
            };
        }
        ran
    }

    fn span(
        &self,
        name: &str,
        category: &str,
        thread: u64,
        (start, nanos): (u64, u64),
        args: Value,
    ) -> Value {
        json!({
            "ph": "X", "name": name, "cat": category, "pid": 1, "tid": thread,
            "ts": self.at(start), "dur": micros(nanos), "args": args,
        })
    }

    /// Ready and not yet running: no thread was free. They overlap, so they are on no thread.
    fn wait(&self, node: usize, ready: u64, start: u64) -> [Value; 2] {
        let event = |phase: &str, at: u64| {
            json!({
                "ph": phase, "name": self.plan.nodes[node].name, "cat": "wait", "pid": 1, "tid": 0,
                "id": format!("{}.{node}", self.tick.tick), "ts": self.at(at),
            })
        };
        [event("b", ready), event("e", start)]
    }

    fn left_out(&self, node: usize) -> Value {
        let plan = &self.plan.nodes[node];
        let reason = if self.tick.quarantined.contains(&plan.name) {
            "quarantined: it failed".to_owned()
        } else if !self.tick.systems[node].enabled {
            "disabled".to_owned()
        } else {
            "its rate: it runs in every so many ticks only".to_owned()
        };
        json!({
            "ph": "i", "s": "t", "name": plan.name, "cat": "left out", "pid": 1, "tid": LEFT_OUT,
            "ts": self.at(self.tick.began_nanos), "args": {"tick": self.tick.tick, "reason": reason},
        })
    }

    fn at(&self, nanos: u64) -> f64 {
        micros(nanos.saturating_sub(self.origin))
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
