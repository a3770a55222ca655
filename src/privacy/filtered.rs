//! What the firewall did, by action and by rule, on its way into the audit trail.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::action::Actions;
use super::{Action, Settings};

/// A rule of a policy: those of `privacy.rules` first, then the patterns of each list, in the order of
/// [`PolicyId::LISTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u16);

impl RuleId {
    pub(super) fn of(index: usize) -> Self {
        Self(u16::try_from(index).expect("a policy has 6,144 rules at most"))
    }
}

/// Which policy, and how its rules are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyId {
    /// As in the record of its load.
    pub hash: String,
    lengths: [usize; 6],
}

impl PolicyId {
    pub const LISTS: [&str; 6] =
        ["rules", "redact_fields", "mask_fields", "hash_fields", "drop_fields", "local_only"];

    pub fn of(settings: &Settings) -> Self {
        let mut lengths = [settings.rules.len(), 0, 0, 0, 0, 0];
        for (length, (_, _, list)) in lengths[1..].iter_mut().zip(settings.field_lists()) {
            *length = list.len();
        }
        Self { hash: settings.policy_hash(), lengths }
    }

    /// The rule as its place in `[privacy]`, such as `redact_fields[0]`.
    pub fn name(&self, rule: RuleId) -> String {
        let mut index = usize::from(rule.0);
        for (list, length) in Self::LISTS.into_iter().zip(self.lengths) {
            if index < length {
                return format!("{list}[{index}]");
            }
            index -= length;
        }
        "?".to_owned()
    }
}

/// Counts of readings since they were last taken, by the policy that held for them. Each reading counts once at
/// most for an action, and once for a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filtered(Vec<Part>);

/// Under one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub policy: Arc<PolicyId>,
    actions: [u64; 6],
    /// In order.
    rules: Vec<(RuleId, u64)>,
}

