//! Replays readings from a `.jsonl` or `.csv` file in constant memory, at full speed or at the pace of
//! their timestamps.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use self::rows::{Format, Rows};
use super::{Device, Error, Intake, State};
use crate::config::section::Section;
use crate::reading::Batch;

mod rows;

pub const RUNS_ONCE: bool = true;

pub const SAMPLE: &str = r#"
[[sensors.devices]]
name = "recorded"
ingest_type = "file_replay"
path = "/var/lib/pyvorin-edge/recorded.jsonl"
# 1.0 keeps the original gaps, 10.0 is ten times faster; without it as fast as readings are taken.
speed = 1.0
loop = false
"#;

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    name: String,
    unit: String,
    path: PathBuf,
    format: Format,
    /// How many seconds of the file pass in one second; missing: no waiting at all.
    speed: Option<f64>,
    repeat: bool,
}

enum End {
    OfFile {
        /// Whether it held anything.
        empty: bool,
    },
    Stopped,
}

impl Source {
    pub fn read(_shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        devices.into_iter().map(Self::read_device).collect()
    }

    fn read_device(mut device: Device<'_>) -> Self {
        let section = &mut device.section;
        let path = PathBuf::from(section.required_string("path", "a .jsonl or .csv file"));
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Format::Csv,
            Some("jsonl" | "ndjson") => Format::JsonLines,
            _ => {
                if !path.as_os_str().is_empty() {
                    section.refuse("path", format_args!("'{}' is not known; give a .jsonl or .csv file", path.display()));
                }
                Format::JsonLines
            }
        };
        let speed = section.optional_float("speed", SPEED_MIN..=SPEED_MAX);
        let repeat = section.bool("loop", false);
        Self { name: device.name, unit: device.unit, path, format, speed, repeat }
    }

    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Sends the file's readings, in `--once` mode without waiting between them and only one time.
    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        loop {
            match self.replay(intake).await? {
                End::Stopped => return Ok(()),
                // Repeating an empty file would spin.
                End::OfFile { empty } if empty || !self.repeat || intake.once => break,
                End::OfFile { .. } => {}
            }
        }
        intake.status.set(State::Finished);
        Ok(())
    }

    async fn replay(&self, intake: &Intake) -> Result<End, Error> {
        let source = self.clone();
        let mut rows = blocking(move || source.open()).await?;
        intake.status.set(State::Connected);
        let mut pace = self.speed.filter(|_| !intake.once).map(|speed| Pace { speed, start: None });
        let mut empty = true;
        loop {
            let path = self.path.clone();
            let step = move || {
                let mut batch = Batch::default();
                let more = rows.fill(&mut batch).map_err(|error| {
                    Error::Failed(format!("{}: {error}; reading starts again", path.display()))
                })?;
                Ok((rows, batch, more))
            };
            let (returned, batch, more) = tokio::select! {
                step = blocking(step) => step?,
                () = intake.stop.cancelled() => return Ok(End::Stopped),
            };
            rows = returned;
            empty &= batch.is_empty();
            let sent = match &mut pace {
                Some(pace) => pace.send(batch, intake).await?,
                None => send(batch, intake).await?,
            };
            if !sent {
                return Ok(End::Stopped);
            }
            if !more {
                return Ok(End::OfFile { empty });
            }
        }
    }

    fn open(&self) -> Result<Rows<BufReader<File>>, Error> {
        let fail = |reason: &dyn std::fmt::Display| {
            Error::Failed(format!("{}: {reason}; give a file that can be read", self.path.display()))
        };
        // A pipe or a device could block for ever.
        if !std::fs::metadata(&self.path).map_err(|error| fail(&error))?.is_file() {
            return Err(fail(&"it is not a regular file"));
        }
        let file = File::open(&self.path).map_err(|error| fail(&error))?;
        let reader = BufReader::with_capacity(READ_BYTES, file);
        Rows::new(reader, self.format, self.name.clone(), self.unit.clone()).map_err(|error| fail(&error))
    }
}

/// When each reading is due.
struct Pace {
    speed: f64,
    /// When the first reading was sent, and its timestamp.
    start: Option<(Instant, f64)>,
}

impl Pace {
    /// Sends the readings of `batch` one after the other as they fall due; false when it was stopped.
    async fn send(&mut self, batch: Batch, intake: &Intake) -> Result<bool, Error> {
        let mut due = Batch::default();
        for (reason, sensor) in batch.refusals() {
            due.refuse(reason, sensor);
        }
        for (reading, stamped) in batch.rows() {
            if stamped {
                // It has no time of its own to wait for.
                due.push_stamped(reading);
                continue;
            }
            let (start, first) = *self.start.get_or_insert_with(|| (Instant::now(), reading.timestamp));
            let offset = Duration::try_from_secs_f64((reading.timestamp - first) / self.speed);
            // Out of order, before the first: it is due at once.
            let wait = (start + offset.unwrap_or_default().min(WAIT_MAX)).saturating_duration_since(Instant::now());
            if !wait.is_zero()
                && (!send(std::mem::take(&mut due), intake).await? || !intake.pause(wait).await)
            {
                return Ok(false);
            }
            due.push(reading);
        }
        send(due, intake).await
    }
}

