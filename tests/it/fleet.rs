//! Delivery that spares its endpoint, its line and the person who looks after it: live data first, a pace for
//! backlog, one connection, files that are replaced, a budget, a proxy, a clock that is not set.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pyvorin_edge::config::section::{Piece, Secret};
use pyvorin_edge::store::Lane;
use pyvorin_edge::upload::{BUDGET_FACT, Budget, Proxy, Settings, Surroundings, proxy};
use pyvorin_edge::{clock, tls};

use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::endpoint::receiver::certificates::Usage;
use crate::harness::endpoint::{Endpoint, Pki};
use crate::harness::model_queue::ModelQueue;
use crate::harness::process::free_port;
use crate::harness::{log, proxy as forward, until, write};
use crate::upload::{Uploader, settings, surroundings, up_to};

/// The only wait that ends within a test is one that is cut short.
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_batch_of_backlog_that_always_fails_holds_up_neither_live_data_nor_other_backlog() {
    let pki = Pki::new();
    let behaviour = Behaviour { fail_item: Some(r#""value":3,"#.to_owned()), ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add_backlog(Lane::Telemetry, 40);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.add(Lane::Telemetry, 10);
    endpoint.totals("all others arrive", |totals| totals.items == 40).await;
    let stuck = || async { uploader.status.last().stuck };
    let (count, reason) = until("it is named", stuck).await;
    assert_eq!((count, reason.as_str()), (1, "the endpoint answered 500 Internal Server Error"));
    // One more that is taken ends the trouble of the endpoint, which was none.
    queue.add(Lane::Telemetry, 10);
    endpoint.totals("live data arrives", |totals| totals.items == 50).await;
    until("it alone is left", async || (queue.undelivered() == 10).then_some(())).await;
    endpoint.receiver.behave(Behaviour::default());
    queue.emptied().await;
    let arrivals = endpoint.receiver.arrivals();
    let of_it: Vec<_> = arrivals.iter().filter(|arrival| arrival.idempotency_key == "model-3-0-9").collect();
    assert!(of_it.len() > 3 && of_it.iter().all(|arrival| arrival.body == of_it[0].body));
    uploader.stop().await;
}

#[tokio::test]
async fn a_live_batch_that_always_fails_steps_back_behind_its_lane() {
    let pki = Pki::new();
    let behaviour = Behaviour { fail_item: Some(r#""value":3,"#.to_owned()), ..Behaviour::default() };
    let endpoint = Endpoint::start(&pki, behaviour).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Critical, 100);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    endpoint.totals("all others arrive", |totals| totals.items == 90).await;
    until("it alone is left", async || (queue.undelivered() == 10).then_some(())).await;
    uploader.stop().await;
}

#[tokio::test]
async fn backlog_goes_at_the_rate_that_the_endpoint_takes_and_live_data_goes_at_once() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour { rate_limit: Some(30), ..Behaviour::default() }).await;
    let queue = ModelQueue::new();
    queue.add_backlog(Lane::Telemetry, 2000);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    endpoint.totals("the limit is met", |totals| totals.refused > 0).await;
    let before = endpoint.receiver.totals().borrow().batches;
    queue.add(Lane::Critical, 1);
    let live =
        |_: &_| endpoint.receiver.arrivals().iter().any(|arrival| arrival.idempotency_key == "model-1-0-0");
    let totals = endpoint.totals("live data arrives", live).await;
    assert!(totals.batches < before + 20, "it waited for {} batches", totals.batches - before);
    queue.emptied().await;
    let totals = *endpoint.receiver.totals().borrow();
    assert_eq!((totals.batches, totals.differing), (201, 0));
    assert!(totals.refused < 60, "{} of 201 were refused", totals.refused);
    assert!(uploader.status.last().backlog_rate < 200.0, "{}", uploader.status.last().backlog_rate);
    uploader.stop().await;
}

#[tokio::test]
async fn one_connection_serves_many_batches_with_pauses_between() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    for _ in 0..30 {
        queue.add(Lane::Telemetry, 25);
        queue.emptied().await;
    }
    let totals = *endpoint.receiver.totals().borrow();
    assert_eq!((totals.connections, totals.items), (1, 750));
    assert!(totals.requests >= 60);
    uploader.stop().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_in_a_pause_is_opened_again_and_costs_no_failure() {
    let (pki, port) = (Pki::new(), free_port());
    let endpoint = Endpoint::start_at(port, &pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(&queue, settings(&pki, &endpoint));
    queue.emptied().await;
    endpoint.stop().await;
    let endpoint = Endpoint::start_at(port, &pki, Behaviour::default()).await;
    queue.add(Lane::Telemetry, 10);
    queue.emptied().await;
    assert_eq!(uploader.status.attempts_failed.load(Relaxed), 0);
    assert_eq!(endpoint.receiver.totals().borrow().connections, 1);
    uploader.stop().await;
}

#[tokio::test]
async fn a_replaced_key_file_ends_the_wait_without_a_reload() {
    let pki = Pki::new();
    let authorization = Some("Bearer k-right".to_owned());
    let endpoint = Endpoint::start(&pki, Behaviour { authorization, ..Behaviour::default() }).await;
    let key_file = pki.write("api_key", "k-wrong\n");
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let uploader = Uploader::start(
        &queue,
        Settings {
            api_key: Some(from_file("k-wrong", &key_file)),
            backoff_min: NEVER,
            backoff_max: NEVER,
            ..settings(&pki, &endpoint)
        },
    );
    let trouble = uploader.trouble("it is refused", |_| true).await;
    assert!(trouble.contains("check cloud.api_key"), "{trouble}");
    write(&key_file, "k-right\n");
    queue.emptied().await;
    // It is no reason for a new connection.
    assert_eq!(endpoint.receiver.totals().borrow().connections, 1);
    uploader.stop().await;
}

#[tokio::test]
async fn a_replaced_client_certificate_ends_the_wait_without_a_reload_and_its_days_are_known() {
    let (pki, others) = (Pki::new(), Pki::named("others"));
    let endpoint = Endpoint::start_as(&pki, Behaviour::default(), Usage::Server, true).await;
    let (certificate, key) = others.client_files();
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let mut settings = Settings { backoff_min: NEVER, backoff_max: NEVER, ..settings(&pki, &endpoint) };
    settings.tls.client_certificate_file = Some(certificate.clone());
    settings.tls.client_key_file = Some(key.clone());
    let uploader = Uploader::start(&queue, settings);
    uploader.trouble("it is refused", |_| true).await;
    let (new_certificate, new_key) = pki.client_files();
    std::fs::copy(new_key, key).unwrap();
    std::fs::copy(new_certificate, certificate).unwrap();
    queue.emptied().await;
    let certificates = uploader.status.last().certificates;
    for (name, expires_at) in certificates.all() {
        assert!(expires_at.is_some_and(|at| at > clock::unix_seconds()), "{name}: {certificates:?}");
    }
    uploader.stop().await;
}

#[tokio::test]
async fn everything_on_the_line_is_counted_and_no_more() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let tunnel = forward::Proxy::start(None).await;
    let queue = ModelQueue::new();
    queue.add_backlog(Lane::Telemetry, 1000);
    let uploader = Uploader::start(&queue, through(&tunnel, "", settings(&pki, &endpoint)));
    queue.emptied().await;
    let status = uploader.status.clone();
    uploader.stop().await;
    let relayed =
        until("the tunnel is closed", async || Some(tunnel.bytes()).filter(|bytes| *bytes > 0)).await;
    let (wire, body) = (status.wire_bytes.load(Relaxed), status.body_bytes_sent.load(Relaxed));
    println!("bodies {body} bytes, TLS and all {relayed}, on the line {wire}");
    assert!(relayed > body && wire > relayed);
    // A hundred requests and answers, each a segment or two with its acknowledgement, of 52 bytes of header.
    assert!(wire < relayed + 52 * 1000, "{wire} of {relayed}");
}

#[tokio::test]
async fn lanes_wait_for_the_next_month_at_their_share_and_critical_goes_on() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let queue = ModelQueue::new();
    let budget = Budget { bytes_max: Some(1_000_000), ..Budget::default() };
    let settings = Settings { budget, ..settings(&pki, &endpoint) };
    // An earlier run has used 80 % of a month that this clock cannot tell from now.
    let recalled = || Surroundings {
        budget_fact: queue.recalled(BUDGET_FACT).or(Some("unknown 800000".to_owned())),
        ..surroundings()
    };
    queue.add(Lane::Logs, 10);
    let uploader = Uploader::start_in(&queue, settings.clone(), recalled());
    queue.add(Lane::Telemetry, 10);
    endpoint.totals("telemetry arrives", |totals| totals.items == 10).await;
    let held = uploader.status.last().budget.held;
    assert_eq!(held, [false, false, false, true]);
    queue.add(Lane::Telemetry, 15_000);
    let state = || async { Some(uploader.status.last().budget).filter(|budget| budget.held[2]) };
    let state = until("telemetry is held too", state).await;
    assert!(state.used_bytes >= 900_000 && state.used_bytes < 1_000_000, "{state:?}");
    queue.add(Lane::Critical, 1);
    let critical =
        |_: &_| endpoint.receiver.arrivals().iter().any(|arrival| arrival.idempotency_key == "model-1-0-0");
    endpoint.totals("what is critical arrives", critical).await;
    uploader.stop().await;

    // A restart gives nothing back.
    let uploader = Uploader::start_in(&queue, settings.clone(), recalled());
    let budget = || async { Some(uploader.status.last().budget).filter(|budget| budget.used_bytes > 0) };
    let after = until("it is recalled", budget).await;
    assert!(after.held[2] && after.used_bytes >= state.used_bytes, "{after:?}");
    let left = queue.undelivered();
    assert!(left > 10);
    uploader.stop().await;

    // The next month: what was held is there, and goes.
    let last_month = Surroundings { budget_fact: Some("2020-01 999999".to_owned()), ..surroundings() };
    let budget = Budget { bytes_max: Some(1_000_000_000), ..Budget::default() };
    let uploader = Uploader::start_in(&queue, Settings { budget, ..settings }, last_month);
    queue.emptied().await;
    assert_eq!(endpoint.receiver.totals().borrow().differing, 0);
    uploader.stop().await;
}

