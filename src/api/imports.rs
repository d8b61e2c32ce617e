//! `POST /import`: a population, as NDJSON or CSV, as the rows that are exported.
//!
//! All of it is looked at before the first row is logged. Then it is some inputs, each of them atomic: with an
//! `Idempotency-Key` whoever tries again adds what was not taken yet, and nothing twice.

use super::{
    App,
    entities::read_json,
    inputs::{WriteQuery, take_all},
    media::{self, CSV, NDJSON},
    past::{Parameters, parameters},
    problem::Problem,
};
use crate::sequencer::{AdmitError, Asked, Sequencer};
use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use everworld_engine::{
    Input as _, Registry,
    column::{Fault, Scalar},
    input::SpawnEntities,
    query::{Leaf, LeafKind, Select},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// The most rows of a request (L1).
const ROWS_MAX: usize = 50_000;
/// The most rows of one input, and the most bytes of them if it is more than one row.
const BATCH_ROWS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// So many faults are told (L1).
const FAULTS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    /// Of rows that name none.
    prototype: Option<String>,
    at_tick: Option<u64>,
}

/// A row, as it is exported: its Uid is not taken over, since the world gives them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default)]
    prototype: Option<String>,
    #[serde(default)]
    components: Map<String, Value>,
    #[serde(default, rename = "uid")]
    _uid: Option<Value>,
}

