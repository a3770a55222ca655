//! What the agent believes of its wall clock: how it stands to the boot clock, and whether that is right.
//!
//! The boot clock never jumps, and slewing moves both clocks alike, so their distance changes only when
//! the wall clock is set. Pure: samples and the kernel's word are handed in.

use std::time::Duration;

/// `agent.clock` and `agent.clock_wait_seconds`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The wall clock is right although the kernel does not know: a container or a virtual machine whose
    /// host keeps it.
    pub trusted: bool,
    /// How long after the boot provisional readings wait for the first synchronisation before they are
    /// delivered.
    pub wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { trusted: false, wait: Duration::from_secs(120) }
    }
}

/// Both clocks at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub since_boot: Duration,
    /// As the kernel shows it, Unix seconds.
    pub unix_seconds: f64,
}

impl Sample {
    /// Unix seconds minus boot clock.
    pub fn offset(&self) -> f64 {
        self.unix_seconds - self.since_boot.as_secs_f64()
    }
}

/// How good the wall time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is right, and the agent's stamps carry no mark.
    Synchronised,
    /// It was right in this boot: the boot clock carries that on, whatever the wall clock shows.
    HeldOver,
    /// It may show anything, and is taken as it is.
    Unknown,
}

/// The belief of one boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Belief {
    state: State,
    /// Unix seconds minus boot clock, as stamps are given.
    offset: f64,
    /// Boot clock, when the state began.
    since: Duration,
    /// Offset when the wall clock stopped being right, or at the first look at it.
    offset_before: f64,
}

/// What a look at the clocks brought.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// Seconds by which stamps move against those of before; 0 when they do not.
    pub moved: f64,
    pub turned: Option<Turn>,
}

/// A change between right and not right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// After `spell` without; `jump` is how far stamps of before are off, in seconds.
    Synchronised {
        jump: f64,
        spell: Duration,
    },
    Lost,
}

impl Belief {
    /// At the start of the agent. `known_offset` is the offset of an earlier synchronisation in this boot.
    pub fn new(sample: Sample, is_synchronised: bool, known_offset: Option<f64>) -> Self {
        let (state, offset) = match known_offset {
            _ if is_synchronised => (State::Synchronised, sample.offset()),
            Some(known) => (State::HeldOver, known),
            None => (State::Unknown, sample.offset()),
        };
        Self { state, offset, since: sample.since_boot, offset_before: offset }
    }

    /// Looks at both clocks and the kernel's word.
    pub fn observe(&mut self, sample: Sample, is_synchronised: bool) -> Observed {
        let before = *self;
        let was = self.state == State::Synchronised;
        if was != is_synchronised {
            self.state = if is_synchronised { State::Synchronised } else { State::HeldOver };
            self.since = sample.since_boot;
        }
        // What was right in this boot stays the better guide while nobody keeps the wall clock right.
        if self.state != State::HeldOver && (sample.offset() - self.offset).abs() > TOLERANCE_SECONDS {
            self.offset = sample.offset();
        }
        let turned = match (was, is_synchronised) {
            (true, false) => {
                self.offset_before = before.offset;
                Some(Turn::Lost)
            }
            (false, true) => {
                let spell = sample.since_boot.saturating_sub(before.since);
                Some(Turn::Synchronised { jump: self.offset - self.offset_before, spell })
            }
            _ => None,
        };
        Observed { moved: self.offset - before.offset, turned }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_synchronised(&self) -> bool {
        self.state == State::Synchronised
    }

    /// Unix seconds minus boot clock, as stamps are given.
    pub fn offset(&self) -> f64 {
        self.offset
    }

    /// Boot clock, when the state began or the agent started.
    pub fn since(&self) -> Duration {
        self.since
    }
}

/// Two clocks cannot be read at once, and a thread may be put aside in between. What moves less is no
/// step of the wall clock.
pub const TOLERANCE_SECONDS: f64 = 0.01;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(since_boot: f64, unix_seconds: f64) -> Sample {
        Sample { since_boot: Duration::from_secs_f64(since_boot), unix_seconds }
    }

    #[test]
    fn a_board_without_a_clock_is_put_right_by_its_first_synchronisation() {
        let mut belief = Belief::new(sample(10.0, 15.0), false, None);
        assert_eq!((belief.state(), belief.offset()), (State::Unknown, 5.0));
        assert_eq!(belief.observe(sample(11.0, 16.0), false), Observed::default());
        let observed = belief.observe(sample(40.0, 1_800_000_040.0), true);
        let turned = Some(Turn::Synchronised { jump: 1_799_999_995.0, spell: Duration::from_secs(30) });
        assert_eq!(observed, Observed { moved: 1_799_999_995.0, turned });
        assert_eq!(belief.offset(), 1_800_000_000.0);
    }

    #[test]
    fn what_was_right_is_held_over_whatever_the_wall_clock_shows_then() {
        let mut belief = Belief::new(sample(10.0, 1_800_000_010.0), true, None);
        let lost = belief.observe(sample(20.0, 2_500_000_020.0), false);
        assert_eq!(lost, Observed { moved: 0.0, turned: Some(Turn::Lost) });
        assert_eq!((belief.state(), belief.offset()), (State::HeldOver, 1_800_000_000.0));
        assert_eq!(belief.observe(sample(21.0, 21.0), false), Observed::default());
        let observed = belief.observe(sample(30.0, 1_800_000_031.0), true);
        assert_eq!(observed.moved, 1.0);
    }

    #[test]
    fn a_restart_within_a_boot_goes_on_with_what_was_right() {
        let belief = Belief::new(sample(10.0, 3.0), false, Some(1_800_000_000.0));
        assert_eq!((belief.state(), belief.offset()), (State::HeldOver, 1_800_000_000.0));
    }

    proptest! {
        /// Whatever the wall clock does and the kernel says of it.
        #[test]
        fn movements_add_up_and_stamps_are_right_while_synchronised(
            steps in proptest::collection::vec((0.001..1e4_f64, -2e9..4e9_f64, any::<bool>()), 1..50)
        ) {
            let mut now = 5.0;
            let mut belief = Belief::new(sample(now, 100.0), false, None);
            let start = belief.offset();
            let mut moved = 0.0;
            for (after, offset, synchronised) in steps {
                now += after;
                let before = belief;
                let observed = belief.observe(sample(now, now + offset), synchronised);
                moved += observed.moved;
                prop_assert_eq!(observed.turned.is_some(), before.is_synchronised() != synchronised);
                prop_assert_eq!(belief.is_synchronised(), synchronised);
                if synchronised {
                    prop_assert!((belief.offset() - offset).abs() <= TOLERANCE_SECONDS + 1e-5);
                } else if before.state() != State::Unknown {
                    prop_assert_eq!(belief.offset(), before.offset());
                }
            }
            prop_assert!((start + moved - belief.offset()).abs() < 1e-3);
        }
    }
}