#[tokio::test]
async fn tls_goes_through_a_proxy_that_wants_a_password() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let tunnel = forward::Proxy::start(Some("Basic ZWRnZTpwQHNz")).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 25);
    let uploader = Uploader::start(&queue, through(&tunnel, "edge:wrong@", settings(&pki, &endpoint)));
    let trouble = uploader.trouble("the proxy refuses", |_| true).await;
    assert!(trouble.contains("the proxy wants a user and a password; check cloud.proxy"), "{trouble}");
    assert!(!trouble.contains("wrong"), "{trouble}");
    uploader.stop().await;
    assert!(tunnel.refused() > 0 && tunnel.tunnels() == 0);
    let uploader = Uploader::start(&queue, through(&tunnel, "edge:p%40ss@", settings(&pki, &endpoint)));
    queue.emptied().await;
    assert_eq!((tunnel.tunnels(), endpoint.receiver.totals().borrow().connections), (1, 1));
    assert_eq!(endpoint.values(), up_to(25));
    // The endpoint learns nothing of the proxy's password, which went over the line in the clear.
    uploader.stop().await;
}

#[tokio::test]
async fn the_environment_names_the_proxy_unless_it_exempts_the_endpoint() {
    let pki = Pki::new();
    for (no_proxy, tunnels) in [("", 1), ("127.0.0.0/8", 0)] {
        let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
        let tunnel = forward::Proxy::start(None).await;
        let proxies = proxy::Environment {
            https_proxy: Some(Secret::new(format!("http://{}", tunnel.address))),
            http_proxy: None,
            no_proxy: no_proxy.to_owned(),
        };
        let queue = ModelQueue::new();
        queue.add(Lane::Telemetry, 10);
        let settings = Settings { proxy: Proxy::System, ..settings(&pki, &endpoint) };
        let uploader = Uploader::start_in(&queue, settings, Surroundings { proxies, ..surroundings() });
        queue.emptied().await;
        assert_eq!(tunnel.tunnels(), tunnels, "{no_proxy}");
        uploader.stop().await;
    }
}

