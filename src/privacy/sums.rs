//! What the audit trail says in sum: what left and what was filtered, by day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::audit::{AuditRecord, BATCH, FILTERED, POLICY_LOADED};
use super::{OTHERS, PolicyId};

/// Of a day, a month, or everything before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sum {
    pub policies_loaded: u64,
    /// That were frozen to be delivered, with their items and the bytes of those as JSON.
    pub batches: u64,
    pub items: u64,
    pub bytes: u64,
    /// Readings by what was done to them.
    pub readings: BTreeMap<String, u64>,
    /// Readings by the rule that decided, as it is written: `redact_fields: gps`.
    pub rules: BTreeMap<String, u64>,
}

/// Sums by day, in UTC: `2026-11-26`, older ones by month, `2026-09`, and what is older still as `before`.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    days: BTreeMap<String, Sum>,
    /// Policies by their hash, to tell what a rule says.
    policies: BTreeMap<String, Value>,
}

impl Sum {
    pub fn add(&mut self, other: &Self) {
        self.policies_loaded += other.policies_loaded;
        self.batches += other.batches;
        self.items += other.items;
        self.bytes += other.bytes;
        for (name, count) in &other.readings {
            *self.readings.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.rules {
            self.count_rule(name.clone(), *count);
        }
    }

    fn count_rule(&mut self, name: String, count: u64) {
        let is_known = self.rules.contains_key(&name) || self.rules.len() < RULES_MAX;
        *self.rules.entry(if is_known { name } else { OTHERS.to_owned() }).or_default() += count;
    }
}

impl Sums {
    /// Takes a record; without `counts` only what later ones refer to.
    pub fn take(&mut self, record: &AuditRecord, counts: bool) {
        let is_known = matches!(record.action.as_str(), POLICY_LOADED | BATCH | FILTERED);
        let Some(details) = is_known.then(|| serde_json::from_str::<Value>(&record.details).ok()).flatten()
        else {
            return;
        };
        if record.action == POLICY_LOADED {
            self.know(&details);
        }
        if !counts {
            return;
        }
        let mut sum = Sum::default();
        let number = |key: &str| details[key].as_u64().unwrap_or(0);
        match record.action.as_str() {
            POLICY_LOADED => sum.policies_loaded = 1,
            // The halves of a batch that was split are in the whole.
            BATCH if details["of"].is_null() => {
                (sum.batches, sum.items, sum.bytes) = (1, number("count"), number("bytes"));
            }
            _ => {}
        }
        self.count_filtered(&details, &mut sum);
        self.days.entry(day_of(record.timestamp)).or_default().add(&sum);
    }

    /// Takes over what a checkpoint has.
    pub fn join(&mut self, checkpoint: &Value) {
        self.join_from(checkpoint, "");
    }

    /// The same from `day` on, and of the month it is in. `before` is older than all days.
    pub fn join_from(&mut self, checkpoint: &Value, day: &str) {
        if let Some(policies) = checkpoint["policies"].as_object() {
            policies.values().for_each(|policy| self.know(policy));
        }
        let Some(days) = checkpoint["days"].as_object() else { return };
        for (name, sum) in days {
            let is_old = if name == BEFORE {
                !day.is_empty()
            } else {
                name.as_str() < &day[..name.len().min(day.len())]
            };
            if let (false, Ok(sum)) = (is_old, Sum::deserialize(sum)) {
                self.days.entry(name.clone()).or_default().add(&sum);
            }
        }
    }

    pub fn days(&self) -> &BTreeMap<String, Sum> {
        &self.days
    }

    /// For a checkpoint: the days, older ones together, and the policies that were loaded last.
    pub(super) fn into_values(mut self) -> (Value, Value) {
        self.compact(DAY_CHARS, MONTH_CHARS, DAYS_MAX);
        self.compact(MONTH_CHARS, 0, MONTHS_MAX);
        (serde_json::json!(self.days), serde_json::json!(self.policies))
    }

    /// Joins the oldest of those whose names have `chars` until there are at most `count_max`, by the first `kept`
    /// characters of their names.
    fn compact(&mut self, chars: usize, kept: usize, count_max: usize) {
        let names: Vec<_> =
            self.days.keys().filter(|name| name.len() == chars && *name != BEFORE).cloned().collect();
        for name in names.iter().take(names.len().saturating_sub(count_max)) {
            let Some(sum) = self.days.remove(name) else { continue };
            let joined = if kept == 0 { BEFORE } else { &name[..kept] };
            self.days.entry(joined.to_owned()).or_default().add(&sum);
        }
    }

