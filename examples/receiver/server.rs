//! A receiver to try delivery against: it takes batches over HTTP or HTTPS, checks their shape,
//! notices repeated keys, and misbehaves as it is told. The example prints what arrives, and the
//! integration tests run it in their own process.

pub mod behaviour;
pub mod certificates;
pub mod ledger;

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use behaviour::{Behaviour, Verdict};
use ledger::{Arrival, Ledger, Totals};

/// Is told of every request, before its answer goes out.
pub type Listener = Box<dyn Fn(&Arrival) + Send + Sync>;

/// What all connections share.
pub struct Receiver {
    // A lock, because connections are tasks of their own; it is never held across an await.
    state: Mutex<State>,
    listener: Option<Listener>,
    totals: watch::Sender<Totals>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    ledger: Ledger,
    second: Option<Instant>,
    this_second: u32,
}

impl Receiver {
    pub fn new(behaviour: Behaviour, listener: Option<Listener>) -> Arc<Self> {
        let state = Mutex::new(State { behaviour, ..State::default() });
        Arc::new(Self { state, listener, totals: watch::Sender::default() })
    }

    /// Replaces the behaviour, from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Changes with every connection and every request.
    pub fn totals(&self) -> watch::Receiver<Totals> {
        self.totals.subscribe()
    }

    /// The latest requests, oldest first.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.lock().ledger.latest.iter().cloned().collect()
    }

    fn note_connection(&self) {
        let mut state = self.lock();
        state.ledger.totals.connections += 1;
        self.totals.send_replace(state.ledger.totals);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a request and enters it.
    fn take(&self, mut arrival: Arrival, raw_bytes: usize) -> (Verdict, String, Option<String>) {
        let mut state = self.lock();
        let shape = ledger::items(&arrival.body, &arrival.idempotency_key).map(|items| items.len());
        let now = Instant::now();
        if state.second.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            state.second = Some(now);
            state.this_second = 0;
        }
        state.this_second += 1;
        let (nth, this_second) = (state.ledger.totals.requests + 1, state.this_second);
        let mut verdict = state.behaviour.judge(arrival.body.as_bytes(), raw_bytes, nth, this_second);
        let wanted = state.behaviour.authorization.as_deref();
        if wanted.is_some() && arrival.authorization.as_deref() != wanted {
            verdict = Verdict::Refuse(401);
        }
        let mut text = state.behaviour.refusal_text.clone().unwrap_or_else(|| "refused as told".to_owned());
        let taken = matches!(verdict, Verdict::Accept | Verdict::AcceptThenReset);
        match shape {
            Ok(items) => arrival.items = items,
            Err(problem) if taken => {
                text = problem;
                verdict = Verdict::Refuse(400);
            }
            Err(_) => {}
        }
        arrival.accepted = matches!(verdict, Verdict::Accept | Verdict::AcceptThenReset);
        arrival.status = match verdict {
            Verdict::Accept => 200,
            Verdict::Refuse(status) => status,
            Verdict::Close | Verdict::AcceptThenReset => 0,
        };
        state.ledger.enter(&mut arrival);
        let (totals, retry_after) = (state.ledger.totals, state.behaviour.retry_after.clone());
        drop(state);
        if let Some(listener) = &self.listener {
            listener(&arrival);
        }
        self.totals.send_replace(totals);
        (verdict, text, retry_after)
    }
}

/// Serves until `stop` is cancelled; then connections are dropped as they are.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    receiver: Arc<Receiver>,
    stop: CancellationToken,
) -> io::Result<()> {
    let acceptor = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let (stream, _) = accepted?;
                receiver.note_connection();
                connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&receiver)));
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, receiver: Arc<Receiver>) {
    let reset = Arc::new(AtomicBool::new(false));
    let stream = match acceptor {
        None => speak(stream, receiver, &reset).await,
        Some(acceptor) => match timeout(HANDSHAKE_MAX, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(stream)) => speak(stream, receiver, &reset).await.into_inner().0,
            Ok(Err((_, mut stream))) => {
                // Closing with unread bytes would be a reset, and the client would not learn why.
                stream.shutdown().await.ok();
                let mut rest = [0; 1024];
                timeout(HANDSHAKE_MAX, async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} })
                    .await
                    .ok();
                return;
            }
            Err(_) => return,
        },
    };
    if reset.load(Relaxed) {
        stream.set_zero_linger().ok();
    }
}

