//! The real parts put together, over real sockets, files and programs; one module per subject.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, in its helpers too")]

mod actions;
mod blackbox;
mod board;
mod cli;
mod clock;
mod config;
mod corruption;
mod delivery;
mod doctor;
mod faults;
mod fleet;
mod gap_model;
mod harness;
mod health;
mod held_start;
mod http_ingest;
mod import;
mod kill;
mod lanes;
mod life;
mod look;
mod memory;
mod mqtt;
mod mqtt_window;
mod once;
mod order;
mod outage;
mod power_cut;
mod privacy;
mod release;
mod reload;
mod rules;
mod rules_oracle;
mod salvage;
mod samples;
mod socket_activation;
mod sources;
mod stages;
mod store_model;
mod store_tools;
mod support_bundle;
mod upload;
mod wear;
mod windows;
