//! The health server: HTTP/1.1 with few connections, short times and small buffers, so that neither
//! a slow nor a malicious client costs the agent memory or pace.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::pace::Pace;
use super::routes;
use super::view::View;
use crate::clock;
use crate::lifecycle::hang;
use crate::lifecycle::watchdog::Progress;

/// Binds the configured address at once, so that who waits for READY finds the page answering. Needs a runtime.
///
/// # Errors
///
/// The port is taken, or the address is not there yet: [`bind_retrying`] goes on.
pub fn bind(settings: &Settings) -> io::Result<TcpListener> {
    let listener = bind_quietly(settings)?;
    announce(&listener, settings, 0);
    Ok(listener)
}

/// After [`bind`] failed with `error`, tries again with backoff. `None` when `stop` is cancelled first.
pub async fn bind_retrying(
    settings: &Settings,
    error: io::Error,
    stop: &CancellationToken,
) -> Option<TcpListener> {
    let address = SocketAddr::new(settings.bind, settings.port);
    tracing::warn!(%address, %error, "the health server cannot bind; the agent runs without it and tries again");
    let mut delay = BIND_DELAY_MIN;
    let mut attempts_failed = 1_u64;
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            () = sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
        }
        if let Ok(listener) = bind_quietly(settings) {
            announce(&listener, settings, attempts_failed);
            return Some(listener);
        }
        attempts_failed += 1;
        delay = (delay * 2).min(BIND_DELAY_MAX);
    }
}

fn bind_quietly(settings: &Settings) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((settings.bind, settings.port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn announce(listener: &TcpListener, settings: &Settings, attempts_failed: u64) {
    // With port 0 this is the only place that tells the one it got.
    let address = listener.local_addr().unwrap_or(SocketAddr::new(settings.bind, settings.port));
    tracing::info!(%address, attempts_failed, "the health server listens");
}

/// Serves the newest of `views` until `stop` is cancelled; requests that are under way then are still answered, but none is
/// waited for longer than [`STOP_TIME_MAX`]. When all places are taken,
/// a new client gets that of the connection which has been without a request for the longest time,
/// so that clients which only hold connections cannot lock a probe out.
///
/// `progress` is stamped each second.
pub async fn serve(
    listener: TcpListener,
    views: watch::Receiver<Arc<View>>,
    progress: &Progress,
    stop: CancellationToken,
) {
    let mut server = Server::new(views, stop.clone());
    let mut accepts = Pace::new(ACCEPT_INTERVAL, ACCEPT_BURST, Instant::now());
    let mut failure = None;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        hang::point("health server").await;
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {
                progress.moved(clock::since_boot());
                continue;
            }
            Some(ended) = server.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                server.places.retain(|place| place.abort.id() != id);
                continue;
            }
            accepted = accept(&listener, &accepts) => accepted,
        };
        match accepted {
            Ok(stream) => {
                note_success(&mut failure);
                accepts.claim(Instant::now(), Duration::ZERO);
                server.admit(stream);
                // Let the new connection be read once before a later one may take its place.
                yield_now().await;
            }
            Err(error) => {
                // Without a pause EMFILE would spin: the connection stays in the backlog.
                let delay = note_failure(&mut failure, &error);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(delay) => {}
                }
            }
        }
    }
    progress.idle();
    let answered = async { while server.tasks.join_next().await.is_some() {} };
    // Whoever is left has asked nothing.
    timeout(STOP_TIME_MAX, answered).await.ok();
}

/// Cancel-safe.
async fn accept(listener: &TcpListener, accepts: &Pace) -> io::Result<TcpStream> {
    sleep_until(accepts.next_at(Instant::now())).await;
    let (stream, _) = listener.accept().await?;
    // Answers are small and leave in one piece; a failure here only means a later answer.
    stream.set_nodelay(true).ok();
    Ok(stream)
}

/// A series of failed accepts.
struct AcceptFailure {
    began_at: Instant,
    count: u32,
}

fn note_failure(failure: &mut Option<AcceptFailure>, error: &io::Error) -> Duration {
    let series = failure.get_or_insert_with(|| {
        tracing::warn!(%error, "the health server cannot accept connections; it goes on trying");
        AcceptFailure { began_at: Instant::now(), count: 0 }
    });
    series.count = series.count.saturating_add(1);
    ACCEPT_DELAY_MIN.saturating_mul(2_u32.saturating_pow(series.count - 1)).min(ACCEPT_DELAY_MAX)
}

fn note_success(failure: &mut Option<AcceptFailure>) {
    if let Some(AcceptFailure { began_at, count }) = failure.take() {
        let lasted_seconds = began_at.elapsed().as_secs();
        tracing::info!(lasted_seconds, count, "the health server accepts connections again");
    }
}

/// What the connections share.
pub(crate) struct Server {
    views: watch::Receiver<Arc<View>>,
    pub(crate) http: http1::Builder,
    tasks: JoinSet<()>,
    places: Vec<Place>,
    clock: Instant,
    requests: Arc<Mutex<Pace>>,
    stop: CancellationToken,
}

/// A connection that is being served.
struct Place {
    abort: AbortHandle,
    activity: Arc<Activity>,
}

