//! Commands that share one commit.

use tokio::sync::oneshot;

use super::hold::Hold;
use super::outlast::Carried;
use crate::store::{AuditEntry, BatchKey, Command, Digest, FrozenBatch, Lane, Outcome, Staged, Want};

/// What shares one commit.
#[derive(Default)]
pub struct Group {
    pub staged: Staged,
    pub settled: Vec<(BatchKey, Outcome)>,
    pub audits: Vec<AuditEntry>,
    pub facts: Vec<(&'static str, String)>,
    pub wanted: Option<(Box<Want>, oneshot::Sender<Option<FrozenBatch>>)>,
    pub pings: Vec<oneshot::Sender<()>>,
    pub asked: Vec<(Vec<Digest>, oneshot::Sender<Vec<bool>>)>,
    pub attempted: Option<Attempted>,
    pub hold: Option<Hold>,
    pub sheds: bool,
}

impl Group {
    pub fn add(&mut self, command: Command) {
        match command {
            Command::Append(staged) => self.staged.absorb(*staged),
            Command::Settle(key, outcome) => self.settled.push((key, outcome)),
            Command::Audit(entry) => self.audits.push(entry),
            Command::Remember(key, value) => self.facts.push((key, value)),
            Command::NextBatch(want, reply) => self.wanted = Some((want, reply)),
            Command::Ping(reply) => self.pings.push(reply),
            Command::Imported(digests, reply) => self.asked.push((digests, reply)),
            Command::Hold(hold) => self.hold = Some(hold),
            Command::Shed => self.sheds = true,
        }
    }

    /// A second request for a batch must see the first one's, and no block may grow without bound.
    pub fn is_full(&self, hold: Hold) -> bool {
        self.wanted.is_some() || self.staged.size_bytes() >= hold.group_bytes_max
    }

    /// Whether it must be durable before anybody is answered. Outcomes and facts alone may wait for the next
    /// commit: losing an outcome repeats a request under its old id.
    pub fn needs_commit(&self) -> bool {
        self.staged.items() > 0
            || !self.staged.imported.is_empty()
            || !self.audits.is_empty()
            || self.wanted.is_some()
    }

    /// Leaves of it what has to be answered.
    pub fn forget_stored(&mut self) {
        self.staged.forget_items();
        self.settled.clear();
        self.audits.clear();
        self.facts.clear();
    }

    /// What may wait for the next commit.
    pub fn uncommitted(&mut self) -> impl Iterator<Item = Carried> {
        let settled = self.settled.drain(..).map(|(key, outcome)| Carried::Outcome(key, outcome));
        settled.chain(self.facts.drain(..).map(|(key, value)| Carried::Fact(key, value)))
    }
}

/// The commit of a group that was tried.
pub struct Attempted {
    /// What it leads to, which differs from what was before.
    pub mark: Mark,
    /// It takes along what was refused.
    pub notes_refused: bool,
}

/// How far the database is: equal after a failed commit when that is in it all the same.
#[derive(Debug, PartialEq)]
pub struct Mark {
    pub next_sequences: [u64; Lane::ALL.len()],
    pub audit_hash: String,
}
