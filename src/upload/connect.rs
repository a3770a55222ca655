//! A connection to the endpoint: names, TCP, the proxy between, TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{IpAddr as TlsIpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::message::AGENT;
use super::proxy::Via;
use super::wire::{Metered, Wire};
use crate::tls;

/// What bytes go through.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// An open connection.
pub struct Opened {
    pub stream: Box<dyn Stream>,
    /// In front of the connection it counts: dropped after the stream.
    pub metered: Metered,
    /// Unix seconds when the certificate that the server showed expires.
    pub server_expires_at: Option<f64>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the name {host} is not resolved: {cause}")]
    Resolve { host: String, cause: io::Error },
    #[error("tcp connect error: {0}")]
    Tcp(#[source] io::Error),
    #[error("{0}")]
    Proxy(String),
    #[error("{0}")]
    Tls(#[source] io::Error),
}

/// Connects to the server of `url`, through the proxy if there is one, until `deadline`. With `tls` the
/// connection is encrypted.
///
/// # Errors
///
/// Why not; all are worth another try later.
pub async fn open(
    url: &Url,
    via: Option<&Via>,
    tls: Option<Arc<ClientConfig>>,
    wire: &Arc<Wire>,
    deadline: Instant,
) -> Result<Opened, Error> {
    let host = url.host().ok_or_else(|| Error::Proxy("cloud.endpoint has no host".to_owned()))?;
    let port = url.port_or_known_default().unwrap_or(443);
    let (mut tcp, metered) = match via {
        Some(via) => tcp(&via.host, via.port, wire, deadline).await.map_err(|error| {
            Error::Proxy(format!("no connection to the proxy {}:{}: {error}", via.host, via.port))
        })?,
        None => tcp(&host.to_string(), port, wire, deadline).await?,
    };
    let Some(config) = tls else {
        return Ok(Opened { stream: Box::new(tcp), metered, server_expires_at: None });
    };
    if let Some(via) = via {
        tunnel(&mut tcp, via, &format!("{host}:{port}")).await?;
    }
    let name = match &host {
        Host::Domain(name) => {
            ServerName::try_from((*name).to_owned()).map_err(|error| Error::Proxy(error.to_string()))?
        }
        Host::Ipv4(address) => ServerName::IpAddress(TlsIpAddr::from(IpAddr::V4(*address))),
        Host::Ipv6(address) => ServerName::IpAddress(TlsIpAddr::from(IpAddr::V6(*address))),
    };
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(Error::Tls)?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let server_expires_at = shown.and_then(|certificate| tls::expires_at(certificate));
    Ok(Opened { stream: Box::new(stream), metered, server_expires_at })
}

/// Tries the addresses of `host` one after another.
async fn tcp(
    host: &str,
    port: u16,
    wire: &Arc<Wire>,
    deadline: Instant,
) -> Result<(TcpStream, Metered), Error> {
    let resolve = |cause| Error::Resolve { host: host.to_owned(), cause };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => lookup_host((bare, port)).await.map_err(resolve)?.collect(),
    };
    addresses.truncate(ADDRESSES_MAX);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        // A family that leads nowhere must not use up the time of the other.
        let until = if index + 1 < count { deadline.min(Instant::now() + ADDRESS_MAX) } else { deadline };
        match timeout_at(until, connect(address, wire)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Error::Tcp(last))
}

/// TLS towards the endpoint. Reads the disk.
///
/// # Errors
///
/// A certificate or key cannot be read or used.
pub fn client_config(files: &tls::Files) -> Result<ClientConfig, tls::Error> {
    let mut config = tls::client_config(files, true)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connect(address: SocketAddr, wire: &Arc<Wire>) -> io::Result<(TcpStream, Metered)> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // Counted before it is connected: what is asked in vain costs too.
    let metered = wire.watch(&socket, address.ip());
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, TCP_KEEPALIVE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, TCP_KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepcnt(&stream, TCP_KEEPALIVE_PROBES)?;
    Ok((stream, metered))
}

/// Asks the proxy for a way to `authority` (RFC 9110, section 9.3.6).
async fn tunnel(tcp: &mut TcpStream, via: &Via, authority: &str) -> Result<(), Error> {
    let broken = |error: io::Error| Error::Proxy(format!("the proxy ended the connection: {error}"));
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {AGENT}\r\n");
    if let Some(authorization) = &via.authorization {
        request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.reveal()));
    }
    request.push_str("\r\n");
    tcp.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    // Byte by byte would be simple too, but each a system call; what follows the answer is the server's,
    // which keeps silent until TLS begins, so there is nothing.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= TUNNEL_BYTES_MAX {
            return Err(Error::Proxy("the proxy's answer to CONNECT is too long".to_owned()));
        }
        if tcp.read_buf(&mut answer).await.map_err(broken)? == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    match line.split(' ').nth(1).unwrap_or_default() {
        code if code.len() == 3 && code.starts_with('2') => Ok(()),
        "407" => Err(Error::Proxy("the proxy wants a user and a password; check cloud.proxy".to_owned())),
        code => Err(Error::Proxy(format!(
            "the proxy answered {} to CONNECT {authority}",
            code.chars().filter(char::is_ascii_digit).take(3).collect::<String>()
        ))),
    }
}

/// Of one name.
const ADDRESSES_MAX: usize = 8;
/// For one address while there are others.
const ADDRESS_MAX: Duration = Duration::from_secs(2);
/// Mobile networks forget a silent connection within minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(45);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_PROBES: u32 = 4;
const TUNNEL_BYTES_MAX: usize = 8 * 1024;
