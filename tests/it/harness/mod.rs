//! What the subjects share. Nothing here sleeps: it waits for events, with a bound.

pub mod broker;
pub mod census;
pub mod clocks;
pub mod cloud;
pub mod daemon;
pub mod endpoint;
pub mod fake_clock;
pub mod log;
pub mod model_queue;
pub mod mounts;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod stored;
pub mod trace;

use std::path::Path;
use std::time::Duration;

/// Waits for `event`, and fails the test when it does not come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("within {PATIENCE:?} it did not happen: {what}"),
    }
}

/// Asks again and again until there is an answer, where nobody tells of the change.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    };
    soon(what, answered).await
}

/// Replaces a file of the test.
pub fn write(path: &Path, text: &str) {
    use std::io::Write;
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Long enough for a busy machine; only a failing test waits it out.
const PATIENCE: Duration = Duration::from_secs(20);
const ASK_INTERVAL: Duration = Duration::from_millis(20);
