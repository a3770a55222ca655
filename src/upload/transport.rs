//! One request at a time over one kept-alive HTTP/1.1 connection.
//!
//! The connection is opened at the first attempt and kept through pauses; it is opened anew when it
//! was closed, and when the settings or the certificate files have changed. One that cannot be opened
//! is an answer like any other, so it is retried.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::connect::{self, Stream, open};
use super::decide::{Answer, Fault};
use super::encode::encode;
use super::message::{address, headers, read, read_start, uri};
use super::proxy::{Environment, Via};
use super::stamp::{Stamp, certificate_stamps, stamps};
use super::trouble::{explain, is_certificate_error, is_not_yet_valid};
use super::wire::{Metered, Wire};
use super::{Certificates, Settings};
use crate::store::FrozenBatch;
use crate::tls;

/// The connection to the endpoint.
pub struct Transport {
    environment: Environment,
    wire: Arc<Wire>,
    built: Option<Built>,
    connection: Option<Connection>,
    /// The files of the last attempt, to notice when they change.
    stamps: Vec<Stamp>,
    pub certificates: Certificates,
}

/// How a post ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Posted {
    pub answer: Answer,
    /// Bytes of the body that went out; 0 when there was no connection.
    pub body_bytes: u64,
    /// From the request to the end of its answer.
    pub latency: Duration,
}

/// What a connection is made with, as long as it stays the same.
struct Built {
    tls: Option<Arc<ClientConfig>>,
    /// Of the certificate files.
    stamps: Vec<Stamp>,
    target: Target,
}

/// Where a connection leads, and with what.
#[derive(Clone, PartialEq)]
struct Target {
    url: Url,
    via: Option<Via>,
    files: tls::Files,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Driven while there is a request, and looked at before the next.
    driver: Pin<Box<Driver>>,
    used_at: Instant,
    /// Dropped after the socket.
    _metered: Metered,
}

/// Moves the bytes of a connection.
type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// A request without its target.
struct Prepared {
    headers: HeaderMap,
    body: Bytes,
}

impl Transport {
    /// With the proxies of `environment`; what goes over the line is counted in `wire`.
    pub fn new(environment: Environment, wire: Arc<Wire>) -> Self {
        Self {
            environment,
            wire,
            built: None,
            connection: None,
            stamps: Vec::new(),
            certificates: Certificates::default(),
        }
    }

    /// Posts `batch` once. Takes `settings.timeout` at the longest for the request itself, after
    /// reading certificate and credential files.
    ///
    /// When the call is dropped the endpoint may or may not have the batch.
    pub async fn post(&mut self, settings: &Settings, batch: &FrozenBatch) -> Posted {
        self.stamps = stamps(settings);
        let began = Instant::now();
        let failed = |reason, fault, body_bytes| Posted {
            answer: Answer::Failed { reason, fault },
            body_bytes,
            latency: began.elapsed(),
        };
        let prepared = match self.prepare(settings, batch).await {
            Ok(prepared) => prepared,
            Err(reason) => return failed(reason, Fault::Unreachable, 0),
        };
        let body_bytes = prepared.body.len() as u64;
        let sent_at = Instant::now();
        match self.send(settings, prepared, sent_at + settings.timeout).await {
            Ok(answer) => Posted { answer, body_bytes, latency: sent_at.elapsed() },
            Err(failure) => {
                // What is left of the connection cannot be trusted.
                self.connection = None;
                let origin = self.built.as_ref().map(|built| built.target.url.origin().ascii_serialization());
                let origin = origin.unwrap_or_default();
                let (text, fault, body_bytes) = self.judge(&failure, settings, body_bytes);
                failed(format!("cannot deliver to {origin}: {text}"), fault, body_bytes)
            }
        }
    }

    /// Whether a certificate or credential file is another than at the last attempt. Reads the disk.
    pub fn files_changed(&self, settings: &Settings) -> bool {
        self.stamps != stamps(settings)
    }

