//! What the firewall can do, and how several demands on the same thing are combined.

/// What is done; the stricter is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Allow,
    Hash,
    Mask,
    LocalOnly,
    Redact,
    Drop,
}

impl Action {
    /// From the mildest to the strictest.
    pub const ALL: [Self; 6] =
        [Self::Allow, Self::Hash, Self::Mask, Self::LocalOnly, Self::Redact, Self::Drop];

    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hash => "hash",
            Self::Mask => "mask",
            Self::LocalOnly => "local_only",
            Self::Redact => "redact",
            Self::Drop => "drop",
        }
    }
}

/// Every action that some pattern demands of one sensor or key.
///
/// All of them are kept, not only the strictest: `LocalOnly` is the stricter for what leaves, yet
/// a mask beside it still holds for the copy that stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Actions(u8);

impl Actions {
    pub(super) fn add(&mut self, action: Action) {
        self.0 |= 1 << action as u8;
    }

    pub(super) fn join(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub(super) fn has(self, action: Action) -> bool {
        self.0 & 1 << action as u8 != 0
    }

    /// What is done to what leaves the device: the strictest of all.
    pub(super) fn strictest(self) -> Action {
        Action::ALL.into_iter().rev().find(|action| self.has(*action)).unwrap_or(Action::Allow)
    }

    /// What is done to the copy that stays: the strictest but `LocalOnly`, which asks nothing of it.
    pub(super) fn on_device(self) -> Action {
        Self(self.0 & !(1 << Action::LocalOnly as u8)).strictest()
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Allow, Drop, Hash, LocalOnly, Mask, Redact};
    use super::*;

    #[test]
    fn of_two_actions_the_stricter_is_done_to_what_leaves() {
        // A row and a column for each of Allow, Hash, Mask, LocalOnly, Redact, Drop.
        let table = [
            [Allow, Hash, Mask, LocalOnly, Redact, Drop],
            [Hash, Hash, Mask, LocalOnly, Redact, Drop],
            [Mask, Mask, Mask, LocalOnly, Redact, Drop],
            [LocalOnly, LocalOnly, LocalOnly, LocalOnly, Redact, Drop],
            [Redact, Redact, Redact, Redact, Redact, Drop],
            [Drop, Drop, Drop, Drop, Drop, Drop],
        ];
        for (row, a) in table.iter().zip(Action::ALL) {
            for (expected, b) in row.iter().zip(Action::ALL) {
                let mut both = Actions::default();
                both.add(a);
                both.add(b);
                assert_eq!(both.strictest(), *expected, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn local_only_does_not_undo_what_is_done_before_storage() {
        for action in Action::ALL {
            let mut both = Actions::default();
            both.add(action);
            both.add(LocalOnly);
            let expected = if action == LocalOnly { Allow } else { action };
            assert_eq!(both.on_device(), expected);
        }
    }
}
