//! Whether anything was to leave the device while what is stored came in, as the audit trail tells.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use super::inspect::open_read_only;
use super::recent;
use crate::clock::mark;
use crate::privacy::audit::POLICY_LOADED;

/// Whether a policy under which nothing was delivered was in force in the last `running` time before the end of the run
/// before; where the trail cannot tell, it may have been.
pub fn was_delivery_off(path: &Path, running: Duration) -> bool {
    let look = || -> Option<bool> {
        let db = open_read_only(path).ok()?;
        let boots = boots(&db).ok()?;
        let from = recent::end(&db, 0).ok()? - running.as_secs_f64();
        let mut select = db
            .prepare(
                "SELECT timestamp, details FROM privacy_audit WHERE action = ?1 ORDER BY id DESC LIMIT ?2",
            )
            .ok()?;
        let mut rows = select.query((POLICY_LOADED, POLICIES_MAX)).ok()?;
        let mut looked = 0;
        while let Some(row) = rows.next().ok()? {
            looked += 1;
            let details: String = row.get(1).ok()?;
            let details: Value = serde_json::from_str(&details).ok()?;
            if details["delivery"] == false {
                return Some(true);
            }
            // What came before it was in force before that time only.
            if age(&boots, row.get(0).ok()?, &details).is_some_and(|age| age <= from) {
                return Some(false);
            }
        }
        Some(looked == POLICIES_MAX)
    };
    look().unwrap_or(true)
}

struct Boot {
    id: String,
    /// Seconds of running time when it began.
    age: f64,
    /// Unix seconds when it began, where that is known.
    wall: Option<f64>,
}

fn boots(db: &Connection) -> rusqlite::Result<Vec<Boot>> {
    let known = "SELECT boot_id, age_ms, iif(quality IN ('synchronised', 'inferred'), wall_offset, NULL)
                 FROM boot ORDER BY number";
    db.prepare(known)?
        .query_map([], |row| {
            Ok(Boot { id: row.get(0)?, age: row.get::<_, i64>(1)? as f64 / 1e3, wall: row.get(2)? })
        })?
        .collect()
}

/// The running time at which a record was made. The wall clock it bears may have been wrong; then it says so, and when
/// it was in its boot.
fn age(boots: &[Boot], timestamp: f64, details: &Value) -> Option<f64> {
    let clock = &details[mark::KEY];
    if let (Some(id), Some(boot_time)) = (clock["boot"].as_str(), clock["boot_time"].as_f64()) {
        return Some(boots.iter().rfind(|boot| boot.id == id)?.age + boot_time);
    }
    let index = boots.iter().rposition(|boot| boot.wall.is_some_and(|wall| wall <= timestamp))?;
    let age = boots[index].age + (timestamp - boots[index].wall?);
    // While the board was off nothing aged.
    Some(boots.get(index + 1).map_or(age, |next| age.min(next.age)))
}

/// Beyond so many policies the trail is not followed back.
const POLICIES_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::lifecycle::watchdog::Progress;
    use crate::store::tests::settings;
    use crate::store::{AuditEntry, DATABASE_FILE, open};

    const HOUR: Duration = Duration::from_secs(3600);
    const T: f64 = 1_717_156_800.0;

    /// Whether delivery was off in the last hour of a board that ran for 100 h in all, in its second boot for 10; a
    /// policy was loaded at each of these times.
    async fn was_off(policies: &[(f64, Value)]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (store, end) = open(settings(folder.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
        for (timestamp, details) in policies {
            let (action, details) = (POLICY_LOADED.to_owned(), details.clone());
            store.audit(AuditEntry { action, details, timestamp: *timestamp }).await.unwrap();
        }
        drop(store);
        end.await.unwrap().unwrap();
        let path = folder.path().join(DATABASE_FILE);
        let db = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        db.execute_batch(&format!(
            "DELETE FROM boot;
             INSERT INTO boot (number, boot_id, age_ms, last_ms, wall_offset, quality) VALUES
                (1, 'a', 0, 324000000, {T}, 'synchronised'),
                (2, 'b', 324000000, 36000000, {T} + 500 * 3600, 'synchronised')"
        ))
        .unwrap();
        was_delivery_off(&path, HOUR)
    }

    fn at(hours: f64, delivery: bool) -> (f64, Value) {
        (T + hours * 3600.0, json!({"delivery": delivery}))
    }

    #[tokio::test]
    async fn delivery_was_off_when_a_policy_said_so_that_was_in_force_in_that_time() {
        assert!(was_off(&[at(0.0, true), at(509.5, false), at(510.0, true)]).await);
        assert!(was_off(&[at(0.0, true), at(1.0, false), at(509.5, true)]).await);
        assert!(!was_off(&[at(0.0, false), at(508.5, true), at(510.0, true)]).await);
        assert!(!was_off(&[at(0.0, true)]).await);
    }

    #[tokio::test]
    async fn a_clock_that_is_not_set_and_a_board_that_was_off_hide_nothing() {
        let provisional = |boot: &str, hours: f64| {
            let clock = json!({"quality": "provisional", "boot": boot, "boot_time": hours * 3600.0});
            (1000.0, json!({"delivery": true, "_clock": clock}))
        };
        assert!(was_off(&[at(0.0, false), provisional("b", 9.5)]).await);
        assert!(!was_off(&[at(0.0, false), provisional("b", 8.5)]).await);
        assert!(was_off(&[at(0.0, false), provisional("nobody's", 8.5)]).await);
    }

    #[tokio::test]
    async fn what_the_trail_cannot_tell_may_have_been() {
        assert!(was_delivery_off(Path::new("/nowhere"), HOUR));
        assert!(was_off(&vec![at(509.9, true); POLICIES_MAX as usize]).await);
        assert!(!was_off(&vec![at(509.9, true); POLICIES_MAX as usize - 1]).await);
    }
}
