//! Edge agent.

pub mod adapter;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod health;
pub mod lifecycle;
pub mod logging;
pub mod pipeline;
pub mod privacy;
pub mod reading;
pub mod store;
pub mod tls;
pub mod upload;
