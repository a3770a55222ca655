//! The store as the uploader's queue.

use tokio::sync::watch;

use crate::store::{BatchKey, Closed, FrozenBatch, Outcome, Pending, Store, Want};
use crate::upload::{Queue, QueueClosed};

impl Queue for Store {
    async fn next_batch(&self, want: Want) -> Result<Option<FrozenBatch>, QueueClosed> {
        Store::next_batch(self, want).await.map_err(closed)
    }

    async fn settle(&self, key: &BatchKey, outcome: Outcome) -> Result<(), QueueClosed> {
        Store::settle(self, *key, outcome).await.map_err(closed)
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        Store::pending(self)
    }
}

fn closed(_: Closed) -> QueueClosed {
    QueueClosed
}
