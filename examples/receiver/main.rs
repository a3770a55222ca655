//! Receives what the agent delivers and prints it; see `--help` for what it can be told to do wrong.
//!
//! `cargo run --example receiver -- --self-signed /tmp/receiver`, then in the agent's configuration
//! `cloud.endpoint = "https://127.0.0.1:PORT/"` and `cloud.ca_file = "/tmp/receiver/ca.pem"`.

#[path = "server.rs"]
#[expect(dead_code, reason = "the integration tests use what this program does not")]
mod server;

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Parser;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use server::behaviour::{Behaviour, Times};
use server::ledger::{self, Arrival};
use server::{Receiver, certificates, serve};

/// Receives batches, prints them, and misbehaves as it is told.
#[derive(Parser)]
struct Arguments {
    /// Port 0 takes any free one; the first line of output names it.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// PEM; with --tls-key it speaks HTTPS.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Only clients with a certificate of this authority may speak (PEM).
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// Speak HTTPS with certificates from this folder (ca.pem, server.pem, client.pem and keys); they
    /// are made when they are not there.
    #[arg(long, conflicts_with = "tls_cert")]
    self_signed: Option<PathBuf>,
    /// Print only a running total.
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print each accepted body as a line of JSON.
    #[arg(long)]
    json: bool,
    /// Append a line of JSON for each accepted batch: {"duplicate":…,"body":…}.
    #[arg(long)]
    record: Option<PathBuf>,
    #[command(flatten)]
    faults: Faults,
}

/// The same can be changed while it runs: PUT /_control with JSON, the names with underscores.
#[derive(clap::Args)]
#[command(next_help_heading = "What it does wrong")]
struct Faults {
    /// Answer every request with this status.
    #[arg(long)]
    fail: Option<u16>,
    /// Answer each nth request with --fail, or 500.
    #[arg(long)]
    fail_every: Option<u64>,
    /// Wait before the answer: 2s, 300ms.
    #[arg(long, value_parser = seconds)]
    delay: Option<f64>,
    /// Answer 429 to more requests than this within a second.
    #[arg(long)]
    rate_limit: Option<u32>,
    /// Retry-After of 429 and 503: seconds or an HTTP-date.
    #[arg(long)]
    retry_after: Option<String>,
    /// Read and close without an answer; with a number, so many times.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "always", value_parser = times)]
    close_midway: Option<Times>,
    /// Take the batch, then reset the connection before the answer.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "always", value_parser = times)]
    accept_then_reset: Option<Times>,
    /// Answer 400 to a body that contains this text.
    #[arg(long)]
    reject_item: Option<String>,
    /// Answer 500 to a body that contains this text.
    #[arg(long)]
    fail_item: Option<String>,
    /// Answer 401 to any other Authorization header.
    #[arg(long)]
    authorization: Option<String>,
    /// Answer 413 to a larger body, in bytes.
    #[arg(long)]
    max_body: Option<usize>,
    /// Answer the next requests with these: 500,200.
    #[arg(long, value_delimiter = ',')]
    status_sequence: Vec<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments = Arguments::parse();
    let tls = tls(&arguments)?;
    let listener = TcpListener::bind(&arguments.listen).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!("listening on {scheme}://{}", listener.local_addr()?);

