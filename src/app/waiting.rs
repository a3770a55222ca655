//! A start whose disk is in trouble is held until it is not: the health page and the service manager are told
//! why, and opening is tried again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::front::Front;
use super::opening::{OpenError, Opened, open_aside};
use super::place::Place;
use crate::clock;
use crate::lifecycle::blackbox::What;
use crate::store::alive::{Alive, EXTENSION};
use crate::store::{self, Trouble};

/// After the first failed attempt, and twice as long after each further one, up to the second.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Opens what the agent stands on, however long that takes; `retry` ends a wait between two attempts.
///
/// # Errors
///
/// A person has to put it right first.
pub async fn open(
    place: Arc<Place>,
    settings: store::Settings,
    front: &Front,
    retry: &Notify,
) -> anyhow::Result<Opened> {
    let mut held = None;
    let mut wait = RETRY_WAIT_MIN;
    loop {
        front.opening.moved(clock::since_boot());
        let outcome = match open_aside(place.clone(), settings.clone(), alive(front)) {
            Ok(outcome) => outcome.await.map_err(|_| anyhow!("the thread that opens the store panicked"))?,
            Err(error) => Err(error),
        };
        front.opening.idle();
        let error = match outcome {
            Ok(opened) => {
                if let Some(held) = held {
                    recovered(&held, &place);
                }
                return Ok(opened);
            }
            Err(error) => error,
        };
        let Some(trouble) = error.trouble(place.state_dir()) else { return Err(error.into()) };
        failed(&mut held, error, trouble, front, &place);
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(RETRY_WAIT_MAX),
            () = retry.notified() => wait = RETRY_WAIT_MIN,
        }
    }
}

/// A start that waits.
struct Held {
    /// Boot clock.
    since: Duration,
    failures: u64,
}

fn failed(held: &mut Option<Held>, error: OpenError, trouble: Trouble, front: &Front, place: &Place) {
    let error = anyhow::Error::new(error);
    let reason = format!("{error:#}");
    let held = held.get_or_insert_with(|| {
        tracing::error!(
            error = reason,
            error_kind = trouble.name(),
            "the store cannot be opened yet: nothing is taken in, and it is tried again until it can"
        );
        place.blackbox.record(What::Begins, &format!("{CONDITION}: {reason}"));
        Held { since: clock::since_boot(), failures: 0 }
    });
    held.failures += 1;
    front.hold(trouble, reason);
}

fn recovered(held: &Held, place: &Place) {
    let lasted_seconds = clock::since_boot().saturating_sub(held.since).as_secs_f64();
    tracing::info!(failures = held.failures, lasted_seconds, "the store can be opened: the start goes on");
    place.blackbox.record(What::Ends, CONDITION);
}

/// A damaged database takes its time: before the service manager was told of readiness it has to wait for that,
/// and afterwards its watchdog has.
fn alive(front: &Front) -> Alive {
    let (notifier, opening, is_held) = (front.notifier.clone(), front.opening.clone(), front.is_held());
    Alive::new(move || {
        opening.moved(clock::since_boot());
        if !is_held {
            notifier.extend_timeout(EXTENSION);
        }
    })
}

const CONDITION: &str = "the store cannot be opened";
