//! The server over real sockets, with a pipeline that commits or does not.

use std::io::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{Source as Any, test_support};
use super::*;
use crate::lifecycle::memory::{Limit, Memory, Source as LimitSource};
use crate::reading::{BATCH_READINGS_MAX, Batch, Committed};

const A: &str = r#"{"sensor_name":"a","value":1}"#;

fn source(settings: &str) -> Result<Source, Vec<String>> {
    let device = "[[sensors.devices]]\nname = 'a'\ningest_type = 'http'\nunit = 'C'";
    let mut sources = test_support::sources(&format!("[ingest.http]\n{settings}\n{device}"))?;
    let Any::Http(source) = sources.remove(0) else { panic!() };
    Ok(source)
}

/// Serves with `settings`, hands every batch to `pipeline`, and stops when `client` is done.
async fn with_server<T>(
    settings: &str,
    pipeline: impl FnMut(Batch),
    client: impl AsyncFnOnce(SocketAddr) -> T,
) -> T {
    with_memory(Memory::default(), settings, pipeline, client).await
}

async fn with_memory<T>(
    memory: Memory,
    settings: &str,
    mut pipeline: impl FnMut(Batch),
    client: impl AsyncFnOnce(SocketAddr) -> T,
) -> T {
    let source = source(settings).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut intake, mut received) = test_support::intake(4);
    intake.memory = memory;
    let talk = async {
        let result = client(address).await;
        intake.stop.cancel();
        result
    };
    let store = async {
        while let Some(batch) = received.recv().await {
            pipeline(batch);
        }
    };
    test_support::within(async {
        tokio::select! {
            (served, result) = async { tokio::join!(source.serve(listener, &intake), talk) } => {
                served.unwrap();
                result
            }
            () = store => panic!("the intake is gone"),
        }
    })
    .await
}

fn commit(mut batch: Batch) {
    test_support::commit(&mut batch);
}

