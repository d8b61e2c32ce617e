//! Bulk work beside the ticks (T4): a few threads under SCHED_IDLE, a bounded queue, and what became of each piece.
//!
//! Who asks waits two seconds; what takes longer is answered 202 with the place to look again.

use super::{App, problem::Problem};
use crate::{clock, config::Config, events::What, metrics::Metrics, pool, status::WorldStatus};
use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{Options, Parallel};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// What a piece of work comes to.
pub(super) type Outcome = Result<Value, Problem>;

tokio::task_local! {
    /// How long the work of the request that is being answered has waited for a thread.
    pub(super) static QUEUED: Cell<Duration>;
}

type Work = (u64, Box<dyn FnOnce() -> Outcome + Send>);

/// So long the client that asked waits for the end itself.
const WAIT: Duration = Duration::from_secs(2);

/// Between two tries to get into a full queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// The number of work that is no job: they are counted from 1.
const NOBODY: u64 = 0;

/// So many outcomes are remembered for who looks later (L1).
const REMEMBERED_MAX: usize = 64;

/// The threads, the queue, the outcomes.
pub(crate) struct Bulk {
    queue: SyncSender<Work>,
    jobs: Arc<Mutex<Jobs>>,
    stopping: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// So long a client waits that cannot come back for the answer.
    patience: Duration,
    /// How ticks are computed again here.
    pub(super) options: Options,
}

#[derive(Default)]
struct Jobs {
    next: u64,
    by_id: BTreeMap<u64, Job>,
}

struct Job {
    kind: &'static str,
    outcome: watch::Receiver<Option<Outcome>>,
    tell: watch::Sender<Option<Outcome>>,
}

impl Bulk {
    pub(super) fn start(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let patience = Duration::from_millis(config.http.request_timeout_millis) * 2 / 3;
        let config = &config.history;
        let (queue, incoming) = sync_channel::<Work>(config.queue_len_max);
        let jobs: Arc<Mutex<Jobs>> = Arc::default();
        let incoming = Arc::new(Mutex::new(incoming));
        for i in 0..config.workers {
            let (incoming, jobs, metrics) = (incoming.clone(), jobs.clone(), metrics.clone());
            let body = move || {
                pool::idle();
                while let Some((id, work)) = next(&incoming) {
                    // A panic has been reported by its hook; who waits must not wait for ever.
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    let outcome = outcome.unwrap_or_else(|_| Err(Problem::failed("the work panicked")));
                    metrics.history_questions.dec();
                    if let Some(job) = jobs.lock().by_id.get(&id) {
                        job.tell.send_replace(Some(outcome));
                    }
                }
            };
            std::thread::Builder::new().name(format!("history {i}")).spawn(body)?;
        }
        let options = Options {
            pool: pool::start_idle(config.workers)?,
            parallel: Parallel::Auto,
            stopwatch: clock::stopwatch(),
        };
        Ok(Self { queue, jobs, stopping: Arc::default(), metrics: metrics.clone(), patience, options })
    }

