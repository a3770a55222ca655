//! The store as the uploader's queue.

use tokio::sync::watch;

use super::parts::device_id;
use crate::clock;
use crate::config::Config;
use crate::store::{BatchKey, Closed, FrozenBatch, Outcome, Pending, Store, Want};
use crate::upload::{BUDGET_FACT, Queue, QueueClosed, Surroundings, proxy};

/// What the uploader is told of this device.
pub fn surroundings(config: &Config, store: &Store) -> Surroundings {
    Surroundings {
        device_id: device_id(config, store),
        proxies: proxy::Environment::of_process(),
        clock_is_set: clock::is_synchronised,
        budget_fact: store.recalled(BUDGET_FACT).map(str::to_owned),
    }
}

impl Queue for Store {
    async fn next_batch(&self, want: Want) -> Result<Option<FrozenBatch>, QueueClosed> {
        Store::next_batch(self, want).await.map_err(closed)
    }

    async fn settle(&self, key: &BatchKey, outcome: Outcome) -> Result<(), QueueClosed> {
        Store::settle(self, *key, outcome).await.map_err(closed)
    }

    async fn remember(&self, key: &'static str, value: String) -> Result<(), QueueClosed> {
        Store::remember(self, key, value).await.map_err(closed)
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        Store::pending(self)
    }
}

fn closed(_: Closed) -> QueueClosed {
    QueueClosed
}
