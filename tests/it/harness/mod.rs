//! What the subjects share. Nothing here sleeps: it waits for events, with a bound.

pub mod endpoint;
pub mod log;
pub mod model_queue;

use std::time::Duration;

/// Waits for `event`, and fails the test when it does not come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("within {PATIENCE:?} it did not happen: {what}"),
    }
}

/// Long enough for a busy machine; only a failing test waits it out.
const PATIENCE: Duration = Duration::from_secs(20);
