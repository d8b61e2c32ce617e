//! Snapshots and time: the past of a world, other lines of it, and copies. Bulk work all of it (T4), but for the lists.

use super::{App, bulk::Outcome, entities::read_json, inputs::too_far, problem::Problem};
use crate::{
    catalogue,
    history::{self, History},
    host::{Running, Wish, WorldHandle},
    questions::{self, At, Questions, VerifyOptions, snapshot_document, snapshot_id},
    sequencer::{AdmitError, Origin},
    spine::SpineError,
    status::Shown,
    worlds,
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{Tick, Uid, column::Fault, query::Filter};
use everworld_persistence::{InputRecord, Retention, backup};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};

pub(super) type Parameters<T> = Result<Query<T>, QueryRejection>;

pub(super) fn parameters<T>(query: Parameters<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::malformed(error.body_text()))
}

/// A Uid of a path.
pub(super) fn uid(text: &str) -> Result<Uid, Problem> {
    let uid = text.parse().map(Uid::new);
    uid.map_err(|_| Problem::malformed(format!("\"{text}\" is not a Uid: a decimal number")))
}

pub(super) fn at(text: Option<&str>) -> Result<At, Problem> {
    text.unwrap_or("now").parse().map_err(Problem::malformed)
}

impl App {
    /// What can be asked of the past of a world.
    pub(super) fn questions(&self, world: &str) -> Result<Questions, Problem> {
        let (handle, running) = self.running(world)?;
        Ok(self.questions_of(&handle, &running))
    }

    fn questions_of(&self, handle: &WorldHandle, running: &Running) -> Questions {
        let shown = handle.status.shown();
        Questions {
            history: running.history.clone(),
            newest: (shown.branch, shown.tick),
            options: self.bulk.options.clone(),
            wanted: self.bulk.wanted(),
        }
    }
}

/// Other times; what is not given stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRetention {
    dense_secs: Option<u64>,
    sparse_every_secs: Option<u64>,
    keep_secs: Option<u64>,
}

/// How long a world keeps old snapshots, and the log with them.
pub(super) async fn retention(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (_, running) = app.running(&world)?;
    Ok(Json(questions::retention(&world, running.history.store.retention())))
}

pub(super) async fn set_retention(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let (handle, running) = app.running(&world)?;
    let NewRetention { dense_secs, sparse_every_secs, keep_secs } = read_json(&body)?;
    let now = running.history.store.retention();
    let wanted = Retention {
        dense_secs: dense_secs.unwrap_or(now.dense_secs),
        sparse_every_secs: sparse_every_secs.unwrap_or(now.sparse_every_secs),
        keep_secs: keep_secs.unwrap_or(now.keep_secs),
    };
    let faults = questions::retention_faults(&wanted);
    if !faults.is_empty() {
        let faults = faults.into_iter().map(|(field, detail)| Fault::new(format!("/{field}"), detail));
        return Err(Problem::invalid(faults.collect()));
    }
    handle.ask(Wish::Retention(wanted), app.origin(&headers)).await?;
    Ok(Json(questions::retention(&world, wanted)))
}

/// Nothing that goes back is done without the world's name once more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirm {
    confirm: Option<String>,
}

