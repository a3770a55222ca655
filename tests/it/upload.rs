//! Delivery against a real endpoint over real TLS: what arrives, how often, and what is said of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pyvorin_edge::config::section::Secret;
use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::store::{Lane, Outcome};
use pyvorin_edge::tls;
use pyvorin_edge::upload::{
    self, Budget, Compression, Proxy, QueueClosed, Settings, Status, Surroundings, proxy,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::endpoint::receiver::behaviour::{Behaviour, Times};
use crate::harness::endpoint::receiver::certificates::Usage;
use crate::harness::endpoint::{Endpoint, Pki};
use crate::harness::log;
use crate::harness::model_queue::ModelQueue;
use crate::harness::{soon, until};

/// An uploader at work on `queue`; dropping it is a crash.
pub struct Uploader {
    pub status: Arc<Status>,
    progress: Arc<Progress>,
    settings: watch::Sender<Settings>,
    stop: CancellationToken,
    task: JoinSet<Result<(), QueueClosed>>,
}

impl Uploader {
    pub fn start(queue: &ModelQueue, settings: Settings) -> Self {
        Self::start_in(queue, settings, surroundings())
    }

    pub fn start_in(queue: &ModelQueue, settings: Settings, surroundings: Surroundings) -> Self {
        let (settings, changes) = watch::channel(settings);
        let (status, progress, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(upload::run(
            queue.clone(),
            changes,
            surroundings,
            Arc::clone(&status),
            Arc::clone(&progress),
            stop.clone(),
        ));
        Self { status, progress, settings, stop, task }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = soon("the uploader stops", self.task.join_next()).await;
        ended.expect("it runs").expect("it does not panic").expect("the queue is open");
    }

    /// Waits for a trouble that `fits`.
    pub async fn trouble(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        soon(what, async {
            loop {
                if let Some(trouble) = self.status.last().trouble.filter(|trouble| fits(trouble)) {
                    return trouble;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// Settings for a test in a hurry. Every test comes through here, so the log starts here.
pub fn settings(pki: &Pki, endpoint: &Endpoint) -> Settings {
    log::keep();
    Settings {
        enabled: true,
        endpoint: endpoint.url.clone(),
        api_key: Some(Secret::new("k-123".to_owned())),
        batch_size: 10,
        batch_bytes_max: 256 * 1024,
        timeout: Duration::from_secs(10),
        flush_interval: Duration::from_millis(20),
        compression: Compression::None,
        tls: tls::Files { ca_file: Some(pki.ca_file()), ..tls::Files::default() },
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        proxy: Proxy::None,
        budget: Budget::default(),
    }
}

pub fn surroundings() -> Surroundings {
    Surroundings {
        device_id: "device-1".to_owned(),
        proxies: proxy::Environment::default(),
        clock_is_set: || true,
        budget_fact: None,
    }
}

pub fn up_to(count: u64) -> Vec<u64> {
    (0..count).collect()
}

#[tokio::test]
async fn everything_arrives_once_and_in_order_over_one_connection() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 25);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(25));
    let totals = *endpoint.receiver.totals().borrow();
    assert_eq!((totals.batches, totals.duplicates, totals.refused), (3, 0, 0));
    assert_eq!(totals.connections, 1);
    uploader.stop().await;
}

#[tokio::test]
async fn a_request_carries_the_documented_headers() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 1);
    let mut settings = settings(&pki, &endpoint);
    // What stands in the URL must not win over the key.
    settings.endpoint = settings.endpoint.replace("https://", "https://user:password@");
    let uploader = Uploader::start(&queue, settings);
    queue.emptied().await;
    let arrival = &endpoint.receiver.arrivals()[0];
    assert_eq!(arrival.authorization.as_deref(), Some("Bearer k-123"));
    let agent = concat!("Pyvorin-Edge/", env!("CARGO_PKG_VERSION"));
    assert_eq!(arrival.user_agent.as_deref(), Some(agent));
    assert_eq!(arrival.idempotency_key, "model-3-0-0");
    assert_eq!(arrival.content_encoding, None);
    uploader.stop().await;
}

#[tokio::test]
async fn compressed_bodies_are_understood() {
    for (compression, name) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let pki = Pki::new();
        let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
        let queue = ModelQueue::new();
        queue.add(Lane::Telemetry, 10);
        let uploader = Uploader::start(&queue, Settings { compression, ..settings(&pki, &endpoint) });
        queue.emptied().await;
        assert_eq!(endpoint.values(), up_to(10), "{name}");
        assert_eq!(endpoint.receiver.arrivals()[0].content_encoding.as_deref(), Some(name));
        let body_bytes = endpoint.receiver.arrivals()[0].body.len() as u64;
        assert!(uploader.status.body_bytes_sent.load(Relaxed) < body_bytes, "{name} saves nothing");
        uploader.stop().await;
    }
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_comes_again_with_the_same_key_and_bytes() {
    let pki = Pki::new();
    let behaviour = Behaviour { accept_then_reset: Times::Left(1), ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    let arrivals = endpoint.receiver.arrivals();
    assert_eq!(arrivals.len(), 2);
    assert!(arrivals[1].duplicate && !arrivals[1].differs);
    assert_eq!(arrivals[0].body, arrivals[1].body);
    assert_eq!(endpoint.values(), up_to(10));
    uploader.stop().await;
}

#[tokio::test]
async fn a_retried_batch_is_identical_after_a_restart() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { fail: Some(503), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 7);
    let first = Uploader::start(&queue, settings(&pki, &endpoint));
    endpoint.totals("an attempt fails", |totals| totals.requests >= 1).await;
    // No farewell: as in a crash.
    drop(first);
    queue.add(Lane::Telemetry, 5);
    endpoint.receiver.behave(Behaviour::default());
    let second = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    let arrivals = endpoint.receiver.arrivals();
    let accepted = arrivals.iter().find(|arrival| arrival.accepted).unwrap();
    assert_eq!(accepted.idempotency_key, arrivals[0].idempotency_key);
    assert_eq!(accepted.body, arrivals[0].body);
    assert_eq!(endpoint.receiver.totals().borrow().differing, 0);
    assert_eq!(endpoint.values(), up_to(12));
    second.stop().await;
}

#[tokio::test]
async fn server_errors_are_retried_until_they_end() {
    let pki = Pki::new();
    let behaviour = Behaviour { status_sequence: [500, 502, 503, 409, 408].into(), ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(endpoint.receiver.arrivals().len(), 6);
    assert_eq!(endpoint.values(), up_to(10));
    assert_eq!(uploader.status.attempts_failed.load(Relaxed), 5);
    uploader.stop().await;
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let pki = Pki::new();
    let retry_after = Some("1".to_owned());
    let behaviour = Behaviour { status_sequence: [429].into(), retry_after, ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let started_at = Instant::now();
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    // The longest backoff of its own is 50 ms.
    assert!(started_at.elapsed() >= Duration::from_secs(1), "{:?}", started_at.elapsed());
    assert_eq!(endpoint.receiver.arrivals().len(), 2);
    uploader.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_split_until_it_fits() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { max_body: Some(300), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(10));
    assert!(queue.settled().iter().any(|(_, outcome)| *outcome == Outcome::Split));
    assert_eq!(queue.dead_letters(), []);
    uploader.stop().await;
}

#[tokio::test]
async fn one_bad_item_is_set_aside_and_all_others_arrive() {
    let pki = Pki::new();
    let reject_item = Some(r#""value":13,"#.to_owned());
    let refusal_text = Some("13 is\nunlucky".to_owned());
    let endpoint =
        Endpoint::start(&pki, Behaviour { reject_item, refusal_text, ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 30);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(queue.dead_letters(), [(13, "400 Bad Request: 13 is unlucky".to_owned())]);
    let others: Vec<_> = (0..30).filter(|value| *value != 13).collect();
    assert_eq!(endpoint.values(), others);
    uploader.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_every_item_does_not_empty_the_queue() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { fail: Some(422), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 40);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    let trouble = uploader.trouble("it is held", |_| true).await;
    assert!(trouble.contains("16 single items in a row"), "{trouble}");
    assert_eq!(queue.dead_letters().len(), 16);
    assert_eq!(queue.undelivered(), 24);
    uploader.stop().await;
}

#[tokio::test]
async fn a_refused_key_keeps_everything_and_says_so() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { fail: Some(401), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 25);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    let trouble = uploader.trouble("it is held", |_| true).await;
    assert_eq!(trouble, "the endpoint answered 401 Unauthorized; everything is kept; check cloud.api_key");
    assert_eq!((queue.undelivered(), queue.settled().len()), (25, 0));
    // It looks again by itself, so a key that is put right on the other side needs nobody here.
    endpoint.receiver.behave(Behaviour::default());
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(25));
    uploader.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_given_up_after_the_timeout() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { delay_seconds: 600.0, ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let timeout = Duration::from_millis(300);
    let uploader = Uploader::start(&queue, Settings { timeout, ..settings(&pki, &endpoint) });
    let trouble = uploader.trouble("the timeout", |_| true).await;
    assert!(trouble.contains("no complete answer within 300ms"), "{trouble}");
    endpoint.receiver.behave(Behaviour::default());
    queue.emptied().await;
    uploader.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_closes_midway_is_tried_again() {
    let pki = Pki::new();
    let behaviour = Behaviour { close_midway: Times::Left(2), ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(10));
    assert_eq!(endpoint.receiver.arrivals().len(), 3);
    uploader.stop().await;
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_gets_nothing() {
    let pki = Pki::new();
    // The second is an authority that was made anew under the same name.
    for (others, cause) in [(Pki::named("others"), "UnknownIssuer"), (Pki::new(), "BadSignature")] {
        let endpoint = Endpoint::start(&others, Behaviour::default()).await;
        let queue = ModelQueue::new();
        queue.add(Lane::Telemetry, 10);
        let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
        let trouble = uploader.trouble("the certificate is refused", |_| true).await;
        let hint = "signed by no authority that is trusted here; check cloud.ca_file";
        assert!(trouble.contains(cause) && trouble.contains(hint), "{trouble}");
        assert_eq!((endpoint.receiver.arrivals().len(), queue.undelivered()), (0, 10));
        uploader.stop().await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_named_as_such() {
    let pki = Pki::new();
    let endpoint = Endpoint::start_as(&pki, Behaviour::default(), Usage::ExpiredServer, false).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    let trouble = uploader.trouble("the certificate is refused", |_| true).await;
    assert!(trouble.contains("certificate expired"), "{trouble}");
    assert!(trouble.contains("clock of this device"), "{trouble}");
    assert_eq!((endpoint.receiver.arrivals().len(), queue.undelivered()), (0, 10));
    uploader.stop().await;
}

#[tokio::test]
async fn a_missing_authority_file_is_trouble_until_it_is_there() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let ca_file = pki.ca_file().with_file_name("later.pem");
    let uploader = Uploader::start(
        &queue,
        Settings {
            tls: tls::Files { ca_file: Some(ca_file), ..tls::Files::default() },
            ..settings(&pki, &endpoint)
        },
    );
    let trouble = uploader.trouble("the file is missing", |_| true).await;
    assert!(trouble.starts_with("cloud.ca_file: cannot read") && trouble.contains("later.pem"), "{trouble}");
    let pem = std::fs::read_to_string(pki.ca_file()).unwrap();
    pki.write("later.pem", "no certificate yet");
    uploader.trouble("the file is empty", |trouble| trouble.contains("holds no certificate")).await;
    pki.write("later.pem", &pem);
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(10));
    uploader.stop().await;
}

#[tokio::test]
async fn a_replaced_authority_file_needs_no_restart() {
    let (pki, old) = (Pki::new(), Pki::new());
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&old, &endpoint));
    uploader.trouble("the certificate is refused", |_| true).await;
    old.write("ca.pem", &std::fs::read_to_string(pki.ca_file()).unwrap());
    queue.emptied().await;
    uploader.stop().await;
}

#[tokio::test]
async fn a_client_certificate_opens_an_endpoint_that_wants_one() {
    let pki = Pki::new();
    let endpoint = Endpoint::start_as(&pki, Behaviour::default(), Usage::Server, true).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    let trouble = uploader.trouble("no certificate is shown", |_| true).await;
    assert!(trouble.starts_with("cannot deliver to https://127.0.0.1:"), "{trouble}");
    assert!(trouble.contains("cloud.client_certificate_file"), "{trouble}");
    assert_eq!((endpoint.receiver.arrivals().len(), queue.undelivered()), (0, 10));

    let (certificate, key) = pki.client_files();
    uploader.settings.send_modify(|settings| {
        settings.tls.client_certificate_file = Some(certificate);
        settings.tls.client_key_file = Some(key);
    });
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(10));
    uploader.stop().await;
}

#[tokio::test]
async fn urgent_items_go_first_and_do_not_wait_for_a_full_batch() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 3);
    let flush_interval = Duration::from_secs(3600);
    let uploader = Uploader::start(&queue, Settings { flush_interval, ..settings(&pki, &endpoint) });
    queue.add(Lane::Critical, 1);
    endpoint.totals("the urgent one", |totals| totals.batches >= 1).await;
    assert_eq!(endpoint.receiver.arrivals()[0].idempotency_key, "model-1-0-0");
    uploader.stop().await;
}

#[tokio::test]
async fn telemetry_waits_for_a_full_batch_within_the_flush_interval() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 9);
    let flush_interval = Duration::from_secs(3600);
    let uploader = Uploader::start(&queue, Settings { flush_interval, ..settings(&pki, &endpoint) });
    queue.add(Lane::Telemetry, 3);
    endpoint.totals("the full batch", |totals| totals.batches >= 1).await;
    uploader.stop().await;
    assert_eq!(endpoint.values(), up_to(10));
    assert_eq!(queue.undelivered(), 2);
    let wants = queue.wants();
    assert!(wants.iter().all(|want| !want.partial));
    assert!(wants.len() <= 4, "it asks in a circle: {}", wants.len());
}

#[tokio::test]
async fn switched_off_it_sends_nothing_until_it_is_switched_on() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Critical, 10);
    let uploader = Uploader::start(&queue, Settings { enabled: false, ..settings(&pki, &endpoint) });
    queue.add(Lane::Critical, 10);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.wants(), []);
    uploader.settings.send_modify(|settings| settings.enabled = true);
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(20));
    uploader.stop().await;
}

