//! Metrics in the OpenMetrics text format: base units, bounded labels, prefix `everworld_`.

use crate::{
    host::{Running, WorldHandle},
    status::WorldState,
};
use everworld_engine::TickReport;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicI64},
};

/// All metrics of the process.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// The worlds that are hosted.
    worlds: Arc<Mutex<Vec<WorldHandle>>>,
    /// Requests by matched route, method and code.
    pub http_requests: Family<HttpLabels, Counter>,
    /// Time from the head of a request to the head of its response.
    pub http_duration: Family<RouteLabels, Histogram>,
    /// Requests that are being answered.
    pub http_in_flight: Gauge<i64, AtomicI64>,
    /// Questions about the past that wait or are being answered.
    pub history_questions: Gauge<i64, AtomicI64>,
    /// Open connections.
    pub http_connections: Gauge<i64, AtomicI64>,
    /// Refused requests and connections, by reason.
    pub http_rejected: Family<ReasonLabels, Counter>,
    tick_duration: Family<WorldLabels, Histogram>,
    system_duration: Family<SystemLabels, Histogram>,
    ticks: Family<WorldLabels, Counter>,
    tick_overruns: Family<WorldLabels, Counter>,
    inputs: Family<InputLabels, Counter>,
    events: Family<EventLabels, Counter>,
    events_dropped: Family<EventLabels, Counter>,
    snapshots: Family<SnapshotLabels, Counter>,
    captures_skipped: Family<WorldLabels, Counter>,
    failed_ticks: Family<WorldLabels, Counter>,
    mismatches: Family<WorldLabels, Counter>,
    verified_ticks: Family<WorldLabels, Counter>,
    scrubbed_bytes: Family<WorldLabels, Counter>,
    scrub_passes: Family<WorldLabels, Counter>,
    scrub_faults: Family<WorldLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the fields are the labels' names")]
