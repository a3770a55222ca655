//! The governor: holds the process to its plan where no control group does, as on a stock Raspberry Pi OS. It looks at
//! the process's own memory each second; above a first mark parts drop what they can do without, above a second one
//! sources wait for their turn until it is below again. Nothing that was accepted is lost by either.
//!
//! Pressure stall information is not looked at: it is off where this is needed most, and says of the whole board what
//! cannot be told of this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::trim::trim;
use super::{Allotment, cgroup};

/// How the process stands to its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    #[default]
    Within = 0,
    /// Above the first mark: caches are dropped, commits are smaller.
    Shedding = 1,
    /// Above the second: sources wait for their turn.
    Slowing = 2,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Within, Self::Shedding, Self::Slowing];

    pub fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Shedding => "shedding",
            Self::Slowing => "slowing",
        }
    }

    /// What follows when `used_bytes` are in use of `total_bytes`. A state ends a little below where it began, or it
    /// would come and go with every commit.
    fn next(self, used_bytes: u64, total_bytes: u64) -> Self {
        let first = total_bytes / 100 * FIRST_MARK_PERCENT;
        let slack = total_bytes / 100 * SLACK_PERCENT;
        let begins = |mark: u64, state: Self| if self >= state { mark - slack } else { mark };
        if used_bytes > begins(total_bytes, Self::Slowing) {
            Self::Slowing
        } else if used_bytes > begins(first, Self::Shedding) {
            Self::Shedding
        } else {
            Self::Within
        }
    }
}

/// What the governor shows of itself.
#[derive(Debug, Default)]
pub struct Status {
    /// Heap and stacks, as of the last look.
    pub used_bytes: AtomicU64,
    /// The most that a look found.
    pub peak_bytes: AtomicU64,
    /// Times that sources had to wait.
    pub slowed: AtomicU64,
    state: AtomicU8,
}

impl Status {
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Relaxed)).min(2)]
    }

    pub(crate) fn set(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }
}

/// What the governor may ask of others.
pub trait Parts {
    /// Drop what can be made anew, and hold less until [`Self::relieved`]. Asked again at each look above the mark.
    fn shed(&self);
    fn relieved(&self);
}

/// Runs until `stop`. `flight` is what all readings pass through.
pub async fn run(
    plan: Arc<Plan>,
    flight: Allotment,
    status: Arc<Status>,
    parts: impl Parts,
    stop: CancellationToken,
) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut governor = Governor { plan, flight, status, state: State::Within, since: Instant::now() };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        // A kernel that does not tell leaves nothing to govern.
        let Some(used_bytes) = anonymous_bytes(Path::new("/")) else { return };
        governor.look(used_bytes, &parts);
    }
}

struct Governor {
    plan: Arc<Plan>,
    flight: Allotment,
    status: Arc<Status>,
    state: State,
    /// Of the condition that was told last.
    since: Instant,
}

impl Governor {
    fn look(&mut self, used_bytes: u64, parts: &impl Parts) {
        self.status.used_bytes.store(used_bytes, Relaxed);
        self.status.peak_bytes.fetch_max(used_bytes, Relaxed);
        let before = self.state;
        self.state = before.next(used_bytes, self.plan.total_bytes);
        self.status.set(self.state);
        self.flight.set_narrow(self.state == State::Slowing);
        if self.state >= State::Shedding {
            parts.shed();
            trim();
        } else if before >= State::Shedding {
            parts.relieved();
        }
        self.tell(before, used_bytes);
    }

    /// Waiting sources are told of when it begins and when it ends; shedding alone is a matter of course.
    fn tell(&mut self, before: State, used_bytes: u64) {
        let planned_bytes = self.plan.total_bytes;
        match (before == State::Slowing, self.state == State::Slowing) {
            (false, true) => {
                self.since = Instant::now();
                self.status.slowed.fetch_add(1, Relaxed);
                tracing::warn!(
                    used_bytes,
                    planned_bytes,
                    "memory is above its plan: caches are dropped and sources wait for their turn; nothing is lost"
                );
            }
            (true, false) => {
                let lasted_seconds = self.since.elapsed().as_secs();
                tracing::info!(used_bytes, planned_bytes, lasted_seconds, "memory is within its plan again");
            }
            _ => {}
        }
    }
}

/// Heap and stacks of this process: what is resident and of no file (proc_pid_statm(5)). A look costs some
/// microseconds; `smaps_rollup` would cost a hundred times that.
pub fn anonymous_bytes(root: &Path) -> Option<u64> {
    let text = cgroup::read(&root.join("proc/self/statm"))?;
    let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of the plan, from which on memory is shed.
const FIRST_MARK_PERCENT: u64 = 90;
const SLACK_PERCENT: u64 = 5;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::limit::{Limit, Source};
    use super::*;

    #[derive(Default)]
    struct Asked {
        shed: AtomicU32,
        relieved: AtomicU32,
    }

    impl Parts for &Asked {
        fn shed(&self) {
            self.shed.fetch_add(1, Relaxed);
        }

        fn relieved(&self) {
            self.relieved.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_state_begins_at_its_mark_and_ends_a_little_below() {
        let next = |state: State, used| state.next(used, 100 << 20);
        let mib = |n: u64| n << 20;
        assert_eq!(next(State::Within, mib(89)), State::Within);
        assert_eq!(next(State::Within, mib(91)), State::Shedding);
        assert_eq!(next(State::Shedding, mib(86)), State::Shedding);
        assert_eq!(next(State::Shedding, mib(84)), State::Within);
        assert_eq!(next(State::Within, mib(101)), State::Slowing);
        assert_eq!(next(State::Slowing, mib(96)), State::Slowing);
        assert_eq!(next(State::Slowing, mib(94)), State::Shedding);
        assert_eq!(next(State::Slowing, mib(10)), State::Within);
    }

    #[tokio::test]
    async fn above_the_plan_parts_shed_and_sources_wait_until_it_is_below_again() {
        let plan = Arc::new(Plan::new(Limit { bytes: 64 << 20, source: Source::Machine }));
        let (flight, status) = (Allotment::new(plan.flight_bytes), Arc::<Status>::default());
        let total = plan.total_bytes;
        let mut governor = Governor {
            plan,
            flight: flight.clone(),
            status: status.clone(),
            state: State::Within,
            since: Instant::now(),
        };
        let asked = Asked::default();
        let mut look = |used| {
            governor.look(used, &&asked);
            status.state()
        };
        assert_eq!(look(total / 2), State::Within);
        drop(flight.take(1024).await);
        assert_eq!(look(total + 1), State::Slowing);
        let turn = flight.take(1024).await;
        assert_eq!(flight.used_bytes(), flight.bytes_max(), "one at a time");
        drop(turn);
        assert_eq!(look(total / 100 * 92), State::Shedding);
        let share = flight.take(1024).await;
        assert_eq!(flight.used_bytes(), 1024);
        drop(share);
        assert_eq!(look(total / 2), State::Within);
        assert_eq!((asked.shed.load(Relaxed), asked.relieved.load(Relaxed)), (2, 1));
        assert_eq!((status.slowed.load(Relaxed), status.peak_bytes.load(Relaxed)), (1, total + 1));
    }

    #[test]
    fn the_memory_of_this_process_is_seen_to_grow() {
        let before = anonymous_bytes(Path::new("/")).unwrap();
        let grown = vec![1_u8; 64 << 20];
        let after = anonymous_bytes(Path::new("/")).unwrap();
        assert!(after > before + (48 << 20), "{before} {after} {}", grown.len());
        assert_eq!(anonymous_bytes(Path::new("/nowhere")), None);
    }
}
