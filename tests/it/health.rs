//! The health server over real sockets, with good, slow and malicious clients.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::adapter::{self, State};
use pyvorin_edge::health::host::Host;
use pyvorin_edge::health::server::{bind, bind_retrying, serve};
use pyvorin_edge::health::wear::{self, Wear};
use pyvorin_edge::health::{Configured, Phase, PrivacySummary, Settings, View};
use pyvorin_edge::lifecycle::watchdog::{Progress, Verdict};
use pyvorin_edge::reading::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes, far below patience.
const BOUND: Duration = Duration::from_secs(20);

struct Agent {
    address: std::net::SocketAddr,
    view: Arc<View>,
    phase: watch::Sender<Phase>,
    verdict: watch::Sender<Verdict>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    async fn start() -> Self {
        let source = Arc::new(adapter::Status::new("bench".to_owned(), "simulator"));
        source.set(State::Connected);
        let phase = watch::Sender::new(Phase::Running);
        let verdict = watch::Sender::default();
        let configured = watch::Sender::new(Configured {
            config_file: "edge.toml".to_owned(),
            last_reload: None,
            devices: 1,
            sources: vec![source],
            actions: Vec::new(),
            cloud_enabled: true,
            endpoint: "https://api.example.com/v1/ingest".to_owned(),
            privacy: PrivacySummary { enabled: true, ..Default::default() },
        });
        let wear = wear::Settings { bytes_per_day: None, commit_interval_max: Duration::from_secs(10) };
        let view = Arc::new(View {
            started_at: pyvorin_edge::clock::since_boot(),
            phase: phase.subscribe(),
            configured: configured.subscribe(),
            verdict: verdict.subscribe(),
            pipeline: Arc::default(),
            privacy: Arc::default(),
            store: Arc::default(),
            delivery: Arc::default(),
            previous: None,
            wear: Arc::new(Wear::new(wear, None, Arc::default(), Duration::ZERO)),
            host: Arc::new(Host::new(std::env::temp_dir())),
            memory: pyvorin_edge::lifecycle::memory::Memory::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (views, token) = (watch::channel(view.clone()).1, stop.clone());
        tasks.spawn(async move { serve(listener, views, &Progress::default(), token).await });
        Self { address, view, phase, verdict, stop, tasks }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` and reads until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.request("GET", path).await
    }

    async fn request(&self, method: &str, path: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let text = self.exchange(request.as_bytes()).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The server still answers.
    async fn assert_alive(&self) {
        assert_eq!(self.get("/livez").await.code, 200);
    }
}

#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

/// All that comes, an abrupt end included: a server that closes on us may reset the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(BOUND, reading).await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn the_health_page_is_json_with_a_status_and_its_reasons() {
    let agent = Agent::start().await;
    let answer = agent.get("/health").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(page["ingest"]["adapters_connected"], serde_json::json!(["simulator"]));

    agent.view.delivery.last.lock().unwrap().trouble = Some("connection refused".to_owned());
    let answer = agent.get("/health").await;
    let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.code, page["status"].as_str()), (200, Some("degraded")));
    let reasons = page["reasons"].as_array().unwrap();
    assert!(reasons.iter().any(|reason| reason == "delivery: connection refused"), "{reasons:?}");
}

#[tokio::test]
async fn liveness_follows_the_watchdog_and_readiness_the_phase() {
    let agent = Agent::start().await;
    assert_eq!((agent.get("/livez").await.code, agent.get("/readyz").await.code), (200, 200));
    agent.phase.send_replace(Phase::Starting("the store"));
    let answer = agent.get("/readyz").await;
    assert_eq!((answer.code, answer.body.trim()), (503, "starting, waits for the store"));
    agent.phase.send_replace(Phase::Stopping);
    assert_eq!((agent.get("/livez").await.code, agent.get("/readyz").await.code), (200, 503));
    agent.verdict.send_replace(Verdict::Stuck { stage: "pipeline", stuck_for: Duration::from_secs(61) });
    let answer = agent.get("/livez").await;
    assert_eq!((answer.code, answer.body.trim()), (503, "pipeline has not moved for 61 s"));
    assert_eq!(agent.get("/health").await.code, 503);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_and_head_has_no_body() {
    let agent = Agent::start().await;
    assert_eq!(agent.get("/admin").await.code, 404);
    let answer = agent.request("DELETE", "/health").await;
    assert_eq!(answer.code, 405);
    assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    let answer = agent.request("HEAD", "/livez").await;
    assert_eq!((answer.code, answer.body.as_str()), (200, ""));
    assert!(answer.head.contains("content-length: 3"), "{}", answer.head);
}

#[tokio::test]
async fn the_metrics_page_satisfies_promtool() {
    let agent = Agent::start().await;
    agent.view.pipeline.refuse(Refusal::Time, "evil\"} 1\n\\ näme");
    agent.view.store.last_commit_at.set(Some(1_717_156_800.25));
    agent.view.store.oldest_pending_at.set(Some(1_717_156_000.0));
    agent.view.delivery.last.lock().unwrap().delivered_at = 1_717_156_801.5;
    let answer = agent.get("/metrics").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: apt-get install prometheus");
    promtool.stdin.take().unwrap().write_all(answer.body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&complaints), answer.body);
    assert_eq!(String::from_utf8_lossy(&complaints), "");
}

#[tokio::test]
async fn a_hundred_slow_clients_cannot_lock_a_probe_out() {
    let agent = Agent::start().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = agent.connect().await;
        stream.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").await.unwrap();
        slow.push(stream);
    }
    for _ in 0..10 {
        // They dribble on; who was put out comes back at once.
        for stream in &mut slow {
            if stream.write_all(b"a").await.is_err() {
                *stream = agent.connect().await;
                stream.write_all(b"GET /").await.ok();
            }
        }
        let asked_at = Instant::now();
        assert_eq!(agent.get("/livez").await.code, 200);
        assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
    }
}

#[tokio::test]
async fn no_more_than_sixteen_connections_are_held() {
    let agent = Agent::start().await;
    let mut ends = JoinSet::new();
    for _ in 0..100 {
        let mut stream = agent.connect().await;
        ends.spawn(async move { read_to_end(&mut stream).await });
    }
    // Well before any of them runs out of time.
    let ended = async {
        for _ in 0..84 {
            ends.join_next().await.unwrap().unwrap();
        }
    };
    timeout(Duration::from_secs(4), ended).await.unwrap();
    assert_eq!(ends.len(), 16);
    agent.assert_alive().await;
}

#[tokio::test]
async fn a_header_of_a_megabyte_is_refused_long_before_its_end() {
    let agent = Agent::start().await;
    let mut stream = agent.connect().await;
    let mut sent = 0;
    let sending = async {
        stream.write_all(b"GET /health HTTP/1.1\r\nX: ").await?;
        while sent < 64 << 20 {
            sent += stream.write(&[b'a'; 4096]).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    // The server must close on us; how much the kernels hold in between is theirs.
    assert!(timeout(BOUND, sending).await.unwrap().is_err(), "{sent} bytes were taken");
    agent.assert_alive().await;
    let header = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = agent.connect().await;
    stream.write_all(header.as_bytes()).await.ok();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    agent.assert_alive().await;
}

#[tokio::test]
async fn many_headers_are_refused() {
    let agent = Agent::start().await;
    let request = format!("GET /health HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let answer = agent.exchange(request.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    agent.assert_alive().await;
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let agent = Agent::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    for length in [1, 3, 64, 4096, 65_536] {
        let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let mut stream = agent.connect().await;
        stream.write_all(&garbage).await.ok();
        stream.shutdown().await.ok();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for line in
        ["GET\0/health HTTP/1.1\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\0\x01\r\n\r\n"]
    {
        let answer = agent.exchange(line.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    agent.assert_alive().await;
}

#[tokio::test]
async fn pipelined_requests_are_all_answered_in_order() {
    let agent = Agent::start().await;
    let mut requests = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(39);
    requests.push_str("GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answers = agent.exchange(requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 39);
    assert_eq!(answers.rfind("HTTP/1.1 "), answers.find("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_body_is_not_read() {
    let agent = Agent::start().await;
    let mut stream = agent.connect().await;
    stream
        .write_all(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc")
        .await
        .unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stands_still_is_put_out_after_five_seconds() {
    let agent = Agent::start().await;
    for sent in ["", "GET /health HT"] {
        let mut stream = agent.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let began_at = Instant::now();
        read_to_end(&mut stream).await;
        let lasted = began_at.elapsed();
        assert!(lasted <= Duration::from_millis(5_500), "{lasted:?}");
    }
}

#[tokio::test]
async fn the_server_ends_and_lets_go_of_its_clients_when_told_to() {
    let mut agent = Agent::start().await;
    let mut stream = agent.connect().await;
    agent.assert_alive().await;
    agent.stop.cancel();
    timeout(BOUND, agent.tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(TcpStream::connect(agent.address).await.is_err());
}

#[tokio::test]
async fn a_connection_that_was_had_before_the_stop_is_answered() {
    let agent = Agent::start().await;
    let mut client = agent.connect().await;
    // The next connection was accepted after it.
    agent.assert_alive().await;
    agent.stop.cancel();
    client.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_tried_again_until_it_is_free() {
    let blocker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = blocker.local_addr().unwrap();
    let settings = Settings { enabled: true, bind: address.ip(), port: address.port() };
    let stop = CancellationToken::new();
    let free = async {
        sleep(Duration::from_secs(30)).await;
        drop(blocker);
    };
    let (listener, ()) = tokio::join!(bind_retrying(&settings, bind(&settings).unwrap_err(), &stop), free);
    assert_eq!(listener.unwrap().local_addr().unwrap(), address);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_port_ends_when_told_to_stop() {
    let blocker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = blocker.local_addr().unwrap();
    let settings = Settings { enabled: true, bind: address.ip(), port: address.port() };
    let stop = CancellationToken::new();
    let cancel = async {
        sleep(Duration::from_secs(3)).await;
        stop.cancel();
    };
    let (listener, ()) = tokio::join!(bind_retrying(&settings, bind(&settings).unwrap_err(), &stop), cancel);
    assert!(listener.is_none());
}
