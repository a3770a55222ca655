//! The audit trail of a damaged database: carried over, or begun anew where a part of it is lost, and a record
//! that says which.

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::privacy::audit::{AuditRecord, GENESIS, hash, next_record};
use crate::privacy::chain::{CHECKPOINT, SALVAGED, Verifier, checkpoint};
use crate::privacy::sums::Sums;
use crate::store::{Error, trail};

/// Looks at the records that were copied into `db`. Of a chain with a hole only what follows the last hole stays;
/// what comes before it is in the sums, and is in the damaged database as it was. `now` is in Unix seconds.
///
/// # Errors
///
/// The new database cannot be read or written.
pub fn carry_over(db: &Connection, folder: &str, now: f64) -> Result<(), Error> {
    let mut verifier = Verifier::default();
    let mut look = Look::default();
    trail::oldest(db, u64::MAX, |id, record| {
        verifier.take(id, record);
        look.take(id, record);
    })?;
    let highest = trail::highest(db)?.unwrap_or(0);
    if look.last_id.is_none() && highest == 0 {
        return Ok(());
    }
    let missing_at_end = u64::try_from(highest - look.last_id.unwrap_or(0)).unwrap_or(0);
    let verdict = verifier.finish(None);
    let latest = trail::newest_checkpoint(db)?;
    if verdict.holds() {
        let details = json!({"chain": "carried_over", "folder": folder, "records_missing": missing_at_end});
        return append(db, SALVAGED, &details, now);
    }
    let (stays_from, prev_hash) = look.stays.clone().unwrap_or((highest + 1, GENESIS.to_owned()));
    let mut sums = Sums::default();
    latest.iter().for_each(|latest| sums.join(latest));
    let mut left_out = 0;
    trail::oldest(db, u64::MAX, |id, record| {
        let goes = id < stays_from;
        sums.take(record, goes);
        left_out += u64::from(goes);
    })?;
    let number = |key: &str| latest.as_ref().and_then(|latest| latest[key].as_u64()).unwrap_or(0);
    let all = (highest - look.first_id.unwrap_or(1) + 1).unsigned_abs();
    let details = json!({
        "chain": "restarted",
        "folder": folder,
        "records_missing": all.saturating_sub(verdict.records),
        "records_left_out": left_out,
    });
    db.execute("DELETE FROM privacy_audit WHERE id < ?1", [stays_from]).map_err(failed)?;
    append(db, SALVAGED, &details, now)?;
    if prev_hash == GENESIS && latest.is_none() {
        return Ok(());
    }
    let folded = number("folded") + left_out;
    let folded = checkpoint(folded, (stays_from - 1, &prev_hash), number("broken"), sums);
    append(db, CHECKPOINT, &folded, now)
}

/// Finds the records behind the last hole.
#[derive(Default)]
struct Look {
    first_id: Option<i64>,
    last_id: Option<i64>,
    last_hash: String,
    /// Number and `prev_hash` of the first of them.
    stays: Option<(i64, String)>,
}

impl Look {
    fn take(&mut self, id: i64, record: &AuditRecord) {
        let is_whole = record.record_hash == hash(record);
        if self.stays.is_none() || record.prev_hash != self.last_hash || !is_whole {
            self.stays = is_whole.then(|| (id, record.prev_hash.clone()));
        }
        self.first_id.get_or_insert(id);
        (self.last_id, self.last_hash) = (Some(id), record.record_hash.clone());
    }
}

