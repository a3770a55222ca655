//! What a policy makes of a reading, field by field, and which rule decides: for a person who tries or audits it.

use serde_json::{Map, Value};

use super::action::Actions;
use super::policy::{Decision, KeyDecision, Policy};
use super::sums::rule_text;
use super::{Action, Firewall, HashKey, PolicyId, RuleId, Settings, Verdict};
use crate::reading::Reading;

/// One reading, explained.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// What becomes of the reading as a whole, or of what leaves of it: `allow` when it leaves in some form.
    pub action: Action,
    /// The rule behind that.
    pub rule: Option<String>,
    pub fields: Vec<Field>,
}

/// An event as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub rule_name: &'a str,
    /// Unix seconds UTC.
    pub timestamp: f64,
    pub severity: &'a str,
    pub message: &'a str,
    /// The one it is about; a declared gap is about none.
    pub reading: Option<Reading<'a>>,
    /// The text of a JSON object.
    pub metadata: &'a str,
    /// It is stored where nothing leaves, whatever may leave of its reading: it rests on others too, or is not chosen
    /// for delivery.
    pub stays: bool,
}

/// A field of a reading: `value`, or `metadata.gps.lat`.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub stored: Value,
    /// `None` when it does not leave.
    pub leaves: Option<Value>,
    pub action: Action,
    pub rule: Option<String>,
}

/// A firewall that says why.
pub struct Explainer {
    firewall: Firewall,
    /// As in the audit trail, for the text of rules.
    policy: Value,
    knows_key: bool,
}

impl Explainer {
    /// Without the key of hashes it is not said what they would be.
    pub fn new(settings: &Settings, key: Option<HashKey>) -> Self {
        let knows_key = key.is_some();
        let key = key.unwrap_or_else(|| HashKey::new(&[0; 32]));
        Self { firewall: Firewall::new(settings, key), policy: settings.audit_details(), knows_key }
    }

    /// Explains a reading as it is stored. What was hashed or masked before it was stored stays as it is.
    pub fn explain(&mut self, reading: Reading<'_>) -> Explained {
        let is_dropped = self.firewall.judge(reading) == Verdict::Drop;
        let (policy, id, key, decided) = self.firewall.decided();
        let decision = policy.decide(reading.sensor_name);
        let text = |rule: RuleId| {
            let place = id.name(rule);
            rule_text(&self.policy, &place).unwrap_or(place)
        };
        let (action, rule) = match decision.sensor.strictest() {
            whole @ (Action::LocalOnly | Action::Redact | Action::Drop) => (whole, decision.rule()),
            _ if is_dropped => (Action::Drop, decided.first().copied()),
            _ => (Action::Allow, None),
        };
        let walk = Walk { policy, decision: &decision, key: self.knows_key.then_some(key), text: &text, id };
        let mut fields = walk.fields(&reading);
        if action != Action::Allow {
            // Of what does not leave no field does.
            for field in &mut fields {
                field.leaves = None;
                if field.action < action {
                    (field.action, field.rule) = (action, rule.map(text));
                }
            }
        }
        Explained { action, rule: rule.map(text), fields }
    }

    /// Explains an event: it goes the way of its reading, and says of that what leaves of it.
    pub fn explain_event(&mut self, event: Event<'_>) -> Explained {
        let Event { rule_name, timestamp, severity, message, reading, metadata, stays } = event;
        let about = reading.map(|reading| self.explain(reading));
        let (action, rule) = match &about {
            Some(about) if about.action != Action::Allow => (about.action, about.rule.clone()),
            _ if !stays => (Action::Allow, None),
            _ => (Action::LocalOnly, None),
        };
        let of_event = |name: &str, stored: Value| Field {
            name: name.to_owned(),
            leaves: Some(stored.clone()).filter(|_| action == Action::Allow),
            stored,
            action,
            rule: rule.clone(),
        };
        let mut fields = vec![
            of_event("rule_name", rule_name.into()),
            of_event("timestamp", timestamp.into()),
            of_event("severity", severity.into()),
            of_event("message", message.into()),
        ];
        for field in about.into_iter().flat_map(|about| about.fields) {
            let is_stricter = field.action < action;
            fields.push(Field {
                name: format!("sensor_readings[0].{}", field.name),
                leaves: field.leaves.filter(|_| action == Action::Allow),
                action: field.action.max(action),
                rule: if is_stricter { rule.clone() } else { field.rule },
                stored: field.stored,
            });
        }
        if let Ok(Value::Object(metadata)) = serde_json::from_str(metadata) {
            fields
                .extend(metadata.into_iter().map(|(key, value)| of_event(&format!("metadata.{key}"), value)));
        }
        Explained { action, rule, fields }
    }
}

