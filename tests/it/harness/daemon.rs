//! The real daemon: its home with configuration and state, and the process with its notifications,
//! its log and its health page.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use rustix::process::Signal;

use super::endpoint::{Endpoint, Pki};
use super::process::{Exit, Process};
use super::{soon, until, write};

/// What stays when the daemon goes: configuration, state directory, and the socket of the health
/// page, which is handed over at each start as the service manager does it.
pub struct Home {
    folder: TempDir,
    health: TcpListener,
    environment: Vec<(String, String)>,
    tracer: Vec<String>,
}

impl Home {
    /// With `config` as `config.toml`. The state directory is set in a drop-in beside it.
    pub fn new(config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let health = TcpListener::bind("127.0.0.1:0").unwrap();
        let home = Self { folder, health, environment: Vec::new(), tracer: Vec::new() };
        std::fs::create_dir(home.path("conf.d")).unwrap();
        let state_dir = home.state_dir().display().to_string();
        write(&home.path("conf.d/00-home.toml"), &format!("[agent]\nstate_dir = '{state_dir}'\n"));
        home.configure(config);
        home
    }

    /// Adds to the daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the daemon run by `command`, which must keep the process id, as `strace -D` does.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.tracer = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Replaces `config.toml`; the daemon reads it at its next start or at SIGHUP.
    pub fn configure(&self, config: &str) {
        write(&self.config_file(), config);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config_file(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The daemon's command without arguments, and with nothing of the test's own service manager.
    pub fn command(&self) -> Command {
        let mut command = Command::new(DAEMON);
        self.set_environment(&mut command);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs the daemon with `--once` to its end.
    pub async fn once(&self) -> (Exit, String) {
        let mut process =
            Process::start(self.command().arg("--config").arg(self.config_file()).arg("--once"), BUILD);
        let exit = process.wait_exit().await;
        (exit, process.log())
    }

    /// Starts the daemon and waits until it is ready.
    pub async fn start(&self) -> Daemon {
        let daemon = self.spawn();
        daemon.ready().await;
        daemon
    }

    /// Starts the daemon without a socket for its health page: it binds `health.port` itself, which has
    /// to be `port`.
    pub fn spawn_without_socket(&self, port: u16) -> Daemon {
        let notifications = Notifications::bind(&self.path("notify"));
        let mut command = self.command();
        command.arg("--config").arg(self.config_file()).env("NOTIFY_SOCKET", self.path("notify"));
        let health = (Ipv4Addr::LOCALHOST, port).into();
        Daemon { process: Process::start(&mut command, BUILD), notifications, health }
    }

    /// Where the health page is, whether the daemon runs or not.
    pub fn health_address(&self) -> SocketAddr {
        self.health.local_addr().unwrap()
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&self) -> Daemon {
        let notifications = Notifications::bind(&self.path("notify"));
        // The shell moves the socket from its stdin to 3, and exec keeps the pid that LISTEN_PID names.
        let script = r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 </dev/null"#;
        let mut command = Command::new("sh");
        self.set_environment(&mut command);
        command
            .args(["-c", script])
            .args(&self.tracer)
            .args([DAEMON, "--config"])
            .arg(self.config_file())
            .current_dir(self.folder.path())
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "pyvorin-edge.socket")
            .stdin(Stdio::from(OwnedFd::from(self.health.try_clone().unwrap())));
        Daemon {
            process: Process::start(&mut command, BUILD),
            notifications,
            health: self.health.local_addr().unwrap(),
        }
    }

    fn set_environment(&self, command: &mut Command) {
        for name in SERVICE_MANAGER {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}

/// A running daemon; killed when it is dropped.
pub struct Daemon {
    process: Process,
    notifications: Notifications,
    health: SocketAddr,
}

impl Daemon {
    /// Waits for READY; a daemon that ends instead fails the test with what it said.
    pub async fn ready(&self) {
        tokio::select! {
            _ = self.notified("READY=1") => {}
            ended = self.process.says_or_ends("\0") => {
                panic!("it ended before it was ready: {ended:?}\n{}", self.log())
            }
        }
    }

    /// Waits for READY; false when it ends instead.
    pub async fn is_ready(&self) -> bool {
        tokio::select! {
            _ = self.notified("READY=1") => true,
            _ = self.process.says_or_ends("\0") => false,
        }
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How many lines it has logged so far, to wait for later ones.
    pub fn lines_so_far(&self) -> usize {
        self.process.lines_so_far()
    }

    /// Waits for a log line that contains `text`.
    pub async fn says(&self, text: &str) -> String {
        self.process.says(text).await
    }

    /// Waits for a log line that contains one of `texts` behind the first `lines` lines.
    pub async fn says_any_after(&self, lines: usize, texts: &[&str]) -> String {
        self.process.says_any_after(lines, texts).await
    }

    /// Everything the service manager was told, in order, one message each.
    pub fn notifications(&self) -> Vec<String> {
        self.notifications.received.borrow().clone()
    }

    /// Waits until the service manager was told `text`, and returns the whole message.
    pub async fn notified(&self, text: &str) -> String {
        self.notified_times(text, 1).await
    }

    /// Waits until the service manager was told `text` so many times, and returns the last message.
    pub async fn notified_times(&self, text: &str, times: usize) -> String {
        let nth =
            |all: &Vec<String>| all.iter().filter(|message| message.contains(text)).nth(times - 1).cloned();
        let mut received = self.notifications.received.clone();
        let what = format!("'{text}' is notified {times} times");
        let all = soon(&what, received.wait_for(|all| nth(all).is_some())).await.unwrap();
        nth(&all).unwrap()
    }

    /// SIGTERM, SIGINT, SIGHUP or SIGKILL.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub async fn wait_exit(&mut self) -> Exit {
        self.process.wait_exit().await
    }

    /// Waits for its end for as long as it takes: for a daemon that is not to end.
    pub async fn ended(&mut self) {
        self.process.ended().await;
    }

    /// Sends SIGTERM and waits for its end, which must be in order.
    pub async fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let exit = self.wait_exit().await;
        assert_eq!(exit.code, Some(0), "{}", self.log());
        self.log()
    }

    /// The body of `/health`.
    pub async fn health(&self) -> Value {
        let (status, body) = self.get("/health").await;
        serde_json::from_str(&body)
            .unwrap_or_else(|error| panic!("/health answered {status}: {error}: {body}"))
    }

    /// Waits until `/health` is as `is` says, and returns it.
    pub async fn health_shows(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(what, async || Some(self.health().await).filter(&is)).await
    }

    /// Status and body of a page of the health server.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        soon("the health page answers", exchange(self.health, &request)).await.unwrap()
    }
}

/// What the daemon tells the service manager.
struct Notifications {
    received: watch::Receiver<Vec<String>>,
    _reader: JoinSet<()>,
}

impl Notifications {
    fn bind(path: &Path) -> Self {
        std::fs::remove_file(path).ok();
        let socket = UnixDatagram::bind(path).unwrap();
        let (sender, received) = watch::channel(Vec::new());
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            let mut message = vec![0; 4096];
            while let Ok(length) = socket.recv(&mut message).await {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                sender.send_modify(|messages| messages.push(text));
            }
        });
        Self { received, _reader: reader }
    }
}

/// One HTTP request on a connection of its own; `request` asks the server to close.
pub async fn exchange(address: SocketAddr, request: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let malformed = || std::io::Error::other(format!("no HTTP answer: {answer:?}"));
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

/// A `[cloud]` section for `endpoint`, in a hurry.
pub fn cloud(endpoint: &Endpoint, pki: &Pki) -> String {
    let (url, ca) = (&endpoint.url, pki.ca_file());
    format!(
        "[cloud]\nenabled = true\nendpoint = '{url}'\napi_key = 'test-key'\nca_file = '{}'\n\
         flush_interval_seconds = 0.05\nbackoff_min_seconds = 0.1\nbackoff_max_seconds = 0.3\n",
        ca.display()
    )
}

/// A `[store]` section that commits often, for tests that wait for commits.
pub const EAGER_STORE: &str = "[store]\ncommit_interval_seconds = 0.02\n";

const DAEMON: &str = env!("CARGO_BIN_EXE_pyv-edge-agent");
const BUILD: &str = "build it with cargo build --bins";
/// What a service manager sets, ours or that of the test runner.
const SERVICE_MANAGER: [&str; 9] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "STATE_DIRECTORY",
    "INVOCATION_ID",
];
