//! `/changes`: one consistent cut, then what has changed since, tick by tick, without a gap.
//!
//! A message is the difference of two views, so a reader who is slow, or a mirror that skips a tick, makes messages larger
//! and fewer; nothing is left out and nothing waits (T2). Who goes out of what is followed, and who comes in, is told, also
//! when it is the region that moves. A rewind begins with a new cut.

use super::{
    App,
    media::{self, NDJSON},
    past::{Parameters, parameters},
    problem::Problem,
    query::{Asking, Names, Question, READER_PATIENCE, numbers},
    rows::{BrokenOff, Pieces, ROWS_AT_ONCE},
    views::{FoundKey, question_id},
};
use crate::host::{Running, WorldHandle};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Changes, Image, Tick, Uid,
    query::{FoundRow, Region},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};

/// Between two looks for a newer view.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Something is sent so often, so that whoever stands between does not think the connection dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What is followed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    #[serde(default)]
    with: Names,
    #[serde(default)]
    without: Names,
    r#where: Option<String>,
    select: Option<Names>,
    near: Option<String>,
    bbox: Option<String>,
    /// `uid,r`: within a distance of somebody, wherever he is.
    around: Option<String>,
    after_tick: Option<u64>,
}

pub(super) async fn follow(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Followed>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Followed { with, without, r#where, select, near, bbox, around, after_tick } = parameters(query)?;
    let (handle, running) = app.running(&world)?;
    let selected: Option<Vec<String>> = select.as_ref().map(|select| {
        let column = |part: &String| part.split('.').next().unwrap_or_default().to_owned();
        select.0.iter().map(column).collect()
    });
    let select = select.unwrap_or_default();
    let question = Question::of_whom([with, without, select], r#where, [near, bbox]);
    let asking = question.bind(&running.registry)?;
    let around = around.map(|text| -> Result<(Uid, f64), Problem> {
        let wrong = || Problem::malformed(format!("around: expected uid,r, found \"{text}\""));
        let (uid, r) = text.split_once(',').ok_or_else(wrong)?;
        let [r] = numbers("around", r, "uid,r")?;
        Ok((uid.trim().parse().map(Uid::new).map_err(|_| wrong())?, r))
    });
    let around = around.transpose()?;
    if let Some((_, r)) = around {
        // A world without a plane is found out now.
        asking.filter.clone().within(Region::Circle { x: 0.0, y: 0.0, r })?;
    }
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("too many streams are open (http.streams_max)"));
    };
    let is_lines = media::wanted(&headers, &[NDJSON]).is_some();
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.split_once('.'));
    let resumed = last_id.and_then(|(tick, branch)| Some((branch.parse().ok()?, tick.parse().ok()?)));
    let resumed = resumed.or_else(|| Some((handle.status.shown().branch, after_tick?)));
    let known = resumed
        .and_then(|(branch, tick): (u32, u64)| Some((branch, app.views.get(&world, branch, Tick(tick))?)));
    let (send, receive) = mpsc::channel(1);
    let following = Following { app: app.clone(), world, asking, selected, around, is_lines, send };
    tokio::spawn(following.run(known, permit));
    let kind = if is_lines { NDJSON } else { "text/event-stream" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Pieces::endless(receive))).into_response())
}

struct Following {
    app: Arc<App>,
    world: String,
    asking: Asking,
    /// The columns that are told, if not all.
    selected: Option<Vec<String>>,
    around: Option<(Uid, f64)>,
    is_lines: bool,
    send: mpsc::Sender<Result<Bytes, BrokenOff>>,
}

/// What the reader knows.
struct Known {
    branch: u32,
    image: Arc<Image>,
    found: Arc<Vec<FoundRow>>,
    /// The tick of the last message; nothing was new since.
    told: Tick,
}

