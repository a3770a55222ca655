use std::path::Path;

use super::journal::reduced;
use super::redact::redacted;
use super::scrub::Scrub;
use super::words::{KEYS, shown};
use crate::config::toml_file;
use crate::config::tree::{Node, Value as Found};

fn tree(text: &str) -> Node {
    toml_file::parse("config.toml".into(), text).unwrap()
}

/// Every key of a tree with its path, and whether it is a number; those of a list are alike.
fn keys(node: &Node, path: &str, found: &mut Vec<(String, String, bool)>) {
    match &node.value {
        Found::Table(table) => {
            for (key, entry) in table {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let is_number = matches!(entry.node.value, Found::Integer(_) | Found::Float(_));
                found.push((key.clone(), below.clone(), is_number));
                keys(&entry.node, &below, found);
            }
        }
        Found::List(items) => items.iter().for_each(|item| keys(item, path, found)),
        _ => {}
    }
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/edge_config.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_key_of_the_example_is_known_and_every_number_of_it_is_shown() {
    // With what is commented out there: keys without a default.
    let example = example();
    let uncommented = example.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest.to_owned(),
        _ => line.to_owned(),
    });
    let text = uncommented.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    keys(&tree(&text), "", &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for (key, path, _) in &found {
        let is_own = path.contains(".environment.") || path.contains(".headers.");
        assert!(is_own || KEYS.contains(&key.as_str()), "{path} is missing in KEYS");
    }
    let units = ["_seconds", "_mb", "_bytes", "_max", "_min", "_share", "_size"];
    let numbers = found.iter().filter(|(key, _, is)| *is && units.iter().any(|unit| key.ends_with(unit)));
    for (_, path, _) in numbers {
        assert!(shown(path).is_some(), "the value of {path} tells nothing private");
    }
}

#[test]
fn of_the_configuration_only_what_a_list_names_is_shown() {
    let mut hidden = Vec::new();
    let text = "[cloud]\nenabled = true\nbatch_size = 500\napi_key = 'k-4711'\ncompression = 'zstd'\n\
                endpoint = 'https://api.example.com:8443/hooks/T0123?key=k-4712'\nproxy = 'http://anna:geheim@proxy.local:3128'\n\
                [logging]\nlevel = 'hunter2'\n[[sensors.devices]]\nname = 'anna_bedroom'\ningest_type = 'exec'\n\
                sensor_type = 'pulse'\nenvironment = { ANNA = 'x4713' }\n[rules.anna_fever]\nseverity = 'critical'\n";
    let shown = redacted(&tree(text), &mut hidden);
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap());
    for word in [
        "k-4711",
        "hooks/T0123",
        "k-4712",
        "anna",
        "geheim",
        "proxy.local",
        "hunter2",
        "anna_bedroom",
        "pulse",
        "ANNA",
        "x4713",
        "anna_fever",
    ] {
        assert!(hidden.iter().any(|hidden| hidden == word), "{word} is not hidden: {hidden:?}");
    }
}

#[test]
fn hidden_words_are_taken_out_wherever_they_stand() {
    let hidden = ["anna_bedroom", "anna", "C", "pa\"ss", "abc", ""].map(str::to_owned).to_vec();
    let scrub = Scrub::new(hidden);
    for (text, expected) in [
        ("source anna_bedroom failed: anna", "source *** failed: ***"),
        ("3 C, abcd and abc.", "3 C, abcd and ***."),
        (r#"{"p": "pa\"ss"}"#, r#"{"p": "***"}"#),
        ("read /home/otto/edge.toml and /home/", "read /home/***/edge.toml and /home/"),
    ] {
        assert_eq!(scrub.text(text), expected);
    }
    let value = serde_json::json!({"anna": ["anna", 1, {"k": "no anna"}]});
    assert_eq!(scrub.json(value).to_string(), r#"{"anna":["***",1,{"k":"no ***"}]}"#);
}

#[test]
fn a_line_of_the_journal_keeps_its_fixed_text_and_its_numbers() {
    let entry = |transport: &str, pid: &str, message: &str| {
        serde_json::json!({"__REALTIME_TIMESTAMP": "1717156800000000", "PRIORITY": "6", "_PID": pid,
            "_TRANSPORT": transport, "MESSAGE": message})
        .to_string()
    };
    let lines = [
        entry("journal", "1", "Started pyvorin-edge.service - Pyvorin Edge Agent."),
        entry(
            "stdout",
            "412",
            "source kind=mqtt name=anna: mqtt: connected broker=anna.local port=1883 session_kept=true failed_attempts=3",
        ),
        entry("stdout", "412", r#"exec: the program says source=anna line="anna \"said\" x=1""#),
        entry(
            "stdout",
            "412",
            r#"mqtt: no connection to the broker; trying again broker=x error="Connection refused (os error 111)""#,
        ),
        entry(
            "stdout",
            "412",
            "rule cannot judge a reading; its other readings and other rules go on rule=anna class=ValueError column=4 reason=\"anna is no number\"",
        ),
        entry(
            "stdout",
            "412",
            r#"{"level":"INFO","target":"x","message":"the health server listens","fields":{"address":"127.0.0.1:8080","attempts_failed":0},"spans":[{"name":"a","kind":"mqtt"}]}"#,
        ),
        entry("stdout", "412", "/etc/pyvorin-edge/config.toml:3:1: anna: is not a known key"),
        entry("stdout", "412", r#"unterminated x="anna"#),
        entry("stdout", "413", "thread 'main' panicked at src/x.rs:1:2:"),
        entry("stdout", "413", "anna has a fever"),
        "not json".to_owned(),
        r#"{"MESSAGE": [1, 2], "__REALTIME_TIMESTAMP": "99999999999999999999999999999999999999999"}"#
            .to_owned(),
    ];
    let text = reduced(&lines.join("\n"));
    assert!(!text.contains("anna"), "{text}");
    insta::assert_snapshot!(text);
}
