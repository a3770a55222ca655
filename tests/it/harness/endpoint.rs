//! A real HTTPS endpoint in the test's own process, with certificates made for the test.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::soon;
use receiver::Receiver;
use receiver::behaviour::Behaviour;
use receiver::certificates::{Authority, Identity, Usage, server_config};
use receiver::ledger::Totals;

#[path = "../../../examples/receiver/server.rs"]
#[expect(dead_code, reason = "the example uses what the tests do not")]
pub mod receiver;

/// Certificates of one test, as files.
pub struct Pki {
    folder: TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Self {
        Self::named("test authority")
    }

    /// Of an authority called `name`; its key is new each time.
    pub fn named(name: &str) -> Self {
        let pki = Self { folder: TempDir::new().unwrap(), authority: Authority::new(name).unwrap() };
        pki.write("ca.pem", &pki.authority.pem);
        pki
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A client certificate and its key.
    pub fn client_files(&self) -> (PathBuf, PathBuf) {
        let client = self.authority.sign(Usage::Client).unwrap();
        (self.write("client.pem", &client.certificate_pem), self.write("client.key", &client.key_pem))
    }

    /// A server's certificate and its key.
    pub fn server_files(&self, usage: Usage) -> (PathBuf, PathBuf) {
        let server = self.server(usage);
        (self.write("server.pem", &server.certificate_pem), self.write("server.key", &server.key_pem))
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        super::write(&path, text);
        path
    }

    fn server(&self, usage: Usage) -> Identity {
        self.authority.sign(usage).unwrap()
    }
}

/// A receiver that serves until it is dropped.
pub struct Endpoint {
    pub receiver: Arc<Receiver>,
    pub url: String,
    server: JoinSet<()>,
}

impl Endpoint {
    pub async fn start(pki: &Pki, behaviour: Behaviour) -> Self {
        Self::start_as(pki, behaviour, Usage::Server, false).await
    }

    /// With `wants_client` only clients with a certificate of the same authority may speak.
    pub async fn start_as(pki: &Pki, behaviour: Behaviour, usage: Usage, wants_client: bool) -> Self {
        let identity = pki.server(usage);
        let client_ca = wants_client.then_some(pki.authority.pem.as_str());
        let tls = server_config(&identity.certificate_pem, &identity.key_pem, client_ca).unwrap();
        Self::serve(behaviour, Some(tls), None).await
    }

    /// With TLS, and `told` of every request.
    pub async fn start_watched(pki: &Pki, told: receiver::Listener) -> Self {
        let identity = pki.server(Usage::Server);
        let tls = server_config(&identity.certificate_pem, &identity.key_pem, None).unwrap();
        Self::serve(Behaviour::default(), Some(tls), Some(told)).await
    }

    /// Without TLS.
    pub async fn start_plain(behaviour: Behaviour) -> Self {
        Self::serve(behaviour, None, None).await
    }

    /// Without TLS, and `told` of every request.
    pub async fn start_plain_watched(told: receiver::Listener) -> Self {
        Self::serve(Behaviour::default(), None, Some(told)).await
    }

    /// At a given port, where a device may have looked for it in vain.
    pub async fn start_at(port: u16, pki: &Pki, behaviour: Behaviour) -> Self {
        let identity = pki.server(Usage::Server);
        let tls = server_config(&identity.certificate_pem, &identity.key_pem, None).unwrap();
        Self::serve_at(port, behaviour, Some(tls), None).await
    }

    async fn serve(
        behaviour: Behaviour,
        tls: Option<Arc<ServerConfig>>,
        listener: Option<receiver::Listener>,
    ) -> Self {
        Self::serve_at(0, behaviour, tls, listener).await
    }

    async fn serve_at(
        port: u16,
        behaviour: Behaviour,
        tls: Option<Arc<ServerConfig>>,
        listener: Option<receiver::Listener>,
    ) -> Self {
        let socket = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/v1/ingest", socket.local_addr().unwrap());
        let receiver = Receiver::new(behaviour, listener);
        let shared = Arc::clone(&receiver);
        let mut server = JoinSet::new();
        server.spawn(async move {
            receiver::serve(socket, tls, shared, CancellationToken::new()).await.unwrap();
        });
        Self { receiver, url, server }
    }

    /// Waits until the totals are as `are` says.
    pub async fn totals(&self, what: &str, are: impl Fn(&Totals) -> bool) -> Totals {
        let mut totals = self.receiver.totals();
        *soon(what, totals.wait_for(are)).await.unwrap()
    }

    /// Every item in accepted batches that are no duplicates, in order of arrival.
    pub fn items(&self) -> Vec<Value> {
        let arrivals = self.receiver.arrivals();
        let accepted = arrivals.iter().filter(|arrival| arrival.accepted && !arrival.duplicate);
        let mut items = Vec::new();
        for arrival in accepted {
            let mut body: Value = serde_json::from_str(&arrival.body).unwrap();
            items.append(body["items"].as_array_mut().unwrap());
        }
        items
    }

    /// The `value` of each of [`Self::items`].
    pub fn values(&self) -> Vec<u64> {
        self.items().iter().map(|item| item["value"].as_u64().unwrap()).collect()
    }

    /// The `value` of each of [`Self::items`] that has one.
    pub fn values_as_floats(&self) -> Vec<f64> {
        self.items().iter().filter_map(|item| item["value"].as_f64()).collect()
    }

    /// Stops listening and drops its connections; done when this returns.
    pub async fn stop(mut self) {
        self.server.shutdown().await;
    }
}