impl Following {
    async fn run(self, resumed: Option<(u32, Arc<Image>)>, permit: OwnedSemaphorePermit) {
        let mut known = None;
        if let Some((branch, image)) = resumed
            && let Some(found) = self.found(branch, &image).await
        {
            let told = image.tick;
            known = Some(Known { branch, image, found, told });
        }
        while let Some(next) = self.step(known.as_ref()).await {
            known = Some(next);
        }
        // Who comes back soon goes on where he was.
        if let Some(known) = known {
            self.app.views.keep(&self.world, known.branch, &known.image);
        }
        drop(permit);
    }

    fn parts(&self) -> Option<(WorldHandle, Arc<Running>)> {
        self.app.running(&self.world).ok()
    }

    /// Waits for a newer view and tells what is new; none when the reader has gone, or the world.
    async fn step(&self, known: Option<&Known>) -> Option<Known> {
        let mut said = Instant::now();
        let (branch, image) = loop {
            let (handle, running) = self.parts()?;
            if known.is_none() {
                let branch = handle.status.shown().branch;
                if let Some(image) = self.app.firsts.get(&self.world, branch) {
                    break (branch, image);
                }
            }
            running.view().await?;
            let (shown, view) = handle.shown_with(|| running.mirror.view());
            let view = view?;
            if known.is_none_or(|known| (known.branch, known.image.tick) != (shown.branch, view.tick)) {
                if known.is_none() {
                    self.app.firsts.set(&self.world, shown.branch, &view);
                }
                break (shown.branch, view);
            }
            if self.app.draining.load(std::sync::atomic::Ordering::Relaxed) {
                return None;
            }
            if said.elapsed() >= HEARTBEAT {
                said = Instant::now();
                self.tell(Bytes::from_static(if self.is_lines { b"\n" } else { b":\n\n" })).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_PAUSE) => {}
                () = self.send.closed() => return None,
            }
        };
        let found = self.found(branch, &image).await?;
        let mut told = image.tick;
        let goes_on = known.filter(|known| known.branch == branch && known.image.tick < image.tick);
        if let Some(known) = goes_on {
            if !self.tell_changes(known, branch, &image, &found).await? {
                told = known.told;
            }
        } else {
            self.tell_all(branch, &image, &found).await?;
        }
        Some(Known { branch, image, found, told })
    }

    /// Those that are followed in a view, by Uid.
    async fn found(&self, branch: u32, image: &Arc<Image>) -> Option<Arc<Vec<FoundRow>>> {
        let (asking, image, around) = (self.asking.clone(), image.clone(), self.around);
        let pool = self.app.bulk.options.pool.clone();
        let founds = self.app.founds.clone();
        let question = question_id(&(asking.id, around.map(|(uid, r)| (uid.get(), r.to_bits()))));
        let key = FoundKey { world: self.world.clone(), branch, tick: image.tick, question };
        let look = move || {
            let filter = match around {
                None => asking.filter,
                Some((uid, r)) => {
                    // Nobody is around someone who is not there.
                    let Some((x, y)) = position(&image, &asking, uid) else { return Vec::new() };
                    let Ok(filter) = asking.filter.within(Region::Circle { x, y, r }) else {
                        return Vec::new();
                    };
                    filter
                }
            };
            pool.install(|| filter.all(&image))
        };
        self.app.bulk.run(READER_PATIENCE, move || founds.get_or(&key, look)).await
    }

    /// The cut: all that are followed, some in each message.
    async fn tell_all(&self, branch: u32, image: &Arc<Image>, found: &Arc<Vec<FoundRow>>) -> Option<()> {
        let mut begin = 0;
        loop {
            let end = (begin + ROWS_AT_ONCE).min(found.len());
            let (asking, image, found) = (self.asking.clone(), image.clone(), found.clone());
            let is_last = end == found.len();
            let (tick, is_lines) = (image.tick, self.is_lines);
            let encode = move || {
                let entity = |row: &FoundRow| asking.select.entity(&image, &asking.registry, row);
                let enter = found[begin..end].iter().map(entity).collect();
                let message = Cut { kind: "cut", tick, branch, enter, complete: is_last };
                message_text(is_lines, (tick, branch), message.kind, &message)
            };
            let message = self.app.bulk.run(READER_PATIENCE, encode).await?;
            self.tell(message).await?;
            if is_last {
                return Some(());
            }
            begin = end;
        }
    }

    async fn tell_changes(
        &self,
        known: &Known,
        branch: u32,
        image: &Arc<Image>,
        found: &Arc<Vec<FoundRow>>,
    ) -> Option<bool> {
        let from = known.told;
        let (asking, before, after) = (self.asking.clone(), known.image.clone(), image.clone());
        let (was, is, selected) = (known.found.clone(), found.clone(), self.selected.clone());
        let (pool, is_lines) = (self.app.bulk.options.pool.clone(), self.is_lines);
        let compare = move || {
            let changes = pool.install(|| Changes::between(&before, &after));
            let is_there =
                |rows: &[FoundRow], uid: Uid| rows.binary_search_by_key(&uid, |row| row.uid).is_ok();
            let entity = |row: &FoundRow| asking.select.entity(&after, &asking.registry, row);
            let enter: Vec<_> = is.iter().filter(|row| !is_there(&was, row.uid)).map(entity).collect();
            let leave: Vec<String> =
                was.iter().filter(|row| !is_there(&is, row.uid)).map(|row| row.uid.to_string()).collect();
            let mut changed = Vec::new();
            for change in &changes.entities {
                let Ok(at) = is.binary_search_by_key(&change.uid, |row| row.uid) else { continue };
                if !is_there(&was, change.uid) {
                    continue;
                }
                let told =
                    |name: &&str| selected.as_ref().is_none_or(|wanted| wanted.iter().any(|one| one == name));
                let columns: Vec<&str> = changes.columns(change).filter(told).collect();
                if columns.is_empty() {
                    continue;
                }
                let mut components = asking.select.components(&after, &asking.registry, is[at].place);
                components.retain(|name, _| columns.contains(&name.as_str()));
                // A component that is gone is null, as in a patch.
                for name in columns {
                    components.entry(name).or_insert(Value::Null);
                }
                changed.push(json!({"uid": change.uid.to_string(), "components": components}));
            }
            let is_empty = enter.is_empty() && leave.is_empty() && changed.is_empty();
            let (kind, tick) = ("changes", after.tick);
            let message = Changed { kind, from, tick, branch, enter, leave, changed };
            (!is_empty).then(|| message_text(is_lines, (tick, branch), kind, &message))
        };
        match self.app.bulk.run(READER_PATIENCE, compare).await? {
            Some(message) => self.tell(message).await.map(|()| true),
            None => Some(false),
        }
    }

    /// A reader that takes nothing for long is left; until then messages become fewer, not more.
    async fn tell(&self, bytes: Bytes) -> Option<()> {
        tokio::time::timeout(READER_PATIENCE, self.send.send(Ok(bytes))).await.ok()?.ok()
    }
}

