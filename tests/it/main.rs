//! The real parts put together, over real sockets, files and programs; one module per subject.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, in its helpers too")]

mod config;
mod harness;
mod health;
mod kill;
mod mqtt;
mod mqtt_window;
mod order;
mod rules_oracle;
mod socket_activation;
mod store_model;
mod upload;
