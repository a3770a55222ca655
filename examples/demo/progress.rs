//! What a person sees while it runs: numbers of the agent's health page, and what the receiver gets.

use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::receiver::ledger::{Arrival, Totals, items};

/// What is shown of `/health`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Health {
    pub status: String,
    pub reasons: Vec<String>,
    pub agent: Agent,
    pub cloud: Cloud,
    pub store: Store,
    pub refused: std::collections::BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Agent {
    pub readings_processed: u64,
    pub events_triggered: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cloud {
    pub queue_depth: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Store {
    pub items_stored: u64,
}

impl Health {
    /// Asks the agent; `None` when it does not answer.
    pub async fn ask(port: u16) -> Option<Self> {
        let answer = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
            let mut answer = String::new();
            stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = timeout(ANSWER_MAX, answer).await.ok()?.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// The latest things that arrived at the receiver.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    reading: String,
    event: String,
    /// Events that were not shown yet.
    unseen_events: u64,
}

impl Latest {
    /// Notes what `arrival` brings.
    pub fn note(&mut self, arrival: &Arrival) {
        if !arrival.accepted {
            return;
        }
        for item in items(&arrival.body, &arrival.idempotency_key).unwrap_or_default() {
            let Ok(item) = serde_json::from_str::<Value>(item.get()) else { continue };
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            if item["rule_name"].is_string() {
                self.event = format!("{} {}: {}", text("severity"), text("rule_name"), text("message"));
                if let Some(value) = item["sensor_readings"][0]["value"].as_f64() {
                    self.event.push_str(&format!(" at {value:.2}"));
                }
                self.unseen_events += 1;
            } else if let Some(value) = item["value"].as_f64() {
                self.reading = format!("{} {value:.2} {}", shortened(&text("sensor_name")), text("unit"));
            }
        }
    }
}

/// Prints a line at each call.
pub struct Printer {
    lines: u32,
    readings_before: u64,
    trouble: String,
}

impl Printer {
    pub fn new() -> Self {
        Self { lines: 0, readings_before: 0, trouble: String::new() }
    }

    /// One line of numbers, and lines about what is new; `since` is the time since the line before.
    pub fn print(
        &mut self,
        at: Duration,
        since: Duration,
        health: &Health,
        totals: Totals,
        latest: &mut Latest,
    ) {
        let accepted = health.agent.readings_processed;
        let rate = accepted.saturating_sub(self.readings_before) as f64 / since.as_secs_f64();
        self.readings_before = accepted;
        let mut out = io::stdout().lock();
        let result = self.lines(&mut out, at, rate, health, totals, latest).and_then(|()| out.flush());
        // A closed pipe is no reason to stop; the end still has to be in order.
        result.ok();
        self.lines += 1;
    }

    fn lines(
        &mut self,
        out: &mut impl Write,
        at: Duration,
        rate: f64,
        health: &Health,
        totals: Totals,
        latest: &mut Latest,
    ) -> io::Result<()> {
        if self.lines.is_multiple_of(HEAD_EVERY) {
            writeln!(
                out,
                "\n   time     in/s    stored delivered   queue  events  refused  last reading delivered"
            )?;
        }
        writeln!(
            out,
            "{:5.0} s {rate:8.1} {:9} {:9} {:7} {:7} {:8}  {}",
            at.as_secs_f64(),
            health.store.items_stored,
            totals.items,
            health.cloud.queue_depth,
            health.agent.events_triggered,
            health.refused(),
            latest.reading,
        )?;
        if latest.unseen_events > 0 && self.lines.is_multiple_of(EVENT_EVERY) {
            let more = latest.unseen_events - 1;
            let more = if more > 0 { format!("  (and {more} more)") } else { String::new() };
            writeln!(out, "        event delivered: {}{more}", latest.event)?;
            latest.unseen_events = 0;
        }
        let trouble = health.reasons.join("; ");
        if trouble != self.trouble {
            match trouble.as_str() {
                "" => writeln!(out, "        the agent is healthy again")?,
                _ => writeln!(out, "        the agent is {}: {trouble}", health.status)?,
            }
            self.trouble = trouble;
        }
        Ok(())
    }
}

/// Hashed names are long.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

const NAME_CHARS_MAX: usize = 28;
const HEAD_EVERY: u32 = 20;
const EVENT_EVERY: u32 = 3;
const ANSWER_MAX: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