    /// Counts are by the place of a rule in its policy; sums are by what it says, as places change.
    fn count_filtered(&self, details: &Value, sum: &mut Sum) {
        let filtered = &details["filtered"];
        let counts = |key: &str| filtered[key].as_object().into_iter().flatten();
        for (name, count) in counts("readings") {
            *sum.readings.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let policy = details["policy_hash"].as_str().and_then(|hash| self.policies.get(hash));
        for (place, count) in counts("rules") {
            let text = policy.and_then(|policy| rule_text(policy, place)).unwrap_or_else(|| place.clone());
            sum.count_rule(text, count.as_u64().unwrap_or(0));
        }
    }

    fn know(&mut self, policy: &Value) {
        let Some(hash) = policy["policy_hash"].as_str() else { return };
        if self.policies.len() >= POLICIES_MAX && !self.policies.contains_key(hash) {
            self.policies.pop_first();
        }
        let mut kept = serde_json::Map::new();
        for key in PolicyId::LISTS.into_iter().chain(["policy_hash"]) {
            kept.insert(key.to_owned(), policy[key].clone());
        }
        self.policies.insert(hash.to_owned(), kept.into());
    }
}

/// What the rule at `place`, such as `redact_fields[0]`, says in `policy`, the details of its load.
pub(super) fn rule_text(policy: &Value, place: &str) -> Option<String> {
    let (list, index) = place.strip_suffix(']')?.split_once('[')?;
    let rule = policy.get(list)?.get(index.parse::<usize>().ok()?)?;
    match rule.as_str() {
        Some(pattern) => Some(format!("{list}: {pattern}")),
        None => Some(format!("{list}: {} {}", rule["sensor"].as_str()?, rule["action"].as_str()?)),
    }
}

/// The day of a time in Unix seconds; the first of all where no calendar reaches.
pub fn day_of(timestamp: f64) -> String {
    let instant = OffsetDateTime::from_unix_timestamp(timestamp as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}-{:02}-{:02}", instant.year(), u8::from(instant.month()), instant.day())
}

/// What is older than all months.
pub const BEFORE: &str = "before";
const DAY_CHARS: usize = 10;
const MONTH_CHARS: usize = 7;
/// That stand for themselves in a checkpoint.
const DAYS_MAX: usize = 62;
const MONTHS_MAX: usize = 36;
/// Rules that are told apart in one sum.
const RULES_MAX: usize = 32;
/// Only that of the last load is of use, and for a moment the one before.
const POLICIES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::audit::{GENESIS, next_record};
    use super::*;

    fn loaded(hash: &str, timestamp: f64) -> AuditRecord {
        let details = json!({"policy_hash": hash, "redact_fields": ["gps"], "rules": [{"sensor": "cam*", "action": "drop"}]});
        next_record(GENESIS, POLICY_LOADED, &details, timestamp)
    }

    fn batch(timestamp: f64) -> AuditRecord {
        let filtered = json!({"readings": {"redacted": 2, "dropped": 1}, "rules": {"redact_fields[0]": 2, "rules[0]": 1, "x[7]": 1}});
        let details = json!({"count": 10, "bytes": 100, "policy_hash": "p", "filtered": filtered});
        next_record(GENESIS, BATCH, &details, timestamp)
    }

    #[test]
    fn sums_are_by_day_and_by_what_a_rule_says() {
        let mut sums = Sums::default();
        sums.take(&loaded("p", 1.7e9), true);
        for _ in 0..3 {
            sums.take(&batch(1.7e9), true);
        }
        let half = json!({"count": 5, "bytes": 50, "policy_hash": "p", "of": "whole"});
        sums.take(&next_record(GENESIS, BATCH, &half, 1.7e9), true);
        sums.take(&batch(1.7e9 + 86_400.0), true);
        let day = &sums.days()["2023-11-14"];
        assert_eq!((day.policies_loaded, day.batches, day.items, day.bytes), (1, 3, 30, 300));
        assert_eq!(json!(day.readings), json!({"redacted": 6, "dropped": 3}));
        assert_eq!(json!(day.rules), json!({"redact_fields: gps": 6, "rules: cam* drop": 3, "x[7]": 3}));
        assert_eq!(sums.days()["2023-11-15"].batches, 1);
    }

    #[test]
    fn a_checkpoint_is_bounded_and_loses_no_count() {
        let mut sums = Sums::default();
        sums.take(&loaded("p", 0.0), true);
        for day in 0..5000 {
            sums.take(&batch(f64::from(day) * 86_400.0), true);
        }
        let (days, policies) = sums.clone().into_values();
        assert!(days.as_object().unwrap().len() <= DAYS_MAX + MONTHS_MAX + 1);
        assert!(
            days.to_string().len() + policies.to_string().len() < 32 * 1024,
            "{}",
            days.to_string().len()
        );
        let checkpoint = json!({"days": days, "policies": policies});
        let mut again = Sums::default();
        again.join(&checkpoint);
        let items = |sums: &Sums| sums.days().values().map(|sum| sum.items).sum::<u64>();
        assert_eq!(items(&again), 50_000);
        // The last day is 1983-09-09.
        let mut late = Sums::default();
        late.join_from(&checkpoint, "1983-09-01");
        assert_eq!(items(&late), 90);
        let mut month = Sums::default();
        month.join_from(&checkpoint, "1983-05-20");
        assert_eq!(month.days().keys().next().unwrap(), "1983-05");
    }
}
