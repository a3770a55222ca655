//! What is known of metadata keys: each is held against the patterns once, however often it comes.

use std::collections::HashMap;

use super::policy::{KeyDecision, Policy};

/// Decisions about keys, by the set of field rules that holds for a sensor.
///
/// Many sensors share a set. What is kept is bounded in bytes; beyond it all is forgotten and decided anew.
pub(super) struct Keys {
    sets: Vec<Set>,
    numbers: HashMap<Box<[u32]>, u32>,
    /// The key that is looked at, with those it stands in before it, joined by dots.
    path: String,
    bytes: usize,
    bytes_max: usize,
    /// How often patterns were held against a key.
    walks: u64,
}

struct Set {
    /// Indices into the field rules of the policy.
    fields: Box<[u32]>,
    looks_at_paths: bool,
    /// By the path where some rule looks at it, else by the key alone.
    known: HashMap<Box<str>, KeyDecision>,
}

impl Keys {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { sets: Vec::new(), numbers: HashMap::new(), path: String::new(), bytes: 0, bytes_max, walks: 0 }
    }

    /// The number of a set of field rules of `policy`.
    pub(super) fn set_of(&mut self, policy: &Policy, fields: &[u32]) -> u32 {
        if let Some(number) = self.numbers.get(fields) {
            return *number;
        }
        let number = u32::try_from(self.sets.len()).expect("no more sets than sensors are kept");
        let looks_at_paths = policy.looks_at_paths(fields);
        self.sets.push(Set { fields: fields.into(), looks_at_paths, known: HashMap::new() });
        self.numbers.insert(fields.into(), number);
        number
    }

    pub(super) fn has_rules(&self, set: u32) -> bool {
        !self.sets[set as usize].fields.is_empty()
    }

    /// Begins with another object.
    pub(super) fn enter_top(&mut self) {
        self.path.clear();
    }

    /// Goes to the member `name` of the present object; what is returned leads back.
    pub(super) fn enter(&mut self, name: &str) -> usize {
        let outer = self.path.len();
        if outer > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        outer
    }

    pub(super) fn leave(&mut self, outer: usize) {
        self.path.truncate(outer);
    }

    /// What is done to the key that was entered last.
    pub(super) fn decide(&mut self, policy: &Policy, set: u32, name: &str) -> KeyDecision {
        let Set { fields, looks_at_paths, known } = &mut self.sets[set as usize];
        if fields.is_empty() {
            return KeyDecision::default();
        }
        let outer = self.path.len();
        // With where the key begins: a dot in a key is not the dot between two.
        let begin = u16::try_from(outer - name.len()).ok().filter(|_| outer <= PATH_BYTES_MAX);
        let Some(begin) = begin else {
            self.walks += 1;
            return policy.key(fields, &self.path, name);
        };
        let text = if *looks_at_paths {
            self.path.extend(
                [DIGITS[usize::from(begin >> 6) & 63], DIGITS[usize::from(begin & 63)]].map(char::from),
            );
            self.path.as_str()
        } else {
            name
        };
        if let Some(decision) = known.get(text).copied() {
            self.path.truncate(outer);
            return decision;
        }
        self.walks += 1;
        let decision = policy.key(fields, &self.path[..outer], name);
        let text: Box<str> = text.into();
        self.bytes += text.len() + ENTRY_BYTES;
        known.insert(text, decision);
        self.path.truncate(outer);
        if self.bytes > self.bytes_max {
            self.forget_keys();
        }
        decision
    }

    /// Forgets the sets as well: their numbers are given out anew.
    pub(super) fn forget(&mut self) {
        self.numbers = HashMap::new();
        self.sets = Vec::new();
        self.bytes = 0;
    }

    /// How often patterns were held against a key so far.
    #[cfg(test)]
    pub(super) fn walks(&self) -> u64 {
        self.walks
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget_keys(&mut self) {
        self.sets.iter_mut().for_each(|set| set.known = HashMap::new());
        self.bytes = 0;
    }
}

/// Longer paths are rare, and are held against the patterns each time.
const PATH_BYTES_MAX: usize = 1024;
/// Of an entry besides its text, about.
const ENTRY_BYTES: usize = 48;
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
