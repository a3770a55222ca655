//! Windows and what rules remember, after a restart: the readings of spans that were open, and those that rules still
//! think of, are read again from the store before anything new is taken in, so that neither a crash nor an upgrade leaves
//! a hole. Nothing is stored, judged anew or delivered by it.

mod gathered;
mod judge;

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::judge::{Judge, Rebuilt};
use super::rule::Rules;
use super::rule::recall::{Recall, Sight};
use super::window::Windows;
use crate::clock;
use crate::privacy::{self, HashKey};
use crate::store::consent::was_delivery_off;
use crate::store::recent::{Found, Reach, recent};

/// Where the readings of the run before are, and what was done to them.
pub struct Past {
    pub database: PathBuf,
    pub privacy: privacy::Settings,
    pub key: HashKey,
    /// Whether anything leaves the device now.
    pub delivers: bool,
    /// Ends the reading; windows and rules begin anew then.
    pub stop: CancellationToken,
}

/// The clock that the agent's own stamps are put on.
pub struct Clock {
    pub boot: String,
    /// Unix seconds minus boot clock.
    pub offset: f64,
}

/// What outlives a restart.
pub struct Kept {
    pub windows: Windows,
    pub rules: Rules,
}

/// Windows and rules as they were when the agent ended, and how many readings that took.
pub async fn rebuild(past: Past, kept: Kept, clock: Clock) -> (Kept, u64) {
    let rules = kept.rules.reach();
    if kept.windows.is_empty() && rules.last.is_zero() {
        return (kept, 0);
    }
    let fresh = kept.begun_anew();
    // The runtime has others to serve, and a disk may be slow.
    match tokio::task::spawn_blocking(move || Reader::new(past, &kept, clock).read(kept)).await {
        Ok(Some(Read { windows, rules, readings })) => {
            (Kept { windows: windows.unwrap_or(fresh.windows), rules }, readings)
        }
        Ok(None) => (fresh, 0),
        Err(error) => {
            tracing::error!(%error, "{NOT_REBUILT}: reading the store failed; they begin anew");
            (fresh, 0)
        }
    }
}

impl Kept {
    fn begun_anew(&self) -> Self {
        Self { windows: self.windows.begun_anew(), rules: self.rules.begun_anew() }
    }
}

/// What came of it; windows that are `None` begin anew.
struct Read {
    windows: Option<Windows>,
    rules: Rules,
    readings: u64,
}

/// Reads once what is needed.
struct Reader {
    past: Past,
    clock: Clock,
    /// What windows need, what rules need of each reading, and what they would like to know besides.
    reaches: Vec<Reach>,
    /// Of these nothing should be missing.
    needed: usize,
    began: Duration,
}

impl Reader {
    fn new(past: Past, kept: &Kept, clock: Clock) -> Self {
        let rules = kept.rules.reach();
        let whole = |running: Duration| Reach {
            running: running + GRACE,
            items_max: ITEMS_MAX,
            bytes_max: BYTES_MAX,
        };
        let mut reaches = Vec::new();
        if !kept.windows.is_empty() {
            reaches.push(whole(Duration::from_secs_f64(kept.windows.memory_seconds())));
        }
        if !rules.each.is_zero() {
            reaches.push(whole(rules.each));
        }
        let needed = reaches.len();
        if !rules.last.is_zero() {
            reaches.push(Reach { items_max: LAST_ITEMS_MAX, ..whole(rules.last) });
        }
        Self { past, clock, reaches, needed, began: clock::since_boot() }
    }

