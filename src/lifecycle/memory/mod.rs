//! Memory: the limit that holds, the plan that is made of it, and the governor that holds the process to the plan.
//!
//! SQLite has no heap limit beside its page cache: it would turn a shortage into errors of commits, and what SQLite
//! holds besides is bounded by the size of a block.

mod allotment;
pub mod cgroup;
mod governor;
mod limit;
mod plan;
mod trim;

use std::path::Path;
use std::sync::Arc;

pub use allotment::{Allotment, Share};
pub use governor::{Parts, State, Status, anonymous_bytes, run};
pub use limit::{Limit, Source, kib_behind};
pub use plan::Plan;

/// What the process as a whole has of it: the plan, and what all sources share.
#[derive(Clone, Debug)]
pub struct Memory {
    pub plan: Arc<Plan>,
    pub status: Arc<Status>,
    /// Of readings, from their source to their commit.
    pub flight: Allotment,
    /// Of HTTP bodies.
    pub bodies: Allotment,
}

impl Memory {
    /// By the limit that holds for this process now.
    pub fn of_process() -> Self {
        Self::new(limit::find(Path::new("/")))
    }

    pub fn new(limit: Limit) -> Self {
        let plan = Plan::new(limit);
        Self {
            flight: Allotment::new(plan.flight_bytes),
            bodies: Allotment::new(plan.ingest_bytes),
            plan: Arc::new(plan),
            status: Arc::default(),
        }
    }

    /// Says once what is planned.
    pub fn tell(&self) {
        let Plan { limit, total_bytes, .. } = &*self.plan;
        let mib = |bytes: u64| bytes >> 20;
        tracing::info!(
            limit_mib = mib(limit.bytes),
            limit_source = limit.source.name(),
            planned_mib = mib(*total_bytes),
            flight_kib = self.plan.flight_bytes / 1024,
            ingest_kib = self.plan.ingest_bytes / 1024,
            window_panes = self.plan.window_panes,
            "memory is planned"
        );
        if !self.plan.fits() {
            tracing::warn!(
                limit_mib = mib(limit.bytes),
                planned_mib = mib(*total_bytes),
                "the memory limit is below what the agent may need: it can be killed under load; raise MemoryMax="
            );
        }
    }
}

/// For tests: a machine without want.
impl Default for Memory {
    fn default() -> Self {
        Self::new(Limit { bytes: plan::FULL_BYTES, source: Source::Unknown })
    }
}
