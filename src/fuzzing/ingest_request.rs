//! Requests to the HTTP adapter, over a connection in memory, with a pipeline that commits.
//!
//! The first byte of the input says what follows: `b` a body, `z` a body that is sent plain and
//! compressed, `g` a compressed body, and anything else a whole request, from that byte on.

use std::cell::OnceCell;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config_file::config_of;
use super::connection::{Answer, PIPE_BYTES, block_on, exchange, first_answer};
use super::readings;
use crate::adapter::http::{Server, converse};
use crate::adapter::{Intake, Messages, Source, Status};
use crate::lifecycle::memory::Memory;

pub(super) fn run(input: &[u8]) {
    match input.split_first() {
        Some((b'b', body)) => drop(post(body, "")),
        Some((b'g', body)) => drop(post(body, GZIP)),
        Some((b'z', body)) => {
            let plain = post(body, "");
            let zipped = post(&zip(body), GZIP);
            assert_eq!(plain, zipped, "compression changes the answer");
        }
        _ => drop(request(input)),
    }
}

/// Status and text of the answer to `body`, whose counts are right.
fn post(body: &[u8], header: &str) -> (u16, Vec<u8>) {
    let head = format!("POST /ingest HTTP/1.1\r\nContent-Length: {}\r\n{header}\r\n", body.len());
    let (answer, seen) = request(&[head.as_bytes(), body, b"\n"].concat());
    let answer = answer.expect("a whole request is answered");
    assert!([200, 400, 413, 422].contains(&answer.status), "{}", answer.head);
    let text = answer.json();
    if let 200 | 422 = answer.status {
        assert_eq!(text["accepted"], seen.accepted, "{text}");
        assert_eq!(text["refused"], seen.total - seen.accepted, "{text}");
        let reasons = text["reasons"].as_object().into_iter().flat_map(|reasons| reasons.values());
        let reasons: u64 = reasons.filter_map(|count| count.as_u64()).sum();
        assert_eq!(reasons, u64::from(seen.total - seen.accepted), "{text}");
        assert_eq!(answer.status == 422, seen.accepted == 0 && seen.total > 0, "{text}");
    } else {
        assert_eq!(seen.accepted, 0, "readings of a refused body were stored");
    }
    (answer.status, answer.body)
}

/// What the pipeline saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    accepted: u32,
    total: u32,
}

fn request(bytes: &[u8]) -> (Option<Answer>, Seen) {
    let (batches, mut received) = mpsc::channel(4);
    let intake = Intake {
        batches,
        memory: Memory::default(),
        stop: CancellationToken::new(),
        status: Arc::new(Status::new("http".to_owned(), "http")),
        poll_interval: Duration::from_secs(1),
        once: false,
        device_id: "device".to_owned(),
        messages: Messages::default(),
    };
    let server = server(&intake);
    drop(intake);
    let (client, stream) = tokio::io::duplex(PIPE_BYTES);
    let mut seen = Seen::default();
    let pipeline = async {
        while let Some(mut batch) = received.recv().await {
            let committed = readings::take_in(&batch);
            seen.total += committed.accepted + committed.refused;
            seen.accepted += committed.accepted;
            if let Some(receipt) = batch.receipt.take() {
                receipt.send(committed).expect("the request waits for it");
            }
        }
    };
    let within = Duration::from_secs(TIMEOUT_SECONDS * (2 + bytes.len() as u64 / REQUEST_BYTES_MIN));
    let output = block_on(async {
        tokio::join!(exchange(client, converse(server, stream), bytes, within), pipeline).0
    });
    let answer = first_answer(&output);
    if let Some(answer) = &answer {
        let known = [200, 400, 401, 404, 405, 408, 413, 414, 415, 422, 431, 503, 505];
        assert!(known.contains(&answer.status), "{}", answer.head);
        assert!(answer.status != 503, "all was committed: {}", answer.head);
    }
    (answer, seen)
}

fn server(intake: &Intake) -> Arc<Server> {
    thread_local! {
        static SOURCE: OnceCell<Source> = const { OnceCell::new() };
    }
    SOURCE.with(|source| {
        let source = source.get_or_init(|| config_of(CONFIG).sources.remove(0));
        let Source::Http(source) = source else { panic!("it is configured") };
        Arc::new(Server::new(source.clone(), intake))
    })
}

fn zip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes it")
}

const GZIP: &str = "Content-Encoding: gzip\r\n";
const TIMEOUT_SECONDS: u64 = 10;
/// `G / HTTP/1.0` and two line ends.
const REQUEST_BYTES_MIN: u64 = 14;

const CONFIG: &str = "
[ingest.http]
body_max_bytes = 4096
[[sensors.devices]]
name = 'a'
ingest_type = 'http'
unit = 'C'
";
