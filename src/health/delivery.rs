//! What the health page says of delivery beyond whether it goes on: the month's budget, what steps back,
//! how long the certificates last.

use serde::Serialize;

use crate::reading::Priority;
use crate::upload::{Certificates, Last, budget};

#[derive(Serialize)]
pub(super) struct Budget {
    used_bytes: u64,
    limit_bytes: Option<u64>,
    /// At the end of the month, at the rate of the last day.
    forecast_bytes: Option<u64>,
    lanes_held: Vec<&'static str>,
}

impl Budget {
    pub(super) fn new(state: &budget::Use) -> Self {
        Self {
            used_bytes: state.used_bytes,
            limit_bytes: state.bytes_max,
            forecast_bytes: state.forecast_bytes,
            lanes_held: lanes(state.held),
        }
    }
}

/// Days until each expires; null where there is none.
#[derive(Serialize)]
pub(super) struct DaysLeft {
    client: Option<f64>,
    authority: Option<f64>,
    server: Option<f64>,
}

impl DaysLeft {
    pub(super) fn new(certificates: &Certificates, now: f64) -> Self {
        let days = |at: Option<f64>| at.map(|at| (days_left(at, now) * 10.0).round() / 10.0);
        Self {
            client: days(certificates.client),
            authority: days(certificates.authority),
            server: days(certificates.server),
        }
    }
}

/// May be negative. Both in Unix seconds.
pub(super) fn days_left(expires_at: f64, now: f64) -> f64 {
    (expires_at - now) / 86_400.0
}

/// Why delivery is not as it should be, although it goes on. `now` is in Unix seconds.
pub(super) fn reasons(last: &Last, now: f64) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some((count, reason)) = &last.stuck {
        reasons.push(format!(
            "delivery: batches that fail again and again while others are taken: {count}; they are kept; \
             the last: {reason}"
        ));
    }
    let held = lanes(last.budget.held);
    if !held.is_empty() {
        let (used, max) = (last.budget.used_bytes, last.budget.bytes_max.unwrap_or_default());
        reasons.push(format!(
            "delivery: {} of {} MB of the month are used; {} wait for the next month",
            used / 1_000_000,
            max / 1_000_000,
            held.join(", ")
        ));
    }
    for (name, expires_at) in last.certificates.all() {
        let Some(days) = expires_at.map(|at| days_left(at, now)) else { continue };
        if days < 0.0 {
            reasons.push(format!("certificate: the {name} certificate of delivery has expired"));
        } else if days < DAYS_LEFT_MIN {
            reasons.push(format!(
                "certificate: the {name} certificate of delivery expires in {days:.0} days; replace it"
            ));
        }
    }
    reasons
}

fn lanes(held: [bool; 4]) -> Vec<&'static str> {
    Priority::ALL.iter().zip(held).filter(|(_, held)| *held).map(|(lane, _)| lane.name()).collect()
}

/// Less is time to act; certificates that are renewed by themselves are renewed earlier.
const DAYS_LEFT_MIN: f64 = 14.0;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1_717_156_800.0;

    #[test]
    fn nothing_is_said_of_what_is_well() {
        let certificates =
            Certificates { client: Some(NOW + 15.0 * 86_400.0), authority: None, server: None };
        assert_eq!(reasons(&Last { certificates, ..Last::default() }, NOW), Vec::<String>::new());
    }

    #[test]
    fn held_lanes_stuck_batches_and_certificates_are_named() {
        let last = Last {
            stuck: Some((2, "the endpoint answered 500 Internal Server Error".to_owned())),
            budget: budget::Use {
                used_bytes: 95_000_000,
                bytes_max: Some(100_000_000),
                forecast_bytes: None,
                held: [false, false, true, true],
            },
            certificates: Certificates {
                client: Some(NOW + 9.0 * 86_400.0),
                authority: Some(NOW - 1.0),
                server: None,
            },
            ..Last::default()
        };
        assert_eq!(
            reasons(&last, NOW),
            [
                "delivery: batches that fail again and again while others are taken: 2; they are kept; \
                 the last: the endpoint answered 500 Internal Server Error",
                "delivery: 95 of 100 MB of the month are used; TELEMETRY, LOGS wait for the next month",
                "certificate: the client certificate of delivery expires in 9 days; replace it",
                "certificate: the authority certificate of delivery has expired",
            ]
        );
        assert_eq!(serde_json::to_value(DaysLeft::new(&last.certificates, NOW)).unwrap()["client"], 9.0);
    }
}
