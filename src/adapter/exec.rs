//! A program as an adapter: a child process that prints readings as JSON lines, or bare numbers.
//!
//! The child leads a process group of its own, which is ended with it, so that nothing it started
//! outlives the source. When it ends the source fails, and the supervisor starts both again.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use self::streams::Streams;
use super::{Device, Error, Intake, State};
use crate::config::section::{Secret, Section};
use crate::lifecycle::group::Group;

mod streams;

pub const RUNS_ONCE: bool = false;

pub const SAMPLE: &str = r#"
[[sensors.devices]]
name = "modbus"
ingest_type = "exec"
command = ["/usr/bin/python3", "/opt/adapters/modbus.py", "--device", "/dev/ttyUSB0"]
working_dir = "/opt/adapters"
environment = { PYTHONUNBUFFERED = "1" }
# false: when the program ends, it has done its work.
restart = true
"#;

/// One program.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    name: String,
    unit: String,
    program: String,
    arguments: Vec<String>,
    working_dir: Option<PathBuf>,
    /// Added to the agent's own; hidden, because passwords are handed on this way.
    environment: Vec<(String, Secret)>,
    restart: bool,
}

impl Source {
    pub fn read(_shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        devices.into_iter().map(Self::read_device).collect()
    }

    fn read_device(mut device: Device<'_>) -> Self {
        let section = &mut device.section;
        let present = section.has("command");
        let mut command = section.strings("command").into_iter();
        let program = command.next().unwrap_or_default();
        if !present {
            section.missing("command", "the program and its arguments as a list of strings");
        } else if program.is_empty() {
            section.refuse("command", "names no program; give it and its arguments as a list of strings");
        }
        let environment = section.string_table("environment");
        for (name, _) in environment.iter().filter(|(name, _)| name.is_empty() || name.contains('=')) {
            section.refuse("environment", format_args!("'{name}' is no name of a variable; give one without '='"));
        }
        Self {
            program,
            arguments: command.collect(),
            working_dir: section.path("working_dir"),
            environment: environment.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            restart: section.bool("restart", true),
            name: device.name,
            unit: device.unit,
        }
    }

    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Runs the program until it ends or the source is to stop. Then it gets SIGTERM, and SIGKILL when
    /// it has not ended [`GRACE`] later; what it still prints in that time is taken.
    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        let mut child = self.spawn()?;
        let mut streams = Streams::new(&mut child, self);
        // Ends the group on every way out of here, a cancelled task included.
        let group = Group::of(&child);
        intake.status.set(State::Connected);
        let status = self.watch(&mut child, &mut streams, &group, intake).await?;
        group.signal(Signal::KILL);
        streams.drain(intake).await?;
        if intake.stop.is_cancelled() {
            return Ok(());
        }
        let failure = format!("'{}' ended with {status}", self.program);
        if self.restart {
            return Err(Error::Failed(format!("{failure}; it is started again")));
        }
        if !status.success() {
            tracing::warn!(source = self.name, %status, "exec: the program failed and is not to be restarted");
            intake.status.set_error(failure);
        }
        intake.status.set(State::Finished);
        Ok(())
    }

    fn spawn(&self) -> Result<Child, Error> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in WITHHELD {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value.reveal())));
        if let Some(dir) = &self.working_dir {
            command.current_dir(dir);
        }
        command.spawn().map_err(|error| {
            let dir = self.working_dir.as_ref().map(|dir| format!(" in {}", dir.display()));
            let (program, dir) = (&self.program, dir.unwrap_or_default());
            Error::Failed(format!("'{program}' cannot be started{dir}: {error}; it is tried again"))
        })
    }

    /// Passes on what the child prints until it ends.
    async fn watch(
        &self,
        child: &mut Child,
        streams: &mut Streams<'_>,
        group: &Group,
        intake: &Intake,
    ) -> Result<ExitStatus, Error> {
        let mut stopping = false;
        // Set once the child has to end by itself.
        let mut kill_at = None;
        loop {
            // Nothing is sent in here: what one event waits for, another would cancel and lose.
            let event = tokio::select! {
                status = child.wait() => Event::Exited(status),
                () = intake.stop.cancelled(), if !stopping => Event::Stop,
                () = reached(kill_at) => Event::KillDue,
                () = reached(streams.send_at) => Event::SendDue,
                more = streams.output.next() => Event::Output(more),
                more = streams.errors.next() => Event::ErrorLine(more),
            };
            match event {
                Event::Exited(status) => {
                    return status
                        .map_err(|error| Error::Failed(format!("waiting for '{}': {error}", self.program)));
                }
                Event::Stop => {
                    stopping = true;
                    group.signal(Signal::TERM);
                    kill_at = Some(Instant::now() + GRACE);
                }
                Event::KillDue => {
                    kill_at = None;
                    group.signal(Signal::KILL);
                }
                Event::SendDue => streams.send(intake).await?,
                Event::Output(true) => streams.take_reading(intake).await?,
                // Nothing more can come from a child that closed its output.
                Event::Output(false) => kill_at = kill_at.or(Some(Instant::now() + GRACE)),
                Event::ErrorLine(true) => streams.log_error(),
                Event::ErrorLine(false) => {}
            }
        }
    }
}