    /// `None` when all begins anew.
    fn read(self, kept: Kept) -> Option<Read> {
        let mut rebuilt = self.begin(kept);
        let mut judge = Judge::new(&self.past);
        let (mut readings, mut looked, mut is_late) = (0, 0_u32, false);
        let found = recent(&self.past.database, &self.reaches, |item, commit| {
            looked += 1;
            if looked.is_multiple_of(ITEMS_PER_LOOK) {
                is_late = self.took() > TIME_MAX || self.past.stop.is_cancelled();
                self.spare_rules(&mut rebuilt.recall);
            }
            judge.enter(commit, &mut rebuilt);
            readings += u64::from(judge.take(item, &self.clock, &mut rebuilt));
            !is_late
        });
        judge.end_commit(&mut rebuilt);
        // Nothing more is taken in, so nothing is missed.
        if self.past.stop.is_cancelled() {
            return None;
        }
        let took_ms = self.took().as_millis();
        let reason = match found {
            Ok(_) if is_late => {
                tracing::warn!(
                    took_ms,
                    readings,
                    "{NOT_REBUILT}: reading the store takes too long; they begin anew"
                );
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "{NOT_REBUILT}: the store cannot be read; they begin anew");
                return None;
            }
            Ok(found) => found,
        };
        self.tell(&reason, readings);
        let rules = rebuilt.recall.finish(clock::boot_seconds(), reason.end);
        Some(Read { windows: rebuilt.windows, rules, readings })
    }

    /// Without what must not be remembered: what was taken in while nothing was to leave does not leave later, in a
    /// window or in an event.
    fn begin(&self, Kept { windows, rules }: Kept) -> Rebuilt {
        let was_off =
            |running: Duration| self.past.delivers && was_delivery_off(&self.past.database, running + GRACE);
        let of_windows = Duration::from_secs_f64(windows.memory_seconds());
        let of_rules = rules.reach().last;
        let mut rebuilt = Rebuilt { windows: None, recall: Recall::new(rules, sight(&self.past.privacy)) };
        if windows.is_empty() || !was_off(of_windows) {
            rebuilt.windows = Some(windows);
        } else {
            tracing::info!(
                "windows begin anew: delivery was off for some of what they would be rebuilt from"
            );
        }
        if rebuilt.recall.takes_readings() && was_off(of_rules) {
            rebuilt.recall.forget_readings();
            tracing::info!("rules forget what they saw before the start: delivery was off for some of it");
        }
        rebuilt
    }

    /// Rules may not take the time that windows need.
    fn spare_rules(&self, recall: &mut Recall) {
        if recall.takes_readings() && self.took() > RULES_TIME_MAX {
            recall.forget_readings();
            tracing::warn!(
                "rules forget what they saw before the start: judging it once more takes too long"
            );
        }
    }

    fn tell(&self, found: &Found, readings: u64) {
        let (took_ms, unreadable) = (self.took().as_millis(), found.unreadable.items);
        if unreadable > 0 || found.is_whole.iter().take(self.needed).any(|is_whole| !is_whole) {
            tracing::warn!(
                readings,
                unreadable,
                took_ms,
                "windows and rules were rebuilt in part: some of their readings are too many or cannot be read"
            );
        } else if readings > 0 {
            tracing::info!(readings, took_ms, "windows and rules were rebuilt from the store");
        }
    }

    fn took(&self) -> Duration {
        clock::since_boot() - self.began
    }
}

/// What a policy leaves as it comes in.
fn sight(privacy: &privacy::Settings) -> Sight {
    let lists = [&privacy.redact_fields, &privacy.mask_fields, &privacy.hash_fields];
    let all = || lists.iter().flat_map(|list| list.iter());
    Sight {
        metadata: !privacy.enabled || all().next().is_none(),
        unit: !privacy.enabled || !all().any(privacy::FieldPattern::names_unit),
    }
}

const NOT_REBUILT: &str = "windows and rules were not rebuilt";
/// Beside the longest span and its lateness: how long spans are open for the wall clock to pass, and a commit waits.
const GRACE: Duration = Duration::from_secs(75);
/// What is read again at most, the newest of it: half an hour of 500 readings a second.
const ITEMS_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 256 << 20;
/// As far as only the last of each sensor counts, what is not needed besides: a third of a second's work.
const LAST_ITEMS_MAX: u64 = 250_000;
/// For what takes longer the readings to come must not wait.
const TIME_MAX: Duration = Duration::from_secs(5);
/// The part of it that rules have.
const RULES_TIME_MAX: Duration = Duration::from_millis(2500);
const ITEMS_PER_LOOK: u32 = 256;

#[cfg(test)]
mod tests;