pub struct HttpLabels {
    pub route: &'static str,
    pub method: &'static str,
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the fields are the labels' names")]
pub struct RouteLabels {
    pub route: &'static str,
    pub method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the fields are the labels' names")]
pub struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorldLabels {
    world: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SystemLabels {
    world: String,
    system: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InputLabels {
    world: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    world: String,
    topic: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SnapshotLabels {
    world: String,
    kind: &'static str,
    outcome: &'static str,
}

/// Exponential from 0.25 ms, factor 2.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 15))
}

impl Metrics {
    /// The metrics of a process.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("everworld");
        let metrics = Self {
            registry: Mutex::default(),
            worlds: Arc::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(durations),
            http_in_flight: Gauge::default(),
            history_questions: Gauge::default(),
            http_connections: Gauge::default(),
            http_rejected: Family::default(),
            tick_duration: Family::new_with_constructor(durations),
            system_duration: Family::new_with_constructor(durations),
            ticks: Family::default(),
            tick_overruns: Family::default(),
            inputs: Family::default(),
            events: Family::default(),
            events_dropped: Family::default(),
            snapshots: Family::default(),
            captures_skipped: Family::default(),
            failed_ticks: Family::default(),
            mismatches: Family::default(),
            verified_ticks: Family::default(),
            scrubbed_bytes: Family::default(),
            scrub_passes: Family::default(),
            scrub_faults: Family::default(),
        };
        let m = &metrics;
        registry.register("http_requests", "Answered requests", m.http_requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From the request to the head of the response",
            Unit::Seconds,
            m.http_duration.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that are being answered",
            m.http_in_flight.clone(),
        );
        registry.register(
            "history_questions",
            "Questions about the past that wait or are being answered",
            m.history_questions.clone(),
        );
        registry.register("http_connections", "Open connections", m.http_connections.clone());
        registry.register("http_rejected", "Refused requests and connections", m.http_rejected.clone());
        registry.register_with_unit(
            "tick_duration",
            "Computing a tick",
            Unit::Seconds,
            m.tick_duration.clone(),
        );
        registry.register_with_unit(
            "system_duration",
            "A run of a system",
            Unit::Seconds,
            m.system_duration.clone(),
        );
        registry.register("ticks", "Finished ticks", m.ticks.clone());
        registry.register(
            "tick_overruns",
            "Ticks that took longer than the interval of the wanted rate",
            m.tick_overruns.clone(),
        );
        registry.register("inputs", "Applied inputs", m.inputs.clone());
        registry.register("events", "Events that systems emitted", m.events.clone());
        registry.register(
            "events_dropped",
            "Events that were counted and not told, beyond tick.events_max",
            m.events_dropped.clone(),
        );
        registry.register("snapshots", "Snapshots written to the store", m.snapshots.clone());
        registry.register(
            "captures_skipped",
            "Captures left out because the mirror was behind",
            m.captures_skipped.clone(),
        );
        registry.register(
            "failed_ticks",
            "Ticks in which a system or an input panicked; they were computed again",
            m.failed_ticks.clone(),
        );
        registry.register(
            "state_hash_mismatches",
            "Stretches of ticks that came out differently when they were computed again",
            m.mismatches.clone(),
        );
        registry.register("verified_ticks", "Ticks that were computed again", m.verified_ticks.clone());
        registry.register(
            "scrubbed_bytes",
            "Bytes of the store and the log that were read again",
            m.scrubbed_bytes.clone(),
        );
        registry.register(
            "scrub_passes",
            "Times that all of the store and the log was read again",
            m.scrub_passes.clone(),
        );
        registry.register("scrub_faults", "Damaged files that were found by it", m.scrub_faults.clone());
        registry.register_collector(Box::new(Worlds(m.worlds.clone())));
        registry.register_collector(Box::new(Process));
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    /// Tells of a world from now on.
    pub fn watch(&self, world: WorldHandle) {
        self.worlds.lock().push(world);
    }

    /// Tells of a world no more.
    pub fn forget(&self, world: &str) {
        self.worlds.lock().retain(|known| known.name != world);
    }

    /// Everything as text.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }

    /// The recorder for one world's tick thread: labels are looked up once.
    pub fn world(
        &self,
        world: &str,
        systems: impl IntoIterator<Item = String>,
        events: impl IntoIterator<Item = &'static str>,
    ) -> WorldMetrics {
        let labels = WorldLabels { world: world.to_owned() };
        let system = |system| {
            self.system_duration.get_or_create_owned(&SystemLabels { world: world.to_owned(), system })
        };
        let input =
            |outcome| self.inputs.get_or_create_owned(&InputLabels { world: world.to_owned(), outcome });
        let snapshot = |outcome| {
            self.snapshots.get_or_create_owned(&SnapshotLabels {
                world: world.to_owned(),
                kind: "snapshot",
                outcome,
            })
        };
        let event = |topic| {
            let labels = EventLabels { world: world.to_owned(), topic };
            let family = |family: &Family<EventLabels, Counter>| family.get_or_create_owned(&labels);
            (topic, family(&self.events), family(&self.events_dropped))
        };
        WorldMetrics {
            events: events.into_iter().map(event).collect(),
            tick_duration: self.tick_duration.get_or_create_owned(&labels),
            ticks: self.ticks.get_or_create_owned(&labels),
            overruns: self.tick_overruns.get_or_create_owned(&labels),
            captures_skipped: self.captures_skipped.get_or_create_owned(&labels),
            failed_ticks: self.failed_ticks.get_or_create_owned(&labels),
            mismatches: self.mismatches.get_or_create_owned(&labels),
            verified_ticks: self.verified_ticks.get_or_create_owned(&labels),
            scrubbed_bytes: self.scrubbed_bytes.get_or_create_owned(&labels),
            scrub_passes: self.scrub_passes.get_or_create_owned(&labels),
            scrub_faults: self.scrub_faults.get_or_create_owned(&labels),
            systems: systems.into_iter().map(system).collect(),
            inputs_applied: input("applied"),
            inputs_rejected: input("rejected"),
            snapshots_written: snapshot("written"),
            snapshots_failed: snapshot("failed"),
        }
    }
}

/// What one world's threads record.
#[derive(Clone)]
#[allow(missing_docs, reason = "named as the metrics are")]
pub struct WorldMetrics {
    tick_duration: Histogram,
    ticks: Counter,
    pub overruns: Counter,
    pub captures_skipped: Counter,
    pub failed_ticks: Counter,
    pub mismatches: Counter,
    pub verified_ticks: Counter,
    pub scrubbed_bytes: Counter,
    pub scrub_passes: Counter,
    pub scrub_faults: Counter,
    systems: Vec<Histogram>,
    /// How many there were and how many of them were not told, by topic.
    events: Vec<(&'static str, Counter, Counter)>,
    inputs_applied: Counter,
    inputs_rejected: Counter,
    pub snapshots_written: Counter,
    pub snapshots_failed: Counter,
}

impl WorldMetrics {
    /// Finished ticks.
    pub fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    /// A finished tick.
    pub fn record(&self, report: &TickReport) {
        self.ticks.inc();
        self.tick_duration.observe(report.wall_nanos as f64 / 1e9);
        for (histogram, system) in self.systems.iter().zip(&report.systems) {
            if let Some(nanos) = system.wall_nanos {
                histogram.observe(nanos as f64 / 1e9);
            }
        }
        for batch in &report.events {
            let of_topic = self.events.iter().find(|(topic, ..)| *topic == batch.info.name);
            if let Some((_, happened, dropped)) = of_topic {
                happened.inc_by(batch.count);
                dropped.inc_by(batch.count - batch.len() as u64);
            }
        }
        let applied = report.outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        self.inputs_applied.inc_by(applied as u64);
        self.inputs_rejected.inc_by((report.outcomes.len() - applied) as u64);
    }
}

/// What can be read off a world's published state when somebody asks.
#[derive(Debug)]
struct Worlds(Arc<Mutex<Vec<WorldHandle>>>);

impl Collector for Worlds {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let world = |handle: &WorldHandle| vec![("world", handle.name.clone())];
        self.each(&mut encoder, "world_tick", "The last published tick", |handle| {
            vec![(world(handle), handle.status.tick().0 as f64)]
        })?;
        self.each(&mut encoder, "world_entities", "Entities", |handle| {
            vec![(world(handle), handle.status.entities() as f64)]
        })?;
        self.each(&mut encoder, "world_state", "1 for the state that the world is in", |handle| {
            let now = handle.status.state().0;
            let one = |state: WorldState| {
                let mut labels = world(handle);
                labels.push(("state", state.name().to_owned()));
                (labels, f64::from(u8::from(state == now)))
            };
            WorldState::ALL.into_iter().map(one).collect()
        })?;
        self.each(&mut encoder, "tick_lag_seconds", "How far behind its rate the world is", |handle| {
            vec![(world(handle), handle.status.lag_nanos() as f64 / 1e9)]
        })?;
        self.each(&mut encoder, "snapshot_last_tick", "The newest snapshot's tick", |handle| {
            vec![(world(handle), handle.status.last_snapshot().0 as f64)]
        })?;
        self.each(
            &mut encoder,
            "world_statistic",
            "What the world is measured by, at the last sample",
            |handle| {
                let sample = handle.status.statistics.latest();
                let figure = |statistic: &everworld_systems::Statistic| {
                    let mut labels = world(handle);
                    labels.push(("statistic", statistic.name.to_owned()));
                    Some((labels, statistic.value?))
                };
                sample.iter().flat_map(|sample| sample.statistics.iter().filter_map(figure)).collect()
            },
        )?;
        let coverage = |handle: &WorldHandle| handle.status.verification().coverage;
        self.each(&mut encoder, "verified_ratio", "The share of ticks that were computed again", |handle| {
            vec![(world(handle), coverage(handle))]
        })?;
        self.each(&mut encoder, "input_queue_length", "Logged inputs that wait for a tick", |handle| {
            handle
                .running()
                .map(|running| (world(handle), running.sequencer.queue_len() as f64))
                .into_iter()
                .collect()
        })?;
        self.each(&mut encoder, "idempotency_keys", "Idempotency keys that are remembered", |handle| {
            let keys = handle.running().map(|running| running.sequencer.keys().0);
            keys.map(|keys| (world(handle), keys as f64)).into_iter().collect()
        })?;
        self.each(&mut encoder, "idempotency_keys_capacity", "How many can be", |handle| {
            let keys = handle.running().map(|running| running.sequencer.keys().1);
            keys.map(|keys| (world(handle), keys as f64)).into_iter().collect()
        })?;
        self.each(&mut encoder, "systems_quarantined", "Systems that are left out", |handle| {
            vec![(world(handle), handle.status.quarantined().len() as f64)]
        })?;
        self.each(&mut encoder, "input_queue_capacity", "How many may wait", |handle| {
            handle
                .running()
                .map(|running| (world(handle), running.sequencer.queue_max() as f64))
                .into_iter()
                .collect()
        })?;
        self.each(
            &mut encoder,
            "mirror_spare_bytes",
            "Bytes of buffers and pages that are kept ready for the next captures",
            |handle| {
                let shown = handle.running().and_then(|running| running.mirror.shown());
                shown.map(|shown| (world(handle), shown.spare_bytes as f64)).into_iter().collect()
            },
        )?;
        self.each(
            &mut encoder,
            "mirror_lag_ticks",
            "Ticks between the published one and the mirror",
            |handle| {
                let shown = handle.running().and_then(|running| running.mirror.shown());
                let lag = shown.map(|shown| handle.status.tick().0.saturating_sub(shown.tick.0));
                lag.map(|lag| (world(handle), lag as f64)).into_iter().collect()
            },
        )?;
        let deduplicated = |running: &Running| running.sequencer.deduplicated() as f64;
        self.counter_of(
            &mut encoder,
            "inputs_deduplicated",
            "Inputs that came again under their key",
            deduplicated,
        )?;
        self.counter(&mut encoder, "log_written_bytes", "Bytes written to the input log", |stats| {
            stats.bytes_written as f64
        })?;
        self.counter(&mut encoder, "log_fsyncs", "Syncs of the input log", |stats| stats.fsyncs as f64)?;
        self.counter(&mut encoder, "log_fsync_seconds", "Time in syncs of the input log", |stats| {
            stats.fsync_nanos_total as f64 / 1e9
        })
    }
}

type Sample = (Vec<(&'static str, String)>, f64);

impl Worlds {
    fn each(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        samples: impl Fn(&WorldHandle) -> Vec<Sample>,
    ) -> fmt::Result {
        let gauge = ConstGauge::new(0f64);
        let mut encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        for (labels, value) in self.0.lock().iter().flat_map(samples) {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&everworld_persistence::LogStats) -> f64,
    ) -> fmt::Result {
        self.counter_of(encoder, name, help, |running| value(&running.log.stats()))
    }

    fn counter_of(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Running) -> f64,
    ) -> fmt::Result {
        let mut encoder =
            encoder.encode_descriptor(name, help, None, ConstCounter::new(0f64).metric_type())?;
        for handle in &*self.0.lock() {
            if let Some(running) = handle.running() {
                let labels = vec![("world", handle.name.clone())];
                ConstCounter::new(value(running)).encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The process itself, from `/proc`.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let build = ConstGauge::new(1i64);
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("build", crate::spine::BUILD_ID_HEX)];
        let mut family = encoder.encode_descriptor(
            "build_info",
            "The build of this process",
            None,
            build.metric_type(),
        )?;
        build.encode(family.encode_family(&labels)?)?;
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let resident = ConstGauge::new((pages * rustix::param::page_size() as u64) as f64);
        let metric = encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory",
            None,
            resident.metric_type(),
        )?;
        resident.encode(metric)?;
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = ConstCounter::new(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
        let metric = encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of the process",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(metric)
    }
}