enum Event {
    Exited(io::Result<ExitStatus>),
    Stop,
    KillDue,
    SendDue,
    /// A line, or false for the end of the stream; so for the next.
    Output(bool),
    ErrorLine(bool),
}

async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// How long a child may take to end once it was told to, or has closed its output.
const GRACE: Duration = Duration::from_secs(2);
/// What systemd hands the agent and no child may act on.
const WITHHELD: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
];

#[cfg(test)]
mod tests {
    use super::super::{Source as Any, test_support};
    use super::*;

    fn source(script: &str, settings: &str) -> Any {
        let device = "[[sensors.devices]]\nname = 'child'\ningest_type = 'exec'\nunit = 'V'";
        let toml = format!("{device}\n{settings}\ncommand = ['sh', '-c', {script:?}]");
        test_support::sources(&toml).unwrap().remove(0)
    }

    fn is_alive(pid: f64) -> bool {
        // A zombie waits for its own parent, not for us.
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    async fn wait_until_gone(pid: f64) {
        test_support::within(async {
            while is_alive(pid) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Runs `source` until its first batch, asks it to stop, and gives the first value of the batch.
    async fn stop_after_first(source: &Any) -> (Result<(), Error>, f64) {
        let (intake, mut received) = test_support::intake(4);
        let first = async {
            let batch = test_support::next(&mut received).await;
            intake.stop.cancel();
            batch.readings().next().unwrap().value
        };
        test_support::within(async { tokio::join!(source.run(&intake), first) }).await
    }

    #[test]
    fn the_sample_is_valid_and_the_environment_is_not_shown() {
        let sources = test_support::sources(&SAMPLE.replace("\"1\"", "\"hush\"")).unwrap();
        assert!(!format!("{sources:?}").contains("hush"));
        for command in ["", "command = []", "command = [1]", "command = ['a']\nenvironment = { 'a=b' = 'c' }"] {
            let toml = format!("[[sensors.devices]]\nname = 'a'\ningest_type = 'exec'\n{command}");
            assert!(!test_support::sources(&toml).unwrap_err().is_empty(), "{command}");
        }
    }

    #[tokio::test]
    async fn objects_and_bare_numbers_are_readings_and_the_last_line_needs_no_end() {
        let script = r#"echo '{"sensor_name":"a","value":1,"unit":"C"}'; echo 2; echo; echo oops; printf 3"#;
        let (intake, _received) = test_support::intake(1);
        let (result, batches) = test_support::run_to_end(&source(script, ""), intake).await;
        let readings: Vec<_> = batches.iter().flat_map(test_support::readings_of).collect();
        let expected = [("a", 1.0, "C"), ("child", 2.0, "V"), ("child", 3.0, "V")];
        assert_eq!(readings, expected.map(|(name, value, unit)| (name.to_owned(), value, unit.to_owned())));
        assert_eq!(batches.iter().map(|batch| batch.refusals().len()).sum::<usize>(), 1);
        let message = result.unwrap_err().to_string();
        assert!(message.contains("'sh' ended with exit status: 0"), "{message}");
    }

    #[tokio::test]
    async fn a_quiet_child_does_not_hold_back_its_reading() {
        let (result, value) = stop_after_first(&source("echo 1; exec sleep 1000", "")).await;
        result.unwrap();
        assert_eq!(value, 1.0);
    }

    #[tokio::test]
    async fn a_program_that_cannot_start_is_a_failure_that_names_it() {
        let Any::Exec(mut source) = source("", "") else { panic!() };
        source.program = "/nowhere/adapter".to_owned();
        let (intake, _received) = test_support::intake(1);
        let error = source.run(&intake).await.unwrap_err();
        assert!(error.to_string().contains("'/nowhere/adapter' cannot be started"), "{error}");
    }

    #[tokio::test]
    async fn without_restart_an_end_is_the_end() {
        let (intake, _received) = test_support::intake(1);
        let status = intake.status.clone();
        test_support::run_to_end(&source("exit 3", "restart = false"), intake).await.0.unwrap();
        assert_eq!(status.state(), State::Finished);
        assert!(status.last_error().unwrap().contains("exit status: 3"));
    }

    #[tokio::test]
    async fn settings_reach_the_child_and_the_agents_own_sockets_do_not() {
        let script = "echo $GIVEN; test $PWD = / && echo 2; test -z \"$NOTIFY_SOCKET\" && echo 3";
        let settings = "working_dir = '/'\nenvironment = { GIVEN = '1' }\nrestart = false";
        let (intake, _received) = test_support::intake(1);
        let (_, batches) = test_support::run_to_end(&source(script, settings), intake).await;
        let values: Vec<_> = batches.iter().flat_map(test_support::readings_of).map(|r| r.1).collect();
        assert_eq!(values, [1.0, 2.0, 3.0]);
    }

    #[tokio::test]
    async fn a_stop_ends_the_child_and_what_it_started() {
        let (result, grandchild) = stop_after_first(&source("sleep 1000 & echo $!; wait", "")).await;
        result.unwrap();
        wait_until_gone(grandchild).await;
    }

    #[tokio::test]
    async fn what_a_child_says_on_its_way_out_is_taken() {
        let source = source("trap 'echo 2; exit 0' TERM; echo 1; while :; do sleep 0.01; done", "");
        let (intake, mut received) = test_support::intake(4);
        let consume = async {
            test_support::next(&mut received).await;
            intake.stop.cancel();
            test_support::readings_of(&test_support::next(&mut received).await)
        };
        let (result, last) = test_support::within(async { tokio::join!(source.run(&intake), consume) }).await;
        result.unwrap();
        assert_eq!(last[0].1, 2.0);
    }

    #[tokio::test]
    async fn a_child_that_ignores_sigterm_is_killed() {
        let start = Instant::now();
        let script = "trap '' TERM; echo $$; while :; do sleep 1000; done";
        let (result, pid) = stop_after_first(&source(script, "")).await;
        result.unwrap();
        assert!(start.elapsed() >= GRACE);
        wait_until_gone(pid).await;
    }

    #[tokio::test]
    async fn a_dropped_run_leaves_no_process_behind() {
        let source = source("echo $$; while :; do sleep 1000; done", "");
        let (intake, mut received) = test_support::intake(4);
        let pid = {
            let run = source.run(&intake);
            tokio::pin!(run);
            tokio::select! {
                _ = &mut run => panic!("it ended by itself"),
                batch = test_support::next(&mut received) => batch.readings().next().unwrap().value,
            }
        };
        wait_until_gone(pid).await;
    }

    #[tokio::test]
    async fn a_flood_is_held_back_and_a_stop_gets_through_it() {
        let source = source("exec yes 1", "");
        let (intake, mut received) = test_support::intake(1);
        let consume = async {
            for _ in 0..3 {
                let batch = test_support::next(&mut received).await;
                assert!(batch.len() <= crate::reading::BATCH_READINGS_MAX);
            }
            intake.stop.cancel();
        };
        let (result, ()) = test_support::within(async { tokio::join!(source.run(&intake), consume) }).await;
        // The pipeline of this test takes no more, so the last batch cannot be sent.
        assert!(matches!(result, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn a_line_without_end_and_a_noisy_standard_error_do_no_harm() {
        let script = "head -c 3000000 /dev/zero; echo; yes no | head -c 300000 >&2; echo 7";
        let (intake, _received) = test_support::intake(1);
        let (_, batches) = test_support::run_to_end(&source(script, "restart = false"), intake).await;
        let values: Vec<_> = batches.iter().flat_map(test_support::readings_of).map(|r| r.1).collect();
        assert_eq!(values, [7.0]);
        assert_eq!(batches.iter().map(|batch| batch.refusals().len()).sum::<usize>(), 1);
    }
}
