//! When a rule began to fail and when it is well again, so that the log tells each once.

use std::time::Duration;

/// A spell of errors of one rule, on the time since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) since: Duration,
    pub(super) last: Duration,
    pub(super) errors: u64,
}

impl Trouble {
    /// Notes an error, and says whether it is the first of a spell.
    pub(super) fn met(trouble: &mut Option<Self>, now: Duration) -> bool {
        match trouble {
            Some(trouble) => {
                trouble.last = now;
                trouble.errors += 1;
                false
            }
            None => {
                *trouble = Some(Self { since: now, last: now, errors: 1 });
                true
            }
        }
    }

    /// Notes a reading without an error, and gives the spell that this ends.
    pub(super) fn absent(trouble: &mut Option<Self>, now: Duration) -> Option<Self> {
        // Of two sensors often only one lacks what the condition asks for: the rule is not well
        // again with each reading of the other.
        trouble.take_if(|trouble| now.saturating_sub(trouble.last) >= TROUBLE_QUIET_MIN)
    }
}

/// A rule counts as recovered after this long without an error.
const TROUBLE_QUIET_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_begins_once_and_ends_once_however_readings_alternate() {
        let mut trouble = None;
        let at = Duration::from_secs;
        assert!(Trouble::met(&mut trouble, at(100)));
        for second in 101..110 {
            assert_eq!(Trouble::absent(&mut trouble, at(second)), None);
            assert!(!Trouble::met(&mut trouble, at(second)));
        }
        assert_eq!(Trouble::absent(&mut trouble, at(168)), None);
        let ended = Trouble::absent(&mut trouble, at(169));
        assert_eq!(ended, Some(Trouble { since: at(100), last: at(109), errors: 10 }));
        assert_eq!(trouble, None);
    }
}
