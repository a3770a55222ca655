//! The process group of a child that leads one: what the child started ends with it.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// A child's process group; killed when this is dropped.
pub struct Group(Option<Pid>);

impl Group {
    /// Of a child that was started with a process group of its own.
    pub fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It fails when the group is already gone, which is what is wanted.
            kill_process_group(pid, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
