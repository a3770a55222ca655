//! The plan: how much each part may hold at most, made once at the start from the limit that holds. Pure arithmetic.

use serde::Serialize;

use super::limit::Limit;
use crate::reading::BATCH_MEMORY_BYTES;

/// Every bound that follows the limit, in bytes where nothing else is said. Of heap and stacks: the program's own text
/// and the page cache come on top, and the kernel takes them back when the limit is near.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub limit: Limit,
    /// Of all together, which the governor holds the process to.
    #[serde(rename = "planned_bytes")]
    pub total_bytes: u64,
    /// Readings on their way, from their source to their commit.
    pub flight_bytes: usize,
    /// What waits in the pipeline; more is committed at once.
    pub staged_bytes: usize,
    /// JSON that shares one commit, and JSON in one block of it.
    pub group_bytes: usize,
    pub block_bytes: usize,
    /// SQLite's page cache.
    pub page_cache_bytes: usize,
    /// HTTP bodies together.
    pub ingest_bytes: usize,
    /// MQTT messages taken from a socket with one wake-up.
    pub mqtt_messages: usize,
    /// JSON of a batch for delivery.
    pub delivery_bytes: usize,
    /// Pairs of window and sensor, and panes of all of them.
    pub window_states: usize,
    pub window_panes: usize,
    /// Sensors whose last fire, and whose privacy decision, is remembered.
    pub cooldowns: usize,
    pub decisions: usize,
    /// What rules remember of sensors: previous values, since when a condition holds, the last reading.
    pub rule_state_bytes: usize,
    /// Events that wait for actions.
    pub action_bytes: usize,
}

impl Plan {
    /// From [`FULL_BYTES`] on everything has the size at which it works best; below, parts shrink with the limit.
    pub fn new(limit: Limit) -> Self {
        let scaled = |full: usize, min: usize| {
            let share = full as u64 * limit.bytes.min(FULL_BYTES) / FULL_BYTES;
            usize::try_from(share).unwrap_or(full).clamp(min, full)
        };
        let staged_bytes = scaled(512 * KIB, 64 * KIB);
        let mut plan = Self {
            total_bytes: 0,
            // A batch and what is staged must fit, or the first would wait for the second for ever.
            flight_bytes: scaled(16 * MIB, 4 * BATCH_MEMORY_BYTES),
            staged_bytes,
            group_bytes: 2 * staged_bytes,
            block_bytes: 2 * staged_bytes,
            page_cache_bytes: scaled(512 * KIB, 128 * KIB),
            ingest_bytes: scaled(16 * MIB, 512 * KIB),
            // 128 is the library's own upper bound.
            mqtt_messages: scaled(128, 16),
            delivery_bytes: scaled(16 * MIB, 512 * KIB),
            window_states: scaled(20_480, 200),
            window_panes: scaled(77_824, 2048),
            cooldowns: scaled(4096, 256),
            decisions: scaled(4096, 256),
            rule_state_bytes: scaled(2 * MIB, 128 * KIB),
            action_bytes: scaled(512 * KIB, 64 * KIB),
            limit,
        };
        plan.total_bytes = plan.sum();
        plan
    }

    /// What the agent needs for this plan with everything full.
    fn sum(&self) -> u64 {
        let parts = [
            BASE_BYTES,
            self.flight_bytes,
            // Staged twice: in the pipeline, and grown while it is gathered.
            2 * self.staged_bytes,
            self.group_bytes,
            BLOCK_FACTOR * self.block_bytes,
            self.page_cache_bytes,
            self.ingest_bytes,
            MESSAGE_BYTES * self.mqtt_messages,
            DELIVERY_FACTOR * DELIVERY_USUAL_BYTES.min(self.delivery_bytes),
            STATE_BYTES * self.window_states,
            PANE_BYTES * self.window_panes,
            SENSOR_BYTES * (self.cooldowns + self.decisions),
            self.rule_state_bytes,
            self.action_bytes,
        ];
        let sum: usize = parts.iter().sum();
        // What an allocator loses between its pieces.
        (sum + sum / 8) as u64
    }

    /// Whether the limit leaves room for the plan, the program's text and some page cache.
    pub fn fits(&self) -> bool {
        self.total_bytes + BESIDES_BYTES <= self.limit.bytes
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The limit from which on nothing has to be small.
pub const FULL_BYTES: u64 = 160 << 20;
/// The program's text, and pages that the kernel needs to write through.
const BESIDES_BYTES: u64 = 8 << 20;
/// Runtime, stacks, TLS, statements, what the health page is made of.
const BASE_BYTES: usize = 3 * MIB;
/// Columns are made of a block's JSON with some ten times its memory.
const BLOCK_FACTOR: usize = 10;
/// Of one that is large; many of the largest at once, of 256 KiB, are the governor's.
const MESSAGE_BYTES: usize = 64 * KIB;
/// A batch is read out of blocks, copied into a body, and perhaps compressed.
const DELIVERY_FACTOR: usize = 5;
/// Of `cloud.batch_bytes_max` by default; a larger one comes out of the others' room.
const DELIVERY_USUAL_BYTES: usize = 512 * KIB;
/// A series, and half a sensor with its name, as a sensor of one window counts twice.
const STATE_BYTES: usize = 400;
const PANE_BYTES: usize = 190;
/// A remembered sensor, in both directions.
const SENSOR_BYTES: usize = 250;

#[cfg(test)]
mod tests {
    use super::super::limit::Source;
    use super::*;

    fn plan(mib: u64) -> Plan {
        Plan::new(Limit { bytes: mib << 20, source: Source::CgroupMax })
    }

    #[test]
    fn from_160_mib_on_nothing_is_small() {
        assert_eq!(plan(160).total_bytes, plan(1 << 20).total_bytes);
        let full = plan(256);
        assert_eq!((full.staged_bytes, full.window_states, full.window_panes), (512 * KIB, 20_480, 77_824));
        assert!(full.fits() && full.total_bytes < 96 << 20, "{}", full.total_bytes);
    }

    #[test]
    fn a_plan_fits_its_limit_and_shrinks_with_it() {
        let mut before = 0;
        for mib in 32..400 {
            let plan = plan(mib);
            assert!(plan.fits(), "{mib} MiB: {plan:?}");
            assert!(plan.total_bytes >= before, "{mib} MiB");
            before = plan.total_bytes;
        }
        assert!(!plan(16).fits());
        // Still one that can be worked with.
        let least = plan(0);
        assert!(least.total_bytes < 20 << 20, "{}", least.total_bytes);
    }

    #[test]
    fn what_waits_never_keeps_the_next_batch_out() {
        for mib in 0..400 {
            let plan = plan(mib);
            assert!(
                plan.staged_bytes + plan.group_bytes + BATCH_MEMORY_BYTES <= plan.flight_bytes,
                "{mib} MiB"
            );
        }
    }
}
