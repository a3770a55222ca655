//! The whole way once, on this machine: sensors, broker, agent and an HTTPS receiver, with live numbers.
//!
//! The agent is the real program in a process of its own; `scripts/demo` builds both and starts this.

#[path = "../receiver/server.rs"]
#[expect(dead_code, reason = "the demonstration needs no misbehaviour")]
mod receiver;

/// `println!` that goes on when nobody reads any more: the end still has to be in order.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($text)*).ok();
    }};
}

mod broker;
mod folder;
mod process;
mod progress;

use std::convert::Infallible;
use std::error::Error;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use folder::{Contents, Folder};
use process::{Process, find, free_port};
use progress::{Health, Latest, Printer};
use receiver::behaviour::Behaviour;
use receiver::ledger::Totals;
use receiver::{Receiver, certificates, serve};

type Failure = Box<dyn Error + Send + Sync>;

/// Runs the agent with this machine's sensors, simulated ones and an MQTT broker, and receives what it
/// delivers. Ctrl-C ends it.
#[derive(Parser)]
struct Arguments {
    /// End by itself after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where configuration, certificates, logs and data go; they are kept.
    #[arg(long, default_value = "demo-data")]
    folder: PathBuf,
    /// The agent's program [default: the one that was built with this].
    #[arg(long)]
    agent: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut requests = Requests::listen(arguments.seconds)?;
    let mosquitto = find("mosquitto");
    let folder = Folder::prepare(&arguments.folder, mosquitto.is_some())?;
    say!("data, configuration and logs: {} (kept)", folder.path.display());
    if folder.config_edited {
        say!("config.toml was edited: it is used as it is; remove it to have a new one");
    }
    let broker_port = free_port()?;
    let mut broker = match &mosquitto {
        Some(program) => Some(broker::start(program, &folder, broker_port).await?),
        None => {
            say!("without MQTT: mosquitto is not installed (apt-get install mosquitto)");
            None
        }
    };
    let before = folder.contents()?;
    let started = Instant::now();
    let agent = arguments.agent.map_or_else(built_agent, Ok)?;
    let (tally, outcome) = serve_agent(&agent, &folder, broker_port, broker.is_some(), &mut requests).await?;
    if let Some(broker) = &mut broker {
        broker.terminate();
        broker.stopped().await?;
    }
    if outcome.is_ok() || tally.totals.requests > 0 {
        summarise(&folder, &tally, before, started.elapsed())?;
    }
    outcome.map_err(Failure::from)
}

/// What was seen last.
#[derive(Default)]
struct Tally {
    health: Health,
    totals: Totals,
}

/// Runs agent, receiver and publisher until Ctrl-C, the end of the time or the end of the agent.
async fn serve_agent(
    agent: &Path,
    folder: &Folder,
    broker_port: u16,
    has_broker: bool,
    requests: &mut Requests,
) -> Result<(Tally, Result<(), String>), Failure> {
    let read = |name: &str| std::fs::read_to_string(folder.path.join("tls").join(name));
    let tls = certificates::server_config(&read("server.pem")?, &read("server.key")?, None)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let receiver_port = listener.local_addr()?.port();
    // A lock, because the receiver's connections are tasks of their own.
    let latest = Arc::new(Mutex::new(Latest::default()));
    let noted = Arc::clone(&latest);
    let note = move |arrival: &receiver::ledger::Arrival| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).note(arrival);
    };
    let receiver = Receiver::new(Behaviour::default(), Some(Box::new(note)));
    let totals = receiver.totals();
    let stop = CancellationToken::new();

    let health_port = free_port()?;
    let ports = Ports { health: health_port, receiver: receiver_port, broker: broker_port };
    let mut process = start_agent(agent, folder, ports)?;
    say!("agent: its log is agent.log there; http://127.0.0.1:{health_port}/health and /metrics");
    say!("receiver: https://127.0.0.1:{receiver_port}");
    say!("Ctrl-C stops");

    let mut tally = Tally::default();
    let publish = async {
        match has_broker {
            true => broker::publish(broker_port).await,
            false => std::future::pending().await,
        }
    };
    let watch = async {
        let outcome = tokio::select! {
            never = show(health_port, &totals, &latest, &mut tally) => match never {},
            ended = process.ended() => Err(early_end(ended?, folder)),
            () = requests.came() => Ok(()),
        };
        if outcome.is_ok() {
            // The page may be closed by the time the agent drains, and the last look is up to 2 s old.
            if let Some(health) = Health::ask(health_port).await {
                tally.health = health;
            }
            say!("\nstopping: the agent finishes what it accepted ...");
            process.terminate();
        }
        let outcome = match outcome {
            Ok(()) => drain(&mut process, health_port, &mut tally).await,
            Err(error) => Err(error),
        };
        tally.totals = *totals.borrow();
        Ok::<_, Failure>(outcome)
    };
    let outcome = tokio::select! {
        ended = serve(listener, Some(tls), receiver, stop) => { ended?; Err("the receiver ended".to_owned()) }
        never = publish => match never {},
        outcome = watch => outcome?,
    };
    Ok((tally, outcome))
}