/// Speaks HTTP until the connection ends, and gives the stream back without closing it.
async fn speak<S>(stream: S, receiver: Arc<Receiver>, reset: &Arc<AtomicBool>) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let (receiver, reset) = (Arc::clone(&receiver), Arc::clone(reset));
        Box::pin(async move { answer(request, &receiver, &reset).await })
    });
    let mut connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // An error is a client that went away, or the broken answer that was ordered.
    std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await.ok();
    connection.into_parts().io.into_inner()
}

/// An answer that is not given: the connection ends instead.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends without an answer, as told")]
struct NoAnswer;

async fn answer(
    request: Request<Incoming>,
    receiver: &Receiver,
    reset: &AtomicBool,
) -> Result<Response<Full<Bytes>>, NoAnswer> {
    if request.uri().path() == "/_control" {
        return Ok(control(request, receiver).await.unwrap_or_else(|never| match never {}));
    }
    if request.method() != Method::POST {
        return Ok(reply(405, "only POST"));
    }
    let (head, body) = request.into_parts();
    let Ok(raw) = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes()) else {
        return Ok(reply(413, "too large"));
    };
    let encoding = header(&head.headers, CONTENT_ENCODING.as_str());
    let body = match decode(&raw, encoding.as_deref()).map(String::from_utf8) {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Ok(reply(400, "the body is not UTF-8")),
        Err(error) => return Ok(reply(415, &error.to_string())),
    };
    let delay = receiver.lock().behaviour.delay_seconds;
    if delay > 0.0 {
        tokio::time::sleep(Duration::from_secs_f64(delay.min(DELAY_SECONDS_MAX))).await;
    }
    let arrival = Arrival {
        idempotency_key: header(&head.headers, "idempotency-key").unwrap_or_default(),
        authorization: header(&head.headers, AUTHORIZATION.as_str()),
        user_agent: header(&head.headers, USER_AGENT.as_str()),
        content_encoding: encoding,
        body,
        items: 0,
        status: 0,
        accepted: false,
        duplicate: false,
        differs: false,
    };
    let (verdict, text, retry_after) = receiver.take(arrival, raw.len());
    match verdict {
        Verdict::Accept => Ok(reply(200, r#"{"status":"ok"}"#)),
        Verdict::Refuse(status) => {
            let mut response = reply(status, &text);
            if let Some(value) =
                retry_after.filter(|_| matches!(status, 429 | 503)).and_then(|text| text.parse().ok())
            {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            Ok(response)
        }
        Verdict::Close => Err(NoAnswer),
        Verdict::AcceptThenReset => {
            reset.store(true, Relaxed);
            Err(NoAnswer)
        }
    }
}

/// `PUT /_control` replaces the behaviour; `GET /_control` tells the totals.
async fn control(
    request: Request<Incoming>,
    receiver: &Receiver,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let totals = receiver.lock().ledger.totals;
        return Ok(reply(200, &serde_json::to_string(&totals).unwrap_or_default()));
    }
    if request.method() != Method::PUT {
        return Ok(reply(405, "only GET and PUT"));
    }
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return Ok(reply(413, "too large"));
    };
    match serde_json::from_slice(&body.to_bytes()) {
        Ok(behaviour) => {
            receiver.behave(behaviour);
            Ok(reply(200, "{}"))
        }
        Err(error) => Ok(reply(400, &error.to_string())),
    }
}

fn reply(status: u16, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn decode(raw: &[u8], encoding: Option<&str>) -> io::Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match encoding {
        None | Some("identity") => Box::new(raw),
        Some("gzip") => Box::new(flate2::read::GzDecoder::new(raw)),
        Some("zstd") => Box::new(zstd::stream::read::Decoder::new(raw)?),
        Some(other) => return Err(io::Error::other(format!("Content-Encoding '{other}' is not known"))),
    };
    let mut body = Vec::new();
    // A small body can unfold to any size.
    reader.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body)?;
    if body.len() > BODY_BYTES_MAX {
        Err(io::Error::other("it unfolds to more than is taken"))
    } else {
        Ok(body)
    }
}

/// More wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// Of a request, before and after decompression.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const DELAY_SECONDS_MAX: f64 = 3600.0;
