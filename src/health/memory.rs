//! Memory on the health page and in the metrics: the limit, the plan, and how the process stands to it.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::metrics::Page;
use crate::lifecycle::memory::{self, State};

/// `memory` of the health page. Bytes used and planned are heap and stacks, without the program and the page cache.
#[derive(Serialize)]
pub(super) struct Memory {
    limit_bytes: u64,
    /// Where the limit was found.
    limit_source: &'static str,
    planned_bytes: u64,
    used_bytes: u64,
    peak_bytes: u64,
    /// Readings on their way to their commit, and HTTP bodies.
    in_flight_bytes: usize,
    ingest_bytes: usize,
    state: &'static str,
    slowed: u64,
}

impl Memory {
    pub(super) fn new(memory: &memory::Memory) -> Self {
        let (plan, status) = (&memory.plan, &memory.status);
        Self {
            limit_bytes: plan.limit.bytes,
            limit_source: plan.limit.source.name(),
            planned_bytes: plan.total_bytes,
            used_bytes: status.used_bytes.load(Relaxed),
            peak_bytes: status.peak_bytes.load(Relaxed),
            in_flight_bytes: memory.flight.used_bytes(),
            ingest_bytes: memory.bodies.used_bytes(),
            state: status.state().name(),
            slowed: status.slowed.load(Relaxed),
        }
    }
}

pub(super) fn metrics(page: &mut Page, memory: &memory::Memory) {
    let (plan, status) = (&memory.plan, &memory.status);
    page.gauge("memory_limit_bytes", "What the agent may use, page cache included.")
        .put(&[("source", plan.limit.source.name())], plan.limit.bytes);
    page.gauge("memory_planned_bytes", "What its heap and stacks may come to.").put(&[], plan.total_bytes);
    page.gauge("memory_used_bytes", "Its heap and stacks.").put_atomic(&status.used_bytes);
    page.gauge("memory_peak_bytes", "The most of it that was seen.").put_atomic(&status.peak_bytes);
    page.gauge("memory_in_flight_bytes", "Readings on their way to their commit.")
        .put(&[], memory.flight.used_bytes());
    let mut family = page.gauge("memory_state", "1 for how memory stands to its plan, 0 for the others.");
    for state in State::ALL {
        family.put(&[("state", state.name())], u8::from(state == status.state()));
    }
    page.counter("memory_slowed_total", "Times that sources had to wait because of memory.")
        .put_atomic(&status.slowed);
}
