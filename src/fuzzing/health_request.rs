//! Requests to the health server: raw bytes on a connection in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::{Answer, PIPE_BYTES, block_on, exchange, first_answer};
use crate::clock;
use crate::health::host::Host;
use crate::health::server::Server;
use crate::health::wear::{self, Wear};
use crate::health::{Configured, Phase, PrivacySummary, View};
use crate::lifecycle::watchdog::Verdict;

pub(super) fn run(input: &[u8]) {
    let requests = 1 + input.len() / REQUEST_BYTES_MIN;
    let within = REQUEST_SECONDS_MAX.saturating_mul(1 + u32::try_from(requests).unwrap_or(u32::MAX));
    block_on(async {
        let server = Server::new(watch::channel(Arc::new(view())).1, CancellationToken::new());
        let output = talk(&server, input, within).await;
        assert!(output.len() <= requests * PAGE_BYTES_MAX, "{} bytes of answers", output.len());
        if let Some(answer) = first_answer(&output) {
            check(&answer);
        }
        // Whatever that was, the next client is served.
        let output = talk(&server, b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", within).await;
        let answer = first_answer(&output).expect("a probe is answered");
        assert_eq!((answer.status, answer.body.as_slice(), answer.rest.len()), (200, &b"ok\n"[..], 0));
    });
}

async fn talk(server: &Server, input: &[u8], within: Duration) -> Vec<u8> {
    let (client, stream) = tokio::io::duplex(PIPE_BYTES);
    exchange(client, server.connection().serve(server.http.clone(), stream), input, within).await
}

fn check(answer: &Answer) {
    assert!([200, 400, 404, 405, 414, 431, 505].contains(&answer.status), "{}", answer.head);
    if answer.status == 200 && answer.head.contains("application/json") && !answer.body.is_empty() {
        let text = answer.json();
        assert_eq!(text["status"], "healthy", "{text}");
    }
}

fn view() -> View {
    let configured = Configured {
        config_file: "config.toml".to_owned(),
        last_reload: None,
        devices: 1,
        sources: Vec::new(),
        actions: Vec::new(),
        cloud_enabled: true,
        endpoint: "https://api.example.com/v1/ingest".to_owned(),
        privacy: PrivacySummary { enabled: true, ..Default::default() },
    };
    let settings = wear::Settings { bytes_per_day: None, commit_interval_max: Duration::from_secs(10) };
    // Senders that are gone leave their last value.
    View {
        started_at: clock::since_boot(),
        phase: watch::channel(Phase::Running).1,
        configured: watch::channel(configured).1,
        verdict: watch::channel(Verdict::Alive).1,
        pipeline: Arc::default(),
        privacy: Arc::default(),
        store: Arc::default(),
        delivery: Arc::default(),
        previous: None,
        wear: Arc::new(Wear::new(settings, None, Arc::default(), Duration::ZERO)),
        host: Arc::new(Host::with_roots(NOWHERE.into(), NOWHERE.into(), NOWHERE.into())),
        memory: crate::lifecycle::memory::Memory::default(),
    }
}

/// The board's own figures are of no account here.
const NOWHERE: &str = "/nonexistent";
/// `G / HTTP/1.0` and two line ends.
const REQUEST_BYTES_MIN: usize = 14;
/// The longest is the page of metrics.
const PAGE_BYTES_MAX: usize = 32 * 1024;
/// From the start of a request to the end of its answer, with a second for its turn.
const REQUEST_SECONDS_MAX: Duration = Duration::from_secs(11);
