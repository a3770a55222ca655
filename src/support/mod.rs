//! The support bundle: what somebody needs who helps from afar, in one archive that may be handed on.
//!
//! Nothing of it is left out by name. What goes in is either made of words of ours, or shown because a list says so:
//! of the configuration the values of keys that can hold nothing private ([`redact`]), of log lines the fixed text
//! and such fields ([`journal`]). What the configuration keeps private is then taken out of all texts as well
//! ([`scrub`]).

pub mod journal;
pub mod redact;
pub mod scrub;
pub mod tar;
mod words;

#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Value, json};

use self::scrub::Scrub;
use crate::config::{LoadError, Written};
use crate::doctor::root::Root;
use crate::doctor::status::Status;
use crate::doctor::{Report, board, render};
use crate::store::stats::Stats;

/// A file of the archive.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    /// What it is, for the list of contents.
    pub what: &'static str,
    pub text: String,
}

/// What a bundle is made of, as it was gathered: nothing is taken out of it yet.
pub struct Material<'m> {
    pub report: Report,
    /// The service's user; any other is a person.
    pub service_user: &'m str,
    /// Why the configuration does not load.
    pub refusal: Option<&'m LoadError>,
    /// Its files.
    pub files: Vec<Written>,
    pub status: Option<Status>,
    pub stats: Option<&'m Stats>,
    /// As a table.
    pub black_box: Option<String>,
    /// As journalctl prints it with `-o json`.
    pub journal: Option<String>,
    /// Of the machine.
    pub versions: Value,
}

/// The parts of the archive; what is missing is not among them.
pub fn parts(material: Material<'_>) -> Vec<Part> {
    let mut hidden = Vec::new();
    let files: Vec<Value> = material.files.iter().map(|file| redacted_file(file, &mut hidden)).collect();
    // Where a link leads to is as private as the link.
    let targets = hidden
        .iter()
        .filter(|word| word.starts_with('/'))
        .filter_map(|path| std::fs::canonicalize(path).ok());
    let targets: Vec<_> = targets.filter_map(|path| path.into_os_string().into_string().ok()).collect();
    hidden.extend(targets);
    if let Some(status) = &material.status {
        let sources = status.sources.iter();
        hidden.extend(sources.filter(|source| source.name != source.kind).map(|source| source.name.clone()));
    }
    let scrub = Scrub::new(hidden);
    let report = shareable(material.report, material.service_user, material.refusal);
    let pretty = |value: Value| serde_json::to_string_pretty(&scrub.json(value)).unwrap_or_default() + "\n";
    let text = |text: &str| scrub.text(text);
    let mut parts = vec![
        Part {
            name: "versions.json",
            what: "versions of the agent and the system",
            text: pretty(material.versions),
        },
        Part { name: "doctor.txt", what: "what the doctor found", text: text(&render::text(&report, false)) },
        Part { name: "doctor.json", what: "the same for programs", text: pretty(value(&report)) },
        Part {
            name: "config.json",
            what: "the configuration: keys, and the values of those that can hold nothing private",
            // The places of its values are shown, so nothing is taken out of it again.
            text: serde_json::to_string_pretty(&files).unwrap_or_default() + "\n",
        },
    ];
    let status = material.status.map(|status| ("status.json", "how the agent is", pretty(value(&status))));
    let stats = material.stats.map(|stats| ("store.json", "the store in numbers", pretty(value(stats))));
    let black_box =
        material.black_box.map(|table| ("blackbox.txt", "what happened to the agent", text(&table)));
    let journal = material.journal.map(|lines| {
        ("journal.txt", "the newest of its journal: fixed texts and numbers", text(&journal::reduced(&lines)))
    });
    let more = [status, stats, black_box, journal];
    parts.extend(more.into_iter().flatten().map(|(name, what, text)| Part { name, what, text }));
    parts
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

fn redacted_file(file: &Written, hidden: &mut Vec<String>) -> Value {
    let tree = file.tree.as_ref().map(|tree| redact::redacted(tree, hidden));
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    if OUR_FILES.contains(&name.as_ref()) {
        return json!({"file": name, "content": tree});
    }
    // Names of drop-ins are somebody's own.
    let stem = file.path.file_stem().unwrap_or_default();
    hidden.push(stem.to_string_lossy().into_owned());
    json!({"file": format!("<name, {} bytes>", name.len()), "content": tree})
}

/// Their names say nothing.
const OUR_FILES: [&str; 2] = ["config.toml", "edge_config.toml"];

/// Without the name of the person who asked, and without what stands in the configuration.
fn shareable(mut report: Report, service_user: &str, refusal: Option<&LoadError>) -> Report {
    if report.user != "root" && report.user != service_user {
        report.user = "another user".to_owned();
    }
    let found = report.checks.iter_mut().find(|check| check.name == "configuration");
    if let (Some(check), Some(refusal)) = (found, refusal) {
        check.found = match refusal {
            LoadError::Invalid(refused) => {
                let places: Vec<_> = refused.lines.iter().filter_map(|line| place(line)).collect();
                format!("{} problems, at {}", refused.count, places.join(", "))
            }
            LoadError::NotFound { .. } => "there is no configuration file".to_owned(),
            LoadError::Unreadable { error, .. } => format!("its file {error}"),
        };
    }
    report
}

/// Line and column at the start of a line about a problem.
fn place(line: &str) -> Option<String> {
    let mut parts = line.split(':').skip(1);
    let (line, column) = (parts.next()?, parts.next()?);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(line) && is_number(column)).then(|| format!("{line}:{column}"))
}

/// What runs here, by files below `root`; `systemd` is the first line of `systemctl --version`.
pub fn versions(root: &Root, systemd: Option<&str>) -> Value {
    let release = root.text("/etc/os-release").unwrap_or_default();
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let uptime = root.line("/proc/uptime").and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    json!({
        "agent": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "static": cfg!(target_env = "musl"),
        "sqlite": rusqlite::version(),
        "board": board::model(root),
        "system": system.map(|name| name.trim_matches('"')),
        "kernel": root.line("/proc/sys/kernel/osrelease"),
        "systemd": systemd,
        "uptime_seconds": uptime,
    })
}
