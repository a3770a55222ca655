//! What lies in the daemon's database, read beside it or after its death.

use std::path::Path;

use pyvorin_edge::store::block_lines;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// The tables of items, of all lanes that leave the device.
pub const OUTBOUND: [&str; 4] = ["block_critical", "block_anomaly", "block_telemetry", "block_logs"];
/// The table of items that stay on the device.
pub const LOCAL: [&str; 1] = ["block_local"];

/// Every item in `tables`, delivered or not, in order within a table.
pub fn items(state_dir: &Path, tables: &[&str]) -> Vec<Value> {
    let db = open(state_dir);
    let mut items = Vec::new();
    for table in tables {
        let sql = format!("SELECT raw_bytes, data FROM {table} ORDER BY first");
        let mut select = db.prepare(&sql).unwrap();
        let blocks =
            select.query_map([], |row| Ok((row.get::<_, u32>(0)? as usize, row.get::<_, Vec<u8>>(1)?)));
        for block in blocks.unwrap() {
            let (raw_bytes, data) = block.unwrap();
            let lines = String::from_utf8(block_lines(&data, raw_bytes).unwrap()).unwrap();
            items.extend(lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    items
}

/// The `value` of every reading in `tables`.
pub fn values(state_dir: &Path, tables: &[&str]) -> Vec<f64> {
    items(state_dir, tables).iter().filter_map(|item| item["value"].as_f64()).collect()
}

/// The dead letters: the reason and the item.
pub fn dead_letters(state_dir: &Path) -> Vec<(String, Value)> {
    let db = open(state_dir);
    let mut select = db.prepare("SELECT reason, item FROM dead_letter ORDER BY id").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    rows.map(|row| row.unwrap())
        .map(|(reason, item)| (reason, serde_json::from_slice(&item).unwrap()))
        .collect()
}

fn open(state_dir: &Path) -> Connection {
    let path = state_dir.join("edge_store.db");
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}
