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
/// ones, in the order of [`Lane::GIVING`]. `None` when nothing may go.
pub fn victim(oldest: &[Oldest]) -> Option<Lane> {
    let settled = oldest.iter().filter(|block| block.settled);
    if let Some(block) = settled.min_by_key(|block| block.age_ms) {
        return Some(block.lane);
    }
    Lane::GIVING.into_iter().find(|lane| oldest.iter().any(|block| block.lane == *lane))
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
    fn undelivered_telemetry_goes_before_events_and_the_coarsest_of_it_first() {
        let mut blocks: Vec<_> = Lane::DELIVERED.into_iter().map(|lane| block(lane, 1, false)).collect();
        let mut order = Vec::new();
        while let Some(lane) = victim(&blocks) {
            order.push(lane);
            blocks.retain(|block| block.lane != lane);
        }
        assert_eq!(order, Lane::GIVING);
    }
}
