//! What one place in the program may say in how much time, so that no loop fills the journal or wears the flash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;

/// Lines that a place may write at once: more than any person or program asks for by hand.
const BURST: u32 = 200;
/// When it has, one more is earned in this time.
const EARNED_EVERY: Duration = Duration::from_secs(5);

/// The limits of all places. There are as many as there are log statements in the program and its libraries.
#[derive(Debug, Default)]
pub(super) struct Paces {
    /// A lock, because every thread logs; held for one look.
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    left: u32,
    /// Boot clock, of the last line that was earned.
    earned_at: Duration,
    left_out: u64,
}

impl Paces {
    /// Whether `place` may write a line at `since_boot` (boot clock): with how many it left out before, or not at all.
    pub(super) fn admit(&self, place: Identifier, since_boot: Duration) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Place { left: BURST, earned_at: since_boot, left_out: 0 };
        places.entry(place).or_insert(new).admit(since_boot)
    }
}

impl Place {
    fn admit(&mut self, since_boot: Duration) -> Option<u64> {
        let earned = since_boot.saturating_sub(self.earned_at).as_secs() / EARNED_EVERY.as_secs();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.earned_at += EARNED_EVERY.saturating_mul(earned);
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_burst_and_a_line_every_five_seconds_that_says_how_many_are_missing() {
        let mut place = Place { left: BURST, earned_at: Duration::ZERO, left_out: 0 };
        let flood = |place: &mut Place, second| {
            (0..1000).filter_map(|_| place.admit(Duration::from_secs(second))).collect::<Vec<_>>()
        };
        assert_eq!(flood(&mut place, 3), [0; BURST as usize]);
        assert!(flood(&mut place, 4).is_empty());
        assert_eq!(flood(&mut place, 5), [1800]);
        assert_eq!(flood(&mut place, 14), [999]);
        // Quiet for long: a burst again, and no more.
        assert_eq!(flood(&mut place, 5000).len(), BURST as usize);
    }
}
