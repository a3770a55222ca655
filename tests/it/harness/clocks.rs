//! Clocks that a test moves.

use std::sync::Mutex;
use std::time::Duration;

use pyvorin_edge::clock::Clocks;

/// Stands still until it is moved.
#[derive(Debug)]
pub struct Moved(Mutex<(f64, Duration)>);

impl Moved {
    /// With this wall clock, in Unix seconds, and a boot clock of a minute.
    pub fn at(unix_seconds: f64) -> Self {
        Self(Mutex::new((unix_seconds, Duration::from_secs(60))))
    }

    /// Lets time pass on both clocks.
    pub fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        now.0 += time.as_secs_f64();
        now.1 += time;
    }

    /// Moves the wall clock alone.
    pub fn jump(&self, seconds: f64) {
        self.0.lock().unwrap().0 += seconds;
    }
}

impl Clocks for Moved {
    fn unix_seconds(&self) -> f64 {
        self.0.lock().unwrap().0
    }

    fn since_boot(&self) -> Duration {
        self.0.lock().unwrap().1
    }

    fn boot_id(&self) -> String {
        "the-only-boot".to_owned()
    }
}
