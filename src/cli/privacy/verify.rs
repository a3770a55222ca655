//! `privacy verify`: whether the audit trail holds.

use std::path::PathBuf;

use crate::cli::store::{Target, time_text};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::privacy::chain::{Finding, Verdict, Verifier};
use crate::store::trail;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// A record that has to be there, by the hash that was noted of it elsewhere
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { target, expect, json } = arguments;
    let path = match target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let (mut verifier, mut is_there) = (Verifier::default(), expect.is_none());
    let highest = trail::read(&path, |id, record| {
        is_there |= expect.as_ref().is_some_and(|hash| *hash == record.record_hash);
        verifier.take(id, record);
    })?;
    let mut verdict = verifier.finish(highest);
    if !is_there {
        let reason = "no record has the hash that is expected: it was folded, or the trail was written anew";
        verdict.broken.push(Finding { id: 0, reason: reason.to_owned() });
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{}", text(&verdict));
    }
    Ok(if verdict.holds() { EXIT_OK } else { EXIT_FAILED })
}

pub(super) fn text(verdict: &Verdict) -> String {
    let mut out = String::new();
    for Finding { id, reason } in &verdict.broken {
        out += &format!("record {id}: {reason}\n");
    }
    for salvage in &verdict.salvages {
        let what = if salvage.chain == "carried_over" { "carried over" } else { "begun anew" };
        out += &format!(
            "record {}: a damaged database was salvaged at {} and the trail {what}; {} records are missing\n",
            salvage.id,
            time_text(salvage.timestamp),
            salvage.records_missing
        );
    }
    let holds = if verdict.holds() { "the audit trail holds" } else { "the audit trail DOES NOT HOLD" };
    out += &format!("{holds}: {} records, {} more are folded\n", verdict.records, verdict.folded);
    if let (Some(id), Some(hash), Some(time)) = (verdict.last_id, &verdict.last_hash, verdict.last_timestamp)
    {
        out += &format!("the newest is {id} of {}, {hash}\n", time_text(time));
    }
    out
}
