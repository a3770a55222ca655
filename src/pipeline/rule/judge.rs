//! One rule: how it judges a reading or the result of a window, and when it fires.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::composite::{Holds, Moment};
use super::cooldown::Cooldowns;
use super::state::{Silence, Slot};
use super::trouble::Trouble;
use super::{Fired, Judged, Settings};
use crate::clock;
use crate::pipeline::expr::{Context, EvalError, Expression};
use crate::reading::Severity;

/// One rule, ready to judge.
#[derive(Debug)]
pub struct Rule {
    pub(super) settings: Settings,
    condition: Expression,
    pub(super) clear: Option<Expression>,
    message: String,
    pub(super) counters: Arc<Counters>,
    pub(super) trouble: Option<Trouble>,
    /// Its place in what is remembered of a sensor; none when it needs no memory of its own.
    pub(super) slot: Option<usize>,
    uses_previous: bool,
    /// Its troubles are neither counted nor told: what it judges was judged before.
    pub(super) is_muted: bool,
}

/// What a rule has done since the agent started; reloads do not reset it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events fired.
    pub events: AtomicU64,
    /// Readings the condition could not judge.
    pub evaluation_errors: AtomicU64,
}

impl Rule {
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn severity(&self) -> Severity {
        self.settings.severity
    }

    /// The configured message, or `Rule '<name>' fired`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Names of the actions that its events start.
    pub fn actions(&self) -> &[String] {
        &self.settings.actions
    }

    pub(super) fn new(settings: Settings, condition: Expression, clear: Option<Expression>) -> Self {
        let message = match &settings.message {
            Some(message) => message.clone(),
            None => format!("Rule '{}' fired", settings.name),
        };
        let uses_previous =
            condition.uses_previous() || clear.as_ref().is_some_and(Expression::uses_previous);
        Self {
            settings,
            condition,
            clear,
            message,
            counters: Arc::default(),
            trouble: None,
            slot: None,
            uses_previous,
            is_muted: false,
        }
    }

    /// Whether one of its expressions asks for something.
    pub(super) fn asks_for(&self, is_asked: impl Fn(&Expression) -> bool) -> bool {
        is_asked(&self.condition) || self.clear.as_ref().is_some_and(is_asked)
    }

    pub(super) fn is_of_readings(&self) -> bool {
        self.settings.window.is_none() && self.settings.composite.is_none()
    }

    /// Whether it remembers the result before: the reading before is the same for all rules, and kept once.
    pub(super) fn keeps_previous(&self) -> bool {
        self.uses_previous && self.settings.window.is_some()
    }

    /// Whether readings before have to do with how it judges one.
    pub(super) fn remembers(&self) -> bool {
        self.slot.is_some() || self.uses_previous
    }

    /// Whether the condition is true, and has been for long enough. For silence: whether that is waited for.
    pub(super) fn judge(
        &mut self,
        ctx: &mut Context<'_>,
        judged: Judged<'_>,
        slot: Option<&mut Slot>,
    ) -> bool {
        let Judged { reading, stamped, .. } = judged;
        if self.keeps_previous() {
            ctx.set_previous(slot.as_ref().and_then(|slot| slot.previous));
        }
        let verdict = self.condition.is_true(ctx);
        self.note(&verdict);
        let is_true = verdict == Ok(true);
        let Some(slot) = slot else { return is_true };
        if self.settings.silent.is_some() {
            slot.silence = if is_true { Silence::Awaited } else { Silence::Unasked };
        }
        let holds = if self.settings.hold.is_zero() {
            is_true
        } else {
            slot.holds(is_true, reading.timestamp, self.settings.hold, stamped)
        };
        if slot.is_fired
            && let Some(clear) = &self.clear
        {
            let verdict = clear.is_true(ctx);
            slot.is_fired = verdict != Ok(true);
            self.note(&verdict);
        }
        if self.keeps_previous() {
            slot.remember(reading, stamped);
        }
        holds
    }

    /// Judges a reading; unless it fired before and is not cleared, `fires` says of it and of whether it holds whether
    /// it fires. Returns whether it holds, as rules over rules see it.
    pub(super) fn judge_to_fire(
        &mut self,
        ctx: &mut Context<'_>,
        judged: Judged<'_>,
        mut slot: Option<&mut Slot>,
        fires: impl FnOnce(&Self, bool) -> bool,
    ) -> bool {
        let was_fired = slot.as_ref().is_some_and(|slot| slot.is_fired);
        let holds = self.judge(ctx, judged, slot.as_deref_mut());
        if was_fired {
            // On the reading that clears it, it is neither.
            return slot.is_some_and(|slot| slot.is_fired);
        }
        if fires(self, holds)
            && let Some(slot) = slot
        {
            slot.is_fired = self.clear.is_some();
        }
        holds
    }

    /// Fires on the reading on which it holds, where its cooldown lets it; whether it did.
    pub(super) fn fire(
        &self,
        index: usize,
        judged: Judged<'_>,
        cooldowns: &mut Cooldowns,
        fired: &mut impl FnMut(Fired<'_>),
    ) -> bool {
        let Judged { reading, stamped, .. } = judged;
        let Settings { cooldown, .. } = self.settings;
        let permits = cooldowns.permits(index, reading.sensor_name, reading.timestamp, cooldown, stamped);
        if permits {
            self.counters.events.fetch_add(1, Relaxed);
            fired(Fired { rule: self, reading, leaves: true });
        }
        permits
    }

    /// Of a rule over rules that holds: itself, when it may fire.
    pub(super) fn fires_for(
        &self,
        holds: Holds<'_>,
        moment: Moment<'_>,
        cooldowns: &mut Cooldowns,
    ) -> Option<&Self> {
        let Settings { cooldown, .. } = self.settings;
        let permits = cooldowns.permits(holds.rule, holds.group, moment.timestamp, cooldown, moment.stamped);
        permits.then(|| {
            self.counters.events.fetch_add(1, Relaxed);
            self
        })
    }

    /// Counts an error, and logs when errors begin and when they have ended.
    fn note(&mut self, verdict: &Result<bool, EvalError>) {
        if self.is_muted {
            return;
        }
        if let Err(error) = verdict {
            self.counters.evaluation_errors.fetch_add(1, Relaxed);
            let now = clock::since_boot();
            if Trouble::met(&mut self.trouble, now) {
                tracing::warn!(
                    rule = self.name(),
                    error_kind = error.class.name(),
                    column = error.column,
                    reason = %error.message,
                    "rule cannot judge a reading; its other readings and other rules go on"
                );
            }
        } else if self.trouble.is_some()
            && let Some(ended) = Trouble::absent(&mut self.trouble, clock::since_boot())
        {
            tracing::info!(
                rule = self.name(),
                errors = ended.errors,
                duration_seconds = (ended.last - ended.since).as_secs(),
                "rule judges all readings again"
            );
        }
    }
}
