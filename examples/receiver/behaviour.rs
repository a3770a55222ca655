//! How the receiver misbehaves: what it was told, as JSON or by flags, and what that makes of one
//! request.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// What it was told. Every field that is left out means: behave.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Answer every request with this status; with `fail_every` only each nth.
    pub fail: Option<u16>,
    /// Answer each nth request with `fail`, or 500.
    pub fail_every: Option<u64>,
    /// Wait so long before the answer, in seconds.
    pub delay_seconds: f64,
    /// More requests than this within a second get 429; 0 refuses all.
    pub rate_limit: Option<u32>,
    /// `Retry-After` for 429 and 503: seconds or an HTTP-date.
    pub retry_after: Option<String>,
    /// Read the request and close without an answer, so many times.
    pub close_midway: Times,
    /// Take the batch, then reset the connection before the answer, so many times.
    pub accept_then_reset: Times,
    /// Answer 400 to a body that contains this text.
    pub reject_item: Option<String>,
    /// Answer 500 to a body that contains this text.
    pub fail_item: Option<String>,
    /// Answer 401 to any other `Authorization`.
    pub authorization: Option<String>,
    /// Answer 413 to a larger body, in bytes before decompression.
    pub max_body: Option<usize>,
    /// Answer the next requests with these, then behave.
    pub status_sequence: VecDeque<u16>,
    /// What a refusal says.
    pub refusal_text: Option<String>,
}

/// Never, always, or a number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Times {
    Always(bool),
    Left(u32),
}

impl Default for Times {
    fn default() -> Self {
        Self::Always(false)
    }
}

impl Times {
    /// Whether it happens this time.
    fn take(&mut self) -> bool {
        match self {
            Self::Always(always) => *always,
            Self::Left(0) => false,
            Self::Left(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    AcceptThenReset,
    Close,
    Refuse(u16),
}

impl Behaviour {
    /// Judges the `nth` request, counted from 1, of which `this_second` came within this second.
    pub fn judge(&mut self, body: &[u8], raw_bytes: usize, nth: u64, this_second: u32) -> Verdict {
        if self.close_midway.take() {
            return Verdict::Close;
        }
        if let Some(status) = self.status_sequence.pop_front() {
            return if (200..300).contains(&status) { Verdict::Accept } else { Verdict::Refuse(status) };
        }
        if self.rate_limit.is_some_and(|limit| this_second > limit) {
            return Verdict::Refuse(429);
        }
        match (self.fail_every, self.fail) {
            (Some(every), fail) if every > 0 && nth.is_multiple_of(every) => {
                return Verdict::Refuse(fail.unwrap_or(500));
            }
            (None, Some(fail)) => return Verdict::Refuse(fail),
            _ => {}
        }
        if self.max_body.is_some_and(|max| raw_bytes > max) {
            return Verdict::Refuse(413);
        }
        if self.reject_item.as_ref().is_some_and(|text| contains(body, text.as_bytes())) {
            return Verdict::Refuse(400);
        }
        if self.fail_item.as_ref().is_some_and(|text| contains(body, text.as_bytes())) {
            return Verdict::Refuse(500);
        }
        if self.accept_then_reset.take() { Verdict::AcceptThenReset } else { Verdict::Accept }
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}
