//! The endpoint of a measurement: HTTPS on a port of its own, switched on and off, in a thread of
//! this process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::children::free_port;
use super::server::behaviour::Behaviour;
use super::server::ledger::Arrival;
use super::server::{Receiver, certificates, serve};

/// Down until it is switched on.
pub struct Endpoint {
    pub url: String,
    pub ca_file: PathBuf,
    port: u16,
    tls: Arc<ServerConfig>,
}

/// An endpoint that takes everything; down again when dropped.
pub struct Up {
    receiver: Arc<Receiver>,
    taken: Arc<Mutex<Taken>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

/// When batches came; a lock, because the endpoint's thread writes it and the measurement reads it.
type Taken = Vec<(Instant, u64)>;

impl Endpoint {
    pub fn new(folder: &Path) -> Result<Self> {
        certificates::provide(folder).map_err(|error| anyhow!(error)).context("cannot make certificates")?;
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        let tls = certificates::server_config(&read("server.pem")?, &read("server.key")?, None)
            .map_err(|error| anyhow!(error))?;
        let port = free_port()?;
        Ok(Self {
            url: format!("https://127.0.0.1:{port}/v1/ingest"),
            ca_file: folder.join("ca.pem"),
            port,
            tls,
        })
    }

    /// Up with a ledger of its own.
    pub fn switch_on(&self) -> Result<Up> {
        let taken = Arc::new(Mutex::new(Taken::new()));
        let log = taken.clone();
        let listener = move |arrival: &Arrival| {
            if arrival.accepted && !arrival.duplicate {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push((Instant::now(), arrival.items as u64));
            }
        };
        let receiver = Receiver::new(Behaviour::default(), Some(Box::new(listener)));
        self.serve(receiver, taken)
    }

    /// Up with the ledger and the behaviour of `receiver`.
    pub fn switch_on_with(&self, receiver: Arc<Receiver>) -> Result<Up> {
        self.serve(receiver, Arc::default())
    }

    fn serve(&self, receiver: Arc<Receiver>, taken: Arc<Mutex<Taken>>) -> Result<Up> {
        let stop = CancellationToken::new();
        let (port, tls, shared, stopped) = (self.port, self.tls.clone(), receiver.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
                serve(listener, Some(tls), shared, stopped).await
            })
        });
        Ok(Up { receiver, taken, stop, thread: Some(thread) })
    }
}

impl Up {
    /// When the first batch came.
    pub fn first(&self) -> Option<Instant> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(at, _)| *at)
    }

    /// When `items` had come, by the batch that reached that number, and how many there were then.
    pub fn reached(&self, items: u64) -> Option<(Instant, u64)> {
        let mut total = 0;
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().find_map(|(at, count)| {
            total += count;
            (total >= items).then_some((*at, total))
        })
    }

    /// Waits until so many items have come, and calls `sample` every 100 ms.
    pub fn wait(&self, items: u64, limit: Duration, mut sample: impl FnMut()) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let totals = *self.receiver.totals().borrow();
            if totals.items >= items {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("{} of {items} items were delivered after {limit:?}", totals.items);
            }
            sample();
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.stop.cancel();
        // What it failed with was seen as missing items.
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}
