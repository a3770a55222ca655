//! The doctor: looks at the device and the service around the agent, and says what is wrong and what mends it.
//!
//! What there is to be seen is gathered first: files below a [`Root`](root::Root), and what only system calls, the
//! network and the store can tell ([`facts`]). Every check is a pure function of that, so that tests hand in a
//! system that looks like a board. Nothing is changed, the state lock is never taken and the database is only read,
//! so it may run beside the agent or without it, as any user: what that user cannot see is said.

mod access;
mod agent;
pub mod board;
mod cgroup;
mod clock;
mod configuration;
pub mod facts;
mod journal;
mod mosquitto;
mod names;
mod network;
mod power;
pub mod render;
pub mod root;
mod secrets;
mod service;
pub mod status;
mod storage;
mod store;
pub mod unit;
mod wear;

#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;

use serde::Serialize;

use self::access::Account;
use self::facts::Facts;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// There is nothing here that the check is about.
    NotApplicable,
    /// This user cannot see it, or it gave no answer.
    Unknown,
    /// Works, and will surprise.
    Warning,
    /// Does not work, or data is at risk.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable.
    pub name: &'static str,
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What that leads to; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub means: String,
    /// The line that mends it, for a shell where one can; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Check {
    fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), means: String::new(), mend: String::new() }
    }

    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, found)
    }

    pub fn not_applicable(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::NotApplicable, found)
    }

    pub fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Unknown, found)
    }

    pub fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Warning, found)
    }

    pub fn error(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Error, found)
    }

    /// What it leads to.
    pub fn means(mut self, text: impl Into<String>) -> Self {
        self.means = text.into();
        self
    }

    /// What mends it.
    pub fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend = line.into();
        self
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// The worst level of what applies.
    pub status: Level,
    /// As whom it was looked.
    pub user: String,
    /// The model of the board, where it says it.
    pub board: Option<String>,
    pub checks: Vec<Check>,
}

/// Judges what was gathered.
pub fn examine(facts: &Facts) -> Report {
    let checks: Vec<Check> = CHECKS.iter().map(|check| check(facts)).collect();
    let levels = checks.iter().map(|check| check.level).filter(|level| *level != Level::NotApplicable);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        status: levels.max().unwrap_or(Level::Ok),
        user: facts.machine.user.name.clone(),
        board: board::model(&facts.root),
        checks,
    }
}

/// In the order in which they are shown.
const CHECKS: [fn(&Facts) -> Check; 33] = [
    configuration::loads,
    configuration::readable,
    secrets::closed,
    service::unit,
    service::overridden,
    service::socket,
    service::watchdog,
    agent::runs,
    store::readable,
    store::quarantine,
    agent::client_id,
    network::name_resolution,
    names::local_names,
    network::tls,
    network::client_certificate,
    network::endpoint,
    network::broker,
    network::broker_certificate,
    mosquitto::limits,
    clock::synchronised,
    clock::rtc,
    storage::space,
    storage::inodes,
    storage::file_system,
    wear::flash,
    power::supply,
    power::heat,
    cgroup::memory,
    board::pressure_stall,
    journal::kept,
    board::page_size,
    board::processor,
    agent::black_box,
];