#[tokio::test]
async fn an_attempt_under_way_at_stop_gets_a_short_grace_and_its_batch_stays() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { delay_seconds: 600.0, ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let timeout = Duration::from_secs(600);
    let uploader = Uploader::start(&queue, Settings { timeout, ..settings(&pki, &endpoint) });
    soon("it has taken a batch", async {
        while queue.wants().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let asked_at = Instant::now();
    uploader.stop().await;
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
    assert_eq!((queue.undelivered(), queue.settled().len()), (10, 0));
}

#[tokio::test]
async fn status_counts_what_was_delivered_and_the_stage_moves_while_it_waits() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 25);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    until("the last delivery is counted", async || {
        (uploader.status.items_delivered.load(Relaxed) == 25).then_some(())
    })
    .await;
    // Falls with each stamp.
    let since = || uploader.progress.stuck_for(Duration::MAX);
    let before = since();
    until("the waiting uploader moves", async || (since() < before).then_some(())).await;
    let last = uploader.status.last();
    assert_eq!(uploader.status.batches_delivered.load(Relaxed), 3);
    assert_eq!(uploader.status.items_today(last.delivered_at), 25);
    assert_eq!(last.trouble, None);
    uploader.stop().await;
}

#[tokio::test]
async fn once_delivers_what_is_there_and_returns() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 23);
    queue.add(Lane::Logs, 1);
    let settings = settings(&pki, &endpoint);
    let stop = CancellationToken::new();
    let ended =
        soon("the pass ends", upload::once(queue.clone(), &settings, &surroundings(), Arc::default(), stop))
            .await;
    assert_eq!(ended, Ok(()));
    assert_eq!((queue.undelivered(), endpoint.receiver.totals().borrow().items), (0, 24));
}

