//! What an answer means for the batch: pure, and every status has its place.

use std::time::Duration;

/// How an attempt ended on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The endpoint answered.
    Status {
        code: u16,
        /// What `Retry-After` asks for, already capped.
        retry_after: Option<Duration>,
        /// The start of the answer's body on one line. It may repeat the payload, so it goes into
        /// the store beside the dead letter and nowhere else.
        excerpt: String,
    },
    /// No answer: name resolution, connection, TLS, timeout, or settings that cannot be used.
    Failed { reason: String, fault: Fault },
}

/// What a missing answer may be due to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint was not reached, so any other batch would fare the same.
    Unreachable,
    /// It was reached and did not answer, which may be due to this batch.
    Unanswered,
    /// Its certificate begins to be valid later than this device's clock says it is.
    NotYetValid,
}

/// Whose fault a retry is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Every batch would fare the same.
    Endpoint,
    /// Perhaps this one: another may go meanwhile.
    Batch,
    /// Too much at a time.
    Pace,
}

/// What the uploader does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The endpoint has it.
    Delivered,
    /// Send the same again later.
    Retry {
        reason: String,
        /// The endpoint's own wish; without one the backoff decides.
        after: Option<Duration>,
        blame: Blame,
    },
    /// The clock of this device is not set yet: no failure, ask again soon.
    WaitForClock { reason: String },
    /// Something in it is refused, or it is too large: send its halves.
    Split,
    /// This one item is refused: set it aside.
    DeadLetter { reason: String },
    /// A person has to change something; keep everything and look again at the slowest pace.
    Hold { reason: String },
}

/// Single items refused in a row, without a delivery in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    in_a_row: u32,
}

impl Refusals {
    /// Counts what was decided; call it once for each decision.
    pub fn note(&mut self, decision: &Decision) {
        match decision {
            Decision::Delivered => self.in_a_row = 0,
            Decision::DeadLetter { .. } => self.in_a_row = self.in_a_row.saturating_add(1),
            Decision::Retry { .. }
            | Decision::WaitForClock { .. }
            | Decision::Split
            | Decision::Hold { .. } => {}
        }
    }

    /// The settings changed, so the endpoint may judge differently now.
    pub fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

/// Decides about a batch of `count` items. `clock_is_set` is what the kernel says of the wall clock.
///
/// - 409 is a retry. The drafted Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header)
///   has it for a key whose first request is still under way. Reading it as "have it already" would
///   lose the batch wherever that reading is wrong, and a retry costs no more than a duplicate.
/// - A certificate that is not valid yet means nothing while this device does not know the time.
/// - 401, 403, 404 and the rest of 3xx and 4xx speak about the request as such, not about its
///   items: nothing is set aside for them.
/// - When [`REFUSALS_MAX`] single items in a row were refused, the endpoint refuses everything (a
///   wrong address, a changed format): from then on nothing more is set aside.
pub fn decide(answer: &Answer, count: u64, refusals: Refusals, clock_is_set: bool) -> Decision {
    let (code, retry_after, excerpt) = match answer {
        Answer::Failed { reason, fault } => {
            let reason = reason.clone();
            return match fault {
                Fault::NotYetValid if !clock_is_set => Decision::WaitForClock { reason },
                Fault::NotYetValid | Fault::Unreachable => {
                    Decision::Retry { reason, after: None, blame: Blame::Endpoint }
                }
                Fault::Unanswered => Decision::Retry { reason, after: None, blame: Blame::Batch },
            };
        }
        Answer::Status { code, retry_after, excerpt } => (*code, *retry_after, excerpt),
    };
    let status = StatusText(code);
    match code {
        200..=299 => Decision::Delivered,
        408 | 409 | 425 | 429 | 500..=599 => {
            let blame = if code == 429 { Blame::Pace } else { Blame::Batch };
            Decision::Retry { reason: format!("the endpoint answered {status}"), after: retry_after, blame }
        }
        400 | 413 | 422 if count > 1 => Decision::Split,
        400 | 413 | 422 if refusals.in_a_row >= REFUSALS_MAX => Decision::Hold {
            reason: format!(
                "the endpoint answered {status} to {REFUSALS_MAX} single items in a row and accepted none; \
                 nothing more is set aside; check cloud.endpoint"
            ),
        },
        400 | 413 | 422 if excerpt.is_empty() => Decision::DeadLetter { reason: status.to_string() },
        400 | 413 | 422 => Decision::DeadLetter { reason: format!("{status}: {excerpt}") },
        _ => Decision::Hold { reason: format!("the endpoint answered {status}; {}", cure(code)) },
    }
}

/// After so many single refusals in a row nothing more is set aside.
pub const REFUSALS_MAX: u32 = 16;

fn cure(code: u16) -> &'static str {
    match code {
        300..=399 => "redirects are not followed; give the final address as cloud.endpoint",
        401 | 403 => "everything is kept; check cloud.api_key",
        404 | 405 | 410 => "everything is kept; check cloud.endpoint",
        415 => "everything is kept; check cloud.compression",
        _ => "everything is kept; a person has to look",
    }
}