    /// Whether answers are still wanted: not once the server stops.
    pub(super) fn wanted(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let stopping = self.stopping.clone();
        Arc::new(move || !stopping.load(Relaxed))
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Has work done, and answers: with what it comes to, or where that will be found.
    pub(super) async fn answer(
        &self,
        kind: &'static str,
        // Whose events tell of it when it takes long.
        about: Option<Arc<WorldStatus>>,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<Response, Problem> {
        let (id, mut outcome) = self.submit(kind, Box::new(work))?;
        let mut later = outcome.clone();
        let done = async { outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
        match tokio::time::timeout(WAIT, done).await {
            Ok(Some(outcome)) => {
                self.jobs.lock().by_id.remove(&id);
                outcome.map(|value| Json(value).into_response())
            }
            Ok(None) => Err(Problem::unavailable("the server is stopping")),
            Err(_) => {
                if let Some(status) = about {
                    status.tell(What::Job { id, kind, state: "running" });
                    tokio::spawn(async move {
                        // Stopped, nobody is told.
                        let Ok(outcome) = later.wait_for(Option::is_some).await else { return };
                        let state = if matches!(&*outcome, Some(Ok(_))) { "done" } else { "failed" };
                        status.tell(What::Job { id, kind, state });
                    });
                }
                let location = format!("/v1/history/{id}");
                let body =
                    json!({"id": id.to_string(), "kind": kind, "state": "running", "location": location});
                Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response())
            }
        }
    }

    /// As [`Bulk::answer`], for what cannot be looked for later: after two thirds of what a request may take it is refused, since ticks leave the
    /// threads for bulk work too little (T4).
    pub(super) async fn wait(
        &self,
        kind: &'static str,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Outcome {
        let begun: Arc<OnceLock<Instant>> = Arc::default();
        let (begins, asked) = (begun.clone(), Instant::now());
        let work = move || {
            // It is set once.
            let _ = begins.set(Instant::now());
            work()
        };
        let (id, mut outcome) = self.submit(kind, Box::new(work))?;
        let done = async { outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
        let done = tokio::time::timeout(self.patience, done).await;
        self.jobs.lock().by_id.remove(&id);
        let waited = begun.get().copied().unwrap_or_else(Instant::now) - asked;
        // Outside of a request nobody asks.
        let _ = QUEUED.try_with(|queued| queued.set(queued.get() + waited));
        match done {
            Ok(outcome) => outcome.unwrap_or_else(|| Err(Problem::unavailable("the server is stopping"))),
            Err(_) => {
                Err(Problem::unavailable("the ticks leave too little of the processors for this question"))
            }
        }
    }

    /// As [`Bulk::wait`], for what is no JSON.
    pub(super) async fn wait_for<T: Send + 'static>(
        &self,
        kind: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (send, done) = oneshot::channel();
        let work = move || {
            // Who asked may have gone.
            let _ = send.send(work());
            Ok(Value::Null)
        };
        self.wait(kind, work).await?;
        done.await.map_err(|_| Problem::failed("the work was not done"))
    }

    /// Has a piece of work done that nobody looks for. While the queue is full it waits, so long; then, and when the
    /// server stops, there is nothing.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (send, done) = oneshot::channel();
        let mut work: Option<Box<dyn FnOnce() -> Outcome + Send>> = Some(Box::new(move || {
            // Who asked may have gone.
            let _ = send.send(work());
            Ok(Value::Null)
        }));
        let deadline = tokio::time::Instant::now() + patience;
        while let Some(next) = work.take() {
            if let Err(back) = self.try_run(next) {
                if tokio::time::Instant::now() >= deadline || self.stopping.load(Relaxed) {
                    return None;
                }
                work = Some(back);
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
        }
        done.await.ok()
    }

    fn try_run(
        &self,
        work: Box<dyn FnOnce() -> Outcome + Send>,
    ) -> Result<(), Box<dyn FnOnce() -> Outcome + Send>> {
        self.metrics.history_questions.inc();
        // It is no job that anybody looks for.
        self.queue.try_send((NOBODY, work)).map_err(|error| {
            self.metrics.history_questions.dec();
            match error {
                TrySendError::Full((_, work)) | TrySendError::Disconnected((_, work)) => work,
            }
        })
    }

    fn submit(
        &self,
        kind: &'static str,
        work: Box<dyn FnOnce() -> Outcome + Send>,
    ) -> Result<(u64, watch::Receiver<Option<Outcome>>), Problem> {
        let full = || Problem::unavailable("too much history work waits already (history.queue_len_max)");
        let mut jobs = self.jobs.lock();
        let id = jobs.next + 1;
        let (tell, outcome) = watch::channel(None);
        jobs.by_id.insert(id, Job { kind, outcome: outcome.clone(), tell });
        self.metrics.history_questions.inc();
        if self.queue.try_send((id, work)).is_err() {
            self.metrics.history_questions.dec();
            let reason = "history";
            self.metrics.http_rejected.get_or_create(&crate::metrics::ReasonLabels { reason }).inc();
            jobs.by_id.remove(&id);
            return Err(full());
        }
        jobs.next = id;
        while jobs.by_id.len() > REMEMBERED_MAX {
            let done = jobs.by_id.iter().find(|(_, job)| job.outcome.borrow().is_some()).map(|(id, _)| *id);
            let Some(done) = done else { break };
            jobs.by_id.remove(&done);
        }
        Ok((id, outcome))
    }
}

fn next(incoming: &Mutex<Receiver<Work>>) -> Option<Work> {
    incoming.lock().recv().ok()
}

/// What became of a piece of work that took long.
pub(super) async fn job(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let jobs = app.bulk.jobs.lock();
    let found = id.parse().ok().and_then(|id: u64| jobs.by_id.get(&id));
    let job =
        found.ok_or_else(|| Problem::not_found(format!("there is no history work {id}, or not any more")))?;
    let mut answer = json!({"id": id, "kind": job.kind, "state": "running"});
    match &*job.outcome.borrow() {
        None => {}
        Some(Ok(result)) => {
            answer["state"] = "done".into();
            answer["result"] = result.clone();
        }
        Some(Err(problem)) => {
            answer["state"] = "failed".into();
            answer["problem"] = serde_json::to_value(problem).unwrap_or_default();
        }
    }
    Ok(Json(answer))
}
