//! `Retry-After` and `Date` as RFC 9110 has them (sections 10.2.3 and 5.6.7).

use std::time::Duration;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, PrimitiveDateTime, Time};

/// The wait that a `Retry-After` header asks for: seconds, or a date counted from `now` in Unix
/// seconds. `None` when it is unreadable, over already, or zero: then the usual backoff is kinder.
pub fn retry_after(text: &str, now: f64) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a very long wait, not none.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let seconds = unix_seconds(text)? - now;
        Duration::try_from_secs_f64(seconds).ok()?
    };
    (!wait.is_zero()).then_some(wait.min(RETRY_AFTER_MAX))
}

/// An HTTP-date in Unix seconds. The two obsolete forms are not read.
pub fn unix_seconds(text: &str) -> Option<f64> {
    let (_weekday, text) = text.trim().split_once(", ")?;
    let (date, rest) = text.split_at_checked(DATE_LENGTH)?;
    let time = rest.strip_prefix(' ')?.strip_suffix(" GMT")?;
    let date = Date::parse(date, DATE).ok()?;
    let time = Time::parse(time, TIME).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp() as f64)
}

/// A longer wait is a mistake of the endpoint, or of a clock.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[day] [month repr:short] [year]");
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]:[second]");
const DATE_LENGTH: usize = "06 Nov 1994".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_taken_up_to_an_hour() {
        assert_eq!(retry_after("3", 0.0), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(" 120 ", 0.0), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("3601", 0.0), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("99999999999999999999999999", 0.0), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn a_date_counts_from_now() {
        let text = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(unix_seconds(text), Some(784_111_777.0));
        assert_eq!(retry_after(text, 784_111_770.0), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(text, 0.0), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after(text, 784_111_778.0), None);
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            ", é",
            "Sun, é",
        ] {
            assert_eq!(retry_after(text, 0.0), None, "{text}");
        }
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", f64::NAN), None);
    }
}
