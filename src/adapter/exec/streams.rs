//! What a child prints: readings on its output, words for the log on its standard error.

use std::time::Duration;

use tokio::io::{AsyncRead, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::json::{self, Defaults};
use super::super::lines::{self, LineBuffer};
use super::{Error, GRACE, Intake, Source};
use crate::clock;
use crate::reading::{Batch, Refusal};

/// The lines of one pipe.
pub(super) struct Pipe<R> {
    reader: Option<BufReader<R>>,
    line: LineBuffer,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(reader: Option<R>, line_bytes_max: usize) -> Self {
        Self { reader: reader.map(BufReader::new), line: LineBuffer::new(line_bytes_max) }
    }

    /// Waits for the next line; false once, when the pipe is closed, and then never again. Cancel-safe.
    pub(super) async fn next(&mut self) -> bool {
        let Some(reader) = &mut self.reader else { return std::future::pending().await };
        // A pipe that cannot be read is as good as closed; the child's end tells the rest.
        let more = lines::next(reader, &mut self.line).await.unwrap_or(false);
        if !more {
            self.reader = None;
        }
        more
    }

    async fn next_before(&mut self, deadline: Instant) -> bool {
        self.reader.is_some() && timeout_at(deadline, self.next()).await.unwrap_or(false)
    }
}

/// Both streams of a child, and what of its readings waits to be sent.
pub(super) struct Streams<'a> {
    source: &'a Source,
    pub(super) output: Pipe<ChildStdout>,
    pub(super) errors: Pipe<ChildStderr>,
    log: LogLimit,
    batch: Batch,
    /// When the batch is to be sent, full or not.
    pub(super) send_at: Option<Instant>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(child: &mut Child, source: &'a Source) -> Self {
        Self {
            source,
            output: Pipe::new(child.stdout.take(), LINE_BYTES_MAX),
            errors: Pipe::new(child.stderr.take(), LOG_LINE_BYTES_MAX),
            log: LogLimit { second_start: Instant::now(), lines: 0, left_out: 0 },
            batch: Batch::default(),
            send_at: None,
        }
    }

    /// Adds the line that was just read, and sends the batch when that fills it.
    pub(super) async fn take_reading(&mut self, intake: &Intake) -> Result<(), Error> {
        let defaults = Defaults {
            sensor_name: Some(&self.source.name),
            unit: &self.source.unit,
            units: None,
            timestamp: clock::boot_seconds(),
            origin: &self.source.name,
        };
        match self.output.line.text() {
            Some(line) => json::push_line(&mut self.batch, line, &defaults),
            None => self.batch.refuse(Refusal::Malformed, &self.source.name),
        }
        if self.batch.is_full() {
            return self.send(intake).await;
        }
        if !self.batch.is_empty() && self.send_at.is_none() {
            self.send_at = Some(Instant::now() + READING_WAIT_MAX);
        }
        Ok(())
    }

    /// Sends what there is. While the pipeline is full the child's pipe fills too, and the child waits;
    /// a stop waits for the pipeline as long as for a child, and no longer.
    pub(super) async fn send(&mut self, intake: &Intake) -> Result<(), Error> {
        self.send_at = None;
        let batch = std::mem::take(&mut self.batch);
        let readings = batch.readings().len();
        let stopped = async {
            intake.stop.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            sent = intake.send(batch) => sent,
            () = stopped => {
                let source = &self.source.name;
                tracing::error!(source, readings, "exec: readings lost, the pipeline took none before the stop");
                Err(Error::Closed)
            }
        }
    }

    /// Takes what an ended child left in its pipes. Bounded, as a process that left the group may hold
    /// them open.
    pub(super) async fn drain(&mut self, intake: &Intake) -> Result<(), Error> {
        let deadline = Instant::now() + GRACE;
        while self.output.next_before(deadline).await {
            self.take_reading(intake).await?;
        }
        while self.errors.next_before(deadline).await {
            self.log_error();
        }
        self.send(intake).await
    }

    /// Logs the line that was just read, unless there were too many.
    pub(super) fn log_error(&mut self) {
        let Some(left_out) = self.log.admit(Instant::now()) else { return };
        let source = &self.source.name;
        if left_out > 0 {
            tracing::warn!(source, lines = left_out, "exec: lines of the program's standard error left out");
        }
        // Quoted and escaped: it may hold control characters.
        let line = String::from_utf8_lossy(self.errors.line.start());
        tracing::info!(source, line = ?line.trim_end(), "exec: the program says");
    }
}

/// Keeps a noisy child from filling the log.
struct LogLimit {
    second_start: Instant,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether a line may be logged at `now`, and how many before it were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second_start) >= Duration::from_secs(1) {
            (self.second_start, self.lines) = (now, 0);
        }
        if self.lines >= LOG_LINES_PER_SECOND_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The longest a reading waits for others to share its batch.
const READING_WAIT_MAX: Duration = Duration::from_millis(50);
/// Longer lines are refused and skipped.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longer lines of standard error are cut.
const LOG_LINE_BYTES_MAX: usize = 1024;
const LOG_LINES_PER_SECOND_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_limited_per_second_and_says_what_it_left_out() {
        let start = Instant::now();
        let mut log = LogLimit { second_start: start, lines: 0, left_out: 0 };
        assert_eq!((0..100).filter(|_| log.admit(start).is_some()).count(), 10);
        assert_eq!(log.admit(start + Duration::from_secs(1)), Some(90));
        assert_eq!(log.admit(start + Duration::from_secs(1)), Some(0));
    }
}
