//! What has arrived: totals, a log of the latest requests, and a fingerprint per idempotency key
//! that shows when a repeated key comes with other bytes.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use serde_json::value::RawValue;

/// One request that was read to its end.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub idempotency_key: String,
    pub authorization: Option<String>,
    pub user_agent: Option<String>,
    pub content_encoding: Option<String>,
    /// Decompressed.
    pub body: String,
    pub items: usize,
    /// Of the answer; 0 when there was none.
    pub status: u16,
    /// The batch was taken, whatever the sender learned of it.
    pub accepted: bool,
    /// A batch of this key was taken before.
    pub duplicate: bool,
    /// The key was seen before with another body.
    pub differs: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub connections: u64,
    pub requests: u64,
    pub batches: u64,
    /// Without those of duplicates.
    pub items: u64,
    pub duplicates: u64,
    /// Requests whose key came before with another body.
    pub differing: u64,
    pub refused: u64,
}

/// What was taken, seen and refused.
#[derive(Debug, Default)]
pub struct Ledger {
    pub totals: Totals,
    pub latest: VecDeque<Arrival>,
    keys: HashMap<String, Key>,
}

#[derive(Debug)]
struct Key {
    fingerprint: [u8; 32],
    accepted: bool,
}

impl Ledger {
    /// Enters `arrival`, and fills in what only the ledger knows of it.
    pub fn enter(&mut self, arrival: &mut Arrival) {
        let digest = ring::digest::digest(&ring::digest::SHA256, arrival.body.as_bytes());
        let fingerprint: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(key) = self.keys.get_mut(&arrival.idempotency_key) {
            arrival.differs = key.fingerprint != fingerprint;
            arrival.duplicate = arrival.accepted && key.accepted;
            key.accepted |= arrival.accepted;
        } else if self.keys.len() < KEYS_MAX {
            let key = Key { fingerprint, accepted: arrival.accepted };
            self.keys.insert(arrival.idempotency_key.clone(), key);
        }
        self.totals.requests += 1;
        self.totals.differing += u64::from(arrival.differs);
        if !arrival.accepted {
            self.totals.refused += 1;
        } else if arrival.duplicate {
            self.totals.duplicates += 1;
        } else {
            self.totals.batches += 1;
            self.totals.items += arrival.items as u64;
        }
        if self.latest.len() == LATEST_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(arrival.clone());
    }
}

/// The body of a batch, as the contract has it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    batch_id: String,
    timestamp: f64,
    count: usize,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The items of `body`, when its shape is right and its `batch_id` is the `idempotency_key`.
///
/// # Errors
///
/// What is wrong with it.
pub fn items<'a>(body: &'a str, idempotency_key: &str) -> Result<Vec<&'a RawValue>, String> {
    let body: Body<'_> = serde_json::from_str(body).map_err(|error| format!("the body: {error}"))?;
    if body.batch_id != idempotency_key {
        return Err(format!("batch_id '{}' is not the Idempotency-Key '{idempotency_key}'", body.batch_id));
    }
    if body.count != body.items.len() {
        return Err(format!("count is {} for {} items", body.count, body.items.len()));
    }
    if !body.timestamp.is_finite() || body.timestamp < 0.0 {
        return Err(format!("timestamp {} is no time", body.timestamp));
    }
    Ok(body.items)
}

/// Keys that are remembered; later ones are taken as new.
const KEYS_MAX: usize = 1_000_000;
/// Requests that are kept whole, for tests.
const LATEST_MAX: usize = 256;