/// `429 Too Many Requests`.
struct StatusText(u16);

impl std::fmt::Display for StatusText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = hyper::StatusCode::from_u16(self.0).ok().and_then(|code| code.canonical_reason());
        match known {
            Some(words) => write!(f, "{} {words}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u16, count: u64) -> Decision {
        let answer = Answer::Status { code, retry_after: None, excerpt: String::new() };
        decide(&answer, count, Refusals::default(), true)
    }

    fn word(decision: &Decision) -> &'static str {
        match decision {
            Decision::Delivered => "delivered",
            Decision::Retry { .. } => "retry",
            Decision::WaitForClock { .. } => "wait for the clock",
            Decision::Split => "split",
            Decision::DeadLetter { .. } => "dead letter",
            Decision::Hold { .. } => "hold",
        }
    }

    #[test]
    fn every_status_has_its_place() {
        for code in 100..=999 {
            let (many, single) = match code {
                200..=299 => ("delivered", "delivered"),
                408 | 409 | 425 | 429 | 500..=599 => ("retry", "retry"),
                400 | 413 | 422 => ("split", "dead letter"),
                _ => ("hold", "hold"),
            };
            assert_eq!(word(&judged(code, 2)), many, "{code}");
            assert_eq!(word(&judged(code, 1)), single, "{code}");
        }
    }

    #[test]
    fn a_failure_without_an_answer_is_retried_with_its_reason() {
        for (fault, blame) in [(Fault::Unreachable, Blame::Endpoint), (Fault::Unanswered, Blame::Batch)] {
            let answer = Answer::Failed { reason: "connection refused".to_owned(), fault };
            let expected = Decision::Retry { reason: "connection refused".to_owned(), after: None, blame };
            assert_eq!(decide(&answer, 1, Refusals { in_a_row: REFUSALS_MAX }, true), expected);
        }
    }

    #[test]
    fn a_certificate_of_the_future_is_waited_for_only_while_the_clock_is_not_set() {
        let reason = "certificate not valid yet".to_owned();
        let answer = Answer::Failed { reason: reason.clone(), fault: Fault::NotYetValid };
        let decided = |clock_is_set| decide(&answer, 1, Refusals::default(), clock_is_set);
        assert_eq!(decided(false), Decision::WaitForClock { reason: reason.clone() });
        assert_eq!(decided(true), Decision::Retry { reason, after: None, blame: Blame::Endpoint });
    }

    #[test]
    fn the_wish_of_the_endpoint_is_kept() {
        let after = Some(Duration::from_secs(3));
        let answer = Answer::Status { code: 429, retry_after: after, excerpt: "slow down".to_owned() };
        let reason = "the endpoint answered 429 Too Many Requests".to_owned();
        let expected = Decision::Retry { reason, after, blame: Blame::Pace };
        assert_eq!(decide(&answer, 5, Refusals::default(), true), expected);
    }

    #[test]
    fn a_hold_says_what_to_check_and_never_quotes_the_answer() {
        let answer = Answer::Status { code: 401, retry_after: None, excerpt: "secret".to_owned() };
        let Decision::Hold { reason } = decide(&answer, 1, Refusals::default(), true) else {
            panic!("no hold")
        };
        assert_eq!(reason, "the endpoint answered 401 Unauthorized; everything is kept; check cloud.api_key");
    }

    #[test]
    fn an_endpoint_that_refuses_everything_empties_nothing() {
        let mut refusals = Refusals::default();
        let answer = Answer::Status { code: 400, retry_after: None, excerpt: "no".to_owned() };
        for _ in 0..REFUSALS_MAX {
            let decision = decide(&answer, 1, refusals, true);
            assert_eq!(decision, Decision::DeadLetter { reason: "400 Bad Request: no".to_owned() });
            refusals.note(&decision);
            // Splitting the way down to single items is no sign of acceptance.
            refusals.note(&decide(&answer, 4, refusals, true));
        }
        let held = decide(&answer, 1, refusals, true);
        assert_eq!(word(&held), "hold");
        refusals.note(&held);
        assert_eq!(word(&decide(&answer, 1, refusals, true)), "hold");

        refusals.note(&Decision::Delivered);
        assert_eq!(word(&decide(&answer, 1, refusals, true)), "dead letter");
    }
}
