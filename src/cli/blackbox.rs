//! `blackbox`: prints what the black box holds, of an agent that runs or not, or of a copied file.

use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::store::table;
use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK};
use crate::config::{LoadOptions, load};
use crate::lifecycle::blackbox::{self, FILE_NAME, Record, What};
use crate::lifecycle::lock::StateLock;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file, or a copy of it [default: that of the configuration's state directory]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The state directory, where the configuration is not at hand
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    state_dir: Option<PathBuf>,
    /// Print JSON, one line each
    #[arg(long)]
    json: bool,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Print nothing, and note how the agent ended, for ExecStopPost= of its unit
    #[arg(long, conflicts_with_all = ["file", "json", "last"])]
    note_end: bool,
}

/// Prints the records, the newest last; returns the exit code.
pub fn run(config: Option<PathBuf>, arguments: Arguments) -> u8 {
    let notes_end = arguments.note_end;
    // What ended well costs nothing.
    if notes_end && matches!(variable("SERVICE_RESULT").as_str(), "" | "success" | "exit-code") {
        return EXIT_OK;
    }
    let path = match (arguments.file, arguments.state_dir) {
        (Some(file), _) => file,
        (None, Some(dir)) => dir.join(FILE_NAME),
        (None, None) => match load(&LoadOptions::of_process(config)) {
            Ok(loaded) => loaded.config.store.state_dir.join(FILE_NAME),
            Err(error) => {
                eprintln!("{error}");
                return EXIT_CONFIG;
            }
        },
    };
    if notes_end {
        return note_end(&path);
    }
    let records = match blackbox::read(&path) {
        Ok(records) => records,
        Err(error) => {
            eprintln!("pyv-edge-agent: cannot read the black box {}: {error}", path.display());
            return EXIT_FAILED;
        }
    };
    let newest = &records[records.len().saturating_sub(arguments.last.unwrap_or(usize::MAX))..];
    print!("{}", if arguments.json { json(newest) } else { text(newest) });
    EXIT_OK
}

/// What systemd says of the end to `ExecStopPost=` (systemd.exec(5)).
fn note_end(path: &Path) -> u8 {
    let state_dir = path.parent().unwrap_or(Path::new("."));
    // Another agent may have taken the directory: then this end is no news.
    let Ok(_lock) = StateLock::take(state_dir) else { return EXIT_OK };
    let status = variable("EXIT_STATUS");
    match blackbox::note_killed(state_dir, &variable("SERVICE_RESULT"), &status) {
        Ok(_) => EXIT_OK,
        Err(error) => {
            eprintln!("pyv-edge-agent: the end cannot be noted in {}: {error}", path.display());
            EXIT_FAILED
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A table for people.
pub(super) fn text(records: &[Record]) -> String {
    let rows: Vec<_> = records
        .iter()
        .map(|record| {
            let boot = record.boot_id.to_string();
            [
                record.sequence.to_string(),
                wall(record),
                boot[..8].to_owned(),
                format!("{:.1}", record.since_boot_ms as f64 / 1000.0),
                record.what.to_string(),
                record.detail.clone(),
            ]
        })
        .collect();
    let mut out = table::format(["no", "time (UTC)", "boot", "s since boot", "what", "detail"], &rows);
    if records.iter().any(|record| !record.synchronised) {
        out.push_str("? the clock was not synchronised then\n");
    }
    out
}

fn wall(record: &Record) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let time = OffsetDateTime::from_unix_timestamp(record.unix_ms.div_euclid(1000)).ok();
    let text = time.and_then(|time| time.format(format).ok()).unwrap_or_else(|| "-".to_owned());
    if record.synchronised { text } else { format!("{text} ?") }
}

#[derive(Serialize)]
struct Line<'r> {
    sequence: u64,
    /// Unix seconds UTC.
    time: f64,
    synchronised: bool,
    boot_id: String,
    since_boot_seconds: f64,
    what: What,
    detail: &'r str,
}

fn json(records: &[Record]) -> String {
    let line = |record: &Record| {
        let line = Line {
            sequence: record.sequence,
            time: record.unix_ms as f64 / 1000.0,
            synchronised: record.synchronised,
            boot_id: record.boot_id.to_string(),
            since_boot_seconds: record.since_boot_ms as f64 / 1000.0,
            what: record.what,
            detail: &record.detail,
        };
        serde_json::to_string(&line).expect("numbers and text always encode") + "\n"
    };
    records.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use crate::lifecycle::blackbox::{BootId, OomKills};

    use super::*;

    fn records() -> Vec<Record> {
        let record = |sequence, what, unix_ms, synchronised, detail: &str| Record {
            sequence,
            what,
            boot_id: BootId::parse("0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001"),
            since_boot_ms: sequence * 10_250,
            unix_ms,
            synchronised,
            oom_kills: OomKills::default(),
            detail: detail.to_owned(),
        };
        vec![
            record(9, What::Start, 3_600_500, false, "version 0.1.0, /etc/pyvorin-edge/config.toml"),
            record(10, What::ClockSynchronised, 1_717_156_800_000, true, ""),
            record(11, What::Begins, 1_717_156_801_500, true, "delivery is in trouble: refused"),
        ]
    }

    #[test]
    fn people_get_a_table() {
        insta::assert_snapshot!(text(&records()), @r"
        no  time (UTC)             boot      s since boot  what                detail
        9   1970-01-01 01:00:00 ?  0f8a1c6e  92.2          start               version 0.1.0, /etc/pyvorin-edge/config.toml
        10  2024-05-31 12:00:00    0f8a1c6e  102.5         clock synchronised
        11  2024-05-31 12:00:01    0f8a1c6e  112.8         begins              delivery is in trouble: refused
        ? the clock was not synchronised then
        ");
    }

    #[test]
    fn programs_get_json_lines() {
        insta::assert_snapshot!(json(&records()), @r#"
        {"sequence":9,"time":3600.5,"synchronised":false,"boot_id":"0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001","since_boot_seconds":92.25,"what":"start","detail":"version 0.1.0, /etc/pyvorin-edge/config.toml"}
        {"sequence":10,"time":1717156800.0,"synchronised":true,"boot_id":"0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001","since_boot_seconds":102.5,"what":"clock_synchronised","detail":""}
        {"sequence":11,"time":1717156801.5,"synchronised":true,"boot_id":"0f8a1c6e-93b0-4e43-8d0a-5f4a3cbe0001","since_boot_seconds":112.75,"what":"begins","detail":"delivery is in trouble: refused"}
        "#);
    }
}
