//! The field engine: copies a metadata object and leaves out, masks or hashes what the policy says.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::action::Actions;
use super::keys::Keys;
use super::policy::{KeyDecision, Policy};
use super::{Action, HashKey, RuleId};

/// For whom a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// For what leaves the device: fields that stay local are left out.
    Outbound,
    /// For the device: those fields are in it, everything else is as in the other copy.
    Local,
}

/// What is done to the metadata of one sensor.
pub(super) struct FieldRules<'r> {
    pub(super) policy: &'r Policy,
    /// What is known of keys already.
    pub(super) keys: &'r mut Keys,
    /// The set of field rules that holds, of `keys`.
    pub(super) set: u32,
    pub(super) key: &'r HashKey,
    /// Gains the rules that decided about some key of what is copied first.
    pub(super) decided: &'r mut Vec<RuleId>,
    /// The sensor is masked: every value becomes `***` and a mark is added.
    pub(super) masked: bool,
}

/// How a copy came out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// Whether it says anything else than the original.
    pub(super) changed: bool,
    /// What was done to some key.
    pub(super) done: Actions,
}

/// The reading must go: a key demands it, or the metadata cannot be read and so cannot be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MustDrop;

impl FieldRules<'_> {
    /// Whether any rule looks at keys.
    pub(super) fn looks_at_keys(&self) -> bool {
        self.masked || self.keys.has_rules(self.set)
    }

    /// Writes the copy of `metadata` into `out`, whose former content goes.
    ///
    /// Keys are compared as they read, not as they are spelled: `\u0067ps` is `gps`. Keys inside of
    /// what is left out, masked or hashed are still looked at, as one of them may drop the reading.
    /// A repeated key is treated each time it occurs. Numbers and strings keep their spelling.
    ///
    /// # Errors
    /// [`MustDrop`]; what `out` then holds is of no use.
    pub(super) fn copy(
        &mut self,
        metadata: &str,
        destination: Destination,
        out: &mut String,
    ) -> Result<Copied, MustDrop> {
        out.clear();
        self.keys.enter_top();
        // The second copy of a reading is decided by the same rules.
        let notes_rules = self.decided.is_empty();
        let mut writer = Writer { rules: self, destination, out, copied: Copied::default(), notes_rules };
        let mut json = serde_json::Deserializer::from_str(metadata);
        json.deserialize_map(Level { writer: &mut writer, depth: 0, muted: false })
            .and_then(|()| json.end())
            .map_err(|_| MustDrop)?;
        Ok(writer.copied)
    }
}

struct Writer<'w, 'r, 'o> {
    rules: &'w mut FieldRules<'r>,
    destination: Destination,
    out: &'o mut String,
    copied: Copied,
    notes_rules: bool,
}

