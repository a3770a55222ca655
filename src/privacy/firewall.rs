//! The firewall itself: judges each reading by its sensor and its metadata, and counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::action::Actions;
use super::fields::{Destination, FieldRules, MASKED, MASKED_EMPTY, MustDrop};
use super::keys::Keys;
use super::policy::{Decision, KeyDecision, Policy};
use super::{Action, Counters, Filtered, HashKey, PolicyId, RuleId, Settings};
use crate::reading::{Reading, SENSOR_NAME_BYTES_MAX};

/// What becomes of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict<'s> {
    /// Neither stored nor delivered, and already counted.
    Drop,
    Keep {
        /// What may leave; `None` keeps the reading on the device. It is stored too.
        outbound: Option<Reading<'s>>,
        /// The copy for the device, only where it differs from `outbound` or there is none.
        local: Option<Reading<'s>>,
    },
}

/// Holds the policy, what it means for each sensor seen, and the texts of the last rewritten reading.
pub struct Firewall {
    policy: Policy,
    id: Arc<PolicyId>,
    key: HashKey,
    keys: Keys,
    counters: Arc<Counters>,
    /// What was done and is not in the audit trail yet.
    filtered: Filtered,
    /// The rules that decided about the present reading.
    decided: Vec<RuleId>,
    /// Index into `known`, by sensor.
    sensors: HashMap<Box<str>, u32>,
    known: Vec<Known>,
    sensors_max: usize,
    outbound_text: String,
    local_text: String,
    unit_hash: String,
}

/// A sensor's decision, and what its name is replaced by.
struct Known {
    decision: Decision,
    /// The number of its field rules.
    set: u32,
    unit: KeyDecision,
    alias: Option<Box<str>>,
}

impl Firewall {
    pub fn new(settings: &Settings, key: HashKey) -> Self {
        Self {
            policy: Policy::new(settings),
            id: Arc::new(PolicyId::of(settings)),
            key,
            keys: Keys::new(SENSORS_MAX * KEY_BYTES_PER_SENSOR),
            counters: Arc::default(),
            filtered: Filtered::default(),
            decided: Vec::new(),
            sensors: HashMap::new(),
            known: Vec::new(),
            sensors_max: SENSORS_MAX,
            outbound_text: String::new(),
            local_text: String::new(),
            unit_hash: String::new(),
        }
    }

    /// With decisions kept for so many sensors at most.
    pub fn remembering(self, sensors_max: usize) -> Self {
        let sensors_max = sensors_max.clamp(1, SENSORS_MAX);
        Self { sensors_max, keys: Keys::new(sensors_max * KEY_BYTES_PER_SENSOR), ..self }
    }

    /// Takes a new policy and key; the counters stay.
    pub fn reload(&mut self, settings: &Settings, key: HashKey) {
        self.policy = Policy::new(settings);
        self.id = Arc::new(PolicyId::of(settings));
        self.key = key;
        self.forget();
    }

    /// Moves what was done since the last call into `filtered`.
    pub fn tell(&mut self, filtered: &mut Filtered) {
        if !self.filtered.is_empty() {
            filtered.absorb(&mut self.filtered);
        }
    }

    /// What has been done so far, to be read while the firewall works.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// What is done to readings of `sensor` as a whole, whatever their metadata.
    ///
    /// Anything but [`Action::Allow`] is to be left out of windows over all sensors.
    pub fn sensor_action(&mut self, sensor: &str) -> Action {
        if self.policy.is_empty() {
            return Action::Allow;
        }
        let index = self.look_up(sensor);
        self.known[index].decision.sensor.strictest()
    }

    /// Whether the name of `sensor` may stand on a page or in a log: nothing is done to its readings. A
    /// name that is as long as one may be can have been cut, and no pattern is sure to know it then.
    pub fn shows_name(&mut self, sensor: &str) -> bool {
        self.policy.is_empty()
            || sensor.len() < SENSOR_NAME_BYTES_MAX && self.sensor_action(sensor) == Action::Allow
    }

