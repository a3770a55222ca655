//! What the agent says about itself: the health page, metrics, liveness and readiness.

mod delivery;
pub mod host;
mod memory;
mod metrics;
mod pace;
mod report;
mod routes;
pub mod server;
pub mod view;
pub mod wear;

use std::net::IpAddr;

pub use report::without_credentials;
pub use view::{Configured, Phase, PrivacySummary, Reload, View};

/// `[health]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub enabled: bool,
    pub bind: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
}
