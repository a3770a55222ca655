//! `reload`: asks the running agent to load its configuration anew, and waits for what comes of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK};
use crate::clock;
use crate::config::{INSTALLED_STATE_DIR, LoadOptions, load};
use crate::lifecycle::lock;
use crate::lifecycle::outcome::{self, Outcome};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The running agent [default: $MAINPID, as systemd sets it for ExecReload=, or the holder of the state
    /// directory]
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// The state directory, where the configuration is not at hand
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How long to wait for the outcome, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Exits with 0 when the new configuration runs, with 78 when it was refused and the old one runs on, and with 1
/// when there is no agent, or no answer of it.
pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> u8 {
    match reload(config, arguments) {
        Ok(Outcome { applied: true, .. }) => EXIT_OK,
        Ok(Outcome { reason, .. }) => {
            eprintln!("{reason}\nthe reload was refused; the old configuration runs on");
            EXIT_CONFIG
        }
        Err(message) => {
            eprintln!("pyv-edge-agent: {message}");
            EXIT_FAILED
        }
    }
}

fn reload(config: Option<PathBuf>, arguments: &Arguments) -> Result<Outcome, String> {
    let mut state_dir = arguments.state_dir.clone();
    let given = arguments.pid.or_else(|| std::env::var("MAINPID").ok()?.parse().ok());
    let number = match given {
        Some(pid) => pid,
        None => {
            let dir = state_dir.get_or_insert_with(|| configured_state_dir(config));
            holder(dir)?
        }
    };
    let not_running = || format!("there is no process {number}; is the agent running?");
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(not_running)?;
    let place = Place::of(number, state_dir)?;
    let before = place.read(number)?.map_or(0, |outcome| outcome.number);
    kill_process(pid, Signal::HUP).map_err(|error| format!("cannot signal process {number}: {error}"))?;
    let deadline = clock::since_boot() + Duration::from_secs(arguments.timeout);
    while clock::since_boot() < deadline {
        if let Some(outcome) = place.read(number)?.filter(|outcome| outcome.number > before) {
            return Ok(outcome);
        }
        if test_kill_process(pid).is_err() {
            return Err(format!("the agent (pid {number}) ended during the reload; its log says why"));
        }
        thread::sleep(LOOK_EVERY);
    }
    Err(format!("the agent (pid {number}) did not answer within {} s; its log says more", arguments.timeout))
}

/// Where the agent leaves its outcomes: its surroundings decide, not ours.
struct Place {
    runtime_dirs: Option<String>,
    state_dir: PathBuf,
}

impl Place {
    fn of(pid: u32, state_dir: Option<PathBuf>) -> Result<Self, String> {
        // ExecReload= has the same surroundings as the agent, and may not read another process's.
        if std::env::var_os("MAINPID").is_some() && std::env::var_os("RUNTIME_DIRECTORY").is_some() {
            let runtime_dirs = std::env::var("RUNTIME_DIRECTORY").ok();
            return Ok(Self { runtime_dirs, state_dir: PathBuf::new() });
        }
        let path = format!("/proc/{pid}/environ");
        let surroundings = fs::read(&path).map_err(|error| {
            format!("{path}: {error}; reload as root or as the agent's user, or by 'systemctl reload'")
        })?;
        let variable = |name: &[u8]| {
            let found = surroundings.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(name));
            found.map(<[u8]>::to_vec)
        };
        let runtime_dirs = variable(b"RUNTIME_DIRECTORY=").and_then(|dirs| String::from_utf8(dirs).ok());
        let of_agent = || {
            let dirs = OsString::from_vec(variable(b"STATE_DIRECTORY=")?);
            std::env::split_paths(&dirs).next()
        };
        let state_dir = state_dir.or_else(of_agent).unwrap_or_else(|| configured_state_dir(None));
        Ok(Self { runtime_dirs, state_dir })
    }

    fn read(&self, pid: u32) -> Result<Option<Outcome>, String> {
        outcome::read(self.runtime_dirs.as_deref(), &self.state_dir, pid)
            .map_err(|error| format!("cannot read what came of the reload: {error}"))
    }
}

/// The file may be broken, which is for the agent to say: then the usual place.
fn configured_state_dir(config: Option<PathBuf>) -> PathBuf {
    let usual = || PathBuf::from(INSTALLED_STATE_DIR);
    load(&LoadOptions::of_process(config)).map_or_else(|_| usual(), |loaded| loaded.config.store.state_dir)
}

fn holder(state_dir: &Path) -> Result<u32, String> {
    match lock::holder(state_dir) {
        Ok(Some(pid)) => Ok(pid),
        Ok(None) => Err(format!("no agent runs on {}; give --state-dir or --pid", state_dir.display())),
        Err(error) => Err(format!("{}: {error}; give --pid", state_dir.display())),
    }
}

/// A reload takes a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);
