//! A program as an action. It is started as it stands in the configuration, never by a shell; the event comes on its
//! standard input. What it prints is counted and thrown away.

use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;

use super::Failure;
use super::settings::Command;
use crate::lifecycle::group::Group;

/// Runs the program with `event` on its standard input until it ends, for `limit` at most: then its process group
/// gets SIGTERM, and SIGKILL [`GRACE`] later. Whatever it leaves behind in its group is killed, also when this is
/// dropped.
///
/// # Errors
///
/// It cannot be started, did not exit with 0, or was not done in time.
pub(super) async fn run(
    settings: &Command,
    event: &[u8],
    limit: Duration,
    action: &str,
) -> Result<(), Failure> {
    let program = settings.program.display();
    let mut child =
        spawn(settings).map_err(|error| Failure::lasting(format!("{program} cannot be started: {error}")))?;
    let group = Group::of(&child);
    let (output, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let streams = async {
        tokio::join!(feed(stdin, event), count(stdout, &output), count(stderr, &errors));
    };
    let ended = timeout(limit, until_end(&mut child, streams)).await;
    if ended.is_err() {
        group.signal(Signal::TERM);
        // Killed below when that does not end it.
        timeout(GRACE, child.wait()).await.ok();
    }
    group.signal(Signal::KILL);
    let (output_bytes, error_bytes) = (output.load(Relaxed), errors.load(Relaxed));
    tracing::debug!(action, output_bytes, error_bytes, "command: the program's output was thrown away");
    match ended {
        Err(_) => Err(Failure::TimedOut),
        Ok(Err(error)) => Err(Failure::lasting(format!("waiting for {program}: {error}"))),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Failure::lasting(format!(
            "{program} ended with {status}; it printed {output_bytes} bytes, and {error_bytes} to standard error"
        ))),
    }
}

fn spawn(settings: &Command) -> std::io::Result<Child> {
    let mut command = tokio::process::Command::new(&settings.program);
    command.args(&settings.arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().env("PATH", PATH);
    command.envs(settings.environment.iter().map(|(name, value)| (name, value.reveal())));
    command.current_dir(settings.working_dir.as_deref().unwrap_or("/".as_ref()));
    command.spawn()
}

/// Waits for the end of the program; its streams are served meanwhile, and a while longer for what they still hold.
async fn until_end(child: &mut Child, streams: impl Future<Output = ()>) -> std::io::Result<ExitStatus> {
    let mut streams = std::pin::pin!(streams);
    let mut are_closed = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                if !are_closed {
                    // What it left behind may hold them open.
                    timeout(STREAMS_WAIT, streams).await.ok();
                }
                return status;
            }
            () = &mut streams, if !are_closed => are_closed = true,
        }
    }
}

/// A program that does not want to read is welcome not to.
async fn feed(stdin: Option<ChildStdin>, event: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    if stdin.write_all(event).await.is_ok() {
        stdin.write_all(b"\n").await.ok();
    }
}

async fn count(stream: Option<impl AsyncRead + Unpin>, bytes: &AtomicU64) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; BUFFER_BYTES];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        bytes.fetch_add(length as u64, Relaxed);
    }
}

/// All that a program finds in its environment, besides what is configured.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a program may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(1);
const STREAMS_WAIT: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::section::Secret;

    /// A program of the test's own: the agent takes no shell, but a program may be a script.
    fn script(folder: &Path, text: &str) -> Command {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let program = folder.join("program");
        let mut file =
            std::fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(&program).unwrap();
        file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        Command {
            program,
            arguments: vec!["one; two".to_owned()],
            working_dir: None,
            environment: Vec::new(),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_gets_the_event_its_arguments_as_they_are_and_a_clean_environment() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let text = format!("{{ cat; echo \"$1\"; pwd; env | sort; }} >{}", out.display());
        let mut settings = script(folder.path(), &text);
        settings.environment.push(("TOKEN".to_owned(), Secret::new("t".to_owned())));
        run(&settings, b"{\"rule_name\":\"hot\"}", LONG, "a").await.unwrap();
        let seen = std::fs::read_to_string(out).unwrap();
        let expected = format!("{{\"rule_name\":\"hot\"}}\none; two\n/\nPATH={PATH}\nPWD=/\nTOKEN=t\n");
        assert_eq!(seen.replace("OLDPWD=/\n", "").replace("_=/usr/bin/env\n", ""), expected);
    }

    #[tokio::test]
    async fn a_failure_names_the_program_and_how_much_it_said_but_not_what() {
        let folder = tempfile::tempdir().unwrap();
        let settings = script(folder.path(), "echo secret; echo secrets >&2; exit 3");
        let Err(Failure::Failed { reason, is_passing }) = run(&settings, b"{}", LONG, "a").await else {
            panic!()
        };
        assert!(reason.contains("exit status: 3; it printed 7 bytes, and 8 to"), "{reason}");
        assert!(!reason.contains("secret") && !is_passing);
        let gone = Command { program: "/nowhere/relay".into(), ..settings };
        let Err(Failure::Failed { reason, .. }) = run(&gone, b"{}", LONG, "a").await else { panic!() };
        assert!(reason.starts_with("/nowhere/relay cannot be started"), "{reason}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_read_or_talks_a_lot_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let settings = script(folder.path(), "head -c 3000000 /dev/zero; exit 0");
        run(&settings, &vec![b'x'; 1_000_000], LONG, "a").await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let text = format!("trap '' TERM; sleep 1000 & echo $! $$ >{}; wait; sleep 1000", out.display());
        let settings = script(folder.path(), &text);
        let ended = run(&settings, b"{}", Duration::from_millis(500), "a").await;
        assert_eq!(ended, Err(Failure::TimedOut));
        for pid in std::fs::read_to_string(out).unwrap().split_whitespace() {
            until_gone(pid).await;
        }
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_is_ended_too() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let settings = script(folder.path(), &format!("sleep 1000 & echo $! >{}", out.display()));
        run(&settings, b"{}", LONG, "a").await.unwrap();
        until_gone(std::fs::read_to_string(out).unwrap().trim()).await;
    }

    async fn until_gone(pid: &str) {
        let is_alive = || {
            // A zombie waits for its own parent, not for us.
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
        };
        let gone = async {
            while is_alive() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, gone).await.unwrap_or_else(|_| panic!("{pid} lives on"));
    }
}