    /// Closes a connection that has not been used for long.
    pub fn close_idle(&mut self) {
        self.connection.take_if(|connection| connection.used_at.elapsed() > IDLE_MAX);
    }

    /// Sees to it that [`Self::built`] is as the settings and files are now.
    async fn prepare(&mut self, settings: &Settings, batch: &FrozenBatch) -> Result<Prepared, String> {
        let url = Url::parse(&settings.endpoint)
            .map_err(|error| format!("cloud.endpoint: is not a URL: {error}"))?;
        let api_key = settings.api_key.as_ref().map(|key| key.read_again()).transpose();
        let api_key = api_key.map_err(|fault| format!("cloud.api_key: {fault}"))?;
        let via = settings.proxy.read_again()?.via(&url, &self.environment)?;
        let encoded = encode(batch, settings.compression)
            .map_err(|error| format!("cannot compress a batch: {error}"))?;
        let mut headers = headers(batch, &encoded, api_key.as_ref())?;
        address(&mut headers, &url, via.as_ref())?;
        let stamps = certificate_stamps(settings);
        let target = Target { url, via, files: settings.tls.clone() };
        if self.built.as_ref().is_none_or(|built| built.target != target || built.stamps != stamps) {
            self.build(target, stamps).await?;
        }
        Ok(Prepared { headers, body: encoded.body })
    }

    async fn build(&mut self, target: Target, stamps: Vec<Stamp>) -> Result<(), String> {
        self.built = None;
        self.connection = None;
        let (files, is_https) = (target.files.clone(), target.url.scheme() == "https");
        let read = move || {
            let config = is_https.then(|| connect::client_config(&files)).transpose()?;
            Ok::<_, tls::Error>((config, files.expiry()))
        };
        // It reads the disk and parses some 140 certificates: not on the thread that runs all else.
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
        let (config, expiry) = read.map_err(|error| error.in_section("cloud"))?;
        self.certificates = Certificates { client: expiry.client, authority: expiry.authority, server: None };
        self.built = Some(Built { tls: config.map(Arc::new), stamps, target });
        Ok(())
    }

    /// Sends over the connection there is, or a new one. One that the other side had closed meanwhile is
    /// no failure: the same goes over a new one.
    async fn send(
        &mut self,
        settings: &Settings,
        prepared: Prepared,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.close_idle();
        if let Some(connection) = &mut self.connection
            && connection.is_open().await
        {
            match self.exchange(settings, &prepared, deadline).await {
                Err(Failure::Broken(_)) => {}
                ended => return ended,
            }
        }
        self.connection = None;
        self.connect(settings, deadline).await?;
        self.exchange(settings, &prepared, deadline).await
    }

    async fn connect(&mut self, settings: &Settings, deadline: Instant) -> Result<(), Failure> {
        let Some(Built { tls, target, .. }) = &self.built else { return Err(Failure::NoConnection) };
        let deadline = deadline.min(Instant::now() + connect_timeout(settings));
        let opening = open(&target.url, target.via.as_ref(), tls.clone(), &self.wire, deadline);
        let opened = timeout_at(deadline, opening).await.map_err(|_| Failure::NoConnection)?;
        let opened = opened.map_err(Failure::Connect)?;
        self.certificates.server = opened.server_expires_at;
        let (sender, driver) =
            http1::handshake(TokioIo::new(opened.stream)).await.map_err(Failure::Broken)?;
        self.connection = Some(Connection {
            sender,
            driver: Box::pin(driver),
            used_at: Instant::now(),
            _metered: opened.metered,
        });
        Ok(())
    }

