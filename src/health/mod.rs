//! What the agent says about itself: the health page, metrics, liveness and readiness.

use std::net::IpAddr;

/// `[health]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub enabled: bool,
    pub bind: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
}
