use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use serde_json::Value;

use super::super::{FieldPattern, SensorRule};
use super::*;

fn settings(rules: &[(&str, Action)], fields: &[(Action, &str)]) -> Settings {
    let list = |action| {
        let of = fields.iter().filter(move |(each, _)| *each == action);
        of.map(|(_, text)| FieldPattern((*text).to_owned())).collect()
    };
    Settings {
        enabled: true,
        rules: rules
            .iter()
            .map(|(sensor, action)| SensorRule { sensor: (*sensor).to_owned(), action: *action })
            .collect(),
        redact_fields: list(Action::Redact),
        mask_fields: list(Action::Mask),
        hash_fields: list(Action::Hash),
        drop_fields: list(Action::Drop),
        local_only: list(Action::LocalOnly),
        record: Default::default(),
    }
}

fn firewall(rules: &[(&str, Action)], fields: &[(Action, &str)]) -> Firewall {
    Firewall::new(&settings(rules, fields), HashKey::new(&[1; 32]))
}

fn hash(text: &str) -> String {
    let mut out = String::new();
    HashKey::new(&[1; 32]).write_hex(text, &mut out);
    out
}

fn reading<'a>(sensor_name: &'a str, metadata: &'a str) -> Reading<'a> {
    Reading { sensor_name, timestamp: 1.7e9, value: 21.5, unit: "C", metadata }
}

/// The metadata of both copies; `None` where there is no such copy.
fn metadata(verdict: Verdict<'_>) -> (Option<String>, Option<String>) {
    let text = |reading: Option<Reading<'_>>| reading.map(|reading| reading.metadata.to_owned());
    match verdict {
        Verdict::Drop => (None, None),
        Verdict::Keep { outbound, local } => (text(outbound), text(local)),
    }
}

/// What leaves of `metadata` under `fields`.
fn outbound(fields: &[(Action, &str)], text: &str) -> Option<String> {
    metadata(firewall(&[], fields).judge(reading("s", text))).0
}

#[test]
fn a_reading_that_nothing_applies_to_is_untouched() {
    let mut firewall = firewall(&[("cam", Action::Drop)], &[(Action::Redact, "gps")]);
    let reading = reading("door", "{ \"a\" : 1.50 }");
    for _ in 0..2 {
        assert_eq!(firewall.judge(reading), Verdict::Keep { outbound: Some(reading), local: None });
    }
    assert_eq!(firewall.sensor_action("door"), Action::Allow);
    assert_eq!(firewall.counters().redacted.load(Relaxed), 0);
}

#[test]
fn a_firewall_that_is_off_lets_everything_pass() {
    let settings = Settings { enabled: false, ..settings(&[("*", Action::Drop)], &[(Action::Drop, "*")]) };
    let mut firewall = Firewall::new(&settings, HashKey::new(&[1; 32]));
    let reading = reading("door", "{\"a\":1}");
    assert_eq!(firewall.judge(reading), Verdict::Keep { outbound: Some(reading), local: None });
}

#[test]
fn each_sensor_rule_does_what_it_says() {
    let rules = [
        ("h", Action::Hash),
        ("m", Action::Mask),
        ("d", Action::Drop),
        ("l", Action::LocalOnly),
        ("r", Action::Redact),
    ];
    let mut firewall = firewall(&rules, &[]);
    let text = "{\"a\":1}";
    let expected = Reading { sensor_name: &hash("h"), ..reading("h", text) };
    assert_eq!(firewall.judge(reading("h", text)), Verdict::Keep { outbound: Some(expected), local: None });
    let expected = Reading {
        value: 0.0,
        unit: "***",
        metadata: "{\"a\":\"***\",\"privacy\":\"masked\"}",
        ..reading("m", "")
    };
    assert_eq!(firewall.judge(reading("m", text)), Verdict::Keep { outbound: Some(expected), local: None });
    let expected = Reading { unit: "", value: 0.0, metadata: "{\"privacy\":\"masked\"}", ..reading("m", "") };
    assert_eq!(
        firewall.judge(Reading { unit: "", ..reading("m", "{}") }),
        Verdict::Keep { outbound: Some(expected), local: None }
    );
    assert_eq!(firewall.judge(reading("d", text)), Verdict::Drop);
    assert_eq!(firewall.judge(reading("r", text)), Verdict::Drop);
    let expected = reading("l", text);
    assert_eq!(firewall.judge(reading("l", text)), Verdict::Keep { outbound: None, local: Some(expected) });
    for (sensor, action) in rules {
        assert_eq!(firewall.sensor_action(sensor), action);
    }
    let counters = firewall.counters();
    let counts = [&counters.dropped, &counters.local_only, &counters.masked, &counters.hashed];
    assert_eq!(counts.map(|count| count.load(Relaxed)), [2, 1, 2, 1]);
}

