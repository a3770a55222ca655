//! Readings from a real broker through the real daemon to a real endpoint.

mod outages;
mod readings;
mod relay;
mod trust;

use crate::harness::broker::Broker;
use crate::harness::cloud::Cloud;
use crate::harness::daemon::EAGER_STORE;

/// A configuration with one device on `topic`, in a hurry to reconnect; `more` are further keys of
/// `[ingest.mqtt]`.
fn config(broker: &Broker, more: &str, topic: &str, cloud: &Cloud) -> String {
    format!(
        "[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\nbackoff_min_seconds = 0.05\nbackoff_max_seconds = 0.2\n{more}\n\
         [[sensors.devices]]\nname = 'plant'\ningest_type = 'mqtt'\ntopic = '{topic}'\nunit = 'C'\nqos = 2\n\
         {}{EAGER_STORE}",
        broker.port,
        cloud.section()
    )
}
