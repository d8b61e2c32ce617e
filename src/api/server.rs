//! Connections: accepted up to a bound, with timeouts on everything, drained with a deadline.
//!
//! hyper-util instead of `axum::serve`: that one installs no timer, so that a slow sender would hold a socket for ever.

use super::{
    App,
    bulk::{self, Bulk},
    media::{self, ARROW, BINARY, CSV, EVENT_STREAM, NDJSON},
    problem::Problem,
    routes,
    tls::{Stream, Tls},
};
use crate::{cli::Failed, config::Config, hosting::Hosting, metrics::Metrics, tokens::Tokens};
use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{DefaultBodyLimit, Request, State},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, oneshot},
};
use tower_http::compression::{
    CompressionLayer,
    predicate::{Predicate as _, SizeAbove},
};

/// What the kernel holds of an answer that a client does not read. Left alone it grows to megabytes.
const SEND_BUFFER_BYTES: u32 = 256 << 10;

/// What we hold of an answer that the kernel does not take yet, and of the head of a request.
const CONNECTION_BUFFER_BYTES: usize = 128 << 10;

/// Batches whose bodies come at the same time (L1): they may be large.
const BATCHES_MAX: usize = 16;

/// A bound listener that does not accept yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds. The kernel holds a burst of `http.backlog` connects while we are busy.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = || -> std::io::Result<TcpListener> {
            let socket = if config.http.bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            // Connections inherit it: a reader that reads nothing holds no more than this.
            socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
            socket.bind(config.http.bind)?;
            socket.listen(config.http.backlog)
        };
        let listener = bind().with_context(|| format!("could not listen on {}", config.http.bind))?;
        let address = listener.local_addr().context("could not read the listener's address")?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM, SIGINT, or the end of the world; then drains and ends the world in order.
    pub async fn run(
        self,
        config: Arc<Config>,
        hosting: Arc<Hosting>,
        served: Served,
        mut signals: Signals,
    ) -> Result<(), Failed> {
        let tls = served.tls;
        let app = Arc::new(App {
            config: config.clone(),
            metrics: hosting.shared.metrics.clone(),
            hosting: hosting.clone(),
            draining: AtomicBool::new(false),
            bulk: Bulk::start(&config, &hosting.shared.metrics)
                .context("could not start the history threads")?,
            views: super::views::Views::default(),
            founds: Arc::default(),
            firsts: super::views::FirstViews::default(),
            answers: super::views::Answers::default(),
            streams: Arc::new(Semaphore::new(config.http.streams_max)),
            tokens: served.tokens,
            live: super::live::Live::new(&config, served.effective),
            buckets: super::auth::Buckets::default(),
            shutdown: tokio::sync::Notify::new(),
            requests: AtomicU64::new(1),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(accept(self.listener, tls, app.clone(), stopped));
        let all_failed = tokio::select! {
            () = hosting.all_failed() => true,
            () = signals.any() => false,
            () = app.shutdown.notified() => false,
        };
        app.draining.store(true, Relaxed);
        app.bulk.stop();
        if all_failed {
            // Who looks finds the last view, and the reason on /readyz?verbose.
            let linger = Duration::from_secs_f64(app.config.recovery.linger_secs);
            let _ = tokio::time::timeout(linger, signals.any()).await;
        } else {
            tracing::info!("stopping");
        }
        let ended = hosting.stop().await;
        // The receiver is gone when accepting has already ended.
        let _ = stop.send(());
        // Its deadline is within; a panic there has been reported.
        let _ = serving.await;
        ended.map_err(Failed::from)
    }
}

/// What a server serves with beside its worlds.
#[derive(Default)]
pub struct Served {
    /// Who may use it; without any everybody on this machine.
    pub tokens: Tokens,
    /// The configuration in force, key by key, as it is shown.
    pub effective: serde_json::Value,
    /// How connections are encrypted, if they are.
    pub tls: Option<Tls>,
}

/// The signals that end the process in order. One that comes is kept until somebody waits for it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they end the process only through this. To be called within a runtime.
    ///
    /// # Errors
    /// When the system does not let them be caught.
    pub fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("could not watch for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("could not watch for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The routes with everything around them.
fn service(app: &Arc<App>) -> Router {
    routes::router()
        .fallback(|| async { Problem::not_found("there is no such route; see /v1/routes") })
        .method_not_allowed_fallback(|| async {
            Problem::of_status(
                StatusCode::METHOD_NOT_ALLOWED,
                "this route does not have that method; see /v1/routes",
            )
        })
        .layer(CompressionLayer::new().gzip(true).compress_when(SizeAbove::new(1_024).and(is_packed)))
        // Bodies are bounded where they are read, in `admit`.
        .layer(DefaultBodyLimit::disable())
        // Each layer is cloned for each request: what can be one is one.
        .route_layer(middleware::from_fn_with_state((app.clone(), Arc::new(Places::new(app))), around))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app.clone())
}

/// A stream is to come as it is made, not when a block is full.
fn is_packed(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    [EVENT_STREAM, NDJSON, CSV, ARROW, BINARY].iter().all(|streamed| !kind.starts_with(streamed.as_bytes()))
}

async fn accept(listener: TcpListener, tls: Option<Tls>, app: Arc<App>, mut stopped: oneshot::Receiver<()>) {
    let http = app.config.http.clone();
    let permits = Arc::new(Semaphore::new(http.connections_max));
    let graceful = GracefulShutdown::new();
    let service = service(&app);
    // HTTP/1 only: hyper-util waits for the first bytes without a timer while it may still be HTTP/2.
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(http.header_timeout_millis))
        .max_headers(http.headers_max)
        .max_buf_size(CONNECTION_BUFFER_BYTES);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: they come back as connections end.
                    tracing::warn!("could not accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = &mut stopped => break,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            // Closed at once (L2): the client sees it now, not after a queue.
            reject(&app.metrics, "connections");
            continue;
        };
        // Small answers go out at once; failing to say so costs time, not correctness.
        let _ = stream.set_nodelay(true);
        let (app, tls, builder) = (app.clone(), tls.clone(), builder.clone());
        let (service, watcher) = (TowerToHyperService::new(service.clone()), graceful.watcher());
        tokio::spawn(async move {
            app.metrics.http_connections.inc();
            let patience = Duration::from_millis(app.config.http.header_timeout_millis);
            let stream: Option<Box<dyn Stream>> = match tls {
                None => Some(Box::new(stream)),
                Some(tls) => {
                    tokio::time::timeout(patience, tls.accept(stream)).await.ok().and_then(Result::ok)
                }
            };
            // A client that went away, or sent no HTTP, is no event.
            if let Some(stream) = stream {
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                let _ = watcher.watch(connection.into_owned()).await;
            }
            app.metrics.http_connections.dec();
            drop(permit);
        });
    }
    drop(listener);
    let deadline = Duration::from_millis(http.drain_timeout_millis);
    if tokio::time::timeout(deadline, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still open at the end of the drain");
    }
}

