//! The store's queue as a model: what the uploader may rely on, and nothing more.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::soon;
use pyvorin_edge::store::{BatchKey, FrozenBatch, Lane, Outcome, Pending, Want};
use pyvorin_edge::upload::{Queue, QueueClosed};

/// Clones share one queue, so it outlives an uploader as the database outlives the process.
#[derive(Clone)]
pub struct ModelQueue {
    // A lock, because the test looks at it while the uploader owns its clone.
    state: Arc<Mutex<State>>,
    pending: watch::Sender<Pending>,
    settled: watch::Sender<Vec<(BatchKey, Outcome)>>,
}

#[derive(Default)]
struct State {
    /// Items of each lane that are not frozen, live and backlog: sequence numbers.
    waiting: [[VecDeque<u64>; 4]; 2],
    next_sequence: [u64; 4],
    /// Each with whether it is backlog.
    frozen: Vec<(BatchKey, bool)>,
    facts: HashMap<&'static str, String>,
    /// What was asked for.
    wants: Vec<Want>,
}

impl ModelQueue {
    pub fn new() -> Self {
        Self { state: Arc::default(), pending: watch::Sender::default(), settled: watch::Sender::default() }
    }

    /// Adds items; the `value` of each is its sequence number in the lane, from 0.
    pub fn add(&self, lane: Lane, count: u64) {
        self.add_as(lane, count, false);
    }

    /// Adds items that an outage left.
    pub fn add_backlog(&self, lane: Lane, count: u64) {
        self.add_as(lane, count, true);
    }

    /// What was remembered under `key`.
    pub fn recalled(&self, key: &str) -> Option<String> {
        self.state.lock().unwrap().facts.get(key).cloned()
    }

    fn add_as(&self, lane: Lane, count: u64, backlog: bool) {
        let mut state = self.state.lock().unwrap();
        let first = state.next_sequence[lane.index()];
        state.waiting[usize::from(backlog)][lane.index()].extend(first..first + count);
        state.next_sequence[lane.index()] += count;
        self.publish(&state);
    }

    pub fn undelivered(&self) -> u64 {
        self.pending.borrow().total()
    }

    pub fn settled(&self) -> Vec<(BatchKey, Outcome)> {
        self.settled.borrow().clone()
    }

    /// Sequence numbers that were set aside, with the reason.
    pub fn dead_letters(&self) -> Vec<(u64, String)> {
        let settled = self.settled();
        let dead = settled.into_iter().filter_map(|(key, outcome)| match outcome {
            Outcome::DeadLetter { reason } => Some((key.first, reason)),
            _ => None,
        });
        dead.collect()
    }

    pub fn wants(&self) -> Vec<Want> {
        self.state.lock().unwrap().wants.clone()
    }

    /// Waits until nothing is left to deliver.
    pub async fn emptied(&self) {
        soon("the queue is empty", self.pending.subscribe().wait_for(|pending| pending.total() == 0))
            .await
            .unwrap();
    }

    fn publish(&self, state: &State) {
        let mut pending = Pending::default();
        for (key, _) in &state.frozen {
            pending.items[key.lane.index()] += key.count();
        }
        for lanes in &state.waiting {
            for (items, waiting) in pending.items.iter_mut().zip(lanes) {
                *items += waiting.len() as u64;
            }
        }
        self.pending.send_replace(pending);
    }
}

impl Queue for ModelQueue {
    async fn next_batch(&self, want: Want) -> Result<Option<FrozenBatch>, QueueClosed> {
        let mut state = self.state.lock().unwrap();
        state.wants.push(want);
        let most = want.items_max as usize;
        for backlog in [false, true] {
            if backlog && want.live_only {
                break;
            }
            for lane in Lane::ALL.into_iter().take(4).filter(|lane| !want.held[lane.index()]) {
                let is_next = |(key, is_backlog): &&(BatchKey, bool)| {
                    key.lane == lane && *is_backlog == backlog && !want.avoid.contains(&Some(*key))
                };
                if let Some((key, _)) = state.frozen.iter().filter(is_next).min_by_key(|(key, _)| key.first) {
                    return Ok(Some(frozen(key, backlog)));
                }
                let waiting = &mut state.waiting[usize::from(backlog)][lane.index()];
                if waiting.len() >= most || ((want.partial || backlog) && !waiting.is_empty()) {
                    let taken: Vec<_> = waiting.drain(..waiting.len().min(most)).collect();
                    let key = BatchKey { lane, first: taken[0], last: taken[taken.len() - 1] };
                    state.frozen.push((key, backlog));
                    return Ok(Some(frozen(&key, backlog)));
                }
            }
        }
        Ok(None)
    }

    async fn remember(&self, key: &'static str, value: String) -> Result<(), QueueClosed> {
        self.state.lock().unwrap().facts.insert(key, value);
        Ok(())
    }

    async fn settle(&self, key: &BatchKey, outcome: Outcome) -> Result<(), QueueClosed> {
        let mut state = self.state.lock().unwrap();
        let place = state
            .frozen
            .iter()
            .position(|(frozen, _)| frozen == key)
            .expect("only a frozen batch is settled");
        let (_, backlog) = state.frozen.remove(place);
        if outcome == Outcome::Split {
            let middle = key.first + key.count() / 2;
            assert!(key.count() > 1, "a single item has no halves");
            state.frozen.push((BatchKey { last: middle - 1, ..*key }, backlog));
            state.frozen.push((BatchKey { first: middle, ..*key }, backlog));
        }
        self.settled.send_modify(|settled| settled.push((*key, outcome)));
        self.publish(&state);
        Ok(())
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        self.pending.subscribe()
    }
}

/// The batch of `key`: a function of the key alone, as the store promises.
fn frozen(key: &BatchKey, backlog: bool) -> FrozenBatch {
    let mut items = String::new();
    for sequence in key.first..=key.last {
        let comma = if items.is_empty() { "" } else { "," };
        let item =
            format_args!(r#""sensor_name":"s","timestamp":1.0,"value":{sequence},"unit":"","metadata":{{}}"#);
        write!(items, "{comma}{{{item}}}").unwrap();
    }
    FrozenBatch {
        key: *key,
        batch_id: format!("model-{}-{}-{}", key.lane as u8, key.first, key.last),
        timestamp: 1_717_156_800.0 + key.first as f64,
        items: items.into_bytes(),
        backlog,
    }
}
