//! `POST /import`: a population, as NDJSON or CSV, as the rows that are exported.
//!
//! All of it is looked at before the first row is logged. Then it is some inputs, each of them atomic: with an
//! `Idempotency-Key` whoever tries again adds what was not taken yet, and nothing twice.

use super::{
    App,
    entities::read_json,
    inputs::WriteQuery,
    past::{Parameters, parameters},
    problem::Problem,
    rows::{CSV, NDJSON},
};
use crate::sequencer::{AdmitError, Asked, Sequencer};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Input as _, Registry,
    column::{Fault, Scalar},
    input::SpawnEntities,
    query::{Leaf, LeafKind, Select},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Rows of one input, and about how many bytes of them.
const ROWS_MAX: usize = 1_000;
const BYTES_MAX: usize = 256 << 10;
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
    let media = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let is_csv = match media {
        CSV => true,
        NDJSON => false,
        _ => {
            let detail = format!("Content-Type: expected {CSV} or {NDJSON}, found \"{media}\"");
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    // Megabytes of text: other requests are not to wait for this thread.
    let batches = tokio::task::block_in_place(|| {
        let rows = if is_csv { from_csv(&body, &running.registry)? } else { from_lines(&body)? };
        batches(rows, prototype.as_deref(), &running.sequencer)
    })?;
    let origin = app.origin(&headers);
    let key = App::idempotency_key(&headers)?;
    let (mut taken, mut accepted, mut refused) = (Vec::new(), 0, None);
    for (i, Batch { rows, value, payload }) in batches.into_iter().enumerate() {
        let key = key.map(|key| format!("{key}/{i}"));
        let asked = Asked {
            kind: SpawnEntities::KIND,
            payload: &value,
            at_tick,
            wants_outcome: false,
            idempotency_key: key.as_deref(),
        };
        match running.sequencer.submit_checked(asked, payload, &origin) {
            Ok(submitted) => {
                taken.push(submitted);
                accepted += rows;
            }
            Err(error) if taken.is_empty() => return Err(error.into()),
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    let mut answer = json!({
        "accepted": accepted,
        "seqs": taken.iter().map(|submitted| submitted.seq).collect::<Vec<_>>(),
        "earliest_tick": taken.iter().map(|submitted| submitted.earliest_tick).max(),
    });
    if let Some(refused) = refused {
        answer["refused"] = refused.into();
    }
    super::inputs::all_durable(taken).await?;
    Ok((StatusCode::ACCEPTED, [("x-request-id", origin.request_id)], Json(answer)).into_response())
}

/// Some rows, as one input.
struct Batch {
    rows: usize,
    value: Value,
    payload: Vec<u8>,
}

/// Rows by the line that they begin on.
type Rows = Vec<(usize, Row)>;

/// Looks at all of them.
fn batches(rows: Rows, prototype: Option<&str>, sequencer: &Sequencer) -> Result<Vec<Batch>, Problem> {
    if rows.is_empty() {
        return Err(Problem::malformed("there are no rows"));
    }
    let (mut batches, mut faults) = (Vec::new(), Vec::new());
    let (mut lines, mut entities, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut rows = rows.into_iter().peekable();
    while let Some((line, row)) = rows.next() {
        let mut entity = json!({"components": row.components});
        if let Some(prototype) = row.prototype.as_deref().or(prototype) {
            entity["prototype"] = prototype.into();
        }
        bytes += entity.to_string().len();
        lines.push(line);
        entities.push(entity);
        if rows.peek().is_some() && lines.len() < ROWS_MAX && bytes < BYTES_MAX {
            continue;
        }
        let (of, value) = (std::mem::take(&mut lines), json!({"entities": std::mem::take(&mut entities)}));
        bytes = 0;
        match sequencer.check(SpawnEntities::KIND, &value) {
            Ok(payload) => batches.push(Batch { rows: of.len(), value, payload }),
            Err(AdmitError::Invalid(found)) => {
                faults.extend(found.into_iter().map(|fault| by_line(fault, &of)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if faults.is_empty() {
        return Ok(batches);
    }
    faults.truncate(FAULTS_MAX);
    Err(Problem::invalid(faults))
}

/// `/entities/3/components/x` as `/17/components/x`, where 17 is the line.
fn by_line(fault: Fault, lines: &[usize]) -> Fault {
    let rest = fault.pointer.strip_prefix("/entities/").unwrap_or_default();
    let (number, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let line = number.parse().ok().and_then(|number: usize| lines.get(number));
    let pointer = line.map_or_else(|| fault.pointer.clone(), |line| format!("/{line}/{rest}"));
    Fault::new(pointer, fault.detail)
}

fn from_lines(body: &[u8]) -> Result<Rows, Problem> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(number, line)| {
            let row = read_json(line).map_err(|problem| problem.at_line(number + 1))?;
            Ok((number + 1, row))
        })
        .collect()
}

/// What a column of a CSV file is.
enum Head {
    Uid,
    Prototype,
    Field(Leaf),
}

fn from_csv(body: &[u8], registry: &Arc<Registry>) -> Result<Rows, Problem> {
    let mut reader = csv::Reader::from_reader(body);
    let malformed = |error: csv::Error| Problem::malformed(format!("the body is no CSV: {error}"));
    let known = Select::default().leaves(registry);
    let (mut heads, mut faults) = (Vec::new(), Vec::new());
    for name in reader.headers().map_err(malformed)? {
        let leaf = known.iter().find(|leaf| leaf.path.join(".") == name);
        match (name, leaf) {
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
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(malformed)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let mut row = Row { prototype: None, components: Map::new(), _uid: None };
        for (head, text) in heads.iter().zip(&record) {
            match head {
                _ if text.is_empty() => {}
                Head::Uid => {}
                Head::Prototype => row.prototype = Some(text.to_owned()),
                Head::Field(leaf) => match value_of(leaf, text) {
                    Ok(value) => put(&mut row.components, &leaf.path, value),
                    Err(detail) if faults.len() < FAULTS_MAX => {
                        faults.push(Fault::new(format!("/{line}/{}", leaf.path.join(".")), detail));
                    }
                    Err(_) => {}
                },
            }
        }
        rows.push((line, row));
    }
    if faults.is_empty() { Ok(rows) } else { Err(Problem::invalid(faults)) }
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
