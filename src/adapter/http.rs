//! A server that takes readings POSTed to `/ingest` and answers when they are durable.
//!
//! All `http` devices share it; a device says which unit its sensor has when the reading does not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::{Device, Error, Intake, State};
use crate::config::section::{Secret, Section};

mod ingest;
mod request;

pub const RUNS_ONCE: bool = false;

pub const SAMPLE: &str = r#"
[ingest.http]
bind = "127.0.0.1"
port = 8081
# Needed when others than this machine can connect.
token = "${HTTP_INGEST_TOKEN:-change-me}"
body_max_bytes = 1048576
connections_max = 64
timeout_seconds = 10.0

[[sensors.devices]]
name = "gateway_temperature"
ingest_type = "http"
unit = "C"
"#;

/// The server.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    address: SocketAddr,
    token: Option<Secret>,
    body_bytes_max: usize,
    connections_max: usize,
    /// For a request head to come, and from there until its readings are durable.
    timeout: Duration,
    /// By sensor name, for readings without a unit.
    units: BTreeMap<String, String>,
}

impl Source {
    /// What senders have to show.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    pub fn read(shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        let ip = read_bind(shared);
        let port = shared.count("port", 8081, 1..=65_535);
        let token = shared.secret("token");
        if token.as_ref().is_some_and(|token| token.reveal().is_empty()) {
            shared.refuse("token", "is empty; give a secret, or leave the key out to take readings from this machine only");
        } else if token.is_none() && !ip.is_loopback() {
            shared.missing("token", "a secret, as 'bind' lets other machines connect");
        }
        let source = Self {
            address: SocketAddr::new(ip, port),
            token,
            body_bytes_max: shared.count("body_max_bytes", 1 << 20, 1024..=BODY_BYTES_MAX),
            connections_max: shared.count("connections_max", 64, 1..=1024),
            timeout: shared.seconds("timeout_seconds", 10.0, 0.1..=300.0),
            units: devices
                .iter()
                .filter(|device| !device.unit.is_empty())
                .map(|device| (device.name.clone(), device.unit.clone()))
                .collect(),
        };
        if devices.is_empty() { Vec::new() } else { vec![source] }
    }

    pub fn name(&self) -> String {
        "http".to_owned()
    }

    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        let listener = TcpListener::bind(self.address).await.map_err(|error| {
            let address = self.address;
            Error::Failed(format!("cannot listen on {address}: {error}; give a free address; it is tried again"))
        })?;
        self.serve(listener, intake).await
    }

    /// Serves `listener` until the intake stops. Requests that are being answered then have
    /// [`DRAIN_MAX`] to end.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the pipeline is gone.
    pub async fn serve(&self, listener: TcpListener, intake: &Intake) -> Result<(), Error> {
        intake.status.set(State::Connected);
        let server = Arc::new(Server::new(self.clone(), intake));
        let mut connections = JoinSet::new();
        let mut refusing = false;
        let mut result = Ok(());
        loop {
            tokio::select! {
                () = intake.stop.cancelled() => break,
                () = intake.batches.closed() => {
                    result = Err(Error::Closed);
                    break;
                }
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < self.connections_max => {
                        refusing = false;
                        connections.spawn(serve_connection(server.clone(), stream));
                    }
                    Ok((stream, _)) => {
                        if !std::mem::replace(&mut refusing, true) {
                            let max = self.connections_max;
                            tracing::warn!(connections_max = max, "http: connections are refused, too many are open");
                        }
                        // The socket's buffer is empty, so it takes these bytes at once.
                        stream.try_write(BUSY).ok();
                    }
                    // The peer is gone, or files ran out: nothing is lost by waiting a moment.
                    Err(error) => {
                        tracing::debug!(%error, "http: a connection was not accepted");
                        if !intake.pause(ACCEPT_RETRY).await {
                            break;
                        }
                    }
                },
            }
        }
        drop(listener);
        let drained = timeout(DRAIN_MAX, async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!(connections = connections.len(), "http: requests were cut off by the stop");
            connections.shutdown().await;
        }
        result
    }
}

/// What the connections share.
pub(crate) struct Server {
    source: Source,
    intake: Intake,
    /// Bodies being held in memory.
    bodies: Semaphore,
}

impl Server {
    pub(crate) fn new(source: Source, intake: &Intake) -> Self {
        Self { source, intake: intake.share(), bodies: Semaphore::new(BODIES_MAX) }
    }
}

async fn serve_connection(server: Arc<Server>, stream: TcpStream) {
    // A peer that takes no answers, or has lost its link, does not hold its connection for ever.
    let patience = u32::try_from(server.source.timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, patience).ok();
    stream.set_nodelay(true).ok();
    converse(server, stream).await;
}

/// Answers the requests on `stream` until the client closes, misbehaves or takes too long, or the intake
/// stops.
pub(crate) async fn converse(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(request::answer(&server, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Runs while a kept connection is idle, too.
        .header_read_timeout(server.source.timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = server.intake.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "http: a connection ended early");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "http: a connection's task failed");
    }
}

fn read_bind(shared: &mut Section<'_>) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match shared.string("bind") {
        None => loopback,
        Some(text) if text == "localhost" => loopback,
        Some(text) => text.parse().unwrap_or_else(|_| {
            shared.refuse("bind", format_args!("'{text}' is no IP address; give one, such as 127.0.0.1, 0.0.0.0 or ::"));
            loopback
        }),
    }
}

const BODY_BYTES_MAX: i64 = 64 << 20;
/// With a body and its decompressed form each, this many are in memory at the same time.
const BODIES_MAX: usize = 16;
/// Request line and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The agent as a whole is done within ten seconds.
const DRAIN_MAX: Duration = Duration::from_secs(4);
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[cfg(test)]
mod tests;