    let printer = Printer::new(&arguments)?;
    let receiver =
        Receiver::new(arguments.faults.behaviour(), Some(Box::new(move |arrival| printer.show(arrival))));
    let totals = receiver.totals();
    let stop = CancellationToken::new();
    tokio::select! {
        ended = serve(listener, tls, receiver, stop) => ended?,
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    let totals = *totals.borrow();
    println!(
        "\n{} items in {} batches; {} duplicates, {} refused, {} repeated keys with other bytes",
        totals.items, totals.batches, totals.duplicates, totals.refused, totals.differing
    );
    Ok(())
}

fn tls(arguments: &Arguments) -> Result<Option<std::sync::Arc<ServerConfig>>, Box<dyn Error + Send + Sync>> {
    let (certificate, key) = match (&arguments.self_signed, &arguments.tls_cert, &arguments.tls_key) {
        (Some(folder), ..) => {
            certificates::provide(folder)?;
            (folder.join("server.pem"), folder.join("server.key"))
        }
        (None, Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ if arguments.client_ca.is_some() => {
            return Err("--client-ca needs --tls-cert and --tls-key, or --self-signed".into());
        }
        _ => return Ok(None),
    };
    let client_ca = arguments.client_ca.as_deref().map(text).transpose()?;
    certificates::server_config(&text(&certificate)?, &text(&key)?, client_ca.as_deref()).map(Some)
}

fn text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl Faults {
    fn behaviour(self) -> Behaviour {
        Behaviour {
            fail: self.fail,
            fail_every: self.fail_every,
            delay_seconds: self.delay.unwrap_or(0.0),
            rate_limit: self.rate_limit,
            retry_after: self.retry_after,
            close_midway: self.close_midway.unwrap_or_default(),
            accept_then_reset: self.accept_then_reset.unwrap_or_default(),
            reject_item: self.reject_item,
            fail_item: self.fail_item,
            authorization: self.authorization,
            max_body: self.max_body,
            status_sequence: VecDeque::from(self.status_sequence),
            refusal_text: None,
        }
    }
}

/// Shows each request, in one of three ways, and records what was accepted.
struct Printer {
    quiet: bool,
    json: bool,
    record: Option<Mutex<File>>,
    requests: AtomicU64,
    items: AtomicU64,
}

impl Printer {
    fn new(arguments: &Arguments) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let record = arguments.record.as_ref().map(open).transpose()?.map(Mutex::new);
        Ok(Self {
            quiet: arguments.quiet,
            json: arguments.json,
            record,
            requests: AtomicU64::new(0),
            items: AtomicU64::new(0),
        })
    }

    fn show(&self, arrival: &Arrival) {
        // Newlines in JSON stand only between values.
        let line = arrival.body.replace(['\n', '\r'], " ");
        if let Some(record) = self.record.as_ref().filter(|_| arrival.accepted) {
            let mut file = record.lock().expect("nothing panics while it is held");
            if let Err(error) = writeln!(file, r#"{{"duplicate":{},"body":{line}}}"#, arrival.duplicate) {
                eprintln!("cannot record: {error}");
            }
        }
        // A closed pipe is no reason to stop receiving.
        self.print(arrival, &line).ok();
    }

    fn print(&self, arrival: &Arrival, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let requests = self.requests.fetch_add(1, Relaxed) + 1;
        let new = if arrival.accepted && !arrival.duplicate { arrival.items as u64 } else { 0 };
        let items = self.items.fetch_add(new, Relaxed) + new;
        if self.quiet {
            let end = if out.is_terminal() { "\r" } else { "\n" };
            write!(out, "{items} items in {requests} requests{end}")?;
            return out.flush();
        }
        if self.json {
            return if arrival.accepted { writeln!(out, "{line}") } else { Ok(()) };
        }
        let answer = if arrival.status == 0 { "no answer".to_owned() } else { arrival.status.to_string() };
        let repeated = match (arrival.duplicate, arrival.differs) {
            (_, true) => ", REPEATED KEY WITH OTHER BYTES",
            (true, false) => ", duplicate",
            (false, false) => "",
        };
        writeln!(out, "batch {}: {} items, {answer}{repeated}", arrival.idempotency_key, arrival.items)?;
        if arrival.accepted && !arrival.duplicate {
            for item in ledger::items(&arrival.body, &arrival.idempotency_key).unwrap_or_default() {
                writeln!(out, "  {}", readable(item.get()))?;
            }
        }
        Ok(())
    }
}

/// A reading as `1717156800.000 boiler/temp 81.5 C`, an event as `… critical overheat: message`,
/// and anything else as it came.
fn readable(item: &str) -> String {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(item) else { return item.to_owned() };
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let at = value["timestamp"].as_f64().unwrap_or_default();
    if let Some(reading) = value["value"].as_f64().filter(|_| value["sensor_name"].is_string()) {
        format!("{at:.3} {} {reading} {}", text("sensor_name"), text("unit")).trim_end().to_owned()
    } else if value["rule_name"].is_string() {
        format!("{at:.3} {} {}: {}", text("severity"), text("rule_name"), text("message"))
    } else {
        item.to_owned()
    }
}

fn times(text: &str) -> Result<Times, String> {
    match text {
        "always" => Ok(Times::Always(true)),
        _ => text.parse().map(Times::Left).map_err(|_| "give a number of times".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let (number, scale) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value * scale),
        _ => Err("give a duration such as 2s or 300ms".to_owned()),
    }
}