struct Walk<'w, T> {
    policy: &'w Policy,
    decision: &'w Decision,
    key: Option<&'w HashKey>,
    text: &'w T,
    id: &'w PolicyId,
}

impl<T: Fn(RuleId) -> String> Walk<'_, T> {
    fn fields(&self, reading: &Reading<'_>) -> Vec<Field> {
        let sensor = |action: Action| if self.decision.sensor.has(action) { action } else { Action::Allow };
        let mut fields = vec![
            self.field("sensor_name", reading.sensor_name.into(), sensor(Action::Hash), None),
            self.field("timestamp", reading.timestamp.into(), Action::Allow, None),
            self.field("value", reading.value.into(), sensor(Action::Mask), None),
            self.unit(reading.unit, sensor(Action::Mask)),
        ];
        if fields[2].action == Action::Mask {
            fields[2].leaves = Some(0.0.into());
        }
        if let Ok(Value::Object(metadata)) = serde_json::from_str(reading.metadata) {
            self.object(&metadata, "", "metadata", &mut fields);
        }
        fields
    }

    fn unit(&self, unit: &str, by_sensor: Action) -> Field {
        if unit.is_empty() {
            return self.field("unit", unit.into(), Action::Allow, None);
        }
        let KeyDecision { mut actions, rule } = self.policy.unit(&self.decision.fields);
        let by_rule = actions.strictest();
        actions.add(by_sensor);
        self.field("unit", unit.into(), actions.strictest(), rule.filter(|_| by_rule == actions.strictest()))
    }

    fn object(&self, members: &Map<String, Value>, path: &str, shown: &str, fields: &mut Vec<Field>) {
        for (name, value) in members {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let shown = format!("{shown}.{name}");
            let found = self.policy.key(&self.decision.fields, &inner, name);
            let mut actions: Actions = found.actions;
            if path.is_empty() && self.decision.sensor.has(Action::Mask) {
                actions.add(Action::Mask);
            }
            let action = actions.strictest();
            if action == Action::Allow && holds_objects(value) {
                self.inside(value, &inner, &shown, fields);
                continue;
            }
            let rule = found.rule.filter(|_| found.actions.strictest() == action);
            fields.push(self.field(&shown, value.clone(), action, rule));
        }
    }

    fn inside(&self, value: &Value, path: &str, shown: &str, fields: &mut Vec<Field>) {
        match value {
            Value::Object(members) => self.object(members, path, shown, fields),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let shown = format!("{shown}[{index}]");
                    if holds_objects(item) {
                        self.inside(item, path, &shown, fields);
                    } else {
                        fields.push(self.field(&shown, item.clone(), Action::Allow, None));
                    }
                }
            }
            _ => {}
        }
    }

    /// The rule is that of the sensor where the key has none.
    fn field(&self, name: &str, stored: Value, action: Action, rule: Option<RuleId>) -> Field {
        let leaves = match action {
            Action::Allow => Some(stored.clone()),
            Action::Hash => Some(self.hashed(&stored)),
            Action::Mask => Some("***".into()),
            Action::LocalOnly | Action::Redact | Action::Drop => None,
        };
        let rule = rule.or(self.decision.by[action as usize]).filter(|_| action != Action::Allow);
        debug_assert!(rule.is_none_or(|rule| self.id.name(rule) != "?"));
        Field { name: name.to_owned(), stored, leaves, action, rule: rule.map(self.text) }
    }

    fn hashed(&self, stored: &Value) -> Value {
        let text = stored.as_str().map_or_else(|| stored.to_string(), str::to_owned);
        let is_hash = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hash {
            return text.into();
        }
        let Some(key) = self.key else { return "(hash)".into() };
        let mut hash = String::new();
        key.write_hex(&text, &mut hash);
        hash.into()
    }
}