struct Ports {
    health: u16,
    receiver: u16,
    broker: u16,
}

fn start_agent(agent: &Path, folder: &Folder, ports: Ports) -> Result<Process, Failure> {
    let mut command = process::command(agent);
    command.arg("--config").arg(folder.config());
    // In a service's environment this would speak for the service.
    command.env("DEMO_FOLDER", &folder.path).env_remove("NOTIFY_SOCKET");
    for (name, port) in [
        ("DEMO_HEALTH_PORT", ports.health),
        ("DEMO_RECEIVER_PORT", ports.receiver),
        ("DEMO_BROKER_PORT", ports.broker),
    ] {
        command.env(name, port.to_string());
    }
    Process::start("the agent", command, folder.log("agent.log")?)
}

/// Asks and prints at a steady pace; never ends.
async fn show(
    health_port: u16,
    totals: &tokio::sync::watch::Receiver<Totals>,
    latest: &Mutex<Latest>,
    tally: &mut Tally,
) -> Infallible {
    let pace = Duration::from_secs(if std::io::stdout().is_terminal() { 1 } else { 2 });
    let started = Instant::now();
    let mut before = started;
    let mut printer = Printer::new();
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(health) = Health::ask(health_port).await else { continue };
        let now = Instant::now();
        let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
        printer.print(now - started, now - before, &health, *totals.borrow(), &mut latest);
        before = now;
        tally.health = health;
    }
}

/// Waits for the agent's end and keeps the last numbers it shows.
async fn drain(process: &mut Process, health_port: u16, tally: &mut Tally) -> Result<(), String> {
    let mut stopped = std::pin::pin!(process.stopped());
    let status = loop {
        tokio::select! {
            status = &mut stopped => break status?,
            () = sleep(LOOK_INTERVAL) => {}
        }
        if let Some(health) = Health::ask(health_port).await {
            tally.health = health;
        }
    };
    if status.success() { Ok(()) } else { Err(format!("the agent ended with {status}")) }
}

/// What ends it.
struct Requests {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    end: Option<Instant>,
}

impl Requests {
    /// From here on no signal ends the process by itself.
    fn listen(seconds: Option<u64>) -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            end: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        })
    }

    async fn came(&mut self) {
        let end = self.end;
        let time_is_up = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            () = time_is_up => {}
        }
    }
}

fn early_end(status: ExitStatus, folder: &Folder) -> String {
    let log = std::fs::read_to_string(folder.path.join("agent.log")).unwrap_or_default();
    let last: Vec<_> = log.lines().rev().take(LOG_LINES_MAX).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    format!("the agent ended by itself with {status}; its last words:\n{}", last.join("\n"))
}

fn summarise(folder: &Folder, tally: &Tally, before: Contents, lasted: Duration) -> Result<(), Failure> {
    let after = folder.contents()?;
    let Tally { health, totals } = tally;
    say!("\nafter {:.0} s:", lasted.as_secs_f64());
    say!("  readings accepted  {} (as the agent said last)", health.agent.readings_processed);
    say!("  input refused      {}", health.refused());
    say!("  events             {}", health.agent.events_triggered);
    say!(
        "  items stored       {} (readings, events, window results)",
        after.stored.saturating_sub(before.stored)
    );
    say!("  items delivered    {} in {} batches", totals.items, totals.batches);
    say!("  duplicates         {}", totals.duplicates);
    say!("  left in the queue  {} (delivered at the next start)", after.queued);
    say!("  on disk            {} KiB in {}", folder.state_bytes().div_ceil(1024), folder.state().display());
    Ok(())
}

/// Cargo puts examples one folder below the program.
fn built_agent() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()?;
    let agent =
        here.parent().and_then(|examples| examples.parent()).map(|folder| folder.join("pyv-edge-agent"));
    agent
        .filter(|path| path.is_file())
        .ok_or_else(|| "the agent is not built; run scripts/demo, or cargo build first".into())
}

/// While the agent drains.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Of the agent's log, when it ends by itself.
const LOG_LINES_MAX: usize = 10;