#[test]
fn each_field_list_does_what_it_says_at_every_depth() {
    let text = r#"{"id": "x", "n":[{"id":{"a" : 1}},[{"id":2.50}]],"k":true}"#;
    let pairs = [
        (Action::Redact, r#"{"n":[{},[{}]],"k":true}"#.to_owned()),
        (Action::LocalOnly, r#"{"n":[{},[{}]],"k":true}"#.to_owned()),
        (Action::Mask, r#"{"id":"***","n":[{"id":"***"},[{"id":"***"}]],"k":true}"#.to_owned()),
        (
            Action::Hash,
            format!(
                r#"{{"id":"{}","n":[{{"id":"{}"}},[{{"id":"{}"}}]],"k":true}}"#,
                hash("x"),
                hash("{\"a\" : 1}"),
                hash("2.50")
            ),
        ),
    ];
    for (action, expected) in pairs {
        assert_eq!(outbound(&[(action, "id")], text), Some(expected), "{action:?}");
    }
    assert_eq!(outbound(&[(Action::Drop, "id")], text), None);
}

/// The unit of both copies of a reading in `kg of Ann`; `None` where there is no such copy.
fn units(rules: &[(&str, Action)], fields: &[(Action, &str)]) -> (Option<String>, Option<String>) {
    let unit = |reading: Option<Reading<'_>>| reading.map(|reading| reading.unit.to_owned());
    match firewall(rules, fields).judge(Reading { unit: "kg of Ann", ..reading("s", "{}") }) {
        Verdict::Drop => (None, None),
        Verdict::Keep { outbound, local } => (unit(outbound), unit(local)),
    }
}

#[test]
fn a_field_list_that_names_the_unit_does_to_it_what_it_says() {
    let own = Some("kg of Ann".to_owned());
    let form = |action| match action {
        Action::Allow => own.clone(),
        Action::Hash => Some(hash("kg of Ann")),
        Action::Mask => Some("***".to_owned()),
        Action::LocalOnly | Action::Redact => Some(String::new()),
        Action::Drop => None,
    };
    for action in Action::ALL {
        let local = own.clone().filter(|_| action == Action::LocalOnly);
        for pattern in ["unit", "s:unit", "?:unit"] {
            assert_eq!(
                units(&[], &[(action, pattern)]),
                (form(action), local.clone()),
                "{action:?} {pattern}"
            );
        }
        for pattern in ["*:*", "t:unit", "uni?", "gps.unit", "s:*t"] {
            assert_eq!(units(&[], &[(action, pattern)]), (own.clone(), None), "{action:?} {pattern}");
        }
        // Of two the stricter rules what leaves.
        let (outbound, _) = units(&[], &[(action, "unit"), (Action::Mask, "s:unit")]);
        assert_eq!(outbound, form(action.max(Action::Mask)), "{action:?}");
        let no_unit = Reading { unit: "", ..reading("s", "{}") };
        let untouched = Verdict::Keep { outbound: Some(no_unit), local: None };
        assert_eq!(firewall(&[], &[(action, "unit")]).judge(no_unit), untouched, "{action:?}");
    }
}

#[test]
fn the_unit_of_a_masked_sensor_is_masked_and_that_of_a_local_one_stays() {
    let masked = Some("***".to_owned());
    assert_eq!(units(&[("s", Action::Mask)], &[]), (masked.clone(), None));
    assert_eq!(units(&[("s", Action::Mask)], &[(Action::Hash, "unit")]), (masked.clone(), None));
    assert_eq!(units(&[("s", Action::Mask)], &[(Action::Redact, "unit")]), (Some(String::new()), None));
    let local = [(Action::LocalOnly, "s"), (Action::LocalOnly, "unit")];
    assert_eq!(units(&[], &local), (None, Some("kg of Ann".to_owned())));
    assert_eq!(units(&[("s", Action::Mask)], &local), (None, masked));
    // Its name alone is hidden.
    assert_eq!(units(&[("s", Action::Hash)], &[]), (Some("kg of Ann".to_owned()), None));
}

#[test]
fn what_is_done_to_a_unit_is_counted_by_action_and_rule() {
    let mut firewall =
        firewall(&[], &[(Action::Mask, "a:unit"), (Action::Hash, "unit"), (Action::Drop, "b:unit")]);
    for sensor in ["a", "c", "c", "b"] {
        firewall.judge(reading(sensor, r#"{"unit":1}"#));
    }
    let mut filtered = Filtered::default();
    firewall.tell(&mut filtered);
    let expected = serde_json::json!({
        "readings": {"dropped": 1, "masked": 1, "hashed": 2},
        "rules": {"mask_fields[0]": 1, "hash_fields[0]": 2, "drop_fields[0]": 1},
    });
    assert_eq!(filtered.parts()[0].details(), expected);
}

#[test]
fn a_local_field_stays_in_the_local_copy_only() {
    let text = r#"{"gps":{"lat":1},"k":2}"#;
    let mut firewall = firewall(&[], &[(Action::LocalOnly, "gps"), (Action::Mask, "lat")]);
    let (outbound, local) = metadata(firewall.judge(reading("s", text)));
    assert_eq!(outbound.unwrap(), r#"{"k":2}"#);
    assert_eq!(local.unwrap(), r#"{"gps":{"lat":"***"},"k":2}"#);
    let counters = firewall.counters();
    assert_eq!(counters.local_only.load(Relaxed), 1);
}

#[test]
fn of_two_lists_on_a_key_the_stricter_rules_what_leaves_and_both_what_is_stored() {
    for a in Action::ALL {
        for b in Action::ALL {
            let mut firewall = firewall(&[], &[(a, "id"), (b, "i?")]);
            let (outbound, local) = metadata(firewall.judge(reading("s", r#"{"id":"x"}"#)));
            let form = |action| match action {
                Action::Allow => Some(r#"{"id":"x"}"#.to_owned()),
                Action::Hash => Some(format!(r#"{{"id":"{}"}}"#, hash("x"))),
                Action::Mask => Some(r#"{"id":"***"}"#.to_owned()),
                Action::LocalOnly | Action::Redact => Some("{}".to_owned()),
                Action::Drop => None,
            };
            assert_eq!(outbound, form(a.max(b)), "{a:?} and {b:?}");
            let expected = (a.max(b) == Action::LocalOnly).then(|| {
                let other = a.min(b);
                form(if other == Action::LocalOnly { Action::Allow } else { other }).unwrap()
            });
            assert_eq!(local, expected, "{a:?} and {b:?}");
        }
    }
}

#[test]
fn of_two_engines_on_a_sensor_the_stricter_decides() {
    for a in Action::ALL {
        for b in Action::ALL {
            let mut firewall = firewall(&[("cam", a)], &[(b, "c?m")]);
            assert_eq!(firewall.sensor_action("cam"), a.max(b));
            let (outbound, local) = match firewall.judge(reading("cam", "{}")) {
                Verdict::Drop => (None, None),
                Verdict::Keep { outbound, local } => (outbound, local),
            };
            assert_eq!(outbound.is_some(), a.max(b) < Action::LocalOnly, "{a:?} and {b:?}");
            assert_eq!(local.is_some(), a.max(b) == Action::LocalOnly, "{a:?} and {b:?}");
            // Of what is kept in either form, a mask hides the value and a hash hides the name.
            let Some(kept) = outbound.or(local) else { continue };
            let asked = |action| a == action || b == action;
            assert_eq!(kept.value == 0.0, asked(Action::Mask), "{a:?} and {b:?}");
            assert_eq!(kept.sensor_name != "cam", asked(Action::Hash), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn a_key_is_matched_as_it_reads_not_as_it_is_spelled() {
    for text in [
        r#"{"\u0067ps":1}"#,
        r#"{"\u0067\u0070\u0073":1}"#,
        r#"{"gps":1,"gps":2}"#,
        r#"{"a":0,"g\u0070s":1}"#,
    ] {
        let left = outbound(&[(Action::Redact, "gps")], text).unwrap();
        assert!(left == "{}" || left == r#"{"a":0}"#, "{left}");
    }
    let masked = outbound(&[(Action::Mask, "naïve😀")], r#"{"na\u00efve\ud83d\ude00":1}"#).unwrap();
    assert!(masked.ends_with(r#":"***"}"#), "{masked}");
    let escaped = outbound(&[(Action::Hash, "id")], r#"{"id":"\u0078"}"#);
    assert_eq!(escaped, outbound(&[(Action::Hash, "id")], r#"{"id":"x"}"#));
}

#[test]
fn a_key_is_named_by_those_it_stands_in() {
    let text =
        r#"{"gps":{"lat":1,"lon":2},"lat":3,"car":[{"gps":{"lat":4}},{"gps":[[{"lat":5}]]}],"gps.lat":6}"#;
    let left = r#"{"gps":{"lon":2},"lat":3,"car":[{"gps":{}},{"gps":[[{}]]}]}"#;
    assert_eq!(outbound(&[(Action::Redact, "gps.lat")], text).unwrap(), left);
    let escaped = r#"{"g\u0070s":{"l\u0061t":1},"a\u002elat":2}"#;
    assert_eq!(
        outbound(&[(Action::Redact, "gps.lat"), (Action::Redact, "a.lat")], escaped).unwrap(),
        r#"{"g\u0070s":{}}"#
    );
    // What is done to a key is done to all of it, and the stricter of two holds.
    let fields = [(Action::Mask, "gps"), (Action::Redact, "gps.lat")];
    assert_eq!(outbound(&fields, r#"{"gps":{"lat":1,"lon":2}}"#).unwrap(), r#"{"gps":"***"}"#);
    let fields = [(Action::Hash, "lat"), (Action::Redact, "gps.lat")];
    let expected = format!(r#"{{"gps":{{}},"lat":"{}"}}"#, hash("1"));
    assert_eq!(outbound(&fields, r#"{"gps":{"lat":1},"lat":1}"#).unwrap(), expected);
    assert_eq!(outbound(&[(Action::Mask, "gps"), (Action::Drop, "gps.lat")], r#"{"gps":[{"lat":1}]}"#), None);
    assert_eq!(outbound(&[(Action::Redact, "s:gps.lat")], r#"{"gps":{"lat":1}}"#).unwrap(), r#"{"gps":{}}"#);
}

#[test]
fn a_key_with_dots_does_not_change_what_is_known_of_keys_in_each_other() {
    let fields = [(Action::Redact, "b"), (Action::Redact, "x.*.c")];
    let texts = [
        r#"{"a.b":1}"#,
        r#"{"a":{"b":1}}"#,
        r#"{"x.y":{"c":1}}"#,
        r#"{"x":{"y.c":1}}"#,
        r#"{"x":{"y":{"c":1}}}"#,
    ];
    let lefts = [r#"{"a.b":1}"#, r#"{"a":{}}"#, r#"{"x.y":{}}"#, r#"{"x":{}}"#, r#"{"x":{"y":{}}}"#];
    let pairs: Vec<_> = texts.into_iter().zip(lefts).collect();
    for order in [pairs.clone(), pairs.into_iter().rev().collect()] {
        let mut firewall = firewall(&[], &fields);
        for (text, left) in order.into_iter().cycle().take(15) {
            let (outbound, _) = metadata(firewall.judge(reading("s", text)));
            assert_eq!(outbound.unwrap(), left);
        }
    }
}

#[test]
fn known_sensors_with_known_keys_are_held_against_no_pattern() {
    let fields = [(Action::Redact, "*name*"), (Action::Mask, "gps.l*"), (Action::LocalOnly, "door*:note")];
    let mut firewall = firewall(&[("cam*", Action::Mask)], &fields);
    let text = r#"{"name":"x","gps":{"lat":1,"lon":2},"note":"y","ok":1,"list":[{"ok":2},{"ok":3}]}"#;
    for sensor in ["cam1", "door", "t1"] {
        assert_ne!(firewall.judge(reading(sensor, text)), Verdict::Drop);
    }
    let walks = firewall.keys.walks();
    assert!(walks <= 2 * 8, "a set of rules and a path: {walks}");
    for turn in 0..1000 {
        let sensor = ["cam1", "door", "t1"][turn % 3];
        assert_ne!(firewall.judge(reading(sensor, text)), Verdict::Drop);
    }
    // Sensors with the same rules share what is known.
    assert_ne!(firewall.judge(reading("t2", text)), Verdict::Drop);
    assert_eq!(firewall.keys.walks(), walks);
}

#[test]
fn keys_that_are_made_up_take_time_and_no_memory() {
    let mut firewall = firewall(&[], &[(Action::Redact, "secret"), (Action::Redact, "in.secret")]);
    for turn in 0..5_000 {
        let long = "k".repeat(turn % 1500);
        let text = format!(r#"{{"{long}{turn}":1,"in":{{"{turn}":2,"secret":3}}}}"#);
        let (outbound, _) = metadata(firewall.judge(reading("s", &text)));
        assert!(!outbound.unwrap().contains("secret"));
        assert!(firewall.keys.bytes() <= SENSORS_MAX * KEY_BYTES_PER_SENSOR);
    }
}

#[test]
fn what_was_done_is_told_once_by_action_and_rule() {
    let fields = [(Action::Redact, "name"), (Action::Hash, "id"), (Action::Drop, "ssn")];
    let mut firewall = firewall(&[("cam", Action::Mask), ("secret", Action::Drop)], &fields);
    for (sensor, text) in [
        ("cam", r#"{"id":1}"#),
        ("secret", "{}"),
        ("t", r#"{"name":1,"a":[{"name":2},{"id":1}]}"#),
        ("t", r#"{"name":1,"ssn":2}"#),
        ("t", r#"{"ok":1}"#),
        ("t", "broken"),
    ] {
        firewall.judge(reading(sensor, text));
    }
    let mut filtered = Filtered::default();
    firewall.tell(&mut filtered);
    let expected = serde_json::json!({
        "readings": {"dropped": 3, "redacted": 1, "masked": 1, "hashed": 1},
        "rules": {"rules[0]": 1, "rules[1]": 1, "redact_fields[0]": 1, "hash_fields[0]": 1, "drop_fields[0]": 1},
    });
    assert_eq!(filtered.parts()[0].details(), expected);
    let mut again = Filtered::default();
    firewall.tell(&mut again);
    assert!(again.is_empty());
}

#[test]
fn a_key_inside_of_what_is_hidden_still_drops_the_reading() {
    for action in [Action::Redact, Action::Mask, Action::Hash, Action::LocalOnly] {
        let fields = [(action, "outer"), (Action::Drop, "secret")];
        assert_eq!(outbound(&fields, r#"{"outer":[{"secret":1}]}"#), None);
        assert_eq!(
            metadata(firewall(&[("s", Action::Mask)], &fields).judge(reading("s", r#"{"x":{"secret":1}}"#))),
            (None, None)
        );
    }
}

#[test]
fn metadata_that_cannot_be_read_drops_the_reading() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let texts =
        ["", "x", "[]", "[{\"gps\":1}]", "null", "{", "{}x", "{\"a\":}", "{a:1}", "{\"a\":1,}", "\"gps\""];
    for text in texts.into_iter().chain([r#"{"\ud800":1}"#, "{\"a\u{1}\":1}", r#"{"gps":"\ud800"}"#, &deep]) {
        let mut firewall = firewall(&[], &[(Action::Hash, "gps"), (Action::LocalOnly, "g*")]);
        assert_eq!(firewall.judge(reading("s", text)), Verdict::Drop, "{text}");
        assert_eq!(firewall.counters().dropped.load(Relaxed), 1);
    }
}

#[test]
fn a_mark_that_comes_in_does_not_pass_for_ours() {
    let mut firewall = firewall(&[("s", Action::Mask)], &[]);
    let (outbound, _) = metadata(firewall.judge(reading("s", r#"{"privacy":"none","a":{"b":1}}"#)));
    assert_eq!(outbound.unwrap(), r#"{"a":"***","privacy":"masked"}"#);
}

#[test]
fn more_sensors_than_are_kept_are_judged_all_the_same() {
    let mut firewall = firewall(&[("s*7", Action::Drop), ("s*8", Action::Hash)], &[]);
    for number in 0..2 * SENSORS_MAX + 10 {
        let name = format!("s{number}");
        let verdict = firewall.judge(reading(&name, "{}"));
        match number % 10 {
            7 => assert_eq!(verdict, Verdict::Drop),
            8 => assert!(
                matches!(verdict, Verdict::Keep { outbound: Some(r), .. } if r.sensor_name == hash(&name))
            ),
            _ => assert_eq!(verdict, Verdict::Keep { outbound: Some(reading(&name, "{}")), local: None }),
        }
    }
    assert!(firewall.known.len() <= SENSORS_MAX);
}

#[test]
fn a_reload_takes_effect_for_sensors_that_are_known() {
    let mut firewall = firewall(&[], &[(Action::Drop, "nothing")]);
    assert_ne!(firewall.judge(reading("s", "{}")), Verdict::Drop);
    firewall.reload(&settings(&[("s", Action::Drop)], &[]), HashKey::new(&[1; 32]));
    assert_eq!(firewall.judge(reading("s", "{}")), Verdict::Drop);
    assert_eq!(firewall.counters().dropped.load(Relaxed), 1);
}

/// Readings with personal data in every place a source can put it.
#[test]
fn no_personal_data_of_the_corpus_leaves_the_device() {
    let rules = [
        ("patient-*", Action::Hash),
        ("camera", Action::Drop),
        ("badge", Action::LocalOnly),
        ("scale", Action::Mask),
    ];
    let fields = [
        (Action::Redact, "*name*"),
        (Action::Mask, "gps"),
        (Action::Hash, "email"),
        (Action::LocalOnly, "room"),
        (Action::Drop, "ssn"),
        (Action::Redact, "door:note"),
    ];
    let corpus = [
        ("patient-jane", r#"{"ok":1}"#),
        ("camera", r#"{"face":"jane"}"#),
        ("badge", r#"{"holder":"jane"}"#),
        ("scale", r#"{"who":"jane","deep":[{"who":"jane"}]}"#),
        ("t1", r#"{"name":"jane","first_name":"jane","names":["jane",{"x":"jane"}]}"#),
        ("t1", r#"{"a":[[{"b":{"gps":[52.5123,"jane"]}}]],"gps":{"lat":52.5123}}"#),
        ("t1", r#"{"\u0067\u0070\u0073":"jane","\u006eame":"jane","e\u006dail":"jane@example.org"}"#),
        ("t1", r#"{"email":"jane@example.org","l":[{"email":"jane@example.org"}]}"#),
        ("t1", r#"{"room":"jane's","a":{"room":{"of":"jane"}}}"#),
        ("t1", r#"{"a":[{"ssn":1}],"b":"jane"}"#),
        ("door", r#"{"note":"jane rang","n":[{"note":"jane"}]}"#),
        ("t1", r#"{"name" : "jane" , "name":"jane"}"#),
        ("t1", "{\n\t\"gps\"\n:\t\"jane\"\n}"),
    ];
    let mut firewall = firewall(&rules, &fields);
    for (sensor, text) in corpus {
        let Verdict::Keep { outbound: Some(sent), .. } = firewall.judge(reading(sensor, text)) else {
            continue;
        };
        let bytes = format!("{sent:?} {}", serde_json::from_str::<Value>(sent.metadata).unwrap());
        for personal in ["jane", "52.5123", "example.org"] {
            assert!(!bytes.contains(personal), "{sensor} {text}: {bytes}");
        }
        if sensor == "scale" {
            assert!(!bytes.contains("21.5"));
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-cé\\\\\"\n]{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            any_object(inner).boxed(),
        ]
    })
}

fn any_object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[abé\"]{1,2}", inner, 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn any_action() -> impl Strategy<Value = Action> {
    proptest::sample::select(&Action::ALL[..])
}

/// What the field engine makes of `value`, by the definition; `None` drops the reading.
fn model(value: &Value, fields: &[(Action, String)], destination: Destination) -> Option<Value> {
    model_in(value, fields, destination, &[])
}

fn model_in(
    value: &Value,
    fields: &[(Action, String)],
    destination: Destination,
    outer: &[&str],
) -> Option<Value> {
    let strictest = |key: &str| {
        let path = [outer, &[key]].concat();
        let ends = (0..path.len()).map(|from| path[from..].join(".")).collect::<Vec<_>>();
        let is_met = |pattern: &str| {
            let matches = |text: &str| super::super::pattern::matches(pattern, text);
            matches(key) || pattern.contains('.') && ends.iter().any(|end| matches(end))
        };
        let matching = fields.iter().filter(|(_, pattern)| is_met(pattern));
        let actions = matching.map(|(action, _)| *action);
        let local = |action: &Action| destination == Destination::Outbound || *action != Action::LocalOnly;
        actions.filter(local).max().unwrap_or(Action::Allow)
    };
    Some(match value {
        Value::Array(items) => Value::Array(
            items.iter().map(|item| model_in(item, fields, destination, outer)).collect::<Option<_>>()?,
        ),
        Value::Object(members) => {
            let mut kept = serde_json::Map::new();
            for (key, value) in members {
                let inner = model_in(value, fields, destination, &[outer, &[key.as_str()]].concat())?;
                let value = match strictest(key) {
                    Action::Allow => inner,
                    Action::Hash => hash(value.as_str().unwrap_or(&value.to_string())).into(),
                    Action::Mask => "***".into(),
                    Action::LocalOnly | Action::Redact => continue,
                    Action::Drop => return None,
                };
                kept.insert(key.clone(), value);
            }
            Value::Object(kept)
        }
        other => other.clone(),
    })
}

/// Every character of every string as an escape.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                inside = !inside;
                out.push('"');
            }
            '\\' => {
                out.push('\\');
                out.extend(chars.next());
            }
            other if inside => out.push_str(&format!("\\u{:04X}", u32::from(other))),
            other => out.push(other),
        }
    }
    out
}

proptest! {
    #[test]
    fn nothing_under_a_protected_key_leaves(
        value in any_object(any_json()),
        fields in proptest::collection::vec((any_action(), "[abé*?\"]{1,2}(\\.[ab*?]{1,2})?"), 0..5),
    ) {
        // The sensor's name is out of reach of these patterns, so only keys count.
        let borrowed: Vec<_> = fields.iter().map(|(action, text)| (*action, text.as_str())).collect();
        let fields: Vec<_> = fields.iter().filter(|(action, _)| *action != Action::Allow).cloned().collect();
        let stars = fields.iter().any(|(_, text)| super::super::pattern::matches(text, "sensor"));
        prop_assume!(!stars);
        let mut firewall = firewall(&[], &borrowed);
        let original = value.to_string();
        for text in [escaped(&original), original.clone()] {
            let (outbound, local) = metadata(firewall.judge(reading("sensor", &text)));
            let expected = model(&value, &fields, Destination::Outbound);
            if text == original {
                let stored = model(&value, &fields, Destination::Local).filter(|_| expected.is_some());
                let written = expected.as_ref().map(Value::to_string);
                prop_assert_eq!(local, stored.map(|stored| stored.to_string()).filter(|text| Some(text) != written.as_ref()));
                prop_assert_eq!(outbound, written);
            } else {
                // Hashes of objects depend on their spelling, so only the keys are compared.
                let read = outbound.map(|text| serde_json::from_str::<Value>(&text).unwrap());
                prop_assert_eq!(read.map(keys), expected.map(keys));
            }
        }
    }
}

fn keys(value: Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            members.into_iter().flat_map(|(key, value)| [vec![key], keys(value)].concat()).collect()
        }
        Value::Array(items) => items.into_iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}
