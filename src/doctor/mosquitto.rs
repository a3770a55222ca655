//! A mosquitto on this device, and the limits at which it drops messages in silence.

use super::Check;
use super::facts::Facts;
use super::root::{Root, Seen};

pub fn limits(facts: &Facts) -> Check {
    const NAME: &str = "mosquitto";
    let hosts = ["localhost", "127.0.0.1", "::1"];
    if !facts.mqtt().any(|source| hosts.contains(&source.broker().0)) {
        return Check::not_applicable(NAME, "no broker on this device is configured");
    }
    let text = match configuration(&facts.root) {
        Seen::Found(text) => text,
        Seen::Absent => {
            return Check::not_applicable(
                NAME,
                format!("{MAIN} is not there; the broker may be another, with limits of its own"),
            );
        }
        Seen::Hidden => {
            return Check::unknown(NAME, "this user may not read its configuration").mend("run it as root");
        }
    };
    let missing = missing(&text);
    if missing.is_empty() {
        return Check::ok(NAME, "it holds back what the agent has not taken yet");
    }
    let lines: Vec<_> = missing.iter().map(|line| format!("{line}\\n")).collect();
    let names: Vec<_> = missing.iter().filter_map(|line| line.split(' ').next()).collect();
    Check::warning(NAME, format!("too small or not set: {}", names.join(", ")))
        .means("in a burst, or while the agent is stopped, it drops messages in silence, QoS 1 included")
        .mend(format!(
            "printf '{}' | sudo tee {FOLDER}/pyvorin-edge.conf && sudo systemctl restart mosquitto",
            lines.concat()
        ))
}

/// The lines that are wanted beside what `text` says.
fn missing(text: &str) -> Vec<&'static str> {
    let value = |key: &str| {
        let lines = text.lines().rev();
        lines
            .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix([' ', '\t']))
            .next()
            .map(str::trim)
    };
    // 0 is no limit.
    let holds = |key, least: u32| {
        value(key)
            .and_then(|value| value.parse::<u32>().ok())
            .is_some_and(|value| value == 0 || value >= least)
    };
    let mut missing = Vec::new();
    if !holds("max_inflight_messages", INFLIGHT_MIN) {
        missing.push("max_inflight_messages 0");
    }
    if !holds("max_queued_messages", QUEUED_MIN) {
        missing.push("max_queued_messages 100000");
    }
    if value("persistence") != Some("true") {
        missing.push("persistence true");
    }
    missing
}

/// The main file and what it includes.
fn configuration(root: &Root) -> Seen<String> {
    let mut text = match root.read(MAIN) {
        Seen::Found(text) => text,
        other => return other,
    };
    let folder = text.lines().filter_map(|line| line.trim().strip_prefix("include_dir ")).next_back();
    let folder = folder.map_or_else(|| FOLDER.to_owned(), |folder| folder.trim().to_owned());
    match root.list(&folder) {
        Seen::Hidden => return Seen::Hidden,
        Seen::Absent => {}
        Seen::Found(names) => {
            for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
                match root.read(format!("{folder}/{name}")) {
                    Seen::Found(more) => text.push_str(&format!("\n{more}")),
                    Seen::Hidden => return Seen::Hidden,
                    Seen::Absent => {}
                }
            }
        }
    }
    Seen::Found(text)
}

const MAIN: &str = "/etc/mosquitto/mosquitto.conf";
const FOLDER: &str = "/etc/mosquitto/conf.d";
const INFLIGHT_MIN: u32 = 100;
/// Its default is 1,000.
const QUEUED_MIN: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_asked_for() {
        assert_eq!(missing("").len(), 3);
        assert_eq!(
            missing("max_inflight_messages 0\nmax_queued_messages 100000\npersistence true\n").len(),
            0
        );
        let small =
            "max_inflight_messages 0\npersistence true\n#max_queued_messages 0\nmax_queued_messages 1000\n";
        assert_eq!(missing(small), ["max_queued_messages 100000"]);
        assert_eq!(
            missing("max_queued_messages 0\nmax_inflight_messages 0\npersistence false\n"),
            ["persistence true"]
        );
    }
}
