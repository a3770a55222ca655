//! The far side of a daemon under test: an endpoint with certificates of its own, and what has
//! arrived there.

use serde_json::Value;

use super::daemon::cloud;
use super::endpoint::receiver::behaviour::Behaviour;
use super::endpoint::{Endpoint, Pki};
use super::until;

pub struct Cloud {
    pub pki: Pki,
    pub endpoint: Endpoint,
}

impl Cloud {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::behaving(Behaviour::default()).await
    }

    pub async fn behaving(behaviour: Behaviour) -> Self {
        let pki = Pki::new();
        let endpoint = Endpoint::start(&pki, behaviour).await;
        Self { pki, endpoint }
    }

    /// The `[cloud]` section of a daemon that delivers here.
    pub fn section(&self) -> String {
        cloud(&self.endpoint, &self.pki)
    }

    /// From the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.endpoint.receiver.behave(behaviour);
    }

    /// Every item in accepted batches that are no duplicates, in order of arrival.
    pub fn items(&self) -> Vec<Value> {
        self.endpoint.items()
    }

    /// Waits for so many items, and returns all that have arrived by then.
    pub async fn until_items(&self, count: u64) -> Vec<Value> {
        let what = format!("{count} items arrive");
        self.endpoint.totals(&what, |totals| totals.items >= count).await;
        self.items()
    }

    /// Waits for an item that `is` accepts.
    pub async fn until_item(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(what, async || self.items().into_iter().find(&is)).await
    }

    /// Waits until each of `values` has arrived at least once.
    pub async fn until_values(&self, values: &[u32]) {
        let missing = || {
            let arrived: Vec<_> = self.items().iter().filter_map(|item| item["value"].as_f64()).collect();
            values.iter().filter(|value| !arrived.contains(&f64::from(**value))).count()
        };
        until("every value arrives", async || (missing() == 0).then_some(())).await;
    }
}