fn post(body: &[u8], headers: &str) -> Vec<u8> {
    let head = format!("POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Sends `request` and gives the whole answer; the server has to close.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).unwrap()
}

async fn post_once(address: SocketAddr, body: impl AsRef<[u8]>) -> String {
    exchange(address, &post(body.as_ref(), "Connection: close\r\n")).await
}

fn assert_answer(answer: &str, status: u16, part: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{answer}");
}

#[test]
fn the_sample_is_valid_and_the_token_is_not_shown() {
    let sources = test_support::sources(SAMPLE).unwrap();
    assert!(!format!("{sources:?}").contains("change-me"));
    assert!(test_support::sources("[ingest.http]\nport = 9000").unwrap().is_empty());
}

#[test]
fn other_machines_need_a_token() {
    assert!(source("bind = '0.0.0.0'").unwrap_err()[0].starts_with("ingest.http.token: is missing"));
    assert!(source("bind = '0.0.0.0'\ntoken = ''").unwrap_err()[0].starts_with("ingest.http.token: is empty"));
    assert!(source("bind = '::'\ntoken = 't'").is_ok());
    assert!(source("bind = 'everywhere'").unwrap_err()[0].contains("is no IP address"));
}

#[tokio::test]
async fn objects_arrays_and_lines_are_taken_and_counted() {
    let mut units = Vec::new();
    let pipeline = |batch: Batch| {
        assert!(batch.readings().len() == 0 || batch.urgent);
        units.extend(batch.readings().map(|reading| reading.unit.to_owned()));
        commit(batch);
    };
    with_server("", pipeline, async |address| {
        let counts = |accepted, refused| format!(r#"{{"accepted":{accepted},"refused":{refused}"#);
        assert_answer(&post_once(address, A).await, 200, &counts(1, 0));
        assert_answer(&post_once(address, format!("[{A},{A}]")).await, 200, &counts(2, 0));
        let some = post_once(address, format!("{A}\n{{\"value\":1}}\n{{oops\n{A}")).await;
        assert_answer(&some, 200, &counts(2, 2));
        assert_answer(&some, 200, r#""reasons":{"incomplete":1,"malformed":1}"#);
        assert_answer(&post_once(address, "[]").await, 200, &counts(0, 0));
        assert_answer(&post_once(address, r#"[{"value":1}]"#).await, 422, r#"{"incomplete":1}"#);
    })
    .await;
    assert_eq!(units, ["C"; 5]);
}

#[tokio::test]
async fn what_the_pipeline_refuses_is_counted_too() {
    let pipeline = |mut batch: Batch| {
        let receipt = batch.receipt.take().unwrap();
        receipt.send(Committed { accepted: 0, refused: 1 }).unwrap();
    };
    with_server("", pipeline, async |address| {
        assert_answer(&post_once(address, A).await, 422, r#"{"limits_or_policy":1}"#);
    })
    .await;
}

#[tokio::test]
async fn a_large_document_is_cut_into_batches_and_answered_after_the_last() {
    let body = vec![A; 3000].join("\n");
    let mut sizes = Vec::new();
    let pipeline = |batch: Batch| {
        sizes.push(batch.len());
        commit(batch);
    };
    with_server("", pipeline, async |address| {
        assert_answer(&post_once(address, body).await, 200, r#""accepted":3000"#);
    })
    .await;
    assert_eq!(sizes.iter().sum::<usize>(), 3000);
    assert!(sizes.iter().all(|size| *size <= BATCH_READINGS_MAX));
}

#[tokio::test]
async fn an_answer_waits_for_the_commit_and_a_lost_receipt_is_503() {
    with_server("timeout_seconds = 0.2", drop, async |address| {
        assert_answer(&post_once(address, A).await, 503, "could not be stored");
    })
    .await;
    let mut kept = Vec::new();
    with_server("timeout_seconds = 0.2", |batch| kept.push(batch), async |address| {
        let answer = post_once(address, A).await;
        assert_answer(&answer, 503, "not stored in time");
        assert!(answer.contains("retry-after: 5"), "{answer}");
    })
    .await;
    assert_eq!(kept.len(), 1);
}

#[tokio::test]
async fn text_that_is_not_json_is_400_with_its_place_and_without_its_words() {
    with_server("", commit, async |address| {
        let answer = post_once(address, "\n hush").await;
        assert_answer(&answer, 400, "not JSON at line 2, column 2");
        assert!(!answer.contains("hush"));
        assert_answer(&post_once(address, "").await, 400, "not JSON at line 1, column 1");
        assert_answer(&post_once(address, b"{\xff").await, 400, "not UTF-8 from byte 1 on");
    })
    .await;
}

#[tokio::test]
async fn path_method_token_and_encoding_are_checked() {
    let closing = |head: &str| format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes();
    with_server("token = 'right'", commit, async |address| {
        assert_answer(&exchange(address, &closing("GET /")).await, 404, "/ingest");
        assert_answer(&exchange(address, &closing("GET /ingest")).await, 405, "allow: POST");
        assert_answer(&post_once(address, A).await, 401, "www-authenticate: Bearer");
        for (header, status) in [
            ("Authorization: Bearer right\r\n", 200),
            ("Authorization: bearer right\r\n", 200),
            ("Authorization: Bearer righ\r\n", 401),
            ("Authorization: Bearer rights\r\n", 401),
            ("Authorization: Basic right\r\n", 401),
            ("Authorization: B\r\n", 401),
            ("Authorization: Bearer right\r\nContent-Encoding: br\r\n", 415),
            ("Authorization: Bearer right\r\nContent-Encoding: gzip\r\n", 400),
        ] {
            let request = post(A.as_bytes(), &format!("Connection: close\r\n{header}"));
            assert_answer(&exchange(address, &request).await, status, "");
        }
    })
    .await;
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_body_is_bounded_however_it_comes() {
    with_server("body_max_bytes = 1024", commit, async |address| {
        let zipped = |plain: &[u8]| post(&gzip(plain), "Connection: close\r\nContent-Encoding: gzip\r\n");
        assert_answer(&exchange(address, &zipped(A.as_bytes())).await, 200, r#""accepted":1"#);
        assert_answer(&exchange(address, &zipped(&[b' '; 1_000_000])).await, 413, "1024");
        let announced = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\nConnection: close\r\n\r\n";
        assert_answer(&exchange(address, announced).await, 413, "1024");
        let head = "POST /ingest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let chunked = format!("{head}401\r\n{}\r\n", " ".repeat(1025));
        assert_answer(&exchange(address, chunked.as_bytes()).await, 413, "1024");
    })
    .await;
}

#[tokio::test]
async fn a_slow_or_endless_head_and_a_slow_body_are_cut_off() {
    with_server("timeout_seconds = 0.2", commit, async |address| {
        exchange(address, b"POST /ingest HT").await;
        exchange(address, b"").await;
        let body = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{";
        assert_answer(&exchange(address, body).await, 408, "in time");
        let endless = format!("POST /ingest HTTP/1.1\r\nX: {}", "x".repeat(40_000));
        assert_answer(&exchange(address, endless.as_bytes()).await, 431, "");
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_kept_and_one_too_many_is_refused() {
    with_server("connections_max = 1", commit, async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            stream.write_all(&post(A.as_bytes(), "")).await.unwrap();
            let mut answer = vec![0; 4096];
            let length = stream.read(&mut answer).await.unwrap();
            assert_answer(str::from_utf8(&answer[..length]).unwrap(), 200, "");
        }
        assert_answer(&exchange(address, b"").await, 503, "Retry-After");
    })
    .await;
}

#[tokio::test]
async fn a_stop_lets_the_request_in_flight_end() {
    let source = source("").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (intake, mut received) = test_support::intake(4);
    let store = async {
        let mut batch = received.recv().await.unwrap();
        intake.stop.cancel();
        // Nobody is let in any more, yet what came before is answered.
        while TcpStream::connect(address).await.is_ok() {}
        test_support::commit(&mut batch);
    };
    let request = post(A.as_bytes(), "");
    let talk = exchange(address, &request);
    let run = async { tokio::join!(source.serve(listener, &intake), store, talk) };
    let (served, (), answer) = test_support::within(run).await;
    served.unwrap();
    assert_answer(&answer, 200, r#""accepted":1"#);
}

#[tokio::test]
async fn a_closed_pipeline_ends_the_source_and_a_taken_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let source = Source { address, ..source("").unwrap() };
    let (intake, received) = test_support::intake(1);
    let error = source.run(&intake).await.unwrap_err();
    assert!(error.to_string().contains(&format!("cannot listen on {address}")), "{error}");
    drop(received);
    assert!(matches!(test_support::within(source.serve(listener, &intake)).await, Err(Error::Closed)));
}

#[tokio::test]
async fn where_memory_is_small_bodies_wait_for_each_other_and_larger_ones_are_refused() {
    let memory = Memory::new(Limit { bytes: 0, source: LimitSource::Unknown });
    let (bodies, whole) = (memory.bodies.clone(), memory.bodies.bytes_max());
    let mut used_max = 0;
    let pipeline = |batch: Batch| {
        used_max = used_max.max(bodies.used_bytes());
        commit(batch);
    };
    let lines = |bytes: usize| format!("{A}\n").repeat(bytes / (A.len() + 1));
    with_memory(memory.clone(), "body_max_bytes = 10000000", pipeline, async |address| {
        let too_large = post_once(address, lines(whole / 2 + 1000)).await;
        assert_answer(&too_large, 413, &format!("longer than {} bytes", whole / 2));
        let large = lines(whole / 2 - 100);
        let (one, two, three) =
            tokio::join!(post_once(address, &large), post_once(address, &large), post_once(address, &large));
        for answer in [one, two, three] {
            assert_answer(&answer, 200, r#""refused":0"#);
        }
    })
    .await;
    assert!(used_max > whole / 2 && used_max <= whole, "{used_max}");
    assert_eq!((memory.bodies.used_bytes(), memory.flight.used_bytes()), (0, 0));
}