pub(super) fn confirmed(query: Parameters<Confirm>, world: &str) -> Result<(), Problem> {
    if parameters(query)?.confirm.as_deref() == Some(world) {
        return Ok(());
    }
    Err(Problem::malformed(format!("this changes what the world is: confirm it with ?confirm={world}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inspect {
    at: Option<String>,
    uid: Option<u64>,
    r#where: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Inspect>,
) -> Result<Response, Problem> {
    let query = parameters(query)?;
    let place = at(query.at.as_deref())?;
    let wanted: Option<Filter> = query.r#where.map(|text| text.parse()).transpose()?;
    let (handle, running) = app.running(&world)?;
    let questions = app.questions_of(&handle, &running);
    let limit = query.limit.unwrap_or(20);
    let uid = query.uid.map(Uid::new);
    // The newest tick is the view's, which is at hand.
    let view = if place == At::default() { running.view().await } else { None };
    let (shown, view) = handle.shown_with(|| view.as_ref().and_then(|_| running.mirror.view()));
    let registry = running.registry.clone();
    let about = app.about(&world);
    let work = move || match view {
        Some(view) => {
            let place = (shown.branch, view.tick);
            Ok(questions::inspect(&world, place, &view, &registry, uid, wanted.as_ref(), limit)?)
        }
        None => Ok(questions.inspect(place, uid, wanted.as_ref(), limit)?),
    };
    app.bulk.answer("inspect", about, work).await
}

/// An entity at a former tick.
pub(super) async fn entity_at(app: &App, world: &str, of: Uid, place: &str) -> Result<Response, Problem> {
    let (questions, place) = (app.questions(world)?, at(Some(place))?);
    let work = move || {
        let mut answer = questions.inspect(place, Some(of), None, 0)?;
        let mut entity = answer["entity"].take();
        entity["tick"] = answer["tick"].take();
        entity["branch"] = answer["branch"].take();
        Ok(entity)
    };
    app.bulk.answer("entity", app.about(world), work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntityHistory {
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    exact: bool,
}

pub(super) async fn entity_history(
    State(app): State<Arc<App>>,
    Path((world, of)): Path<(String, String)>,
    query: Parameters<EntityHistory>,
) -> Result<Response, Problem> {
    let EntityHistory { from, to, exact } = parameters(query)?;
    let (questions, of) = (app.questions(&world)?, uid(&of)?);
    let (from, to) = (at(Some(from.as_deref().unwrap_or("0")))?, at(to.as_deref())?);
    app.bulk
        .answer("history", app.about(&world), move || Ok(questions.entity_history(of, from, to, exact)?))
        .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    tick: String,
}

pub(super) async fn why(
    State(app): State<Arc<App>>,
    Path((world, of)): Path<(String, String)>,
    query: Parameters<Why>,
) -> Result<Response, Problem> {
    let place = at(Some(&parameters(query)?.tick))?;
    let (questions, of) = (app.questions(&world)?, uid(&of)?);
    let work = move || Ok(serde_json::to_value(questions.why(of, place)?).unwrap_or_default());
    app.bulk.answer("why", app.about(&world), work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Diff {
    from: String,
    to: Option<String>,
    other_world: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn diff(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Diff>,
) -> Result<Response, Problem> {
    let Diff { from, to, other_world, limit } = parameters(query)?;
    let (first, second) = (at(Some(&from))?, at(Some(to.as_deref().unwrap_or(&from)))?);
    let questions = app.questions(&world)?;
    let hosted = other_world.as_ref().map(|other| app.questions(other)).and_then(Result::ok);
    let (data, options) = (app.config.data.dir.clone(), app.spine_options());
    let work = move || -> Outcome {
        let other = match (hosted, other_world) {
            (Some(hosted), _) => Some(hosted),
            (None, None) => None,
            (None, Some(other)) => {
                if !worlds::is_legal_name(&other) || !worlds::on_disk(&data).contains(&other) {
                    return Err(Problem::not_found(format!("there is no world \"{other}\"")));
                }
                // It is beside the hosted one: this process holds the directory's lock, and nobody runs it.
                let history = History::open(&data, &other, &questions.history.plugins, &options)?;
                let newest = history.newest()?;
                let newest = (newest.branches.current(), newest.target());
                Some(Questions { history, newest, ..questions.clone() })
            }
        };
        Ok(questions.diff(first, second, other.as_ref(), limit.unwrap_or(20))?)
    };
    app.bulk.answer("diff", app.about(&world), work).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Verify {
    branch: Option<u32>,
    from: Option<u64>,
    to: Option<u64>,
    threads: Option<usize>,
    deep: bool,
}

pub(super) async fn verify(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let Verify { branch, from, to, threads, deep } =
        if body.is_empty() { Verify::default() } else { read_json(&body)? };
    let threads = threads.unwrap_or(1);
    if !(1..=256).contains(&threads) {
        let fault = Fault::new("/threads", format!("expected 1 to 256, found {threads}"));
        return Err(Problem::invalid(vec![fault]));
    }
    let questions = app.questions(&world)?;
    let options = VerifyOptions { branch, from: from.map(Tick), to: to.map(Tick), threads, deep, idle: true };
    let work = move || Ok(serde_json::to_value(questions.verify(&options)?).unwrap_or_default());
    app.bulk.answer("verify", app.about(&world), work).await
}

pub(super) async fn branches(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(app.questions(&world)?.branches()))
}

pub(super) async fn snapshots(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(app.questions(&world)?.snapshots()))
}

/// A snapshot that was asked for is there after so long, or the disk is too slow.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(20);

pub(super) async fn create_snapshot(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let (handle, running) = app.running(&world)?;
    let Shown { tick, branch, .. } = handle.status.shown();
    handle.ask(Wish::Snapshot, app.origin(&headers)).await?;
    let history = running.history.clone();
    let written = async {
        loop {
            let snapshots = history.snapshots();
            let found = snapshots.iter().find(|meta| meta.branch == branch && meta.tick >= tick);
            if let Some(meta) = found {
                return *meta;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let written = tokio::time::timeout(SNAPSHOT_WAIT, written).await;
    let meta =
        written.map_err(|_| Problem::unavailable("the snapshot is not written yet; see /snapshots"))?;
    Ok(Json(snapshot_document(&meta)))
}

fn find(questions: &Questions, id: &str) -> Result<everworld_persistence::SnapshotMeta, Problem> {
    let snapshots = questions.history.snapshots();
    let found = snapshots.iter().find(|meta| snapshot_id(meta) == id).copied();
    found.ok_or_else(|| {
        let known: Vec<String> = snapshots.iter().map(snapshot_id).collect();
        Problem::not_found(format!("there is no snapshot {id}; kept are {}", known.join(", ")))
    })
}

pub(super) async fn download(
    State(app): State<Arc<App>>,
    Path((world, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let questions = app.questions(&world)?;
    let meta = find(&questions, &id)?;
    let file = app.config.data.dir.join(format!(".export-{world}-{id}-{}", app.next_request()));
    let target = file.clone();
    let work = move || -> Outcome {
        let exported = questions.history.store.export(meta.branch, meta.tick, &target);
        exported.map_err(|source| SpineError::Store { world: world.clone(), source })?;
        Ok(Value::Null)
    };
    app.bulk.wait("download", work).await?;
    let opened = std::fs::File::open(&file).and_then(|opened| Ok((opened.metadata()?.len(), opened)));
    // Open files outlive their names.
    let removed = std::fs::remove_file(&file);
    let (bytes, opened) = opened.map_err(|error| Problem::failed(format!("the export is gone: {error}")))?;
    if let Err(error) = removed {
        tracing::warn!("could not remove \"{}\": {error}", file.display());
    }
    let name = format!("attachment; filename=\"{id}.snapshot\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CONTENT_LENGTH, bytes.to_string()),
    ];
    Ok((headers, Body::new(FileBody { file: opened, left: bytes })).into_response())
}

/// A file as the body of a response: one buffer of it in memory at a time.
struct FileBody {
    file: std::fs::File,
    left: u64,
}

impl axum::body::HttpBody for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        use std::io::Read as _;
        let this = self.get_mut();
        if this.left == 0 {
            return std::task::Poll::Ready(None);
        }
        let mut buffer = vec![0; this.left.min(65_536) as usize];
        // From the page cache: it was written just now.
        let read = this.file.read_exact(&mut buffer);
        this.left -= buffer.len() as u64;
        std::task::Poll::Ready(Some(read.map(|()| hyper::body::Frame::data(buffer.into()))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

pub(super) async fn restore_snapshot(
    State(app): State<Arc<App>>,
    Path((world, id)): Path<(String, String)>,
    query: Parameters<Confirm>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let questions = app.questions(&world)?;
    confirmed(query, &world)?;
    let meta = find(&questions, &id)?;
    if !questions.lines().on_the_way((meta.branch, meta.tick), questions.newest) {
        return Err(Problem::wrong_state(format!(
            "snapshot {id} is of another line of history than the one that goes on: fork it"
        )));
    }
    go_back(&app, &world, meta.tick, &headers).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewind {
    tick: u64,
}

pub(super) async fn rewind(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Confirm>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    app.running(&world)?;
    confirmed(query, &world)?;
    let Rewind { tick } = read_json(&body)?;
    go_back(&app, &world, Tick(tick), &headers).await
}

async fn go_back(app: &App, world: &str, tick: Tick, headers: &HeaderMap) -> Result<Json<Value>, Problem> {
    let (handle, _) = app.running(world)?;
    let questions = app.questions(world)?;
    let place = questions.place(At { branch: None, tick: Some(tick) })?;
    if tick < questions.oldest(place.0) && questions.history.first_tick() > tick {
        return Err(Problem::gone(format!(
            "tick {tick} is not kept any more; kept is what comes from tick {} on",
            questions.oldest(place.0)
        )));
    }
    let done = handle.ask(Wish::Rewind(tick), app.origin(headers)).await?;
    Ok(Json(json!({"world": world, "branch": done.branch, "tick": done.tick})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fork {
    at_tick: Option<u64>,
    branch: Option<u32>,
    name: String,
    /// What the new world is told before its first tick.
    #[serde(default)]
    inputs: Vec<ForkInput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForkInput {
    kind: String,
    #[serde(default)]
    payload: Value,
    at_tick: Option<u64>,
}

/// The most inputs of a fork (L1).
const FORK_INPUTS_MAX: usize = 1_000;

/// The inputs of a fork, as they are logged: its numbers are given there.
fn fork_inputs(
    app: &App,
    world: &str,
    from: Tick,
    headers: &HeaderMap,
    inputs: &[ForkInput],
) -> Result<Vec<InputRecord>, Problem> {
    let (_, running) = app.running(world)?;
    let Origin { principal, request_id } = app.origin(headers);
    if inputs.len() > FORK_INPUTS_MAX {
        let detail = format!("expected at most {FORK_INPUTS_MAX}, found {}", inputs.len());
        return Err(Problem::invalid(vec![Fault::new("/inputs", detail)]));
    }
    let (mut records, mut faults) = (Vec::new(), Vec::new());
    for (i, ForkInput { kind, payload, at_tick }) in inputs.iter().enumerate() {
        if let Some(detail) = at_tick.and_then(|at| too_far(app, from, Tick(at))) {
            faults.push(Fault::new(format!("/inputs/{i}/at_tick"), detail));
        }
        match running.sequencer.check(kind, payload) {
            Ok(payload) => records.push(InputRecord {
                seq: 0,
                kind: kind.clone(),
                at_tick: at_tick.map(Tick),
                principal: principal.clone(),
                request_id: request_id.clone(),
                payload,
                idempotency: None,
            }),
            Err(AdmitError::Invalid(found)) => {
                let within =
                    |fault: Fault| Fault::new(format!("/inputs/{i}/payload{}", fault.pointer), fault.detail);
                faults.extend(found.into_iter().map(within));
            }
            Err(error) => faults.push(Fault::new(format!("/inputs/{i}/kind"), error.to_string())),
        }
    }
    if faults.is_empty() { Ok(records) } else { Err(Problem::invalid(faults)) }
}

pub(super) async fn fork(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let Fork { at_tick, branch, name, inputs } = read_json(&body)?;
    if !worlds::is_legal_name(&name) {
        let detail = "expected 1 to 64 of a-z, 0-9, - and _";
        return Err(Problem::invalid(vec![Fault::new("/name", detail)]));
    }
    let questions = app.questions(&world)?;
    let place = questions.place(At { branch, tick: at_tick.map(Tick) })?;
    let (data, options) = (app.config.data.dir.clone(), app.spine_options());
    if app.world(&name).is_ok() || worlds::on_disk(&data).contains(&name) {
        return Err(Problem::wrong_state(format!("there is a world \"{name}\" already")));
    }
    let inputs = fork_inputs(&app, &world, place.1, &headers, &inputs)?;
    let about = app.about(&world);
    let work = move || -> Outcome {
        drop(questions.world_at(place)?);
        history::fork(&questions.history, &data, place, (&name, &inputs), &questions.options, &options)?;
        Ok(json!({"world": name, "parent": world, "branch": place.0, "tick": place.1}))
    };
    app.bulk.answer("fork", about, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    to: PathBuf,
}

/// All worlds of the data directory, into a directory of this machine: the hosted ones while they run.
pub(super) async fn back_up(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Problem> {
    let Backup { to } = read_json(&body)?;
    if !to.is_absolute() {
        let detail = "expected an absolute path on the server's machine";
        return Err(Problem::invalid(vec![Fault::new("/to", detail)]));
    }
    let mut hosted = Vec::new();
    for handle in app.hosting.worlds() {
        let (_, running) = app.running(&handle.name)?;
        hosted.push((handle.name.clone(), running.history.store.clone(), running.log.clone()));
    }
    let data = app.config.data.dir.clone();
    let work = move || -> Outcome {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Problem::failed(format!("{what}: {}", crate::spine::chain(error)))
        };
        if to.exists() {
            return Err(Problem::wrong_state(format!("\"{}\" is there already", to.display())));
        }
        // Nothing is removed behind the copy's back.
        let _copying = crate::spine::COPYING.lock();
        // What is not finished has another name.
        let mut making = to.clone().into_os_string();
        making.push(".partial");
        let making = PathBuf::from(making);
        if making.exists() {
            std::fs::remove_dir_all(&making)
                .map_err(|error| failed("could not remove an unfinished backup", &error))?;
        }
        let worlds_dir = making.join("worlds");
        std::fs::create_dir_all(&worlds_dir)
            .map_err(|error| failed("could not create the backup", &error))?;
        catalogue::copy(&data, &making)?;
        let mut told = Vec::new();
        for (name, store, log) in &hosted {
            let report = backup(store, log, &worlds_dir.join(name))
                .map_err(|error| failed("could not back up", &error))?;
            let tick = report_tick(store);
            told.push(json!({
                "world": name, "tick": tick, "epochs": report.epochs, "log_lsn": report.durable.lsn,
                "damaged": report.damaged,
            }));
        }
        // The others are not written to: this process has the directory's lock.
        let is_hosted = |name: &String| hosted.iter().any(|(hosted, ..)| hosted == name);
        for name in worlds::on_disk(&data).into_iter().filter(|name| !is_hosted(name)) {
            worlds::copy_dir(&data.join("worlds").join(&name), &worlds_dir.join(&name))?;
            told.push(json!({"world": name, "tick": null}));
        }
        worlds::sync(&worlds_dir)?;
        worlds::sync(&making)?;
        std::fs::rename(&making, &to).map_err(|error| failed("could not rename the backup", &error))?;
        worlds::sync(&to.join(".."))?;
        Ok(json!({"to": to, "worlds": told}))
    };
    app.bulk.answer("backup", None, work).await
}

/// The tick of the newest snapshot; the log goes on from there.
fn report_tick(store: &everworld_persistence::Store) -> Option<Tick> {
    store.snapshots().kept.first().map(|meta| meta.tick)
}
