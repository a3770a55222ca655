//! What the process holds from its start to its end: the state directory with its lock and its black box, and the
//! memory that it may use.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::Loaded;
use crate::lifecycle::blackbox::{Blackbox, Previous, What};
use crate::lifecycle::lock::{LockError, StateLock};
use crate::lifecycle::memory::Memory;

/// To be kept to the very end of the process: the last that is written is the black box.
pub struct Place {
    state_dir: PathBuf,
    pub blackbox: Blackbox,
    pub memory: Memory,
    /// The detail of the record of this start.
    introduction: String,
    /// A mutex, because what cannot be had at the start is tried again on another thread than that which ends
    /// the process; held for one attempt.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    lock: Option<StateLock>,
    has_blackbox: bool,
    previous: Option<Previous>,
    /// It was said that the black box cannot be opened.
    is_refusal_told: bool,
}

impl Place {
    /// Of a start with `loaded`; nothing is touched yet.
    pub fn new(loaded: &Loaded, once: bool) -> Self {
        let file = loaded.files.first().map(|file| file.display().to_string()).unwrap_or_default();
        let pass = if once { ", one pass" } else { "" };
        Self {
            state_dir: loaded.config.store.state_dir.clone(),
            blackbox: Blackbox::default(),
            memory: Memory::of_process(),
            introduction: format!("version {}, {file}{pass}", env!("CARGO_PKG_VERSION")),
            held: Mutex::default(),
        }
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Takes the lock and opens the black box, where that is not done yet. Returns how the run before ended.
    /// Waits for the disk.
    ///
    /// # Errors
    ///
    /// The lock cannot be had. A black box that cannot be had is no error: the agent runs on without it.
    pub fn take(&self) -> Result<Option<Previous>, LockError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // A mount that comes late lies over what was locked before.
        if !held.lock.as_ref().is_some_and(|lock| lock.is_of(&self.state_dir)) {
            held.lock = None;
            held.has_blackbox = false;
            held.lock = Some(StateLock::take(&self.state_dir)?);
        }
        if !held.has_blackbox {
            self.open_blackbox(&mut held);
        }
        Ok(held.previous.clone())
    }

    fn open_blackbox(&self, held: &mut Held) {
        match self.blackbox.open(&self.state_dir) {
            Ok(previous) => {
                held.has_blackbox = true;
                held.previous = previous;
                self.blackbox.record(What::Start, &self.introduction);
            }
            Err(error) => {
                if !std::mem::replace(&mut held.is_refusal_told, true) {
                    tracing::warn!(state_dir = %self.state_dir.display(), %error,
                        "the black box cannot be opened; the agent runs on without it");
                }
                return;
            }
        }
        if let Some(previous) = held.previous.as_ref().filter(|previous| !previous.is_clean()) {
            tracing::warn!(
                last_seen = previous.last_seen,
                reason = previous.detail,
                "the run before this one did not end on request"
            );
        }
    }
}
