//! `status`: how the agent is, at a glance, whether it runs or not.

use std::path::PathBuf;

use super::by_hand::{Service, load_as};
use super::store::{table, time_text};
use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK, on_runtime};
use crate::clock;
use crate::config::Loaded;
use crate::doctor::facts::{Agent, Store, service_state};
use crate::doctor::root::Root;
use crate::doctor::status::{Remembered, State, Status, status};
use crate::doctor::unit::Unit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

/// Prints the status; returns the exit code.
pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<u8> {
    let (root, unit) = (arguments.service.root(), arguments.service.units().0);
    let (loaded, _credentials) = load_as(&unit, &root, config);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return Ok(EXIT_CONFIG);
        }
    };
    let status = on_runtime(look(&loaded, &root, &unit))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", text(&status, clock::unix_seconds()));
    }
    Ok(exit_code(&status))
}

/// Asks the agent, and looks at the store only when it does not answer.
pub async fn look(loaded: &Loaded, root: &Root, unit: &Unit) -> Status {
    let settings = &loaded.config;
    let (agent, service) = tokio::join!(Agent::ask(root, settings), service_state(root, unit));
    let state_dir = root.path(&settings.store.state_dir);
    let (store, remembered) = match &agent.health {
        Some(Ok(_)) => (Store::default(), Remembered::default()),
        _ => (Store::look_aside(state_dir.clone()).await, Remembered::read(&state_dir)),
    };
    status(loaded, &agent, &store, remembered, service.as_ref())
}

fn exit_code(status: &Status) -> u8 {
    match status.state {
        State::Stopped => EXIT_STOPPED,
        State::Unknown => EXIT_FAILED,
        _ if status.health.as_deref() == Some("unhealthy") => EXIT_FAILED,
        State::Starting | State::Running | State::Unseen => EXIT_OK,
    }
}

/// `now` is in Unix seconds.
fn text(status: &Status, now: f64) -> String {
    let state = match status.state {
        State::Stopped => "stopped",
        State::Starting => "runs, and takes nothing in",
        State::Running => "running",
        State::Unseen => "runs, and its health page does not answer",
        State::Unknown => "it cannot be told whether it runs",
    };
    let mut head = format!("pyv-edge-agent {}: {state}", status.version);
    if let Some(health) = &status.health {
        head.push_str(&format!(", {health}"));
    }
    if let Some(since) = status.since {
        head.push_str(&format!(", since {} ({})", time_text(since.round()), span(now - since)));
    }
    let mut out = format!("{head}\n");
    let mut line = |name: &str, text: String| out.push_str(&format!("  {name:13}  {text}\n"));
    for reason in &status.reasons {
        line("reason", reason.clone());
    }
    if let Some(service) = &status.service {
        line("service", format!("{}, result {}", service.active, service.result));
    }
    line("configuration", status.config_file.clone());
    if let Some(time) = status.last_reload["time"].as_f64() {
        let at = time_text(time.round());
        line(
            "last reload",
            match status.last_reload["reason"].as_str() {
                Some(reason) => format!("{at}, refused, the one before was kept: {reason}"),
                None => format!("{at}, applied"),
            },
        );
    }
    let is_known = status.store.size_bytes.is_some();
    let known = |text: String| if is_known { text } else { "not known".to_owned() };
    line("stored", known(stored(status, now)));
    line("backlog", known(backlog(status, now)));
    line("delivery", delivery(status, now));
    line("lost", known(lost(status)));
    if let Some(clock) = &status.clock {
        let word = if clock.synchronised { "synchronised" } else { "not synchronised" };
        line("clock", format!("{word} ({})", clock.source));
    }
    if let Some(run) = &status.previous_run {
        let name = if status.state == State::Stopped { "last run" } else { "run before" };
        line(name, format!("{}, last seen {}", run.detail, time_text(run.last_seen.round())));
    }
    if !status.sources.is_empty() {
        out.push_str(&format!("\n{}", sources(status)));
    }
    out
}

fn stored(status: &Status, now: f64) -> String {
    let store = &status.store;
    let mut text = match status.last_stored_time {
        Some(last) if status.state == State::Stopped => format!("the newest of {}", time_text(last.round())),
        Some(last) => format!("last {} ago", span(now - last)),
        None => "nothing".to_owned(),
    };
    if let (Some(size), Some(allowed)) = (store.size_bytes, store.allowed_bytes) {
        text.push_str(&format!("; {:.1} of {:.0} MB", size as f64 / 1e6, allowed as f64 / 1e6));
    }
    for (days, what) in [(store.days_before_thinning, "thinned"), (store.days_before_dropping, "dropped")] {
        if let Some(days) = days {
            text.push_str(&format!("; without delivery {what} in {days:.1} days"));
        }
    }
    match &store.trouble {
        Some(trouble) => format!("{text}; the disk: {trouble}"),
        None => text,
    }
}

