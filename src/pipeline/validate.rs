//! Which readings are taken: finite values, sane times of sources, bounded sizes. What the agent stamps
//! itself is never refused for its time: 1970 is what a board without a clock shows.

use super::Standing;
use crate::reading::{METADATA_BYTES_MAX, Reading, Refusal, SENSOR_NAME_BYTES_MAX, UNIT_BYTES_MAX};

/// 2000-01-01: before it no reading can have been taken; a device without a clock says 1970.
const TIMESTAMP_MIN: f64 = 946_684_800.0;
/// 2100-01-01: the bound while the agent's own clock cannot be trusted.
const TIMESTAMP_MAX: f64 = 4_102_444_800.0;
/// How far ahead of the agent's clock a source's clock may be, in seconds.
const AHEAD_SECONDS_MAX: f64 = 86_400.0;
/// Why `reading` is refused, if it is; `stamped` is for those with the agent's own time.
pub fn refusal(reading: &Reading<'_>, stamped: bool, standing: &Standing<'_>) -> Option<Refusal> {
    if reading.sensor_name.is_empty()
        || reading.sensor_name.len() > SENSOR_NAME_BYTES_MAX
        || reading.unit.len() > UNIT_BYTES_MAX
        || reading.metadata.len() > METADATA_BYTES_MAX
    {
        return Some(Refusal::Size);
    }
    if !reading.value.is_finite() {
        return Some(Refusal::NotFinite);
    }
    let ahead_max = if standing.is_synchronised { standing.now + AHEAD_SECONDS_MAX } else { TIMESTAMP_MAX };
    let is_sane = stamped || (TIMESTAMP_MIN..=ahead_max).contains(&reading.timestamp);
    (!is_sane).then_some(Refusal::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_800_000_000.0;
    const RIGHT: Standing<'_> = Standing { boot: "b", offset: NOW, now: NOW, is_synchronised: true };
    const UNKNOWN: Standing<'_> = Standing { boot: "b", offset: 0.0, now: 1000.0, is_synchronised: false };
    const GOOD: Reading<'_> =
        Reading { sensor_name: "boiler", timestamp: NOW, value: 21.5, unit: "C", metadata: "{}" };

    #[test]
    fn a_plain_reading_is_taken() {
        assert_eq!(refusal(&GOOD, false, &RIGHT), None);
    }

    #[test]
    fn values_that_are_no_numbers_are_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(refusal(&Reading { value, ..GOOD }, true, &RIGHT), Some(Refusal::NotFinite));
        }
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        for timestamp in [0.0, -1.0, NOW + 86_401.0, f64::NAN] {
            let reading = Reading { timestamp, ..GOOD };
            assert_eq!(refusal(&reading, false, &RIGHT), Some(Refusal::Time), "{timestamp}");
        }
    }

    #[test]
    fn a_source_with_a_right_clock_is_believed_while_ours_is_not_set() {
        assert_eq!(refusal(&GOOD, false, &UNKNOWN), None);
        let of_2101 = Reading { timestamp: TIMESTAMP_MAX + 3e7, ..GOOD };
        assert_eq!(refusal(&of_2101, false, &UNKNOWN), Some(Refusal::Time));
    }

    #[test]
    fn what_the_agent_stamps_is_taken_whatever_its_clock_shows() {
        for timestamp in [0.0, 12.0, -5.0, 9e9] {
            for standing in [RIGHT, UNKNOWN] {
                assert_eq!(refusal(&Reading { timestamp, ..GOOD }, true, &standing), None);
            }
        }
    }

    #[test]
    fn long_names_units_and_metadata_are_refused() {
        let long = "x".repeat(5000);
        for reading in [
            Reading { sensor_name: "", ..GOOD },
            Reading { sensor_name: &long, ..GOOD },
            Reading { unit: &long, ..GOOD },
            Reading { metadata: &long, ..GOOD },
        ] {
            assert_eq!(refusal(&reading, false, &RIGHT), Some(Refusal::Size));
        }
    }
}
