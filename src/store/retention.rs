//! Retention: which block goes when the database has reached its size.

use super::Lane;

/// The oldest block of a lane that holds nothing of a frozen batch, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Oldest {
    pub lane: Lane,
    /// Age of the database when it was committed, in milliseconds.
    pub age_ms: i64,
    /// Everything in it is delivered, or was never to be delivered.
    pub settled: bool,
}

/// The lane that gives up its oldest block: settled ones first, the oldest of them; then undelivered
/// ones, the least urgent lane first. `None` when nothing may go.
pub fn victim(oldest: &[Oldest]) -> Option<Lane> {
    let settled = oldest.iter().filter(|block| block.settled);
    if let Some(block) = settled.min_by_key(|block| block.age_ms) {
        return Some(block.lane);
    }
    oldest.iter().max_by_key(|block| block.lane).map(|block| block.lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lane: Lane, age_ms: i64, settled: bool) -> Oldest {
        Oldest { lane, age_ms, settled }
    }

    #[test]
    fn delivered_history_goes_before_anything_undelivered() {
        let blocks = [block(Lane::Logs, 1, false), block(Lane::Critical, 9, true)];
        assert_eq!(victim(&blocks), Some(Lane::Critical));
    }

    #[test]
    fn the_oldest_history_goes_first() {
        let blocks = [block(Lane::Telemetry, 5, true), block(Lane::Local, 4, true)];
        assert_eq!(victim(&blocks), Some(Lane::Local));
    }

    #[test]
    fn of_undelivered_lanes_the_least_urgent_gives() {
        let blocks = [block(Lane::Critical, 1, false), block(Lane::Telemetry, 9, false)];
        assert_eq!(victim(&blocks), Some(Lane::Telemetry));
    }
}