/// False when it was stopped instead: what the file still holds is not lost.
async fn send(batch: Batch, intake: &Intake) -> Result<bool, Error> {
    tokio::select! {
        sent = intake.send(batch) => sent.map(|()| true),
        () = intake.stop.cancelled() => Ok(false),
    }
}

/// Files are read beside the runtime's thread: a worn card or a network mount may take seconds.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(Error::Failed(format!("reading ended: {error}; it starts again"))))
}

const SPEED_MIN: f64 = 1e-3;
const SPEED_MAX: f64 = 1e9;
const READ_BYTES: usize = 64 * 1024;
/// The longest a gap may make a reading wait; more would overflow the clock.
const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::{Source as Any, test_support};
    use super::*;

    fn source(name: &str, content: &str, settings: &str) -> (tempfile::TempDir, Any) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        File::create(&path).unwrap().write_all(content.as_bytes()).unwrap();
        let toml = format!(
            "[[sensors.devices]]\nname = 'file'\ningest_type = 'file_replay'\npath = '{}'\n{settings}",
            path.display()
        );
        let source = test_support::sources(&toml).unwrap().remove(0);
        (dir, source)
    }

    fn lines(timestamps: impl Iterator<Item = f64>) -> String {
        timestamps.map(|at| format!("{{\"sensor_name\":\"a\",\"timestamp\":{at},\"value\":1}}\n")).collect()
    }

    #[test]
    fn the_sample_is_valid() {
        assert_eq!(test_support::sources(SAMPLE).unwrap().len(), 1);
        let problems = test_support::sources(&SAMPLE.replace(".jsonl", ".txt")).unwrap_err();
        assert!(problems[0].contains("give a .jsonl or .csv file"), "{problems:?}");
    }

    #[tokio::test]
    async fn a_large_file_comes_whole_in_bounded_batches_and_finishes() {
        let (_dir, source) = source("a.jsonl", &lines((0..5000).map(|n| 1.7e9 + f64::from(n))), "");
        let (intake, _received) = test_support::intake(1);
        let status = intake.status.clone();
        let (result, batches) = test_support::run_to_end(&source, intake).await;
        result.unwrap();
        let timestamps: Vec<_> = batches.iter().flat_map(Batch::readings).map(|r| r.timestamp).collect();
        assert_eq!(timestamps, (0..5000).map(|n| 1.7e9 + f64::from(n)).collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.len() <= crate::reading::BATCH_READINGS_MAX));
        assert_eq!(status.state(), State::Finished);
    }

    #[tokio::test]
    async fn a_pace_keeps_the_gaps_of_the_timestamps() {
        let (_dir, source) = source("a.jsonl", &lines([1.7e9, 1.7e9, 1.7e9 + 6.0, 1.7e9 - 1.0].into_iter()), "speed = 100");
        let (intake, _received) = test_support::intake(1);
        let start = Instant::now();
        let (result, batches) = test_support::run_to_end(&source, intake).await;
        result.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[tokio::test]
    async fn once_does_not_wait_or_repeat() {
        let content = format!("value,timestamp\n1,{}\n2,{}\n", 1.7e9, 1.8e9);
        let (_dir, source) = source("a.csv", &content, "speed = 1\nloop = true");
        let (mut intake, _received) = test_support::intake(1);
        intake.once = true;
        let (result, batches) = test_support::run_to_end(&source, intake).await;
        result.unwrap();
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn a_loop_goes_on_until_it_is_stopped_even_when_the_pipeline_is_full() {
        let (_dir, source) = source("a.jsonl", &lines([1.7e9].into_iter()), "loop = true");
        let (intake, mut received) = test_support::intake(1);
        let stop = async {
            for _ in 0..3 {
                test_support::next(&mut received).await;
            }
            intake.stop.cancel();
        };
        let (result, ()) = test_support::within(async { tokio::join!(source.run(&intake), stop) }).await;
        result.unwrap();
        assert_eq!(intake.status.state(), State::Connected);
    }

    #[tokio::test]
    async fn an_empty_file_finishes_even_when_it_is_to_be_repeated() {
        let (_dir, source) = source("a.jsonl", "\n", "loop = true");
        let (intake, _received) = test_support::intake(1);
        test_support::run_to_end(&source, intake).await.0.unwrap();
    }

    #[tokio::test]
    async fn a_missing_file_and_a_folder_are_failures_that_name_it() {
        for replace in ["/nowhere.jsonl", "/sub.jsonl"] {
            let (dir, _) = source("a.jsonl", "", "");
            std::fs::create_dir(dir.path().join("sub.jsonl")).unwrap();
            let path = format!("{}{replace}", dir.path().display());
            let source = Source {
                name: "file".to_owned(),
                unit: String::new(),
                path: path.clone().into(),
                format: Format::JsonLines,
                speed: None,
                repeat: false,
            };
            let (intake, _received) = test_support::intake(1);
            let error = source.run(&intake).await.unwrap_err();
            assert!(matches!(&error, Error::Failed(message) if message.contains(&path)), "{error}");
        }
    }
}