impl Writer<'_, '_, '_> {
    /// One member of an object, `key` and `value` being JSON text.
    fn member(&mut self, key: &str, value: &str, level: &mut Position) -> Result<(), serde_json::Error> {
        let name = text_of(key)?;
        let FieldRules { policy, keys, set, .. } = &mut *self.rules;
        let outer = keys.enter(&name);
        let decision = keys.decide(policy, *set, &name);
        let written = self.decided(decision, &name, key, value, level);
        self.rules.keys.leave(outer);
        written
    }

    /// The same, once it is known what is done to it.
    fn decided(
        &mut self,
        KeyDecision { mut actions, rule }: KeyDecision,
        name: &str,
        key: &str,
        value: &str,
        level: &mut Position,
    ) -> Result<(), serde_json::Error> {
        if actions.has(Action::Drop) {
            self.rules.decided.clear();
            self.rules.decided.extend(rule);
            return Err(Error::custom("a key drops the reading"));
        }
        let by_key = actions.strictest();
        let own_mark = level.depth == 0 && self.rules.masked;
        if own_mark {
            actions.add(if name == MARK { Action::Redact } else { Action::Mask });
        }
        if level.muted {
            return self.value(value, level.depth, true);
        }
        if self.notes_rules && by_key == actions.strictest() {
            self.rules.decided.extend(rule);
        }
        let action = match self.destination {
            Destination::Outbound => actions.strictest(),
            Destination::Local => actions.on_device(),
        };
        if !(own_mark && name == MARK) {
            self.copied.done.add(action);
        }
        self.copied.changed |= action != Action::Allow;
        let left_out = matches!(action, Action::LocalOnly | Action::Redact | Action::Drop);
        if !left_out {
            if level.wrote {
                self.out.push(',');
            }
            level.wrote = true;
            self.out.push_str(key);
            self.out.push(':');
        }
        match action {
            Action::Allow => return self.value(value, level.depth, false),
            Action::Mask => self.out.push_str(MASKED_VALUE),
            Action::Hash => {
                let text = if value.starts_with('"') { text_of(value)? } else { Cow::Borrowed(value) };
                self.out.push('"');
                self.rules.key.write_hex(&text, self.out);
                self.out.push('"');
            }
            Action::LocalOnly | Action::Redact | Action::Drop => {}
        }
        self.value(value, level.depth, true)
    }

    /// A value inside an object or array at `depth`, whose text has been found to be JSON.
    fn value(&mut self, value: &str, depth: usize, muted: bool) -> Result<(), serde_json::Error> {
        let depth = depth + 1;
        let mut json = serde_json::Deserializer::from_str(value);
        match value.as_bytes().first() {
            Some(b'{' | b'[') if depth > DEPTH_MAX => Err(Error::custom("nested too deeply")),
            Some(b'{') => json.deserialize_map(Level { writer: self, depth, muted }),
            Some(b'[') => json.deserialize_seq(Level { writer: self, depth, muted }),
            _ => {
                if !muted {
                    self.out.push_str(value);
                }
                Ok(())
            }
        }
    }
}

/// Where the writer is inside one object.
struct Position {
    depth: usize,
    muted: bool,
    /// Whether a member was written, so that the next one needs a comma.
    wrote: bool,
}

/// One object or array on the way; `muted` looks at the keys and writes nothing.
struct Level<'l, 'w, 'r, 'o> {
    writer: &'l mut Writer<'w, 'r, 'o>,
    depth: usize,
    muted: bool,
}

impl Level<'_, '_, '_, '_> {
    fn write(&mut self, text: &str) {
        if !self.muted {
            self.writer.out.push_str(text);
        }
    }
}

impl<'de> Visitor<'de> for Level<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.write("{");
        let mut position = Position { depth: self.depth, muted: self.muted, wrote: false };
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            self.writer.member(key.get(), value.get(), &mut position).map_err(Error::custom)?;
        }
        if self.depth == 0 && self.writer.rules.masked {
            self.write(if position.wrote { "," } else { "" });
            self.write(MARK_MEMBER);
            self.writer.copied.changed = true;
        }
        self.write("}");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        // Only the top level is an object by right; there an array is refused.
        if self.depth == 0 {
            return Err(Error::custom("metadata is a JSON object"));
        }
        self.write("[");
        let mut wrote = false;
        while let Some(value) = list.next_element::<&RawValue>()? {
            self.write(if wrote { "," } else { "" });
            wrote = true;
            self.writer.value(value.get(), self.depth, self.muted).map_err(Error::custom)?;
        }
        self.write("]");
        Ok(())
    }
}

/// What a JSON string says. Borrowed when nothing in it is escaped.
fn text_of(json: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    if json.contains('\\') {
        return serde_json::from_str(json).map(Cow::Owned);
    }
    Ok(Cow::Borrowed(json.trim_matches('"')))
}

/// Metadata of a masked sensor that had none.
pub(super) const MASKED_EMPTY: &str = r#"{"privacy":"masked"}"#;

/// Objects and arrays inside each other beyond this are not looked into, so the reading is dropped.
/// Each level scans its text again: with the longest metadata 128 KiB at most.
const DEPTH_MAX: usize = 32;
/// What stands in place of a text that is masked.
pub(super) const MASKED: &str = "***";
const MASKED_VALUE: &str = r#""***""#;
const MARK: &str = "privacy";
const MARK_MEMBER: &str = r#""privacy":"masked""#;
