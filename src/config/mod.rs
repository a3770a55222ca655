//! The configuration: every value here is usable.

mod actions;
mod cloud;
mod composites;
mod delivery;
mod diff;
mod files;
mod firewall;
pub mod json_file;
mod lines;
mod load;
mod problem;
mod rules;
pub mod section;
mod stages;
mod substitute;
pub mod toml_file;
pub mod tree;

pub use diff::{ReloadPlan, diff};
pub use files::ReadError;
pub use load::{
    DEFAULT_PATHS, INSTALLED_STATE_DIR, LoadError, LoadOptions, Loaded, Refused, Written, load, written,
};
pub use substitute::Environment;
#[cfg(any(test, fuzzing))]
pub(crate) use {load::understand, problem::Problems};

use std::time::Duration;

use crate::adapter::Source;
use crate::clock;
use crate::pipeline::{rule, selection, window};
use crate::{action, health, logging, privacy, store, upload};

/// All of it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `agent.device_id`; the store's own id when none is given.
    pub device_id: Option<String>,
    /// `agent.clock` and `agent.clock_wait_seconds`.
    pub clock: clock::Settings,
    /// `sensors.poll_interval_seconds`.
    pub poll_interval: Duration,
    /// Entries of `sensors.devices`; several can share a source.
    pub devices: usize,
    pub sources: Vec<Source>,
    pub windows: Vec<window::Settings>,
    pub rules: Vec<rule::Settings>,
    /// `policies.delivery`.
    pub delivery: Vec<selection::Settings>,
    pub actions: Vec<action::Settings>,
    pub cloud: upload::Settings,
    pub privacy: privacy::Settings,
    pub store: store::Settings,
    /// How commits adapt to a flash budget.
    pub wear: health::wear::Settings,
    pub health: health::Settings,
    pub logging: logging::Settings,
}