    async fn exchange(
        &mut self,
        settings: &Settings,
        prepared: &Prepared,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let (Some(connection), Some(built)) = (&mut self.connection, &self.built) else {
            return Err(Failure::NoConnection);
        };
        let mut request = Request::new(Full::new(prepared.body.clone()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = prepared.headers.clone();
        let is_forwarded = built.target.via.is_some() && built.tls.is_none();
        *request.uri_mut() = uri(&built.target.url, is_forwarded).ok_or(Failure::NoConnection)?;
        let exchanged = timeout_at(deadline, connection.exchange(request)).await;
        let (response, start, whole) = exchanged.map_err(|_| Failure::NoAnswer)??;
        connection.used_at = Instant::now();
        if !whole {
            // Its rest would be taken for the answer to the next request.
            self.connection = None;
        }
        Ok(read(&response, &start, settings))
    }

    /// What a failure means: its text, whose fault it is, and how many bytes of the body went out.
    fn judge(&mut self, failure: &Failure, settings: &Settings, body_bytes: u64) -> (String, Fault, u64) {
        let text = match failure {
            Failure::NoConnection => format!("no connection within {:?}", connect_timeout(settings)),
            Failure::NoAnswer => {
                format!("no complete answer within {:?} (cloud.timeout)", settings.timeout)
            }
            Failure::Connect(error) => explain(error, settings),
            Failure::Broken(error) => explain(error, settings),
        };
        let error: Option<&(dyn std::error::Error + 'static)> = match failure {
            Failure::Connect(error) => Some(error),
            Failure::Broken(error) => Some(error),
            Failure::NoConnection | Failure::NoAnswer => None,
        };
        if error.is_some_and(is_certificate_error) {
            // The system's authorities may be replaced meanwhile: read them again.
            self.built = None;
        }
        match failure {
            _ if error.is_some_and(is_not_yet_valid) => (text, Fault::NotYetValid, 0),
            // A client certificate that is refused shows after the handshake of TLS 1.3.
            Failure::Broken(error) if super::trouble::tls_error(error).is_some() => {
                (text, Fault::Unreachable, body_bytes)
            }
            Failure::NoAnswer | Failure::Broken(_) => (text, Fault::Unanswered, body_bytes),
            Failure::NoConnection | Failure::Connect(_) => (text, Fault::Unreachable, 0),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    /// Not in time.
    NoConnection,
    Connect(connect::Error),
    NoAnswer,
    Broken(hyper::Error),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(error)
    }
}

impl Connection {
    /// Looks whether the other side has closed it in the pause.
    async fn is_open(&mut self) -> bool {
        let driver = &mut self.driver;
        let ended =
            std::future::poll_fn(|context| std::task::Poll::Ready(driver.as_mut().poll(context))).await;
        ended.is_pending() && !self.sender.is_closed()
    }

    /// Sends the request and reads the start of its answer; the last value says whether that was all.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<()>, Vec<u8>, bool), Failure> {
        let Self { sender, driver, .. } = self;
        let mut answer = pin!(async {
            sender.ready().await?;
            let (head, body) = sender.send_request(request).await?.into_parts();
            let (start, whole) = read_start(body).await;
            Ok((Response::from_parts(head, ()), start, whole))
        });
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = driver => match (answer.await, ended) {
                // The connection knows better why it ended than the request that it took along.
                (Err(Failure::Broken(error)), Err(cause)) if error.is_canceled() => Err(cause.into()),
                (answer, _) => answer,
            },
        }
    }
}

fn connect_timeout(settings: &Settings) -> Duration {
    settings.timeout.min(CONNECT_MAX)
}

/// A board that is offline should not wait for the whole timeout to notice.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// An unused connection is closed after this: its keep-alive costs more than a new handshake by then.
const IDLE_MAX: Duration = Duration::from_secs(15 * 60);
#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::test_settings;

    #[test]
    fn connecting_takes_no_longer_than_the_whole() {
        assert_eq!(connect_timeout(&test_settings()), CONNECT_MAX);
        let hasty = Settings { timeout: Duration::from_secs(3), ..test_settings() };
        assert_eq!(connect_timeout(&hasty), hasty.timeout);
    }
}
