//! A program under test: its log lines as they come, its signals and its end. It dies with its owner.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::soon;

/// A running child whose standard error is kept.
pub struct Process {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
    _readers: JoinSet<()>,
    /// When it was last sent a signal, or else when it was started.
    told_at: Instant,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    /// Since the last signal to it, or else since its start.
    pub elapsed: Duration,
}

impl Process {
    /// Starts `command`; `install` is what to do when there is no such program.
    pub fn start(command: &mut Command, install: &str) -> Self {
        let program = command.as_std().get_program().to_owned();
        let mut child = match command.stderr(Stdio::piped()).kill_on_drop(true).spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {}: {error}; {install}", program.display()),
        };
        let (sender, lines) = watch::channel(Vec::new());
        let mut readers = JoinSet::new();
        readers.spawn(collect(child.stderr.take().unwrap(), sender));
        Self { child, lines, _readers: readers, told_at: Instant::now() }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it has not been waited for")).unwrap()
    }

    /// Everything it has written to standard error.
    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// What it writes to standard error, as it grows.
    pub fn lines(&self) -> watch::Receiver<Vec<String>> {
        self.lines.clone()
    }

    /// How many lines it has written so far, to wait for later ones.
    pub fn lines_so_far(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Waits for a line that contains `text`, and returns it.
    pub async fn says(&self, text: &str) -> String {
        self.says_after(0, text).await
    }

    /// Waits for a line that contains `text` behind the first `lines` lines.
    pub async fn says_after(&self, lines: usize, text: &str) -> String {
        self.says_any_after(lines, &[text]).await
    }

    /// Waits for a line that contains one of `texts` behind the first `lines` lines.
    pub async fn says_any_after(&self, lines: usize, texts: &[&str]) -> String {
        let is_one = |line: &&String| texts.iter().any(|text| line.contains(text));
        let found = |all: &Vec<String>| all.iter().skip(lines).find(is_one).cloned();
        let mut receiver = self.lines.clone();
        let what = format!("{texts:?} in the log");
        match soon(&what, receiver.wait_for(|all| found(all).is_some())).await {
            Ok(all) => found(&all).expect("it was just found"),
            Err(_) => panic!("it ended without saying {texts:?}:\n{}", self.log()),
        }
    }

    /// Like [`Self::says`]; `None` when it ends without having said it.
    pub async fn says_or_ends(&self, text: &str) -> Option<String> {
        let found = |all: &Vec<String>| all.iter().find(|line| line.contains(text)).cloned();
        let mut receiver = self.lines.clone();
        let all = soon(text, receiver.wait_for(|all| found(all).is_some())).await.ok()?;
        found(&all)
    }

    pub fn signal(&mut self, signal: Signal) {
        self.told_at = Instant::now();
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Waits for its end for as long as it takes.
    pub async fn ended(&mut self) {
        self.child.wait().await.unwrap();
    }

    /// Waits for its end, and for the last of its log.
    pub async fn wait_exit(&mut self) -> Exit {
        let patience = tokio::time::timeout(super::PATIENCE, self.child.wait());
        let Ok(status) = patience.await else { panic!("the process does not end; it said:\n{}", self.log()) };
        let status = status.unwrap();
        let elapsed = self.told_at.elapsed();
        let mut lines = self.lines.clone();
        // Closed once all is read; a grandchild that keeps the pipe open is none of our business.
        let ended = async { while lines.changed().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(1), ended).await.ok();
        Exit { code: status.code(), elapsed }
    }
}

async fn collect(stream: impl AsyncRead + Unpin, lines: watch::Sender<Vec<String>>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        lines.send_modify(|lines| lines.push(text));
        line.clear();
    }
}

/// Runs `command` to its end: its exit code, and what it said on standard output and standard error.
pub async fn finished(command: &mut Command) -> (Option<i32>, String, String) {
    let output = soon("the command ends", command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A port that nobody listens on. From below the range that the kernel gives to outgoing connections,
/// so that it is still free when a program that was stopped comes back to it.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let port = fastrand::u16(20_000..30_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port among a hundred of 20000 to 30000");
}