#[tokio::test]
async fn a_plain_request_names_the_whole_url_to_the_proxy() {
    let endpoint = Endpoint::start_plain(Behaviour::default()).await;
    let tunnel = forward::Proxy::start(Some("Basic ZWRnZTpwQHNz")).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let settings = Settings { tls: tls::Files::default(), ..settings(&Pki::new(), &endpoint) };
    let uploader = Uploader::start(&queue, through(&tunnel, "edge:p%40ss@", settings));
    queue.emptied().await;
    assert_eq!((tunnel.forwarded(), tunnel.tunnels()), (1, 0));
    uploader.stop().await;
}

#[tokio::test]
async fn a_certificate_of_the_future_is_waited_for_until_the_clock_is_set() {
    static CLOCK_IS_SET: AtomicBool = AtomicBool::new(false);
    let pki = Pki::new();
    let endpoint = Endpoint::start_as(&pki, Behaviour::default(), Usage::FutureServer, false).await;
    let queue = ModelQueue::new();
    queue.add(Lane::Telemetry, 10);
    let settings = Settings { backoff_min: NEVER, backoff_max: NEVER, ..settings(&pki, &endpoint) };
    let surroundings = Surroundings { clock_is_set: || CLOCK_IS_SET.load(Relaxed), ..surroundings() };
    let uploader = Uploader::start_in(&queue, settings, surroundings);
    let trouble = uploader.trouble("it waits", |_| true).await;
    assert!(trouble.starts_with("waits for the clock to be set: "), "{trouble}");
    endpoint.totals("it is tried again, whatever the backoff", |totals| totals.connections >= 2).await;
    let lines = log::text();
    assert!(!lines.contains("WARN") && !lines.contains("ERROR"), "{lines}");
    CLOCK_IS_SET.store(true, Relaxed);
    let trouble = uploader.trouble("then it is an ordinary error", |text| !text.contains("waits")).await;
    assert!(trouble.contains("clock of this device"), "{trouble}");
    assert_eq!(queue.undelivered(), 10);
    uploader.stop().await;
}

fn from_file(text: &str, path: &Path) -> Secret {
    Secret::with_pieces(text.to_owned(), Some([Piece::File(path.to_owned())].into()))
}

/// With `credentials` before the proxy's address, as in `user:password@`.
fn through(tunnel: &forward::Proxy, credentials: &str, settings: Settings) -> Settings {
    let url = format!("http://{credentials}{}", tunnel.address);
    Settings { proxy: Proxy::Url(Secret::new(url)), ..settings }
}