/// Some of those who are followed, as they are.
#[derive(Serialize)]
struct Cut<E> {
    #[serde(rename = "type")]
    kind: &'static str,
    tick: Tick,
    branch: u32,
    enter: Vec<E>,
    complete: bool,
}

/// What became of those who are followed.
#[derive(Serialize)]
struct Changed<E> {
    #[serde(rename = "type")]
    kind: &'static str,
    from: Tick,
    tick: Tick,
    branch: u32,
    enter: Vec<E>,
    leave: Vec<String>,
    changed: Vec<Value>,
}

fn message_text(is_lines: bool, (tick, branch): (Tick, u32), event: &str, message: &impl Serialize) -> Bytes {
    let message = serde_json::to_string(message).expect("names, numbers and texts are JSON");
    let text = if is_lines {
        format!("{message}\n")
    } else {
        format!("id: {tick}.{branch}\nevent: {event}\ndata: {message}\n\n")
    };
    text.into()
}

/// Where somebody is.
fn position(image: &Image, asking: &Asking, uid: Uid) -> Option<(f64, f64)> {
    let (table, row) = image.find(uid)?;
    let column = table.column("position")?;
    let value = asking.registry.column("position")?.to_json(image.row(column, row));
    Some((value["x"].as_f64()?, value["y"].as_f64()?))
}
