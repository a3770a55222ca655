//! `privacy report`: what left the device and what was filtered in a time, by rule, for a record of processing
//! activities.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::verify;
use crate::cli::store::{Target, Time, table, time_text};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::clock;
use crate::config::{LoadOptions, load};
use crate::privacy::Record;
use crate::privacy::audit::{AuditRecord, POLICY_LOADED};
use crate::privacy::chain::{CHECKPOINT, Verdict, Verifier};
use crate::privacy::sums::{Sum, Sums, day_of};
use crate::store::trail;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// From this time on: ISO 8601, Unix seconds, or back from now such as 24h, 30d
    #[arg(long, value_name = "TIME", default_value = "30d")]
    since: Time,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    /// `[privacy.record]`; null is what is not given.
    record: BTreeMap<&'static str, Option<String>>,
    /// Unix seconds.
    since: f64,
    until: f64,
    /// The policies that held, the oldest first: as they were loaded.
    policies: Vec<Policy>,
    total: Sum,
    days: BTreeMap<String, Sum>,
    trail: Verdict,
}

#[derive(Clone, Debug, Serialize)]
struct Policy {
    loaded_at: f64,
    policy_hash: String,
    key_id: Option<String>,
    enabled: bool,
    /// Whether anything was delivered.
    delivery: Option<bool>,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { target, since, json } = arguments;
    let record = match (load(&LoadOptions::of_process(config.clone())), target.is_given()) {
        (Ok(loaded), _) => loaded.config.privacy.record,
        // A copy can be looked at on another machine.
        (Err(_), true) => Record::default(),
        (Err(error), false) => {
            eprintln!("{error}");
            return Ok(crate::cli::EXIT_CONFIG);
        }
    };
    let path = match target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let mut gathered = Gathered::new(since.0);
    let highest = trail::read(&path, |id, record| gathered.take(id, record))?;
    let report = gathered.report(&record, highest);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(if report.trail.holds() { EXIT_OK } else { EXIT_FAILED })
}

struct Gathered {
    since: f64,
    verifier: Verifier,
    sums: Sums,
    /// Details of the newest checkpoint.
    checkpoint: Option<Value>,
    policies: Vec<Policy>,
}

impl Gathered {
    fn new(since: f64) -> Self {
        let (verifier, sums) = (Verifier::default(), Sums::default());
        Self { since, verifier, sums, checkpoint: None, policies: Vec::new() }
    }

    fn take(&mut self, id: i64, record: &AuditRecord) {
        self.verifier.take(id, record);
        let counts = record.timestamp >= self.since;
        if let POLICY_LOADED | CHECKPOINT = record.action.as_str() {
            let details: Value = serde_json::from_str(&record.details).unwrap_or_default();
            if record.action == CHECKPOINT {
                // Rules of policies that were folded are told by what it says of them.
                self.sums.join_from(&serde_json::json!({ "policies": details["policies"] }), "");
                self.checkpoint = Some(details);
                return;
            }
            if !counts {
                // Only the one that held at the beginning.
                self.policies.clear();
            }
            self.policies.push(Policy {
                loaded_at: record.timestamp,
                policy_hash: details["policy_hash"].as_str().unwrap_or_default().to_owned(),
                key_id: details["key_id"].as_str().map(str::to_owned),
                enabled: details["enabled"].as_bool().unwrap_or(false),
                delivery: details["delivery"].as_bool(),
            });
        }
        self.sums.take(record, counts);
    }

    fn report(mut self, record: &Record, highest: Option<i64>) -> Report {
        if let Some(checkpoint) = &self.checkpoint {
            self.sums.join_from(checkpoint, &day_of(self.since));
        }
        let mut total = Sum::default();
        self.sums.days().values().for_each(|sum| total.add(sum));
        Report {
            record: record.texts().map(|(key, text)| (key, text.map(str::to_owned))).collect(),
            since: self.since,
            until: clock::unix_seconds(),
            policies: self.policies,
            total,
            days: self.sums.days().clone(),
            trail: self.verifier.finish(highest),
        }
    }
}

fn text(report: &Report) -> String {
    let mut out = String::from("Record of processing activities (GDPR, Article 30)\n\n");
    let of_key = |key: &str| report.record.get(key).cloned().flatten();
    let rows: Vec<_> = Record::KEYS
        .iter()
        .map(|key| {
            [key.replace('_', " "), of_key(key).unwrap_or_else(|| format!("not given: privacy.record.{key}"))]
        })
        .collect();
    out += table::format(["", ""], &rows).trim_start_matches('\n');
    let total = &report.total;
    out += &format!(
        "\nFrom {} to {}\n\nLeft the device: {} items in {} batches, {} bytes as JSON\n",
        time_text(report.since),
        time_text(report.until),
        total.items,
        total.batches,
        total.bytes
    );
    let counts = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| [count.to_string(), name.clone()]).collect::<Vec<_>>()
    };
    if total.readings.is_empty() {
        out += "Nothing was filtered\n";
    } else {
        out += &format!("\n{}", table::format(["readings", "what was done"], &counts(&total.readings)));
        out += &format!("\n{}", table::format(["readings", "by rule"], &counts(&total.rules)));
    }
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    let rows: Vec<_> = report
        .policies
        .iter()
        .map(|policy| {
            [
                time_text(policy.loaded_at),
                on(policy.enabled).to_owned(),
                policy.delivery.map_or_else(String::new, |is_on| on(is_on).to_owned()),
                policy.key_id.clone().unwrap_or_default(),
                policy.policy_hash.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out +=
            &format!("\n{}", table::format(["policy loaded", "firewall", "delivery", "key", "hash"], &rows));
    }
    out += "\n";
    out += &verify::text(&report.trail);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::privacy::audit::{BATCH, GENESIS, next_record};

    #[test]
    fn a_report_is_for_people_and_says_what_is_not_given() {
        let mut gathered = Gathered::new(1.7e9 + 50.0);
        let policy = json!({"enabled": true, "delivery": true, "key_id": "0123456789abcdef", "policy_hash": "p",
            "redact_fields": ["*name*"], "rules": [{"sensor": "cam*", "action": "drop"}]});
        let filtered = json!({"readings": {"redacted": 20, "dropped": 3},
            "rules": {"redact_fields[0]": 20, "rules[0]": 3}});
        let batch = json!({"count": 500, "bytes": 61000, "policy_hash": "p", "filtered": filtered});
        let mut prev_hash = GENESIS.to_owned();
        for (id, (action, details)) in
            (1..).zip([(POLICY_LOADED, &policy), (BATCH, &batch), (BATCH, &batch), (POLICY_LOADED, &policy)])
        {
            let record = next_record(&prev_hash, action, details, 1.7e9 + 30.0 * id as f64);
            prev_hash = record.record_hash.clone();
            gathered.take(id, &record);
        }
        let mut record = Record::default();
        record.0[0] = Some("ACME Ltd, 1 Main Street".to_owned());
        let mut report = gathered.report(&record, Some(4));
        assert!(report.trail.holds());
        report.until = 1.8e9;
        insta::assert_snapshot!(text(&report));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["total"]["rules"], json!({"redact_fields: *name*": 40, "rules: cam* drop": 6}));
        assert_eq!(json["record"]["contact"], Value::Null);
    }
}