pub(super) async fn post(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<ImportQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let ImportQuery { prototype, at_tick } = parameters(query)?;
    let (handle, running) = app.running(&world)?;
    let at_tick = WriteQuery { at_tick, ..WriteQuery::default() }.at_tick(&app, &handle)?;
    let is_csv = match media::sent(&headers) {
        CSV => true,
        NDJSON => false,
        media => {
            let detail = format!("Content-Type: expected {CSV} or {NDJSON}, found \"{media}\"");
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    // A record of the log has to fit into a segment of it, with what is around it.
    let record_bytes_max = (app.config.log.segment_bytes as usize).saturating_sub(4 << 10);
    // Megabytes of text: other requests are not to wait for this thread.
    let batches = tokio::task::block_in_place(|| {
        let mut batches = Batches::new(prototype, &running.sequencer, record_bytes_max);
        if is_csv {
            from_csv(&body, &running.registry, &mut batches)?;
        } else {
            from_lines(&body, &mut batches)?;
        }
        batches.finish()
    })?;
    let key = App::idempotency_key(&headers)?;
    let keys: Vec<Option<String>> = (0..batches.len()).map(|i| key.map(|key| format!("{key}/{i}"))).collect();
    let inputs = batches.into_iter().zip(&keys).map(|(Batch { rows, payload }, key)| {
        let (kind, idempotency_key) = (SpawnEntities::KIND, key.as_deref());
        (rows, Asked { kind, payload, at_tick, wants_outcome: false, idempotency_key })
    });
    take_all(&running.sequencer, app.origin(&headers), inputs).await
}

/// Some rows, as one input.
struct Batch {
    rows: usize,
    payload: Vec<u8>,
}

/// Looks at rows as they come, some at a time: of those behind it only what will be logged is kept.
struct Batches<'s> {
    prototype: Option<String>,
    sequencer: &'s Sequencer,
    record_bytes_max: usize,
    done: Vec<Batch>,
    faults: Vec<Fault>,
    rows: usize,
    /// Of the batch that is being filled: entities, the lines that they are from, about how many bytes.
    entities: Vec<Value>,
    lines: Vec<usize>,
    bytes: usize,
}

impl<'s> Batches<'s> {
    fn new(prototype: Option<String>, sequencer: &'s Sequencer, record_bytes_max: usize) -> Self {
        let (done, faults, entities, lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { prototype, sequencer, record_bytes_max, done, faults, rows: 0, entities, lines, bytes: 0 }
    }

    /// There are so many faults that no more are looked for.
    fn is_hopeless(&self) -> bool {
        self.faults.len() >= FAULTS_MAX
    }

    fn add(&mut self, line: usize, row: Row) -> Result<(), Problem> {
        self.rows += 1;
        if self.rows > ROWS_MAX {
            return Err(Problem::malformed(format!(
                "a request has at most {ROWS_MAX} rows: send some at a time"
            )));
        }
        let mut entity = json!({"components": row.components});
        if let Some(prototype) = row.prototype.as_deref().or(self.prototype.as_deref()) {
            entity["prototype"] = prototype.into();
        }
        let bytes = entity.to_string().len();
        if bytes > self.record_bytes_max {
            let detail = format!("the row has {bytes} bytes, {} fit into the log", self.record_bytes_max);
            self.faults.push(Fault::new(format!("/{line}"), detail));
            return Ok(());
        }
        let most = BATCH_BYTES_MAX.min(self.record_bytes_max);
        if self.lines.len() >= BATCH_ROWS_MAX || (!self.lines.is_empty() && self.bytes + bytes > most) {
            self.close()?;
        }
        self.lines.push(line);
        self.entities.push(entity);
        self.bytes += bytes + 1;
        Ok(())
    }

    /// Looks at the batch that was filled.
    fn close(&mut self) -> Result<(), Problem> {
        self.bytes = 0;
        let (lines, entities) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.entities));
        if lines.is_empty() {
            return Ok(());
        }
        match self.sequencer.check(SpawnEntities::KIND, &json!({"entities": entities})) {
            Ok(payload) => self.done.push(Batch { rows: lines.len(), payload }),
            Err(AdmitError::Invalid(found)) => {
                let left = FAULTS_MAX.saturating_sub(self.faults.len());
                self.faults.extend(found.into_iter().take(left).map(|fault| by_line(fault, &lines)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Batch>, Problem> {
        self.close()?;
        if !self.faults.is_empty() {
            return Err(Problem::invalid(self.faults));
        }
        if self.done.is_empty() {
            return Err(Problem::malformed("there are no rows"));
        }
        Ok(self.done)
    }
}

/// `/entities/3/components/x` as `/17/components/x`, where 17 is the line.
fn by_line(fault: Fault, lines: &[usize]) -> Fault {
    let rest = fault.pointer.strip_prefix("/entities/").unwrap_or_default();
    let (number, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let line = number.parse().ok().and_then(|number: usize| lines.get(number));
    let pointer = line.map_or_else(|| fault.pointer.clone(), |line| format!("/{line}/{rest}"));
    Fault::new(pointer, fault.detail)
}

fn from_lines(body: &[u8], batches: &mut Batches<'_>) -> Result<(), Problem> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let row = read_json(line).map_err(|problem| problem.at_line(number + 1))?;
        batches.add(number + 1, row)?;
        if batches.is_hopeless() {
            break;
        }
    }
    Ok(())
}

/// What a column of a CSV file is.
enum Head {
    Uid,
    Prototype,
    Field(Leaf),
}

fn heads(names: &csv::StringRecord, registry: &Arc<Registry>) -> Result<Vec<Head>, Problem> {
    let leaves = Select::default().leaves(registry);
    let known: BTreeMap<String, Leaf> = leaves.into_iter().map(|leaf| (leaf.path.join("."), leaf)).collect();
    let (mut heads, mut faults) = (Vec::new(), Vec::new());
    let most = known.len() + 2;
    if names.len() > most {
        return Err(Problem::malformed(format!("the header has {} columns, there are {most}", names.len())));
    }
    for name in names {
        match (name, known.get(name)) {
            ("uid", _) => heads.push(Head::Uid),
            ("prototype", _) => heads.push(Head::Prototype),
            (_, Some(leaf)) => heads.push(Head::Field(leaf.clone())),
            (_, None) => {
                let detail =
                    format!("there is no field \"{name}\": expected uid, prototype, or component.field");
                faults.push(Fault::new(format!("/1/{name}"), detail));
            }
        }
    }
    faults.truncate(FAULTS_MAX);
    if faults.is_empty() { Ok(heads) } else { Err(Problem::invalid(faults)) }
}

fn from_csv(body: &[u8], registry: &Arc<Registry>, batches: &mut Batches<'_>) -> Result<(), Problem> {
    let mut reader = csv::Reader::from_reader(body);
    let malformed = |error: csv::Error| Problem::malformed(format!("the body is no CSV: {error}"));
    let heads = heads(reader.headers().map_err(malformed)?, registry)?;
    for record in reader.records() {
        let record = record.map_err(malformed)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let mut row = Row { prototype: None, components: Map::new(), _uid: None };
        for (head, text) in heads.iter().zip(&record).filter(|(_, text)| !text.is_empty()) {
            match head {
                Head::Uid => {}
                Head::Prototype => row.prototype = Some(text.to_owned()),
                Head::Field(leaf) => match value_of(leaf, text) {
                    Ok(value) => put(&mut row.components, &leaf.path, value),
                    Err(detail) => {
                        batches.faults.push(Fault::new(format!("/{line}/{}", leaf.path.join(".")), detail));
                    }
                },
            }
        }
        batches.add(line, row)?;
        if batches.is_hopeless() {
            break;
        }
    }
    Ok(())
}

fn value_of(leaf: &Leaf, text: &str) -> Result<Value, String> {
    let number = || serde_json::from_str(text).ok().filter(Value::is_number);
    match leaf.kind {
        LeafKind::Number(Scalar::Uid) | LeafKind::Label => Ok(text.into()),
        LeafKind::Number(_) => number().ok_or_else(|| format!("expected a number, found \"{text}\"")),
        LeafKind::Json => serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}")),
    }
}

/// Sets a value at its place; what is between is made. A part that is a number is a place in an array.
fn put(components: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let mut at = components.entry(first.as_str()).or_insert(Value::Null);
    for part in rest {
        at = if let Ok(index) = part.parse::<usize>() {
            if !at.is_array() {
                *at = json!([]);
            }
            let Value::Array(items) = at else { return };
            if items.len() <= index {
                items.resize(index + 1, Value::Null);
            }
            &mut items[index]
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            let Value::Object(members) = at else { return };
            members.entry(part.as_str()).or_insert(Value::Null)
        };
    }
    *at = value;
}