impl Filtered {
    /// Counts one reading. `decided` are the rules that decided about it, which are put in order.
    pub(super) fn add(&mut self, policy: &Arc<PolicyId>, done: Actions, decided: &mut Vec<RuleId>) {
        let part = self.part(policy);
        for action in Action::ALL {
            part.actions[action as usize] += u64::from(action != Action::Allow && done.has(action));
        }
        decided.sort_unstable();
        decided.dedup();
        decided.iter().for_each(|rule| part.count(*rule, 1));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what `other` has, which is empty then and keeps its room.
    pub fn absorb(&mut self, other: &mut Self) {
        if self.0.is_empty() {
            std::mem::swap(&mut self.0, &mut other.0);
            return;
        }
        for theirs in other.0.drain(..) {
            let ours = self.part(&theirs.policy);
            ours.actions.iter_mut().zip(theirs.actions).for_each(|(ours, count)| *ours += count);
            theirs.rules.into_iter().for_each(|(rule, count)| ours.count(rule, count));
        }
    }

    /// Takes out what belongs to the policy with `hash`, or with `false` everything that does not.
    pub fn take_of(&mut self, hash: Option<&str>, is_of: bool) -> Self {
        let wanted = |part: &mut Part| (Some(part.policy.hash.as_str()) == hash) == is_of;
        Self(self.0.extract_if(.., wanted).collect())
    }

    /// One for each policy, in the order in which they came.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    fn part(&mut self, policy: &Arc<PolicyId>) -> &mut Part {
        // The newest is the one that holds; more than one only around a reload.
        let at = self.0.iter().rposition(|part| part.policy.hash == policy.hash).unwrap_or_else(|| {
            if self.0.len() >= PARTS_MAX {
                // Only while the disk takes nothing through that many reloads: their rules are told apart no more.
                let oldest = self.0.remove(0);
                let next = &mut self.0[0];
                next.actions.iter_mut().zip(oldest.actions).for_each(|(ours, count)| *ours += count);
            }
            self.0.push(Part { policy: policy.clone(), actions: [0; 6], rules: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

impl Part {
    /// For the audit trail: `readings` by what was done, `rules` by the place of the rule.
    pub fn details(&self) -> Value {
        let done = [
            (Action::Drop, "dropped"),
            (Action::Redact, "redacted"),
            (Action::LocalOnly, "local_only"),
            (Action::Mask, "masked"),
            (Action::Hash, "hashed"),
        ];
        let counted = done.into_iter().map(|(action, name)| (name, self.actions[action as usize]));
        let readings: Map<_, _> = counted
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect();
        let mut rules: Map<String, Value> = Map::new();
        let mut others = 0;
        for (rule, count) in &self.rules {
            if rules.len() < RULES_MAX {
                rules.insert(self.policy.name(*rule), (*count).into());
            } else {
                others += count;
            }
        }
        if others > 0 {
            rules.insert(OTHERS.to_owned(), others.into());
        }
        serde_json::json!({ "readings": readings, "rules": rules })
    }

    fn count(&mut self, rule: RuleId, count: u64) {
        match self.rules.binary_search_by_key(&rule, |(rule, _)| *rule) {
            Ok(at) => self.rules[at].1 += count,
            Err(at) => self.rules.insert(at, (rule, count)),
        }
    }
}

/// Stands for the rules beyond [`RULES_MAX`].
pub const OTHERS: &str = "others";
/// Named in one record, or it would have no bound worth the name.
const RULES_MAX: usize = 64;
const PARTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::{FieldPattern, SensorRule};
    use super::*;

    fn policy(redact: usize) -> Arc<PolicyId> {
        let list = (0..redact).map(|index| FieldPattern(format!("key{index}")));
        let settings = Settings {
            enabled: true,
            rules: vec![SensorRule { sensor: "cam".to_owned(), action: Action::Drop }],
            redact_fields: list.collect(),
            local_only: vec![FieldPattern("room".to_owned())],
            ..Settings::default()
        };
        Arc::new(PolicyId::of(&settings))
    }

    fn done(actions: &[Action]) -> Actions {
        let mut done = Actions::default();
        actions.iter().for_each(|action| done.add(*action));
        done
    }

    #[test]
    fn rules_are_named_by_their_place_in_the_configuration() {
        let policy = policy(2);
        let names: Vec<_> = (0..5).map(|index| policy.name(RuleId::of(index))).collect();
        assert_eq!(names, ["rules[0]", "redact_fields[0]", "redact_fields[1]", "local_only[0]", "?"]);
    }

    #[test]
    fn a_reading_counts_once_for_each_action_and_rule() {
        let (policy, mut filtered) = (policy(2), Filtered::default());
        for _ in 0..3 {
            let mut rules = vec![RuleId::of(3), RuleId::of(1), RuleId::of(3), RuleId::of(1)];
            filtered.add(&policy, done(&[Action::Redact, Action::LocalOnly]), &mut rules);
        }
        filtered.add(&policy, done(&[Action::Drop]), &mut vec![RuleId::of(0)]);
        let expected = serde_json::json!({
            "readings": {"dropped": 1, "redacted": 3, "local_only": 3},
            "rules": {"rules[0]": 1, "redact_fields[0]": 3, "local_only[0]": 3},
        });
        assert_eq!(filtered.parts()[0].details(), expected);
    }

    #[test]
    fn counts_of_two_policies_stay_apart_and_are_bounded() {
        let mut all = Filtered::default();
        for redact in (1..=40).chain([40]) {
            let mut one = Filtered::default();
            one.add(&policy(redact), done(&[Action::Redact]), &mut vec![RuleId::of(1)]);
            all.absorb(&mut one);
            assert!(one.is_empty());
        }
        assert_eq!(all.parts().len(), PARTS_MAX);
        let counts: u64 = all.parts().iter().map(|part| part.actions[Action::Redact as usize]).sum();
        assert_eq!(counts, 41);
        assert_eq!(all.parts()[PARTS_MAX - 1].details()["rules"]["redact_fields[0]"], 2);
        let many = policy(500);
        let mut decided: Vec<_> = (1..501).map(RuleId::of).collect();
        let mut one = Filtered::default();
        one.add(&many, done(&[Action::Redact]), &mut decided);
        let details = one.parts()[0].details();
        assert_eq!(details["rules"].as_object().unwrap().len(), RULES_MAX + 1);
        assert_eq!(details["rules"][OTHERS], 500 - RULES_MAX);
    }
}
