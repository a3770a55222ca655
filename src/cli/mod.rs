//! The command line: what can be asked of the binary, and what it answers with.

mod blackbox;
mod by_hand;
mod check;
mod doctor;
mod items;
mod privacy;
mod query;
mod reload;
mod rules;
mod status;
mod store;
mod support_bundle;
mod tail;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::app;
use crate::config::{LoadOptions, load};
use crate::lifecycle::supervisor::panic_message;
use crate::lifecycle::systemd::Notifier;

/// Stopped on request, or everything was done.
pub const EXIT_OK: u8 = 0;
/// Failed while running.
pub const EXIT_FAILED: u8 = 1;
/// The configuration is missing or wrong: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// The program's name.
pub const NAME: &str = "pyv-edge-agent";

#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    about = "Takes in sensor readings, evaluates rules, protects private data, stores durably and delivers over HTTPS.",
    after_help = "Examples:
  pyv-edge-agent --config /etc/pyvorin-edge/config.toml
      run until SIGTERM or Ctrl-C; SIGHUP reloads the configuration
  pyv-edge-agent --config edge_config.toml --once
      read every polled device once, store, try one delivery, exit
  pyv-edge-agent check --config edge_config.toml
      say everything that is wrong with a configuration
  pyv-edge-agent reload
      have the running agent load its configuration anew; fails when that is refused
  pyv-edge-agent store check --config edge_config.toml
      say whether the database is whole
  pyv-edge-agent rules eval 'ctx.value > 85.0' --reading '{\"value\": 90}'
      say what a condition makes of a reading
  pyv-edge-agent privacy explain --sensor 'badge*'
      say what leaves of stored readings, field by field, and which rule decides
  pyv-edge-agent rules test --last 24h --config new.toml
      say what other rules would have made of what is stored
  pyv-edge-agent query --sensor 'temp.*' --since 1h
      print what is stored
  pyv-edge-agent status
      say how the agent is: sources, backlog, delivery, what was lost
  sudo pyv-edge-agent doctor
      look at device, service, endpoint and brokers, and say what mends what is wrong
  pyv-edge-agent blackbox --last 20
      tell the last that happened to the agent, across restarts and reboots

Exit codes:
  0 stopped on request   1 failed   2 wrong usage   78 configuration missing or wrong"
)]
struct Arguments {
    /// Configuration file: TOML, or JSON when its name ends in .json. The files conf.d/*.toml beside it
    /// are merged over it in the order of their names [default: ./edge_config.toml, then
    /// /etc/pyvorin-edge/config.toml]
    #[arg(long, short, value_name = "PATH", global = true)]
    config: Option<PathBuf>,

    /// Make one whole pass and exit: read every polled device once, commit, try one delivery. Fails
    /// when a device or the delivery failed.
    #[arg(long)]
    once: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration and say everything that is wrong with it, without running anything.
    Check,
    /// Have the running agent load its configuration anew, and say what came of it.
    Reload(reload::Arguments),
    /// Say how the agent is, whether it runs or not.
    ///
    /// Exits with 0 while it runs, with 1 when it is unhealthy or that cannot be seen, with 3 when it does not run, and
    /// with 78 when the configuration does not load.
    Status(status::Arguments),
    /// Look at the device, the service and the way to the endpoint, and say what mends what is wrong.
    ///
    /// Changes nothing, and works whether the agent runs or not; as root it sees most. The endpoint is asked by
    /// OPTIONS, brokers under another client id. Exits with 0 when there is no error, with 1 when there is one, and
    /// with 78 when the configuration does not load.
    Doctor(doctor::Arguments),
    /// Write one archive for whoever helps: configuration without what is private, doctor, status, store in numbers,
    /// black box, journal.
    ///
    /// Values of the configuration, names of devices and sensors and everything that is measured stay out.
    SupportBundle(support_bundle::Arguments),
    /// Print the black box: the last that happened to the agent, the newest last.
    Blackbox(blackbox::Arguments),
    /// See what leaves the device and what never does, and that the record of it is whole.
    #[command(subcommand)]
    Privacy(privacy::PrivacyCommand),
    /// Try conditions of rules before they go live.
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Print stored readings and events, the newest last: of an agent that runs, or a copy.
    ///
    /// Exits with 1 when something was left out because it is damaged.
    Query(query::Arguments),
    /// Print readings and events as they are committed, until Ctrl-C: of an agent that runs.
    Tail(tail::Arguments),
    /// Look at the database, or mend it.
    #[command(subcommand)]
    Store(store::StoreCommand),
}

/// What can be asked, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what the command line asks for; the result is the process's exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.command.is_some() {
        end_with_the_reader();
    }
    let code = match arguments.command {
        Some(Command::Check) => check::run(arguments.config),
        Some(Command::Reload(what)) => reload::run(arguments.config, &what),
        Some(Command::Status(what)) => ended(status::run(arguments.config, &what)),
        Some(Command::Doctor(what)) => ended(doctor::run(arguments.config, &what)),
        Some(Command::SupportBundle(what)) => ended(support_bundle::run(arguments.config, &what)),
        Some(Command::Blackbox(what)) => blackbox::run(arguments.config, what),
        Some(Command::Privacy(command)) => privacy::run(arguments.config, command),
        Some(Command::Rules(command)) => rules::run(arguments.config, command),
        Some(Command::Query(what)) => ended(query::run(arguments.config, what)),
        Some(Command::Tail(what)) => ended(tail::run(arguments.config, what)),
        Some(Command::Store(command)) => store::run(arguments.config, command),
        None => run(arguments.config, arguments.once),
    };
    ExitCode::from(code)
}

/// `head` and its like close the pipe once they have enough: that is an end, and no failure.
fn end_with_the_reader() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What print! panics with (std of Rust 1.95); there is no other way to learn of it.
        let message = panic_message(panic.payload());
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(EXIT_OK.into());
        }
        otherwise(panic);
    }));
}

/// The exit code of a command that may have failed, which is then said.
fn ended(result: anyhow::Result<u8>) -> u8 {
    result.unwrap_or_else(|error| {
        eprintln!("pyv-edge-agent: {error:#}");
        EXIT_FAILED
    })
}

/// Runs `work` to its end, and leaves behind what hangs in a look-up.
fn on_runtime<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(done)
}

/// For look-ups of names and for the disk.
const BLOCKING_THREADS_MAX: usize = 8;

fn run(config: Option<PathBuf>, once: bool) -> u8 {
    let options = LoadOptions::of_process(config);
    let loaded = match load(&options) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            // What `systemctl status` shows once no more starts follow: by then its journal lines are others.
            tell_why(&error.to_string());
            return EXIT_CONFIG;
        }
    };
    match app::start(loaded, options, once) {
        Ok(()) => EXIT_OK,
        Err(error) => {
            eprintln!("pyv-edge-agent: {error:#}");
            tell_why(&format!("{error:#}"));
            EXIT_FAILED
        }
    }
}

fn tell_why(reason: &str) {
    Notifier::from_env().status(&format!("not running: {reason}"));
}
