//! Watches the one who watches: a thread of its own that says so when the runtime itself stands still, for then no
//! task can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use super::watchdog::Progress;
use crate::clock;

/// Ends with its value.
#[derive(Debug)]
pub struct Sentinel {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sentinel {
    /// Looks at `beat` eight times in `interval`, and calls `tell` once each time that it has not moved for half of
    /// it; `tell` runs on the sentinel's thread.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub fn start(
        beat: Arc<Progress>,
        interval: Duration,
        tell: impl Fn(Duration) + Send + 'static,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let watch = move || {
            let mut is_told = false;
            while !over.load(Relaxed) {
                // Unparked early, it looks once more.
                thread::park_timeout(interval / 8);
                let stuck_for = beat.stuck_for(clock::since_boot()).filter(|time| *time > interval / 2);
                let was_told = mem::replace(&mut is_told, stuck_for.is_some());
                if let Some(stuck_for) = stuck_for.filter(|_| !was_told) {
                    tell(stuck_for);
                }
            }
        };
        let thread =
            thread::Builder::new().name("sentinel".to_owned()).stack_size(STACK_BYTES).spawn(watch)?;
        Ok(Self { is_over, thread: Some(thread) })
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of it was logged by the hook.
            thread.join().ok();
        }
    }
}

/// Enough for a line of the log; what is not touched takes no memory.
const STACK_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_runtime_that_stands_still_is_told_once_until_it_moves() {
        let interval = Duration::from_millis(200);
        let (sender, told) = sync_channel(8);
        let beat = Arc::new(Progress::default());
        let bound = Duration::from_secs(20);
        let sentinel =
            Sentinel::start(beat.clone(), interval, move |time| sender.send(time).unwrap()).unwrap();
        beat.moved(clock::since_boot());
        assert!(told.recv_timeout(bound).unwrap() > interval / 2);
        assert!(told.recv_timeout(interval * 2).is_err(), "told twice");
        beat.idle();
        thread::sleep(interval / 2);
        beat.moved(clock::since_boot());
        assert!(told.recv_timeout(bound).unwrap() > interval / 2);
        drop(sentinel);
        assert!(told.recv_timeout(bound).is_err(), "the thread has ended and dropped its sender");
    }
}
