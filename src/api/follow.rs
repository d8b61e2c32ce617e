//! Following a ring: a page of what is kept, or a stream that goes on, as server-sent events or NDJSON.
//!
//! Who is slower than what happens misses some, is told which, and goes on with the oldest that is kept: nothing waits for
//! him (T2), and nothing is queued for him but the piece that he has not taken yet.

use super::{
    App,
    media::{self, EVENT_STREAM, NDJSON},
    problem::Problem,
    query::READER_PATIENCE,
    rows::{BrokenOff, Pieces},
};
use crate::ring::{Ring, Weigh};
use axum::{
    Json,
    body::{Body, Bytes},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Members that are looked at together.
const AT_ONCE: usize = 256;
/// Between two looks for more: who adds wakes nobody, since that would be the tick.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Something is sent so often, so that whoever stands between does not think the connection dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a client is answered with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// What is kept, as one document.
    Page,
    /// A stream of lines of JSON.
    Lines,
    /// A stream of server-sent events.
    Events,
}

impl Form {
    /// A stream only for who asks for one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match media::wanted(headers, &[NDJSON, EVENT_STREAM]) {
            Some(NDJSON) => Self::Lines,
            Some(_) => Self::Events,
            None => Self::Page,
        }
    }
}

/// What is followed, and what of it is told, and how.
pub(super) struct Followed<T> {
    /// The ring, while there is one: a world may go.
    pub(super) ring: Box<dyn Fn() -> Option<Arc<Ring<T>>> + Send + Sync>,
    /// What a member of that number tells, but for the first so many parts of it; nothing where it is not asked for.
    pub(super) show: Box<dyn Fn(u64, &T, usize) -> Vec<Value> + Send + Sync>,
    /// What a member is called in a stream that says it of none.
    pub(super) kind: &'static str,
    pub(super) after: After,
    pub(super) limit: usize,
}

/// Up to where a reader knows what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    /// The number of the last member that he knows all of.
    pub(super) number: u64,
    /// How many parts he knows of the next one.
    pub(super) parts: usize,
}

impl After {
    /// Behind a whole member.
    pub(super) fn whole(number: u64) -> Self {
        Self { number, parts: 0 }
    }

    /// Behind the member, or the part of one, of that id.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let parts: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([number] | [_, number]) => Ok(Self::whole(*number)),
            Some([_, number, part]) => {
                Ok(Self { number: number.saturating_sub(1), parts: (*part as usize).saturating_add(1) })
            }
            _ => Err(Problem::malformed(format!(
                "after: expected an id as answers have it, tick.number or tick.number.part, found \"{text}\""
            ))),
        }
    }
}

/// A piece of a stream is about so long at most.
const PIECE_BYTES: usize = 256 * 1_024;

impl<T: Weigh + Send + Sync + 'static> Followed<T> {
    pub(super) fn answer(self, app: &Arc<App>, form: Form) -> Result<Response, Problem> {
        if form == Form::Page {
            return Ok(Json(self.page()).into_response());
        }
        let is_lines = form == Form::Lines;
        let Ok(permit) = app.streams.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("too many streams are open (http.streams_max)"));
        };
        let (send, receive) = mpsc::channel(1);
        let app = app.clone();
        tokio::spawn(async move {
            self.stream(&app, is_lines, send).await;
            drop(permit);
        });
        let kind = if is_lines { NDJSON } else { EVENT_STREAM };
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
        Ok((headers, Body::new(Pieces::endless(receive))).into_response())
    }

    fn page(&self) -> Value {
        let mut items: Vec<Value> = Vec::new();
        let (mut at, mut missed, mut more) = (self.after, None, false);
        let mut after = at.number.to_string();
        if let Some(ring) = (self.ring)() {
            'looking: loop {
                let batch = ring.after(at.number, AT_ONCE);
                // More was lost while this page was made: the next one tells it.
                if batch.missed.is_some() && !items.is_empty() {
                    more = true;
                    break;
                }
                missed = missed.or(batch.missed);
                if batch.items.is_empty() {
                    break;
                }
                for (number, item) in batch.items {
                    let mut shown = (self.show)(number, &item, parts_of(at, number));
                    let room = self.limit - items.len();
                    if shown.len() > room || room == 0 {
                        more = true;
                        shown.truncate(room);
                        // In the midst of a member its last part says where.
                        after = shown.last().map_or(after, |last| id_of(last, number));
                        items.append(&mut shown);
                        break 'looking;
                    }
                    items.append(&mut shown);
                    at = After::whole(number);
                    after = number.to_string();
                }
            }
        }
        let mut page = json!({"items": items, "next": more.then(|| after.clone()), "after": after});
        if let Some((from, to)) = missed {
            page["lagged"] = json!({"from": from, "to": to});
        }
        page
    }

    async fn stream(self, app: &App, is_lines: bool, send: mpsc::Sender<Result<Bytes, BrokenOff>>) {
        let mut after = self.after;
        let mut said = Instant::now();
        loop {
            // The world may go while it is followed.
            let Some(ring) = (self.ring)() else { return };
            if app.draining.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            let batch = ring.after(after.number, AT_ONCE);
            let mut text = String::new();
            if let Some((from, to)) = batch.missed {
                after = After::whole(to);
                let lagged = json!({"type": "lagged", "from": from, "to": to});
                write(&mut text, is_lines, None, "lagged", &lagged);
            }
            for (number, item) in &batch.items {
                for value in (self.show)(*number, item, parts_of(after, *number)) {
                    let kind = value["topic"].as_str().unwrap_or(self.kind);
                    write(&mut text, is_lines, Some(&id_of(&value, *number)), kind, &value);
                }
                after = After::whole(*number);
                if text.len() >= PIECE_BYTES {
                    break;
                }
            }
            if text.is_empty() && batch.items.is_empty() {
                if said.elapsed() < HEARTBEAT {
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_PAUSE) => continue,
                        () = send.closed() => return,
                    }
                }
                text = if is_lines { "\n" } else { ":\n\n" }.into();
            }
            if !text.is_empty() {
                if !matches!(
                    tokio::time::timeout(READER_PATIENCE, send.send(Ok(text.into()))).await,
                    Ok(Ok(()))
                ) {
                    return;
                }
                said = Instant::now();
            }
        }
    }
}

/// How many parts a reader knows of a member.
fn parts_of(after: After, number: u64) -> usize {
    if number == after.number + 1 { after.parts } else { 0 }
}

fn id_of(value: &Value, number: u64) -> String {
    value["id"].as_str().map_or_else(|| number.to_string(), str::to_owned)
}

fn write(text: &mut String, is_lines: bool, id: Option<&str>, kind: &str, value: &Value) {
    // Into a string it cannot fail.
    if is_lines {
        let _ = writeln!(text, "{value}");
        return;
    }
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: {kind}\ndata: {value}\n\n");
}
