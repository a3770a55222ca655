//! Programs: real ones, also while the agent is told to stop.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use super::{daemon, fire, outcome};
use crate::harness::until;

/// A program in `folder`: a script.
pub fn program(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("program");
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(&path).unwrap();
    file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    path
}

fn action(program: &Path, more: &str) -> String {
    format!("[[actions]]\nname = 'run'\ntype = 'command'\ncommand = ['{}']\n{more}", program.display())
}

fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[tokio::test]
async fn a_program_that_fails_or_hangs_is_counted_and_the_next_event_starts_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let program = program(folder.path(), "case $(cat) in *90.0*) exit 3;; *91.0*) sleep 1000;; esac");
    let (daemon, door, _home) = daemon(&action(&program, "timeout_seconds = 0.5\n"), "").await;
    for value in [90, 91, 92] {
        fire(&door, "oven", value, json!({})).await;
    }
    let health = outcome(&daemon, "succeeded", 1).await;
    let run = &health["actions"][0];
    assert_eq!(
        (&run["started"], &run["failed"], &run["timed_out"]),
        (&json!(3), &json!(1), &json!(1)),
        "{run}"
    );
    let log = daemon.stop().await;
    assert!(log.contains("ended with exit status: 3"), "{log}");
    assert!(log.contains("failed_before=2"), "{log}");
}

#[tokio::test]
async fn a_stop_lets_a_program_finish_that_is_soon_done() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let text = format!("cat >/dev/null; echo $$ >{0}.pid; sleep 0.5; echo done >{0}", out.display());
    let (mut daemon, door, _home) = daemon(&action(&program(folder.path(), &text), ""), "").await;
    fire(&door, "oven", 90, json!({})).await;
    until("it runs", async || folder.path().join("out.pid").exists().then_some(())).await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(out.exists(), "{}", daemon.log());
}

#[tokio::test]
async fn a_stop_ends_a_program_that_is_not_with_all_it_started_and_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let text = format!(
        "trap '' TERM; sleep 1000 & echo $! $$ >{0}.new; mv {0}.new {0}; wait; sleep 1000",
        pids.display()
    );
    let program = program(folder.path(), &text);
    let (mut daemon, door, _home) = daemon(&action(&program, "timeout_seconds = 60\n"), "").await;
    fire(&door, "oven", 90, json!({})).await;
    fire(&door, "oven", 91, json!({})).await;
    let started = until("it runs", async || std::fs::read_to_string(&pids).ok()).await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed.as_secs_f64() < 8.0, "{exit:?}");
    for pid in started.split_whitespace() {
        until("it is gone", async || (!is_alive(pid)).then_some(())).await;
    }
    let log = daemon.log();
    assert!(log.contains("the agent stopped before it was done"), "{log}");
    assert!(log.contains("events=1") && !log.contains("tasks did not end in time"), "{log}");
}