    /// Decides about one reading.
    ///
    /// A reading that nothing applies to comes back as it is, for one look-up. A rewritten one
    /// borrows texts of the firewall until the next call. Metadata that has to be looked at and is
    /// not a JSON object, or is nested more than 32 deep, drops the reading: what cannot be read
    /// cannot be cleared.
    pub fn judge<'s>(&'s mut self, reading: Reading<'s>) -> Verdict<'s> {
        let untouched = Verdict::Keep { outbound: Some(reading), local: None };
        if self.policy.is_empty() {
            return untouched;
        }
        let index = self.look_up(reading.sensor_name);
        let Known { decision, set, unit: of_unit, alias } = &self.known[index];
        let sensor = decision.sensor;
        let of_unit = if reading.unit.is_empty() { KeyDecision::default() } else { *of_unit };
        self.decided.clear();
        if sensor.strictest() >= Action::Redact || of_unit.actions.has(Action::Drop) {
            let by_sensor = decision.rule().filter(|_| sensor.strictest() >= Action::Redact);
            self.decided.extend(by_sensor.or(of_unit.rule));
            count_dropped(&self.counters, &mut self.filtered, &self.id, &mut self.decided);
            return Verdict::Drop;
        }
        let has_fields = !decision.fields.is_empty() && reading.metadata != "{}";
        let allows_unit = of_unit.actions.strictest() == Action::Allow;
        if sensor.strictest() == Action::Allow && !has_fields && allows_unit {
            return untouched;
        }

        let masked = sensor.has(Action::Mask);
        let mut base = reading;
        if let Some(alias) = alias {
            base.sensor_name = alias;
        }
        if masked {
            base.value = 0.0;
        }
        let mut unit = of_unit.actions;
        if masked && !reading.unit.is_empty() {
            unit.add(Action::Mask);
        }
        self.unit_hash.clear();
        if unit.has(Action::Hash) {
            self.key.write_hex(reading.unit, &mut self.unit_hash);
        }
        let (keys, decided) = (&mut self.keys, &mut self.decided);
        let mut rules = FieldRules { policy: &self.policy, keys, set: *set, key: &self.key, decided, masked };
        let stays = sensor.has(Action::LocalOnly);
        let (first, of_first) = match stays {
            true => (Destination::Local, unit.on_device()),
            false => (Destination::Outbound, unit.strictest()),
        };
        let with_unit = |action| Reading { unit: covered(reading.unit, action, &self.unit_hash), ..base };
        let copied = rewrite(&mut rules, with_unit(of_first), first, &mut self.outbound_text);
        let copies = copied.and_then(|(copy, mut done)| {
            done.add(of_first);
            let differs = !stays && done.has(Action::LocalOnly);
            let base = with_unit(unit.on_device());
            let local = differs.then(|| rewrite(&mut rules, base, Destination::Local, &mut self.local_text));
            Ok((copy, done, local.transpose()?))
        });
        let Ok((copy, mut done, local)) = copies else {
            count_dropped(&self.counters, &mut self.filtered, &self.id, &mut self.decided);
            return Verdict::Drop;
        };
        if of_unit.actions.strictest() == of_first {
            self.decided.extend(of_unit.rule);
        }
        done.join(sensor);
        Action::ALL
            .into_iter()
            .filter(|action| done.has(*action))
            .for_each(|action| self.counters.count(action));
        if done.strictest() > Action::Allow {
            self.decided.extend(Action::ALL[1..].iter().filter_map(|action| decision.by[*action as usize]));
            self.filtered.add(&self.id, done, &mut self.decided);
        }
        if stays {
            return Verdict::Keep { outbound: None, local: Some(copy) };
        }
        Verdict::Keep { outbound: Some(copy), local: local.map(|(copy, _)| copy) }
    }

    /// The policy, and the rules that decided about the reading that was judged last.
    pub(super) fn decided(&self) -> (&Policy, &PolicyId, &HashKey, &[RuleId]) {
        (&self.policy, &self.id, &self.key, &self.decided)
    }

    /// The index of the sensor's decision, made at its first reading.
    fn look_up(&mut self, sensor: &str) -> usize {
        if let Some(index) = self.sensors.get(sensor) {
            return *index as usize;
        }
        // A source that makes up names costs it time, never memory.
        if self.known.len() >= self.sensors_max {
            self.forget();
        }
        let decision = self.policy.decide(sensor);
        let alias = decision.sensor.has(Action::Hash).then(|| {
            let mut alias = String::new();
            self.key.write_hex(sensor, &mut alias);
            alias.into()
        });
        let index = self.known.len();
        let set = self.keys.set_of(&self.policy, &decision.fields);
        let unit = self.policy.unit(&decision.fields);
        self.known.push(Known { decision, set, unit, alias });
        self.sensors.insert(sensor.into(), u32::try_from(index).expect("far fewer sensors are kept"));
        index
    }

    /// Forgets what was decided and gives its memory back; it is decided anew, and the same.
    pub fn shed(&mut self) {
        (self.sensors, self.known) = (HashMap::new(), Vec::new());
        self.keys.forget();
    }

    fn forget(&mut self) {
        self.sensors.clear();
        self.known.clear();
        self.keys.forget();
    }
}

fn count_dropped(
    counters: &Counters,
    filtered: &mut Filtered,
    policy: &Arc<PolicyId>,
    decided: &mut Vec<RuleId>,
) {
    counters.count(Action::Drop);
    let mut done = Actions::default();
    done.add(Action::Drop);
    filtered.add(policy, done, decided);
}

/// What `action` makes of a unit, whose hash is `hash`.
fn covered<'u>(unit: &'u str, action: Action, hash: &'u str) -> &'u str {
    match action {
        Action::Allow => unit,
        Action::Hash => hash,
        Action::Mask if unit.is_empty() => unit,
        Action::Mask => MASKED,
        Action::LocalOnly | Action::Redact | Action::Drop => "",
    }
}

/// `base` with the metadata that belongs into this copy, and what was done to its keys. The text
/// is the original one where nothing changes.
fn rewrite<'s>(
    rules: &mut FieldRules<'_>,
    base: Reading<'s>,
    destination: Destination,
    out: &'s mut String,
) -> Result<(Reading<'s>, Actions), MustDrop> {
    if rules.masked && base.metadata == "{}" {
        return Ok((Reading { metadata: MASKED_EMPTY, ..base }, Actions::default()));
    }
    if !rules.looks_at_keys() || base.metadata == "{}" {
        return Ok((base, Actions::default()));
    }
    let copied = rules.copy(base.metadata, destination, out)?;
    let metadata = if copied.changed { out.as_str() } else { base.metadata };
    Ok((Reading { metadata, ..base }, copied.done))
}

/// Most sensors whose decision is kept. Beyond it all are forgotten and made anew.
const SENSORS_MAX: usize = 4096;
/// What decisions about keys may take for each of them, on average: sensors share keys.
const KEY_BYTES_PER_SENSOR: usize = 32;

#[cfg(test)]
mod tests;