impl Server {
    pub(crate) fn new(views: watch::Receiver<Arc<View>>, stop: CancellationToken) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let clock = Instant::now();
        // A lock, because all connections share it; never held across an await.
        let requests = Arc::new(Mutex::new(Pace::new(REQUEST_INTERVAL, REQUEST_BURST, clock)));
        let places = Vec::with_capacity(CONNECTIONS_MAX);
        Self { views, http, tasks: JoinSet::new(), places, clock, requests, stop }
    }

    fn admit(&mut self, stream: TcpStream) {
        if self.places.len() >= CONNECTIONS_MAX {
            let idlest = (0..self.places.len()).min_by_key(|at| self.places[*at].activity.last());
            self.places.swap_remove(idlest.expect("all places are taken")).abort.abort();
        }
        let connection = self.connection();
        let activity = connection.activity.clone();
        let abort = self.tasks.spawn(connection.serve(self.http.clone(), stream));
        self.places.push(Place { abort, activity });
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection {
            views: self.views.clone(),
            activity: Arc::new(Activity::new(self.clock)),
            requests: self.requests.clone(),
            stop: self.stop.clone(),
        }
    }
}

/// When a connection last began: itself, or a request.
#[derive(Debug)]
struct Activity {
    clock: Instant,
    /// Microseconds of `clock`.
    last: AtomicU64,
}

impl Activity {
    fn new(clock: Instant) -> Self {
        let activity = Self { clock, last: AtomicU64::new(0) };
        activity.stamp();
        activity
    }

    fn stamp(&self) {
        let micros = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(micros, Relaxed);
    }

    fn last(&self) -> Instant {
        self.clock + Duration::from_micros(self.last.load(Relaxed))
    }
}

pub(crate) struct Connection {
    views: watch::Receiver<Arc<View>>,
    activity: Arc<Activity>,
    requests: Arc<Mutex<Pace>>,
    stop: CancellationToken,
}

impl Connection {
    /// Until the client closes, misbehaves, or takes too long for a request or for its answer; after the stop until the
    /// request that is under way is answered.
    pub(crate) async fn serve(self, http: http1::Builder, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let activity = self.activity.clone();
        let asked = Notify::new();
        let service = service_fn(|request| {
            asked.notify_one();
            self.activity.stamp();
            let go_ahead_at = self.claim();
            let views = self.views.clone();
            async move {
                sleep_until(go_ahead_at).await;
                let view = views.borrow().clone();
                Ok::<_, Infallible>(routes::answer(&view, &request))
            }
        });
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let mut may_leave = pin!(leaving(&self.stop, &asked));
        let mut is_leaving = false;
        loop {
            let deadline = activity.last() + REQUEST_TIME_MAX;
            tokio::select! {
                // Its errors are the client's, and a client must not fill our log.
                _ = &mut connection => return,
                () = &mut may_leave, if !is_leaving => {
                    connection.as_mut().graceful_shutdown();
                    is_leaving = true;
                }
                () = sleep_until(deadline) => {
                    if activity.last() + REQUEST_TIME_MAX <= deadline {
                        return;
                    }
                }
            }
        }
    }

    fn claim(&self) -> Instant {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.claim(Instant::now(), REQUEST_WAIT_MAX)
    }
}

/// After the stop; of a new connection once its first request was read, which may be in the socket only, or after a while.
async fn leaving(stop: &CancellationToken, asked: &Notify) {
    stop.cancelled().await;
    // It remembers a request that came before.
    timeout(FIRST_REQUEST_WAIT, asked.notified()).await.ok();
}

const CONNECTIONS_MAX: usize = 16;

/// After the stop, for what is under way.
const STOP_TIME_MAX: Duration = Duration::from_millis(500);
const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(100);

/// For the head of a request, and for the pause before the next one.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);

/// From the start of a connection or of a request to the end of its answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// Of each connection's read buffer.
const HEADER_BYTES_MAX: usize = 8 * 1024;

const HEADERS_MAX: usize = 64;

/// How often the server says that it lives.
const TICK: Duration = Duration::from_secs(1);

/// Connections beyond a burst: 200 a second.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(5);
/// No more than there are places, so that a flood gives each client some time for its request.
const ACCEPT_BURST: u32 = CONNECTIONS_MAX as u32;

/// Requests beyond a burst: 100 a second.
const REQUEST_INTERVAL: Duration = Duration::from_millis(10);
const REQUEST_BURST: u32 = 32;
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(1);

const ACCEPT_DELAY_MIN: Duration = Duration::from_millis(50);
const ACCEPT_DELAY_MAX: Duration = Duration::from_secs(2);

const BIND_DELAY_MIN: Duration = Duration::from_secs(1);
const BIND_DELAY_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepts_that_go_on_failing_are_tried_ever_more_rarely() {
        let mut failure = None;
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let delays: Vec<_> = (0..100).map(|_| note_failure(&mut failure, &error)).collect();
        assert_eq!(delays[..3], [ACCEPT_DELAY_MIN, ACCEPT_DELAY_MIN * 2, ACCEPT_DELAY_MIN * 4]);
        assert_eq!(delays[99], ACCEPT_DELAY_MAX);
        note_success(&mut failure);
        assert_eq!(note_failure(&mut failure, &error), ACCEPT_DELAY_MIN);
    }
}