fn backlog(status: &Status, now: f64) -> String {
    let lanes = status.backlog.by_lane.iter().filter(|(_, items)| **items > 0);
    let lanes: Vec<_> = lanes.map(|(lane, items)| format!("{lane} {items}")).collect();
    let mut text = format!("{} items", status.backlog.items);
    if !lanes.is_empty() {
        text.push_str(&format!(" ({})", lanes.join(", ")));
    }
    if let Some(oldest) = status.backlog.oldest_time.filter(|_| status.backlog.items > 0) {
        text.push_str(&format!(", the oldest {} old", span(now - oldest)));
    }
    text
}

fn delivery(status: &Status, now: f64) -> String {
    let delivery = &status.delivery;
    if !delivery.enabled {
        return "off".to_owned();
    }
    let last = match delivery.last_time {
        Some(last) => format!("last {} ago", span(now - last)),
        None if status.health.is_some() => "none yet".to_owned(),
        None => "last not known".to_owned(),
    };
    match &delivery.trouble {
        Some(trouble) => format!("{}, {last}; {trouble}", delivery.endpoint),
        None => format!("{}, {last}", delivery.endpoint),
    }
}

fn lost(status: &Status) -> String {
    let gaps = status.store.gaps.iter().filter(|(_, items)| **items > 0);
    let gaps: Vec<_> = gaps.map(|(reason, items)| format!("{reason} {items}")).collect();
    let gaps = if gaps.is_empty() { "no gaps".to_owned() } else { format!("gaps: {}", gaps.join(", ")) };
    format!("{gaps}; set aside {}", status.store.dead_letters.unwrap_or(0))
}

fn sources(status: &Status) -> String {
    let rows: Vec<_> = status
        .sources
        .iter()
        .map(|source| {
            let error = source.last_error.clone().filter(|_| source.state != "connected");
            [
                source.name.clone(),
                source.kind.clone(),
                source.state.clone(),
                source.readings.to_string(),
                error.unwrap_or_default(),
            ]
        })
        .collect();
    table::format(["source", "kind", "state", "readings", "error"], &rows)
}

/// Two units are enough.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// As that of `systemctl status`: the program does not run.
const EXIT_STOPPED: u8 = 3;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::doctor::status::{Backlog, Clock, Delivery, Previously, Source, StoreStatus};

    const NOW: f64 = 1_717_156_800.0;

    fn running() -> Status {
        Status {
            state: State::Running,
            health: Some("degraded".to_owned()),
            reasons: vec!["source mqtt: reconnecting: Connection refused".to_owned()],
            version: "1.2.3".to_owned(),
            pid: Some(412),
            since: Some(NOW - 93_784.0),
            service: None,
            config_file: "/etc/pyvorin-edge/config.toml".to_owned(),
            last_reload: serde_json::json!({"time": NOW - 60.0, "applied": false, "reason": "store.size_max_mb cannot change"}),
            sources: vec![Source {
                name: "mqtt".to_owned(),
                kind: "mqtt".to_owned(),
                state: "reconnecting".to_owned(),
                readings: 1234,
                last_error: Some("Connection refused".to_owned()),
            }],
            last_stored_time: Some(NOW - 2.0),
            backlog: Backlog {
                items: 20,
                by_lane: BTreeMap::from([("TELEMETRY".to_owned(), 20), ("LOGS".to_owned(), 0)]),
                oldest_time: Some(NOW - 3700.0),
            },
            delivery: Delivery {
                enabled: true,
                endpoint: "https://api.pyvorin.com/v1/ingest".to_owned(),
                last_time: Some(NOW - 65.0),
                trouble: Some("the endpoint answered 503 Service Unavailable".to_owned()),
            },
            store: StoreStatus {
                size_bytes: Some(12_345_678),
                allowed_bytes: Some(268_435_456),
                days_before_thinning: Some(21.4),
                days_before_dropping: Some(180.0),
                dead_letters: Some(1),
                gaps: BTreeMap::from([("retention".to_owned(), 7)]),
                trouble: None,
            },
            clock: Some(Clock { synchronised: true, source: "kernel".to_owned() }),
            previous_run: Some(Previously {
                end: "boot_ended".to_owned(),
                detail: "ended with the boot: power cut, reset or reboot; last: ready".to_owned(),
                last_seen: NOW - 93_900.0,
            }),
        }
    }

    #[test]
    fn a_glance_tells_what_a_person_wants_to_know() {
        insta::assert_snapshot!(text(&running(), NOW));
        assert_eq!(exit_code(&running()), EXIT_OK);
        let unhealthy = Status { health: Some("unhealthy".to_owned()), ..running() };
        assert_eq!(exit_code(&unhealthy), EXIT_FAILED);
    }

    #[test]
    fn what_this_user_cannot_see_is_not_taken_for_nothing() {
        let hidden = Status { state: State::Unknown, version: "1.2.3".to_owned(), ..Status::default() };
        let shown = text(&hidden, NOW);
        assert!(shown.contains("it cannot be told whether it runs"), "{shown}");
        assert_eq!(shown.matches("not known").count(), 3, "{shown}");
        assert_eq!(exit_code(&hidden), EXIT_FAILED);
        assert_eq!(exit_code(&Status::default()), EXIT_STOPPED);
    }
}
