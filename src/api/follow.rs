//! Following a ring: a page of what is kept, or a stream that goes on, as server-sent events or NDJSON.
//!
//! Who is slower than what happens misses some, is told which, and goes on with the oldest that is kept: nothing waits for
//! him (T2), and nothing is queued for him but the piece that he has not taken yet.

use super::{
    App,
    problem::Problem,
    query::{Lines, NDJSON, READER_PATIENCE},
};
use crate::ring::Ring;
use axum::{
    Json,
    body::{Body, Bytes},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Members that are looked at together.
const AT_ONCE: usize = 256;
/// Something is sent so often, so that whoever stands between does not think the connection dead.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What is followed: where the ring is, and what of it is told, and how.
pub(super) struct Followed<T, R, S> {
    pub(super) ring: R,
    /// None for members that are not asked for.
    pub(super) show: S,
    /// The number of the last one that the reader knows.
    pub(super) after: u64,
    pub(super) limit: usize,
    pub(super) _of: std::marker::PhantomData<T>,
}

pub(super) const EVENT_STREAM: &str = "text/event-stream";

impl<T, R, S> Followed<T, R, S>
where
    T: Send + Sync + 'static,
    R: Fn() -> Option<Arc<Ring<T>>> + Send + Sync + 'static,
    S: Fn(u64, &T) -> Option<Value> + Send + Sync + 'static,
{
    /// A stream when that is what the client accepts, else a page.
    pub(super) fn answer(self, app: &Arc<App>, headers: &HeaderMap) -> Result<Response, Problem> {
        let accepts = |media: &str| headers.get(header::ACCEPT).is_some_and(|accept| accept == media);
        let is_lines = accepts(NDJSON);
        if !is_lines && !accepts(EVENT_STREAM) {
            return Ok(Json(self.page()).into_response());
        }
        let Ok(permit) = app.streams.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("too many streams are open (http.streams_max)"));
        };
        let (send, receive) = mpsc::channel::<Bytes>(1);
        let app = app.clone();
        tokio::spawn(async move {
            self.stream(&app, is_lines, send).await;
            drop(permit);
        });
        let kind = if is_lines { NDJSON } else { EVENT_STREAM };
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
        Ok((headers, Body::new(Lines(receive))).into_response())
    }

    fn page(&self) -> Value {
        let mut items = Vec::new();
        let (mut after, mut missed, mut more) = (self.after, None, false);
        if let Some(ring) = (self.ring)() {
            'looking: loop {
                let batch = ring.after(after, AT_ONCE);
                missed = missed.or(batch.missed);
                if batch.items.is_empty() {
                    break;
                }
                for (number, item) in batch.items {
                    if items.len() == self.limit {
                        more = true;
                        break 'looking;
                    }
                    items.extend((self.show)(number, &item));
                    after = number;
                }
            }
        }
        let mut page =
            json!({"items": items, "next": more.then(|| after.to_string()), "after": after.to_string()});
        if let Some((from, to)) = missed {
            page["lagged"] = json!({"from": from, "to": to});
        }
        page
    }

    async fn stream(self, app: &App, is_lines: bool, send: mpsc::Sender<Bytes>) {
        let mut after = self.after;
        loop {
            // The world may go while it is followed.
            let Some(ring) = (self.ring)() else { return };
            if app.draining.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            let batch = ring.after(after, AT_ONCE);
            let mut text = String::new();
            if let Some((from, to)) = batch.missed {
                write(
                    &mut text,
                    is_lines,
                    None,
                    "lagged",
                    &json!({"type": "lagged", "from": from, "to": to}),
                );
            }
            for (number, item) in &batch.items {
                after = *number;
                if let Some(value) = (self.show)(*number, item) {
                    let id = value["id"].as_str().map_or_else(|| number.to_string(), str::to_owned);
                    let kind = value["topic"].as_str().unwrap_or("line").to_owned();
                    write(&mut text, is_lines, Some(&id), &kind, &value);
                }
            }
            if text.is_empty() && batch.items.is_empty() {
                tokio::select! {
                    () = ring.wait(after) => continue,
                    () = send.closed() => return,
                    () = tokio::time::sleep(HEARTBEAT) => text = if is_lines { "\n" } else { ":\n\n" }.into(),
                }
            }
            if !text.is_empty()
                && !matches!(tokio::time::timeout(READER_PATIENCE, send.send(text.into())).await, Ok(Ok(())))
            {
                return;
            }
        }
    }
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