#[tokio::test]
async fn once_says_why_it_failed_after_one_attempt() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { fail: Some(503), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 23);
    let settings = settings(&pki, &endpoint);
    let stop = CancellationToken::new();
    let ended =
        soon("the pass ends", upload::once(queue.clone(), &settings, &surroundings(), Arc::default(), stop))
            .await;
    assert_eq!(ended, Err("the endpoint answered 503 Service Unavailable".to_owned()));
    assert_eq!((queue.undelivered(), endpoint.receiver.arrivals().len()), (23, 1));
}

#[tokio::test]
async fn once_tells_of_items_that_were_refused() {
    let pki = Pki::new();
    let reject_item = Some(r#""value":2,"#.to_owned());
    let endpoint = Endpoint::start(&pki, Behaviour { reject_item, ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 5);
    let settings = settings(&pki, &endpoint);
    let stop = CancellationToken::new();
    let ended =
        soon("the pass ends", upload::once(queue.clone(), &settings, &surroundings(), Arc::default(), stop))
            .await;
    let refused = "items refused by the endpoint: 1; they are set aside in the store with the reason";
    assert_eq!(ended, Err(refused.to_owned()));
    assert_eq!(endpoint.values(), [0, 1, 3, 4]);
}

#[tokio::test]
async fn a_huge_answer_is_cut_off() {
    let pki = Pki::new();
    let refusal_text = Some("x".repeat(1024 * 1024));
    let behaviour = Behaviour { status_sequence: [400].into(), refusal_text, ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 1);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    assert_eq!(queue.dead_letters()[0].1.len(), "400 Bad Request: ".len() + 256);
    uploader.stop().await;
}

#[tokio::test]
async fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
    let pki = Pki::new();
    let retry_after = Some("tomorrow".to_owned());
    let behaviour = Behaviour { status_sequence: [503; 6].into(), retry_after, ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    uploader.stop().await;
    let text = log::text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("upload")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("WARN") && lines[0].contains("503 Service Unavailable"), "{text}");
    assert!(lines[1].contains("INFO") && lines[1].contains("attempts=6"), "{text}");
}

#[tokio::test]
async fn plain_http_needs_no_certificates() {
    let endpoint = Endpoint::start_plain(Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(
        &queue,
        Settings {
            tls: tls::Files { ca_file: None, ..tls::Files::default() },
            ..settings(&Pki::new(), &endpoint)
        },
    );
    queue.emptied().await;
    assert_eq!(endpoint.values(), up_to(10));
    uploader.stop().await;
}

#[tokio::test]
async fn trouble_never_shows_a_secret() {
    let pki = Pki::new();
    let mut settings = settings(&pki, &Endpoint::start(&pki, Behaviour::default()).await);
    // The endpoint above is gone again, so nobody listens there.
    settings.endpoint = settings.endpoint.replace("https://", "https://user:pass-word@") + "?token=t-456";
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 1);
    let uploader = Uploader::start(&queue, settings);
    let trouble = uploader.trouble("nobody listens", |_| true).await;
    assert!(trouble.contains("refused") || trouble.contains("reset"), "{trouble}");
    for secret in ["k-123", "pass-word", "t-456", "user"] {
        assert!(!trouble.contains(secret), "{trouble}");
    }
    uploader.stop().await;
}
