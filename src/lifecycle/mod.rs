//! Life as a service.

pub mod watchdog;
