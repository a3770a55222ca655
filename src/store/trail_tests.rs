//! The audit trail against real files: before a batch leaves, through restarts, folded.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::tests::settings;
use super::*;
use crate::lifecycle::watchdog::Progress;
use crate::privacy::audit::{AuditRecord, BATCH, FILTERED, POLICY_LOADED};
use crate::privacy::chain::{CHECKPOINT, Verdict, Verifier};
use crate::privacy::{FieldPattern, Filtered, Firewall, HashKey, Settings as Policy};
use crate::reading::Reading;

const WANT: Want = Want::new(10, 1 << 20, true);

fn policy(key: &str) -> Policy {
    Policy { enabled: true, redact_fields: vec![FieldPattern(key.to_owned())], ..Policy::default() }
}

fn loaded(policy: &Policy) -> AuditEntry {
    AuditEntry { action: POLICY_LOADED.to_owned(), details: policy.audit_details(), timestamp: 1.7e9 }
}

/// What a firewall under `policy` does to so many readings.
fn filtered(policy: &Policy, readings: u32) -> Filtered {
    let mut firewall = Firewall::new(policy, HashKey::new(&[1; 32]));
    for _ in 0..readings {
        let metadata = r#"{"name":1,"gps":2}"#;
        let reading = Reading { sensor_name: "s", timestamp: 1.0, value: 1.0, unit: "", metadata };
        firewall.judge(reading);
    }
    let mut filtered = Filtered::default();
    firewall.tell(&mut filtered);
    filtered
}

async fn append(store: &Store, items: u32, filtered: &mut Filtered) {
    let mut staged = Staged::default();
    for item in 0..items {
        staged.push(Lane::Telemetry, 1.0, |out| out.extend_from_slice(item.to_string().as_bytes()));
    }
    staged.filtered().absorb(filtered);
    store.append(staged).await.unwrap();
}

fn trail(dir: &Path) -> (Vec<(AuditRecord, Value)>, Verdict) {
    let (mut records, mut verifier) = (Vec::new(), Verifier::default());
    let highest = trail::read(&dir.join(DATABASE_FILE), |id, record| {
        verifier.take(id, record);
        records.push((record.clone(), serde_json::from_str(&record.details).unwrap()));
    });
    (records, verifier.finish(highest.unwrap()))
}

#[tokio::test]
async fn a_batch_is_in_the_trail_before_it_can_be_sent_with_what_was_filtered_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (store, end) = open(settings(dir.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
    let names = policy("name");
    store.audit(loaded(&names)).await.unwrap();
    append(&store, 5, &mut filtered(&names, 7)).await;
    let batch = store.next_batch(WANT).await.unwrap().unwrap();
    let (records, verdict) = trail(dir.path());
    assert!(verdict.holds(), "{verdict:?}");
    let (record, details) = records.last().unwrap();
    assert_eq!((record.action.as_str(), record.timestamp), (BATCH, batch.timestamp));
    let expected = json!({
        "batch_id": batch.batch_id, "count": 5, "bytes": batch.items.len(),
        "policy_hash": names.policy_hash(),
        "filtered": {"readings": {"redacted": 7}, "rules": {"redact_fields[0]": 7}},
    });
    assert_eq!(details, &expected);
    // A repeated attempt is the same batch.
    assert_eq!(store.next_batch(WANT).await.unwrap().unwrap(), batch);
    assert_eq!(trail(dir.path()).0.len(), 2);

    // Its halves go out under ids of their own.
    store.settle(batch.key, Outcome::Split).await.unwrap();
    let half = store.next_batch(WANT).await.unwrap().unwrap();
    append(&store, 1, &mut Filtered::default()).await;
    store.ping().await.unwrap();
    let (records, verdict) = trail(dir.path());
    assert!(verdict.holds(), "{verdict:?}");
    assert_eq!(records.len(), 4);
    assert_eq!(
        (&records[2].1["batch_id"], &records[2].1["of"]),
        (&json!(half.batch_id), &json!(batch.batch_id))
    );
    drop(store);
    end.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_no_batch_takes_along_is_in_the_trail_after_the_stop_under_its_own_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (policy("name"), policy("gps"));
    let (store, end) = open(settings(dir.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
    store.audit(loaded(&first)).await.unwrap();
    append(&store, 0, &mut filtered(&first, 3)).await;
    store.ping().await.unwrap();
    store.audit(loaded(&second)).await.unwrap();
    store.ping().await.unwrap();
    // Was on its way at the reload.
    append(&store, 0, &mut filtered(&first, 1)).await;
    store.ping().await.unwrap();
    append(&store, 2, &mut filtered(&second, 2)).await;
    store.ping().await.unwrap();
    store.next_batch(WANT).await.unwrap().unwrap();
    append(&store, 0, &mut filtered(&second, 9)).await;
    drop(store);
    end.await.unwrap().unwrap();
    let (records, verdict) = trail(dir.path());
    assert!(verdict.holds(), "{verdict:?}");
    let told: Vec<_> = records
        .iter()
        .map(|(record, details)| {
            let redacted = details["filtered"]["readings"]["redacted"].as_u64().unwrap_or(0);
            (record.action.as_str(), details["policy_hash"] == *second.policy_hash(), redacted)
        })
        .collect();
    assert_eq!(
        told,
        [
            (POLICY_LOADED, false, 0),
            (FILTERED, false, 3),
            (POLICY_LOADED, true, 0),
            (FILTERED, false, 1),
            (BATCH, true, 2),
            (FILTERED, true, 9),
        ]
    );
}

#[tokio::test]
async fn the_trail_is_bounded_and_holds_through_folds_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let names = policy("name");
    let mut batches = 0;
    for _ in 0..3 {
        // The smallest store keeps the fewest records.
        let (store, end) = open(settings(dir.path(), 1 << 20), Arc::new(Progress::default())).unwrap();
        store.audit(loaded(&names)).await.unwrap();
        for _ in 0..150 {
            append(&store, 1, &mut filtered(&names, 1)).await;
            let batch = store.next_batch(WANT).await.unwrap().unwrap();
            store.settle(batch.key, Outcome::Delivered).await.unwrap();
            batches += 1;
        }
        drop(store);
        end.await.unwrap().unwrap();
        let (records, verdict) = trail(dir.path());
        assert!(verdict.holds(), "{verdict:?}");
        assert!(records.len() <= 128 + 32 + 4, "{}", records.len());
    }
    let (records, verdict) = trail(dir.path());
    assert!(verdict.folded > 200, "{verdict:?}");
    let newest = records.iter().rfind(|(record, _)| record.action == CHECKPOINT).unwrap();
    let day: Vec<_> = newest.1["days"].as_object().unwrap().values().collect();
    let sum = |key: &str| day.iter().map(|day| day[key].as_u64().unwrap()).sum::<u64>();
    let kept = records.iter().filter(|(record, _)| record.action == BATCH).count() as u64;
    assert_eq!(sum("batches") + kept, batches);
    let redacted = day.iter().map(|day| day["rules"]["redact_fields: name"].as_u64().unwrap_or(0));
    assert_eq!(redacted.sum::<u64>(), sum("batches"), "one reading in each");
}