/// Whether there are keys in it.
fn holds_objects(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => items.iter().any(holds_objects),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FieldPattern, SensorRule};
    use super::*;

    fn settings() -> Settings {
        let rule = |sensor: &str, action| SensorRule { sensor: sensor.to_owned(), action };
        let list = |texts: &[&str]| texts.iter().map(|text| FieldPattern((*text).to_owned())).collect();
        Settings {
            enabled: true,
            rules: vec![
                rule("badge*", Action::Hash),
                rule("scale", Action::Mask),
                rule("cam", Action::LocalOnly),
                rule("mic", Action::Drop),
            ],
            redact_fields: list(&["*name", "gps.lat", "t:unit"]),
            hash_fields: list(&["email", "door:unit"]),
            local_only: list(&["door:room"]),
            drop_fields: list(&["ssn"]),
            ..Settings::default()
        }
    }

    fn explain(sensor_name: &str, metadata: &str) -> Explained {
        let mut explainer = Explainer::new(&settings(), Some(HashKey::new(&[1; 32])));
        explainer.explain(Reading { sensor_name, timestamp: 1.7e9, value: 21.5, unit: "of Ann", metadata })
    }

    fn field<'e>(explained: &'e Explained, name: &str) -> &'e Field {
        explained.fields.iter().find(|field| field.name == name).unwrap()
    }

    #[test]
    fn each_field_says_what_leaves_and_which_rule_decided() {
        let explained =
            explain("door", r#"{"first_name":"ann","gps":[{"lat":1,"lon":2}],"room":7,"ok":[1,{}]}"#);
        let told = |name| {
            let Field { leaves, action, rule, .. } = field(&explained, name);
            (leaves.as_ref().map(Value::to_string), *action, rule.as_deref())
        };
        assert_eq!(told("value"), (Some("21.5".to_owned()), Action::Allow, None));
        assert_eq!(told("metadata.first_name"), (None, Action::Redact, Some("redact_fields: *name")));
        assert_eq!(told("metadata.gps[0].lat"), (None, Action::Redact, Some("redact_fields: gps.lat")));
        assert_eq!(told("metadata.gps[0].lon"), (Some("2".to_owned()), Action::Allow, None));
        assert_eq!(told("metadata.room"), (None, Action::LocalOnly, Some("local_only: door:room")));
        assert_eq!(told("metadata.ok"), (Some("[1,{}]".to_owned()), Action::Allow, None));
    }

    #[test]
    fn what_is_done_to_a_whole_reading_is_done_to_each_field() {
        let explained = explain("cam", r#"{"email":"a@b","name":"x"}"#);
        assert_eq!(
            (explained.action, explained.rule.as_deref()),
            (Action::LocalOnly, Some("rules: cam local_only"))
        );
        assert!(
            explained.fields.iter().all(|field| field.leaves.is_none() && field.action >= Action::LocalOnly)
        );
        assert_eq!(field(&explained, "metadata.name").rule.as_deref(), Some("redact_fields: *name"));
        let explained = explain("t", r#"{"a":{"ssn":1}}"#);
        assert_eq!((explained.action, explained.rule.as_deref()), (Action::Drop, Some("drop_fields: ssn")));
        let explained = explain("scale", r#"{"who":"ann","email":"x"}"#);
        assert_eq!(field(&explained, "value").leaves, Some(0.0.into()));
        assert_eq!(field(&explained, "metadata.email").rule.as_deref(), Some("rules: scale mask"));
    }

    #[test]
    fn an_event_goes_the_way_of_its_reading() {
        let mut explainer = Explainer::new(&settings(), Some(HashKey::new(&[1; 32])));
        let mut explain = |sensor_name, metadata, stays| {
            let reading = Reading { sensor_name, timestamp: 1.7e9, value: 21.5, unit: "C", metadata };
            explainer.explain_event(Event {
                rule_name: "hot",
                timestamp: 1.7e9,
                severity: "critical",
                message: "too hot",
                reading: Some(reading),
                metadata: r#"{"silent_seconds":60.5}"#,
                stays,
            })
        };
        let told = |explained: &Explained, name: &str| {
            let Field { leaves, action, rule, .. } = field(explained, name);
            (leaves.as_ref().map(Value::to_string), *action, rule.clone())
        };
        let open = explain("scale", r#"{"name":"ann"}"#, false);
        assert_eq!((open.action, &open.rule), (Action::Allow, &None));
        assert_eq!(told(&open, "message"), (Some("\"too hot\"".to_owned()), Action::Allow, None));
        assert_eq!(told(&open, "metadata.silent_seconds").0, Some("60.5".to_owned()));
        let masked = Some("rules: scale mask".to_owned());
        assert_eq!(told(&open, "sensor_readings[0].value"), (Some("0.0".to_owned()), Action::Mask, masked));
        let redacted = Some("redact_fields: *name".to_owned());
        assert_eq!(told(&open, "sensor_readings[0].metadata.name"), (None, Action::Redact, redacted));
        for (sensor, action, rule) in [
            ("cam", Action::LocalOnly, Some("rules: cam local_only")),
            ("mic", Action::Drop, Some("rules: mic drop")),
        ] {
            let closed = explain(sensor, "{}", false);
            assert_eq!((closed.action, closed.rule.as_deref()), (action, rule));
            assert!(closed.fields.iter().all(|field| field.leaves.is_none() && field.action == action));
        }
        let closed = explain("t", "{}", true);
        assert_eq!((closed.action, &closed.rule), (Action::LocalOnly, &None));
        assert!(closed.fields.iter().all(|field| field.leaves.is_none()));
    }

    #[test]
    fn what_is_said_to_leave_is_what_leaves() {
        let texts = [
            r#"{"email":"a@b","n":[{"name":1,"email":{"x":1}}],"gps":{"lat":1,"lon":{"a":2}}}"#,
            r#"{"room":1,"gps":{"lat":1},"d":{"gps":{"lat":{"x":1}}}}"#,
            "{}",
        ];
        for sensor in ["badge1", "scale", "door", "t", "cam", "mic"] {
            for metadata in texts {
                let mut firewall = Firewall::new(&settings(), HashKey::new(&[1; 32]));
                let unit = "of Ann";
                let reading = Reading { sensor_name: sensor, timestamp: 1.7e9, value: 21.5, unit, metadata };
                let sent = match firewall.judge(reading) {
                    Verdict::Keep { outbound: Some(sent), .. } => {
                        format!("{} {} {} {}", sent.sensor_name, sent.value, sent.unit, sent.metadata)
                    }
                    _ => String::new(),
                };
                let explained = explain(sensor, metadata);
                assert_eq!(sent.is_empty(), explained.action != Action::Allow, "{sensor} {metadata}");
                for field in &explained.fields {
                    if field.name == "unit" {
                        assert_eq!(field.leaves == Some(unit.into()), sent.contains(unit), "{sensor}");
                    }
                    let leaves = field.leaves.as_ref().filter(|_| field.name != "timestamp");
                    let Some(leaves) = leaves else { continue };
                    let text = leaves.as_str().map_or_else(|| leaves.to_string(), str::to_owned);
                    let text = text.strip_suffix(".0").unwrap_or(&text);
                    assert!(sent.contains(text), "{sensor} {}: {text} is not in {sent}", field.name);
                }
            }
        }
    }

    #[test]
    fn what_was_hashed_before_it_was_stored_is_not_hashed_again() {
        let hash = "0123456789abcdef0123456789abcdef";
        let explained = explain("t", &format!(r#"{{"email":"{hash}"}}"#));
        assert_eq!(field(&explained, "metadata.email").leaves, Some(hash.into()));
        let mut unknown = Explainer::new(&settings(), None);
        let reading = Reading { sensor_name: "badge1", timestamp: 1.0, value: 1.0, unit: "", metadata: "{}" };
        assert_eq!(field(&unknown.explain(reading), "sensor_name").leaves, Some("(hash)".into()));
    }
}