pub(super) fn reject(metrics: &Metrics, reason: &'static str) {
    metrics.http_rejected.get_or_create(&crate::metrics::ReasonLabels { reason }).inc();
}

/// How much may be done at the same time.
struct Places {
    in_flight: Semaphore,
    batches: Semaphore,
}

impl Places {
    fn new(app: &App) -> Self {
        let in_flight = Semaphore::new(app.config.http.in_flight_max);
        Self { in_flight, batches: Semaphore::new(BATCHES_MAX) }
    }
}

/// Waits for the body of whoever may ask, and bounds the requests in flight. A body that comes slowly takes nobody's
/// place.
async fn admit(app: &App, places: &Places, request: Request<Body>, next: Next) -> Response {
    let live = app.live.config();
    let http = &live.http;
    let is_batch = [NDJSON, CSV].contains(&media::sent(request.headers()));
    let most = if is_batch { http.batch_bytes_max } else { http.body_bytes_max };
    let Ok(_batch) = is_batch.then(|| places.batches.try_acquire()).transpose() else {
        reject(&app.metrics, "batches");
        return Problem::unavailable("too many batches are coming in").into_response();
    };
    let too_large = || {
        let detail = format!("the body has more than {most} bytes");
        Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
    };
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > most as u64 {
        return too_large();
    }
    let patience = Duration::from_millis(http.body_timeout_millis);
    let body = match tokio::time::timeout(patience, axum::body::to_bytes(body, most)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            let is_too_large = error.into_inner().is::<http_body_util::LengthLimitError>();
            let broke_off = || Problem::malformed("the body broke off").into_response();
            return if is_too_large { too_large() } else { broke_off() };
        }
        Err(_) => {
            reject(&app.metrics, "body");
            let detail = "the body did not come in time (http.body_timeout_millis)";
            return Problem::of_status(StatusCode::REQUEST_TIMEOUT, detail).into_response();
        }
    };
    let Ok(_permit) = places.in_flight.try_acquire() else {
        reject(&app.metrics, "in_flight");
        return Problem::unavailable("too many requests are being answered").into_response();
    };
    let _in_flight = InFlight::new(&app.metrics);
    let patience = Duration::from_millis(app.config.http.request_timeout_millis);
    let answer = next.run(Request::from_parts(parts, Body::from(body)));
    let too_late = |_| Problem::of_status(StatusCode::REQUEST_TIMEOUT, "Request Timeout").into_response();
    tokio::time::timeout(patience, answer).await.unwrap_or_else(too_late)
}

