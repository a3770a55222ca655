//! The pipeline's clock: what it believes of the wall clock, and what follows when that changes.

use std::time::Duration;

use super::{Counters, Stages};
use crate::clock::mark::Mark;
use crate::clock::{self, Belief, Observed, Sample, Settings, State, TOLERANCE_SECONDS, Turn};
use crate::store::{ClockNews, Staged};

/// How the agent's clock stands while a batch is taken in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing<'a> {
    /// The kernel's name of this boot.
    pub boot: &'a str,
    /// Unix seconds minus boot clock.
    pub offset: f64,
    /// Unix seconds, as well as they are known.
    pub now: f64,
    pub is_synchronised: bool,
}

impl<'a> Standing<'a> {
    /// The mark of what the agent stamped with `boot_time`, in seconds on the boot clock; none while the
    /// wall clock is right.
    pub fn mark(&self, boot_time: f64) -> Option<Mark<'a>> {
        (!self.is_synchronised).then_some(Mark { boot: self.boot, boot_time })
    }
}

/// Looks at the clocks and tells the stages and the store.
pub struct Timekeeper {
    settings: Settings,
    boot: String,
    belief: Belief,
    /// At the last look.
    sample: Sample,
    /// Not told to the store yet.
    news: Option<ClockNews>,
}

impl Timekeeper {
    /// `known_offset` is what the store knows of an earlier synchronisation in this boot.
    pub fn new(settings: Settings, known_offset: Option<f64>, counters: &Counters) -> Self {
        let sample = clock::sample();
        if !settings.trusted && !clock::kernel_answers() {
            tracing::warn!(
                "the kernel may not be asked whether the clock is synchronised: adjtimex is refused, as ProtectClock=yes \
                 does; only systemd-timesyncd's word counts"
            );
        }
        let belief = Belief::new(sample, is_synchronised(&settings), known_offset);
        match belief.state() {
            State::Synchronised => {}
            State::HeldOver => {
                tracing::warn!("{NOT_SYNCHRONISED}; it was earlier in this boot, which is carried on")
            }
            State::Unknown => tracing::info!("{NOT_SYNCHRONISED}"),
        }
        counters.clock.show(&belief, settings.trusted);
        let mut keeper = Self { settings, boot: clock::boot_id(), belief, sample, news: None };
        keeper.news = Some(keeper.news());
        keeper
    }

    /// Looks at the clocks, and with `ask` at what the kernel says; that is asked too when the wall clock
    /// was set. Stages go along with a jump; the store is told with `staged`.
    pub fn look(&mut self, ask: bool, stages: &mut Stages, staged: &mut Staged, counters: &Counters) {
        let sample = clock::sample();
        let was_set = (sample.offset() - self.sample.offset()).abs() > TOLERANCE_SECONDS;
        self.sample = sample;
        if ask || was_set {
            let Observed { moved, turned } = self.belief.observe(sample, is_synchronised(&self.settings));
            if moved != 0.0 {
                stages.clock_moved(moved);
            }
            if let Some(turn) = turned {
                report(turn, self.belief.offset());
                counters.clock.show(&self.belief, self.settings.trusted);
            }
            if moved != 0.0 || turned.is_some() {
                self.news = Some(self.news());
            }
        }
        if let Some(news) = self.news.take() {
            staged.tell(news);
        }
    }

    pub fn standing(&self) -> Standing<'_> {
        Standing {
            boot: &self.boot,
            offset: self.belief.offset(),
            now: self.sample.since_boot.as_secs_f64() + self.belief.offset(),
            is_synchronised: self.belief.is_synchronised(),
        }
    }

    fn news(&self) -> ClockNews {
        let wait = self.settings.wait;
        ClockNews {
            is_synchronised: self.belief.is_synchronised(),
            offset: self.belief.offset(),
            wait_until: if self.belief.state() == State::Unknown { wait } else { Duration::ZERO },
        }
    }
}

fn is_synchronised(settings: &Settings) -> bool {
    settings.trusted || clock::is_synchronised()
}

fn report(turn: Turn, offset: f64) {
    match turn {
        Turn::Synchronised { jump, spell } => tracing::info!(
            jump_seconds = jump,
            duration_seconds = spell.as_secs(),
            boot_began = offset,
            "the clock is synchronised: provisional times are put right"
        ),
        Turn::Lost => tracing::warn!("{NOT_SYNCHRONISED} any more; it is carried on by the boot clock"),
    }
}

const NOT_SYNCHRONISED: &str =
    "the kernel says the clock is not synchronised: times of the agent are provisional";
