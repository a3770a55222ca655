//! `store stats`: what a database holds, in numbers.

use std::path::PathBuf;

use super::{Target, table, time_text};
use crate::cli::EXIT_OK;
use crate::store::stats::{Stats, stats};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let path = match arguments.target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let stats = stats(&path)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&stats)?);
    } else {
        print!("{}", text(&stats));
    }
    Ok(EXIT_OK)
}

fn text(stats: &Stats) -> String {
    let mut out = format!(
        "{}: schema version {}, store {}\n{} bytes, of which {} are free, and {} in the write-ahead log\n\n",
        stats.path.display(),
        stats.schema_version,
        stats.store_id,
        stats.database_bytes,
        stats.free_bytes,
        stats.wal_bytes
    );
    let lanes: Vec<_> = stats
        .lanes
        .iter()
        .map(|lane| {
            [
                lane.name.to_owned(),
                lane.items.to_string(),
                lane.undelivered.to_string(),
                lane.batches.to_string(),
                lane.blocks.to_string(),
                lane.stored_bytes.to_string(),
                lane.oldest.map_or_else(String::new, time_text),
                lane.newest.map_or_else(String::new, time_text),
            ]
        })
        .collect();
    let header = ["lane", "items", "undelivered", "batches begun", "blocks", "bytes", "oldest", "newest"];
    out += &table::format(header, &lanes);
    out += &format!(
        "\nset aside: {}   audit records: {}   boots: {}\n",
        stats.dead_letters, stats.audit_records, stats.boots
    );
    if stats.gaps.is_empty() {
        out += "no gaps\n";
    } else {
        let gaps: Vec<_> = stats
            .gaps
            .iter()
            .map(|gap| [gap.reason.clone(), gap.items.to_string(), gap.records.to_string()])
            .collect();
        out += &format!("\n{}", table::format(["gaps", "items", "records"], &gaps));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stats::{GapStats, LaneStats};

    #[test]
    fn the_table_is_for_people() {
        let lane = |name, items, oldest: Option<f64>| LaneStats {
            name,
            blocks: items / 100,
            items,
            undelivered: items / 2,
            batches: 1,
            json_bytes: items * 134,
            stored_bytes: items * 9,
            oldest,
            newest: oldest.map(|oldest| oldest + 60.5),
            oldest_undelivered: None,
        };
        let stats = Stats {
            path: "edge_store.db".into(),
            schema_version: 2,
            store_id: "0123456789abcdef".to_owned(),
            database_bytes: 1_234_567,
            wal_bytes: 4096,
            free_bytes: 8192,
            lanes: vec![lane("CRITICAL", 0, None), lane("TELEMETRY", 10_000, Some(1_717_156_800.0))],
            dead_letters: 1,
            gaps: vec![GapStats { reason: "retention".to_owned(), items: 7, records: 1 }],
            audit_records: 3,
            boots: 2,
        };
        insta::assert_snapshot!(text(&stats));
    }
}