fn append(db: &Connection, action: &str, details: &Value, now: f64) -> Result<(), Error> {
    let mut last = GENESIS.to_owned();
    let sql = "SELECT record_hash FROM privacy_audit ORDER BY id DESC LIMIT 1";
    match db.query_row(sql, [], |row| row.get(0)) {
        Ok(hash) => last = hash,
        Err(rusqlite::Error::QueryReturnedNoRows) => {}
        Err(source) => return Err(failed(source)),
    }
    let record = next_record(&last, action, details, now);
    db.execute(
        "INSERT INTO privacy_audit (timestamp, action, details, prev_hash, record_hash) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![record.timestamp, record.action, record.details, record.prev_hash, record.record_hash],
    )
    .map(drop)
    .map_err(failed)
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Sqlite { what: "cannot write the salvaged database", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::chain::Verdict;
    use crate::store::schema;

    fn of(records: i64) -> Connection {
        let db = schema::in_memory().unwrap();
        for id in 1..=records {
            append(&db, "batch", &json!({ "count": id, "bytes": 1 }), 1.7e9).unwrap();
        }
        db
    }

    /// The verdict, and the first details of the record that says what became of it.
    fn salvaged(db: &Connection) -> (Verdict, Value) {
        carry_over(db, "quarantine/1", 1.8e9).unwrap();
        let (mut verifier, mut said) = (Verifier::default(), Value::Null);
        trail::oldest(db, u64::MAX, |id, record| {
            verifier.take(id, record);
            if record.action == SALVAGED {
                said = serde_json::from_str(&record.details).unwrap();
            }
        })
        .unwrap();
        (verifier.finish(trail::highest(db).unwrap()), said)
    }

    #[test]
    fn a_whole_trail_is_carried_over_and_goes_on() {
        let db = of(5);
        let (verdict, said) = salvaged(&db);
        assert!(verdict.holds(), "{verdict:?}");
        assert_eq!((verdict.records, said["chain"].as_str()), (6, Some("carried_over")));
        assert_eq!(verdict.salvages[0].records_missing, 0);
        let (verdict, said) = salvaged(&of(0));
        assert_eq!((verdict.records, said), (0, Value::Null));
    }

    #[test]
    fn what_is_lost_at_the_end_is_said() {
        let db = of(5);
        db.execute("DELETE FROM privacy_audit WHERE id > 3", []).unwrap();
        let (verdict, said) = salvaged(&db);
        assert!(verdict.holds(), "{verdict:?}");
        assert_eq!((said["chain"].as_str(), &said["records_missing"]), (Some("carried_over"), &json!(2)));
    }

    #[test]
    fn a_trail_with_a_hole_begins_anew_behind_it_and_keeps_the_sums() {
        for (gone, kept, left_out) in
            [("id = 3", 2, 2), ("id < 3", 3, 0), ("id IN (2, 4)", 1, 2), ("id < 6", 0, 0)]
        {
            let db = of(5);
            db.execute(&format!("DELETE FROM privacy_audit WHERE {gone}"), []).unwrap();
            let (verdict, said) = salvaged(&db);
            assert!(verdict.holds(), "{gone}: {verdict:?}");
            let batches: u64 = db
                .query_row("SELECT count(*) FROM privacy_audit WHERE action = 'batch'", [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap()
                .unsigned_abs();
            assert_eq!(batches, kept, "{gone}");
            if kept + left_out > 0 {
                assert_eq!(
                    (said["chain"].as_str(), &said["records_left_out"]),
                    (Some("restarted"), &json!(left_out))
                );
                let latest = trail::newest_checkpoint(&db).unwrap().unwrap();
                let sum = latest["days"]["2023-11-14"]["batches"].as_u64().unwrap_or(0);
                assert_eq!(sum, left_out, "{gone}");
            }
            // And once more, after it has gone on.
            append(&db, "batch", &json!({ "count": 1 }), 1.9e9).unwrap();
            assert!(salvaged(&db).0.holds(), "{gone}");
        }
    }

    #[test]
    fn a_changed_record_does_not_pass_for_a_whole_one() {
        let db = of(5);
        db.execute("UPDATE privacy_audit SET details = '{}' WHERE id = 5", []).unwrap();
        let (verdict, said) = salvaged(&db);
        assert_eq!(said["chain"], "restarted");
        assert!(verdict.holds(), "{verdict:?}");
    }
}
