//! The program's log: lines on stderr, the last of them in memory for `GET /v1/logs`, and a filter that can be changed.

use crate::{
    clock,
    config::{Config, LogFormat},
    ring::{Ring, Weigh},
};
use serde_json::{Map, Value, json};
use std::{
    fmt,
    io::IsTerminal as _,
    sync::{Arc, OnceLock},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

/// So many lines are kept (L1).
const LINES_KEPT: usize = 2_048;

/// A line of the log.
#[derive(Debug)]
pub struct Line {
    unix_millis: u64,
    level: &'static str,
    target: &'static str,
    fields: Map<String, Value>,
}

impl Line {
    /// As answers have it.
    pub fn to_json(&self, number: u64) -> Value {
        json!({
            "id": number.to_string(), "unix_millis": self.unix_millis, "level": self.level, "target": self.target,
            "fields": self.fields,
        })
    }
}

struct Logs {
    lines: Arc<Ring<Line>>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// A process has one log.
static LOGS: OnceLock<Logs> = OnceLock::new();

/// The last lines, once the log is set up.
pub fn lines() -> Option<Arc<Ring<Line>>> {
    LOGS.get().map(|logs| logs.lines.clone())
}

/// Another filter, until the process ends.
///
/// # Errors
/// When it is none, with the reason.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
    let logs = LOGS.get().ok_or("the log is not set up by this process")?;
    logs.filter.reload(filter).map_err(|error| error.to_string())
}

/// Sets the log up. Only the first server of a process can; tests start several.
pub fn start(config: &Config) {
    let filter =
        EnvFilter::try_new(config.logging.filter.as_str()).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let is_pretty = match config.logging.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let shown = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let shown = if is_pretty { shown.boxed() } else { shown.json().boxed() };
    let lines = Arc::new(Ring::new(LINES_KEPT));
    let started =
        tracing_subscriber::registry().with(filter).with(shown).with(Keep(lines.clone())).try_init();
    if started.is_ok() {
        // This is the first.
        let _ = LOGS.set(Logs { lines, filter: handle });
    }
}

/// Keeps the last lines.
struct Keep(Arc<Ring<Line>>);

impl Weigh for Line {}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let about = event.metadata();
        self.0.push(Line {
            unix_millis: clock::unix_millis(),
            level: about.level().as_str(),
            target: about.target(),
            fields: fields.0,
        });
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