/// Keeps pages of other sites from talking to a loopback server.
async fn guard(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().host());
    // A token is sent on purpose; without one whoever reaches this machine's address is taken for its user.
    if app.tokens.is_empty() && !host.is_some_and(is_local) {
        reject(&app.metrics, "host");
        return Problem::forbidden("the Host header does not name this machine").into_response();
    }
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if app.tokens.is_empty() && !is_read && is_cross_site(request.headers()) {
        reject(&app.metrics, "cross_site");
        return Problem::forbidden("a page of another site must not change a world").into_response();
    }
    request.headers_mut().remove(super::auth::PRINCIPAL);
    as_problem(next.run(request).await)
}

/// Counts a request for as long as it is answered, also when its client gives up.
struct InFlight<'m>(&'m Metrics);

impl<'m> InFlight<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.http_in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.http_in_flight.dec();
    }
}

/// True when a browser says that a page of another site sends this: the Host header is then ours, the wish is not.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let foreign_origin = text("origin").is_some_and(|origin| {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        !is_local(host)
    });
    foreign_origin || text("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

/// True for the names under which a loopback server is reached; a page that rebinds its own name is not one.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What axum and its layers refuse in plain text, as a problem.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let json = HeaderValue::from_static("application/problem+json");
    let is_error = status.is_client_error() || status.is_server_error();
    let typed = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == json);
    if !is_error || typed || status == StatusCode::SERVICE_UNAVAILABLE {
        return response;
    }
    Problem::of_status(status, status.canonical_reason().unwrap_or("refused")).into_response()
}

/// What each route has around it: who asks, whether he may and asks what there is, and what it took.
async fn around(
    State((app, places)): State<(Arc<App>, Arc<Places>)>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let asked = super::spec::route_of(&request);
    let (route, method) = asked.map_or(("", ""), |route| (route.path, route.method));
    let method = if request.method() == Method::HEAD { "HEAD" } else { method };
    let start = Instant::now();
    let answer = async {
        let answer = match super::auth::check(&app, asked, &mut request) {
            Err(refused) => *refused,
            Ok(()) => match super::spec::check(asked, &request) {
                Err(problem) => problem.into_response(),
                Ok(()) => admit(&app, &places, request, next).await,
            },
        };
        (answer, bulk::QUEUED.with(Cell::get))
    };
    let (mut response, queued) = bulk::QUEUED.scope(Cell::new(Duration::ZERO), answer).await;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (queue, work) = (millis(queued), millis(start.elapsed().saturating_sub(queued)));
    if let Ok(timing) = HeaderValue::from_str(&format!("queue;dur={queue:.3}, work;dur={work:.3}")) {
        response.headers_mut().insert("server-timing", timing);
    }
    let (metrics, code) = (&app.metrics, response.status().as_u16());
    let labels = crate::metrics::RouteLabels { route, method };
    metrics.http_duration.get_or_create(&labels).observe(start.elapsed().as_secs_f64());
    metrics.http_requests.get_or_create(&crate::metrics::HttpLabels { route, method, code }).inc();
    response
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_loopback_names_are_local() {
        let check = |host, expected| assert_eq!(is_local(host), expected, "{host}");
        check("127.0.0.1:7170", true);
        check("127.0.0.1", true);
        check("localhost:7170", true);
        check("LOCALHOST", true);
        check("[::1]:7170", true);
        check("evil.example", false);
        check("evil.example:7170", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example:7170", false);
        check("10.0.0.1:7170", false);
        check("", false);
    }
}
