//! The service's journal, of which each line is reduced to what may be handed on: the fixed text of our own messages
//! and the fields of a list; whatever does not look like that is left out, with its length.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::doctor::facts::output;

/// The newest lines of `unit`, as journalctl has them; `None` when there is no journal, or this user may not read it.
/// Takes at most [`LIMIT`].
pub async fn read(unit: &str) -> Option<String> {
    let fields = "--output-fields=MESSAGE,PRIORITY,_PID,_TRANSPORT";
    let words = ["-u", unit, "-n", LINES_MAX, "-o", "json", fields, "--no-pager", "--quiet"];
    let arguments: Vec<OsString> = words.iter().map(Into::into).collect();
    let text = output("journalctl", &arguments, LIMIT).await?;
    (!text.trim().is_empty()).then_some(text)
}

/// What journalctl printed with `-o json`, reduced, one line each.
pub fn reduced(json_lines: &str) -> String {
    let mut out = String::new();
    // Process and second of a panic, whose message may quote anything and takes the next lines.
    let mut panicked = None;
    for line in json_lines.lines() {
        if out.len() >= BYTES_MAX {
            out.push_str("... cut off\n");
            break;
        }
        let Ok(Value::Object(entry)) = serde_json::from_str(line) else { continue };
        let entry = Entry::new(&entry);
        let moment = (entry.pid.clone(), entry.micros / 1_000_000);
        if entry.message.contains("panicked at") {
            panicked = Some(moment.clone());
        }
        out.push_str(&entry.reduced(panicked == Some(moment)));
        out.push('\n');
    }
    out
}

struct Entry {
    /// Unix time.
    micros: i128,
    priority: String,
    pid: String,
    message: String,
    /// Written to standard error as it is, and not handed to the journal by the agent.
    is_raw: bool,
}

impl Entry {
    fn new(entry: &Map<String, Value>) -> Self {
        // What is not UTF-8 comes as a list of numbers, and is left out.
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| text(key).chars().filter(char::is_ascii_digit).collect::<String>();
        Self {
            micros: text("__REALTIME_TIMESTAMP").parse().unwrap_or(0),
            priority: number("PRIORITY"),
            pid: number("_PID"),
            message: text("MESSAGE").to_owned(),
            is_raw: text("_TRANSPORT") != "journal",
        }
    }

    fn reduced(&self, is_of_panic: bool) -> String {
        let time = OffsetDateTime::from_unix_timestamp_nanos(self.micros.saturating_mul(1000)).ok();
        let time = time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
        let message = match &self.message {
            // What systemd says of the unit.
            message if self.pid == "1" => message.clone(),
            message if is_of_panic => left_out(message),
            message => self.reduced_message(message),
        };
        format!("{time} <{}> [{}] {message}", self.priority, self.pid)
    }

    /// One of our own messages: text that is fixed in the program, and fields; as text or as JSON.
    fn reduced_message(&self, message: &str) -> String {
        let parsed = match serde_json::from_str::<Value>(message) {
            Ok(Value::Object(line)) => of_json(&line),
            _ => of_text(message),
        };
        let Some((text, fields)) = parsed else { return left_out(message) };
        if self.is_raw && !looks_fixed(&text) {
            return left_out(message);
        }
        let tells_why = TELLS_WHY.iter().any(|start| text.contains(start));
        let fields = fields.iter().map(|(name, value)| {
            let is_shown = is_plain(value) && NUMBERS.contains(&name.as_str())
                || WORDS.contains(&name.as_str()) && looks_fixed(value)
                || tells_why && matches!(name.as_str(), "error" | "reason");
            if is_shown { format!(" {name}={value}") } else { format!(" {name}={}", left_out(value)) }
        });
        text.clone() + &fields.collect::<String>()
    }
}

type Parsed = (String, Vec<(String, String)>);

fn of_json(line: &Map<String, Value>) -> Option<Parsed> {
    let spans = line.get("spans").and_then(Value::as_array).into_iter().flatten();
    let spans = spans.filter_map(Value::as_object).flatten();
    let fields = line.get("fields").and_then(Value::as_object).into_iter().flatten();
    let fields = spans
        .chain(fields)
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    Some((line.get("message")?.as_str()?.to_owned(), fields.collect()))
}

/// Words, and fields as `name=value` and `name="value"` among them.
fn of_text(message: &str) -> Option<Parsed> {
    let (mut text, mut fields) = (Vec::new(), Vec::new());
    let mut rest = message.trim();
    while !rest.is_empty() {
        let word_end = rest.find(' ').unwrap_or(rest.len());
        let word = &rest[..word_end];
        match word.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, value)) if value.starts_with('"') => {
                let quoted = &rest[name.len() + 2..];
                let end = end_of_quote(quoted)?;
                fields.push((name.to_owned(), quoted[..end].to_owned()));
                rest = quoted[end + 1..].trim_start_matches([':', ' ']);
                continue;
            }
            Some((name, value)) => fields.push((name.to_owned(), value.trim_end_matches(':').to_owned())),
            None => text.push(word),
        }
        rest = rest[word_end..].trim_start();
    }
    Some((text.join(" "), fields))
}

fn end_of_quote(quoted: &str) -> Option<usize> {
    let mut is_escaped = false;
    quoted.bytes().position(|byte| match (is_escaped, byte) {
        (false, b'"') => true,
        (false, b'\\') => {
            is_escaped = true;
            false
        }
        _ => {
            is_escaped = false;
            false
        }
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.'))
}

/// Messages of the program are words: no digits, no paths, no quotes.
fn looks_fixed(text: &str) -> bool {
    let is_of_words = |c: char| c.is_ascii_alphabetic() || " ,;:'()-._".contains(c);
    !text.is_empty() && text.chars().all(is_of_words)
}

fn is_plain(value: &str) -> bool {
    matches!(value, "true" | "false")
        || value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
}

fn left_out(text: &str) -> String {
    format!("<{} bytes>", text.len())
}

/// Fields that are shown when they are numbers, or true or false.
const NUMBERS: &[&str] = &[
    "amplification",
    "attempts",
    "attempts_failed",
    "blocks_lost",
    "bytes",
    "bytes_freed",
    "cloud_changed",
    "connections",
    "connections_max",
    "count",
    "day",
    "days",
    "duration_seconds",
    "errors",
    "failed_attempts",
    "failures",
    "gb_per_year",
    "hours",
    "is_uncertain",
    "items",
    "items_lost",
    "items_queued",
    "jump_seconds",
    "lane",
    "lasted_seconds",
    "last_seen",
    "lines",
    "port",
    "privacy_changed",
    "readings",
    "rules_changed",
    "seconds",
    "sensors_max",
    "session_kept",
    "sources_started",
    "sources_stopped",
    "stuck_for_seconds",
    "windows_changed",
];
/// Fields that are words of the program.
const WORDS: &[&str] = &["class", "kind", "stage", "stages", "state", "task", "tasks", "trouble"];
/// Messages whose `error` and `reason` are about the disk or the way to a peer. Others may quote what a device sent.
const TELLS_WHY: &[&str] = &[
    "delivery",
    "endpoint",
    "no connection to the broker",
    "health server",
    "the store",
    "the disk",
    "database",
    "the black box",
    "the run before this one",
];
/// Enough for some days of an agent in trouble.
const LINES_MAX: &str = "2000";
const BYTES_MAX: usize = 2 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(5);
