//! `rules test`: what the rules that run, and those of another configuration, make of the readings that are stored.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::report::{Event, Report};
use crate::cli::EXIT_CONFIG;
use crate::cli::by_hand::{self, Service};
use crate::cli::store::{Target, Time, report_unreadable};
use crate::clock;
use crate::config::Config;
use crate::pipeline::replay::Replay;
use crate::reading::Reading;
use crate::store::history;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Only readings of this time or later: back from now such as 90s, 15m, 24h, 7d, or ISO 8601, or Unix seconds
    #[arg(long, value_name = "TIME", default_value = "24h")]
    last: Time,
    /// The configuration whose rules run now [default: ./edge_config.toml, then /etc/pyvorin-edge/config.toml];
    /// --config is the one to try
    #[arg(long, value_name = "PATH")]
    running: Option<PathBuf>,
    /// Show at most so many events of each list, the newest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=EVENTS_MAX))]
    limit: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { target, last, running, limit, json, service } = arguments;
    let (unit, _) = service.units();
    let load = |path| {
        let (loaded, _credentials) = by_hand::load_as(&unit, &service.root(), path);
        loaded.map(|loaded| loaded.config)
    };
    let running = match load(running) {
        Ok(running) => running,
        Err(error) => {
            eprintln!("{error}\nthat is the configuration that runs; name it with --running");
            return Ok(EXIT_CONFIG);
        }
    };
    let new = match config.map(|path| load(Some(path))).transpose() {
        Ok(new) => new,
        Err(error) => {
            eprintln!("{error}");
            return Ok(EXIT_CONFIG);
        }
    };
    let path = target.or_in(&running.store.state_dir);
    let until = clock::unix_seconds();
    let mut trial = Trial::new(&running, new.as_ref(), limit as usize)?;
    let mut progress = Progress::new(last.0, until);
    let past = history::readings(&path, last.0, until, |reading| {
        progress.at(reading.timestamp);
        trial.take(reading);
        true
    });
    progress.end();
    let past = past.with_context(|| format!("cannot read {}", path.display()))?;
    let text = if json { trial.report.json(last.0, until, &past)? } else { trial.report.text(&past) };
    print!("{text}");
    Ok(report_unreadable(&past.unreadable))
}

/// Both configurations at work.
struct Trial {
    old: Replay,
    new: Option<Replay>,
    /// The latest time that a reading had, Unix seconds.
    now: Option<f64>,
    report: Report,
    /// What both fired on the same occasion, kept for its room.
    fired: [Vec<Event>; 2],
}

impl Trial {
    fn new(old: &Config, new: Option<&Config>, limit: usize) -> anyhow::Result<Self> {
        let replay = |config: &Config| Replay::new(&config.rules, &config.windows, &config.privacy);
        Ok(Self {
            report: Report::new(old, new, limit),
            old: replay(old)?,
            new: new.map(replay).transpose()?,
            now: None,
            fired: Default::default(),
        })
    }

    fn take(&mut self, reading: Reading<'_>) {
        self.pass_to(reading.timestamp);
        let now = self.now.unwrap_or(reading.timestamp);
        let Self { old, new, report, fired: [was, is], .. } = self;
        old.take(reading, now, &mut |would| was.push(Event::of(would)));
        if let Some(new) = new {
            new.take(reading, now, &mut |would| is.push(Event::of(would)));
        }
        report.note(was, is);
    }

    /// Lets time pass up to `until`, second by second, and in larger steps through a long pause.
    fn pass_to(&mut self, until: f64) {
        let Some(now) = self.now else {
            self.tick(until);
            return;
        };
        if until - now < 1.0 {
            return;
        }
        let waits = self.old.waits() || self.new.as_ref().is_some_and(Replay::waits);
        let step = if waits { ((until - now) / STEPS_MAX).max(1.0) } else { until - now };
        let mut at = now + step;
        while at < until {
            self.tick(at);
            at += step;
        }
        self.tick(until);
    }

    fn tick(&mut self, now: f64) {
        self.now = Some(now);
        let Self { old, new, report, fired: [was, is], .. } = self;
        old.tick(now, &mut |would| was.push(Event::of(would)));
        if let Some(new) = new {
            new.tick(now, &mut |would| is.push(Event::of(would)));
        }
        report.note(was, is);
    }
}

/// How far it is, for a person who waits at a terminal.
struct Progress {
    since: f64,
    until: f64,
    shown_at: Option<Instant>,
    readings: u64,
    is_shown: bool,
}

impl Progress {
    fn new(since: f64, until: f64) -> Self {
        let shown_at = io::stderr().is_terminal().then(Instant::now);
        Self { since, until, shown_at, readings: 0, is_shown: false }
    }

    fn at(&mut self, timestamp: f64) {
        self.readings += 1;
        // Not a look at the clock for each.
        if !self.readings.is_multiple_of(1024) {
            return;
        }
        if self.shown_at.is_none_or(|at| at.elapsed() < SHOW_EVERY) {
            return;
        }
        let part = (timestamp - self.since) / (self.until - self.since).max(1.0);
        let percent = (part * 100.0).clamp(0.0, 100.0);
        // What cannot be shown is not missed.
        write!(io::stderr(), "\r\x1b[K{percent:3.0} %  {} readings", self.readings).ok();
        (self.shown_at, self.is_shown) = (Some(Instant::now()), true);
    }

    fn end(&self) {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}

const EVENTS_MAX: i64 = 10_000;
/// Of a pause: a silence within it is told by so much too late at most.
const STEPS_MAX: f64 = 3600.0;
const SHOW_EVERY: Duration = Duration::from_millis(250);
