//! A real forward proxy: CONNECT tunnels, and plain requests that name the whole URL. It counts what goes
//! through, and knows where `receiver.test` is, which nobody else does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Serves until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    tunnels: AtomicU64,
    refused: AtomicU64,
    forwarded: AtomicU64,
    /// Payload in both directions, of tunnels that are closed.
    bytes: AtomicU64,
}

impl Proxy {
    /// With `authorization` only who shows it may pass.
    pub async fn start(authorization: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (shared, authorization) = (seen.clone(), authorization.map(str::to_owned));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(serve(client, authorization.clone(), shared.clone()));
            }
        });
        Self { address, seen, _server: server }
    }

    pub fn tunnels(&self) -> u64 {
        self.seen.tunnels.load(Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.seen.refused.load(Relaxed)
    }

    pub fn forwarded(&self) -> u64 {
        self.seen.forwarded.load(Relaxed)
    }

    /// Of tunnels that are closed, in both directions.
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Relaxed)
    }
}

async fn serve(mut client: TcpStream, authorization: Option<String>, seen: Arc<Seen>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let shown = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_owned())
    };
    if authorization.is_some() && text.lines().find_map(shown) != authorization {
        seen.refused.fetch_add(1, Relaxed);
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok();
        return;
    }
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let authority = target.trim_start_matches("http://").split('/').next().unwrap();
    let address = authority.replace("receiver.test", "127.0.0.1");
    let Ok(mut server) = TcpStream::connect(&address).await else {
        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.ok();
        return;
    };
    if method == "CONNECT" {
        seen.tunnels.fetch_add(1, Relaxed);
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    } else {
        assert!(target.starts_with("http://"), "{target} is not the form for a proxy");
        seen.forwarded.fetch_add(1, Relaxed);
        server.write_all(&head).await.unwrap();
    }
    let (up, down) = copy_bidirectional(&mut client, &mut server).await.unwrap_or_default();
    seen.bytes.fetch_add(up + down, Relaxed);
}
