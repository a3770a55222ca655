//! An HTTP load as fast as the agent takes it: large bodies over several connections at once, each answered only when
//! it is durable.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs until it is stopped.
pub struct Flood {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    put_off: AtomicU64,
}

impl Flood {
    /// From `connections` at once, with readings of `sensors` distinct sensors in turn, in bodies of `body_bytes`.
    pub fn start(port: u16, connections: u32, sensors: u32, body_bytes: usize) -> Self {
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let run = |number: u32| {
            let (counts, stop) = (counts.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut sensor = sensors / connections * number;
                while !stop.load(Relaxed) {
                    let (body, readings) = body(&mut sensor, sensors, body_bytes);
                    match post(port, &body) {
                        Some(200) => counts.acknowledged.fetch_add(readings, Relaxed),
                        _ => {
                            std::thread::sleep(PAUSE);
                            counts.put_off.fetch_add(1, Relaxed)
                        }
                    };
                }
            })
        };
        let threads = (0..connections).map(run).collect();
        Self { counts, stop, threads }
    }

    /// Readings that were answered with 200, and bodies that were put off.
    pub fn stop(self) -> (u64, u64) {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        (self.counts.acknowledged.load(Relaxed), self.counts.put_off.load(Relaxed))
    }
}

/// JSON lines, and how many they are.
fn body(sensor: &mut u32, sensors: u32, bytes_max: usize) -> (Vec<u8>, u64) {
    let mut body = Vec::with_capacity(bytes_max);
    let mut count = 0;
    while body.len() + LINE_BYTES_MAX < bytes_max {
        *sensor = (*sensor + 1) % sensors;
        let value = 20.0 + fastrand::f64();
        let now = unix_seconds();
        writeln!(
            body,
            r#"{{"sensor_name":"gateway/{}/temperature-{sensor}","timestamp":{now:.6},"value":{value:.3},"unit":"C"}}"#,
            *sensor / 50
        )
        .expect("a Vec takes any bytes");
        count += 1;
    }
    (body, count)
}

/// The status of the answer; `None` when there was none.
fn post(port: u16, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    stream.set_write_timeout(Some(ANSWER_MAX)).ok()?;
    let head = format!(
        "POST /ingest HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    // One that is refused early may not be read to its end.
    stream.write_all(body).ok();
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without the agent's clock")]
fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

const LINE_BYTES_MAX: usize = 160;
const PAUSE: Duration = Duration::from_millis(200);
const ANSWER_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
