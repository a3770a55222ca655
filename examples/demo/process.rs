//! Child processes that do not outlive the demonstration, whatever ends it.

use std::error::Error;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A running program.
pub struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `command`, whose output goes to `log`.
    pub fn start(
        name: &'static str,
        mut command: Command,
        log: File,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        // In a group of its own: Ctrl-C is for the demonstration, which then stops its children in order.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
        Ok(Self { child, name })
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    pub fn terminate(&self) {
        if let Some(pid) = self.pid() {
            // It fails when the program has just ended, which is what is wanted.
            kill_process(pid, Signal::TERM).ok();
        }
    }

    /// With everything it started.
    fn kill(&self) {
        if let Some(pid) = self.pid() {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }

    /// `None` once its end was noticed.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }

    /// Waits for the end of a program that was asked to stop, and kills it when it does not come.
    pub async fn stopped(&mut self) -> Result<ExitStatus, String> {
        match timeout(STOP_MAX, self.child.wait()).await {
            Ok(ended) => ended.map_err(|error| format!("{}: {error}", self.name)),
            Err(_) => {
                self.kill();
                Err(format!("{} did not stop within {} s and was killed", self.name, STOP_MAX.as_secs()))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command for `program` that ends with the demonstration, even when that is killed.
///
/// The kernel tells a shell, and the shell tells the program: a program that gives up root, as
/// mosquitto does, would not be told any more (prctl(2), PR_SET_PDEATHSIG).
pub fn command(program: &Path) -> Command {
    let mut command = match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--", "sh"]);
            command
        }
        None => Command::new("sh"),
    };
    command.args(["-c", RELAY, "sh"]).arg(program);
    command
}

/// Where a program is installed; also where only root's PATH leads.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Passes SIGTERM on and ends as the program ends; the first wait is cut short by the signal.
const RELAY: &str = r#""$@" & child=$!; trap 'kill $child; asked=1' TERM; wait $child; code=$?
[ -z "${asked-}" ] || { wait $child; code=$?; }; exit $code"#;
/// The agent promises 10 s.
const STOP_MAX: Duration = Duration::from_secs(15);
