//! The body of `/metrics`: Prometheus text exposition format 0.0.4.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::delivery::days_left;
use super::host::Sample;
use super::memory;
use super::view::{Status, View, state_name};
use crate::adapter::State;
use crate::reading::{Priority, Refusal};
use crate::store::Trouble;
use crate::upload::budget::Use;
use crate::{clock, pipeline};

/// The whole page. `since_boot` is the boot clock.
pub(super) fn page(view: &View, status: Status, host: &Sample, since_boot: Duration) -> String {
    let mut page = Page(String::with_capacity(PAGE_BYTES));
    agent(&mut page, view, status, since_boot);
    pipeline(&mut page, view);
    privacy(&mut page, view);
    store(&mut page, view);
    delivery(&mut page, view);
    sources(&mut page, view);
    actions(&mut page, view);
    wear(&mut page, view);
    clock(&mut page, view);
    memory::metrics(&mut page, &view.memory);
    board(&mut page, host);
    page.0
}

fn agent(page: &mut Page, view: &View, status: Status, since_boot: Duration) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.gauge("build_info", "The running version.").put(&version, 1);
    page.gauge("uptime_seconds", "Since the start of the agent.")
        .put(&[], view.uptime(since_boot).as_secs_f64());
    let mut family = page.gauge("health_status", "1 for the status that /health shows, 0 for the others.");
    for each in Status::ALL {
        family.put(&[("status", each.name())], u8::from(each == status));
    }
}

fn pipeline(page: &mut Page, view: &View) {
    let pipeline = &*view.pipeline;
    page.counter("readings_processed_total", "Readings that were accepted.")
        .put_atomic(&pipeline.readings_processed);
    page.counter("events_triggered_total", "Events that rules emitted.")
        .put_atomic(&pipeline.events_triggered);
    page.counter(
        "readings_suppressed_total",
        "Readings that were not let through to delivery; they are stored.",
    )
    .put_atomic(&pipeline.readings_suppressed);
    page.counter("windows_emitted_total", "Window results that were emitted.")
        .put_atomic(&pipeline.windows_emitted);
    windows(page, pipeline);
    page.counter("rule_errors_total", "Evaluations of a rule that ended in an error.")
        .put_atomic(&pipeline.rule_errors);
    page.counter(
        "rule_states_forgotten_total",
        "Sensors of which rules forgot what they remembered, for want of room.",
    )
    .put_atomic(&pipeline.rule_states_forgotten);
    page.gauge("buffered_readings", "Readings that wait for their commit.")
        .put_atomic(&pipeline.buffer_count);
    let mut family = page.counter("readings_refused_total", "Input that was not accepted, by reason.");
    for reason in Refusal::ALL {
        family.put(&[("reason", reason.name())], pipeline.refused(reason));
    }
    let help = "Input that was not accepted, by sensor and reason; sensors beyond the first 256 are 'other'.";
    let mut family = page.counter("sensor_readings_refused_total", help);
    for (sensor, counts) in pipeline.refused_by_sensor() {
        for (reason, count) in Refusal::ALL.iter().zip(counts).filter(|(_, count)| *count > 0) {
            family.put(&[("sensor", sensor.as_str()), ("reason", reason.name())], count);
        }
    }
}

fn windows(page: &mut Page, pipeline: &pipeline::Counters) {
    let shown = pipeline.windows();
    let help = "Readings of a window that were older than the newest of their sensor, and in time.";
    let mut family = page.counter("window_readings_out_of_order_total", help);
    for (window, counts) in &shown.by_window {
        family.put(&[("window", window)], counts.out_of_order);
    }
    let help = "Readings left out of a window because every span they belong to had ended.";
    let mut family = page.counter("window_readings_too_late_total", help);
    for (window, counts) in &shown.by_window {
        family.put(&[("window", window)], counts.too_late);
    }
    let help = "Readings left out of all windows for want of room for their sensor, or beyond all measure.";
    page.counter("window_readings_left_out_total", help).put(&[], shown.left_out);
    let help = "Times a sensor's window began anew because its clock was set back.";
    page.counter("window_restarts_total", help).put(&[], shown.restarts);
    page.gauge("window_readings_rebuilt", "Readings that windows took from the store at the start.")
        .put_atomic(&pipeline.windows_rebuilt_readings);
}

fn privacy(page: &mut Page, view: &View) {
    let privacy = &*view.privacy;
    let mut family =
        page.counter("privacy_readings_total", "Readings that the privacy firewall acted on, by action.");
    for (action, count) in [
        ("drop", &privacy.dropped),
        ("redact", &privacy.redacted),
        ("local_only", &privacy.local_only),
        ("mask", &privacy.masked),
        ("hash", &privacy.hashed),
    ] {
        family.put(&[("action", action)], count.load(Relaxed));
    }
}

fn store(page: &mut Page, view: &View) {
    let store = &*view.store;
    page.gauge("pending_items", "Items not yet delivered, by lane.").put_lanes(&store.pending);
    page.counter("dropped_items_total", "Items that retention dropped undelivered, by lane.")
        .put_lanes(&store.dropped);
    let help = "Items that will not be delivered, by reason, in the life of the store.";
    let mut family = page.counter("gap_items_total", help);
    for (reason, count) in store.gaps() {
        family.put(&[("reason", reason)], count);
    }
    page.gauge("dead_letters", "Items in the store that the endpoint refused for good.")
        .put_atomic(&store.dead_letters);
    page.counter("commits_total", "Transactions that added something.").put_atomic(&store.commits);
    page.counter("commit_bytes_total", "Bytes that those transactions added.")
        .put_atomic(&store.commit_bytes);
    page.counter("items_stored_total", "Readings, events and window results that were committed.")
        .put_atomic(&store.items_stored);
    page.counter(
        "items_made_total",
        "Summaries of thinned telemetry and reports of gaps that were committed.",
    )
    .put_atomic(&store.items_made);
    page.gauge("store_size_bytes", "Size of the database and its write-ahead log on the disk.")
        .put_atomic(&store.store_bytes);
    let mut family = page.gauge("store_trouble", "1 for what commits wait for, 0 for the others.");
    for trouble in Trouble::ALL {
        family.put(&[("trouble", trouble.name())], u8::from(store.trouble() == Some(trouble)));
    }
    page.gauge("store_allowed_bytes", "What its pages may take, after what others on the disk need.")
        .put_atomic(&store.allowed_bytes);
    if let Some(days) = store.days_before_thinning.get() {
        page.gauge("store_days_before_thinning", "Days without delivery until old telemetry is thinned.")
            .put(&[], days);
    }
    if let Some(days) = store.days_before_dropping.get() {
        page.gauge(
            "store_days_before_dropping",
            "Days without delivery until undelivered items are dropped.",
        )
        .put(&[], days);
    }
    if let Some(seconds) = store.last_commit_at.get() {
        page.gauge("last_commit_timestamp_seconds", "When the last commit ended.").put(&[], seconds);
    }
    if let Some(seconds) = store.oldest_pending_at.get() {
        page.gauge("oldest_pending_timestamp_seconds", "When the oldest undelivered item was accepted.")
            .put(&[], seconds);
    }
}

fn delivery(page: &mut Page, view: &View) {
    let delivery = &*view.delivery;
    page.counter("batches_delivered_total", "Requests that the endpoint accepted.")
        .put_atomic(&delivery.batches_delivered);
    page.counter("items_delivered_total", "Items in those requests.").put_atomic(&delivery.items_delivered);
    page.counter("delivery_attempts_failed_total", "Requests that did not end in a delivery.")
        .put_atomic(&delivery.attempts_failed);
    page.counter("delivery_sent_bytes_total", "Bytes of request bodies, retries included.")
        .put_atomic(&delivery.body_bytes_sent);
    page.counter("delivery_dead_letters_total", "Items that the endpoint refused for good since start.")
        .put_atomic(&delivery.dead_letters);
    let last = view.last_delivery();
    page.gauge("delivery_trouble", "1 while delivery does not go on.")
        .put(&[], u8::from(last.trouble.is_some()));
    page.counter("delivery_wire_bytes_total", "Bytes on the line, TLS and headers of IP and TCP included.")
        .put_atomic(&delivery.wire_bytes);
    page.counter("delivery_throttled_total", "Answers of 429 that only slowed the backlog down.")
        .put_atomic(&delivery.throttled);
    page.gauge("delivery_backlog_rate", "Batches of backlog a second that go out at most.")
        .put(&[], last.backlog_rate);
    page.gauge("delivery_stuck_batches", "Batches that fail again and again while others are taken.")
        .put(&[], last.stuck.as_ref().map_or(0, |(count, _)| *count));
    budget(page, &last.budget);
    let mut family = page.gauge("certificate_days_left", "Days until a certificate of delivery expires.");
    for (name, expires_at) in last.certificates.all() {
        if let Some(at) = expires_at {
            family.put(&[("certificate", name)], days_left(at, clock::unix_seconds()));
        }
    }
    if last.delivered_at > 0.0 {
        page.gauge("last_delivery_timestamp_seconds", "When the last delivery ended.")
            .put(&[], last.delivered_at);
    }
}

fn budget(page: &mut Page, state: &Use) {
    page.gauge("delivery_month_used_bytes", "Bytes on the line in this billing month.")
        .put(&[], state.used_bytes);
    if let Some(bytes) = state.bytes_max {
        page.gauge("delivery_month_limit_bytes", "The budget of the month.").put(&[], bytes);
    }
    if let Some(bytes) = state.forecast_bytes {
        page.gauge("delivery_month_forecast_bytes", "What the month comes to at the rate of the last day.")
            .put(&[], bytes);
    }
    let help = "1 for a lane that waits for the next month, 0 for the others.";
    let mut family = page.gauge("delivery_lane_held", help);
    for (priority, held) in Priority::ALL.iter().zip(state.held) {
        family.put(&[("lane", priority.name())], u8::from(held));
    }
}

fn actions(page: &mut Page, view: &View) {
    let configured = view.configured.borrow();
    let mut family = page.counter("action_events_total", "Events by action, and what became of them.");
    for action in &configured.actions {
        for (outcome, count) in action.counts() {
            family
                .put(&[("action", action.name.as_str()), ("type", action.kind), ("outcome", outcome)], count);
        }
    }
    let mut family = page.gauge("action_waiting_events", "Events that wait for an action.");
    for action in &configured.actions {
        family.put(&[("action", action.name.as_str())], action.waiting.load(Relaxed));
    }
}

fn sources(page: &mut Page, view: &View) {
    let configured = view.configured.borrow();
    page.gauge("configured_devices", "Entries of sensors.devices.").put(&[], configured.devices);
    let states = [State::Starting, State::Connected, State::Reconnecting, State::Failed, State::Finished];
    let mut family = page.gauge("source_state", "1 for the state that a source is in, 0 for the others.");
    for source in &configured.sources {
        let current = source.state();
        for state in states {
            let labels =
                [("source", source.name.as_str()), ("kind", source.kind), ("state", state_name(state))];
            family.put(&labels, u8::from(state == current));
        }
    }
    let mut family = page.counter("source_readings_total", "Readings that a source handed in.");
    for source in &configured.sources {
        family.put(&[("source", &source.name), ("kind", source.kind)], source.readings.load(Relaxed));
    }
    let mut family = page.counter("source_restarts_total", "Starts of a source after its first.");
    for source in &configured.sources {
        family.put(&[("source", &source.name), ("kind", source.kind)], source.restarts.load(Relaxed));
    }
}

fn wear(page: &mut Page, view: &View) {
    let account = view.wear.account();
    page.counter("written_bytes_total", "Written to flash, whole pages, since the store was made.")
        .put(&[], account.total.bytes);
    page.counter("accepted_bytes_total", "JSON of what was accepted, since the store was made.")
        .put(&[], account.total.accepted_bytes);
    page.gauge("written_bytes_today", "Written to flash since midnight UTC.").put(&[], account.today.bytes);
    if let Some(ratio) = account.today.amplification() {
        page.gauge("write_amplification_ratio", "Bytes written for each byte accepted, today.")
            .put(&[], ratio);
    }
    if let Some(bytes) = account.bytes_per_year() {
        page.gauge("written_bytes_per_year", "Forecast at the rate of today and the day before.")
            .put(&[], bytes);
    }
    page.gauge("write_budget_exceeded", "1 while commits wait longer because of store.write_mb_per_day.")
        .put(&[], u8::from(view.pipeline.is_over_budget.load(Relaxed)));
}

fn clock(page: &mut Page, view: &View) {
    let store = &*view.store;
    page.gauge("clock_synchronised", "1 while the agent's stamps are right.")
        .put(&[], u8::from(view.pipeline.clock.is_synchronised()));
    page.gauge("clock_provisional_items", "Items in ranges with times that may be put right.")
        .put_atomic(&store.provisional);
    let mut family =
        page.counter("clock_corrected_items_total", "Items whose provisional time was put right.");
    for (quality, count) in [("corrected", &store.corrected), ("inferred", &store.inferred)] {
        family.put(&[("quality", quality)], count.load(Relaxed));
    }
}

fn board(page: &mut Page, host: &Sample) {
    page.gauge("host_cpu_usage_ratio", "CPU use of the board, all cores.").put(&[], host.cpu_percent / 100.0);
    page.gauge("host_memory_usage_ratio", "Memory that is not available to new programs.")
        .put(&[], host.ram_percent / 100.0);
    page.gauge("host_disk_usage_ratio", "Use of the file system of the state directory.")
        .put(&[], host.disk_percent / 100.0);
    page.gauge("host_disk_free_bytes", "Room on the file system of the state directory.")
        .put(&[], host.disk_free_bytes);
    if let Some(celsius) = host.thermal_celsius {
        page.gauge("host_temperature_celsius", "The hottest thermal zone.").put(&[], celsius);
    }
    if let Some(bytes) = host.resident_bytes {
        page.gauge("resident_memory_bytes", "Memory of the agent.").put(&[], bytes);
    }
}

/// The text so far.
pub(super) struct Page(String);

/// One metric; its head is written, samples follow.
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: &'static str) -> Family<'_> {
        let page = &mut self.0;
        // Writing to a String cannot fail, here and below.
        write!(page, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n").ok();
        Family { page, name }
    }
}

impl Family<'_> {
    pub(super) fn put(&mut self, labels: &[(&'static str, &str)], value: impl Display) {
        write!(self.page, "{PREFIX}{}", self.name).ok();
        for (index, (label, text)) in labels.iter().enumerate() {
            self.page.push(if index == 0 { '{' } else { ',' });
            write!(self.page, "{label}=\"").ok();
            push_escaped(self.page, text);
            self.page.push('"');
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        writeln!(self.page, " {value}").ok();
    }

    pub(super) fn put_atomic(&mut self, value: &AtomicU64) {
        self.put(&[], value.load(Relaxed));
    }

    fn put_lanes(&mut self, lanes: &[AtomicU64; 4]) {
        for (priority, value) in Priority::ALL.iter().zip(lanes) {
            self.put(&[("lane", priority.name())], value.load(Relaxed));
        }
    }
}

/// Label values are any UTF-8 with these three escaped.
fn push_escaped(page: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            _ => page.push(c),
        }
    }
}

const PREFIX: &str = "pyvorin_edge_";

/// A page of a few sources fits without growing.
const PAGE_BYTES: usize = 12 * 1024;

#[cfg(test)]
mod tests {
    use super::super::view::tests::agent;
    use super::*;

    #[test]
    fn a_hostile_sensor_name_cannot_forge_a_sample() {
        let agent = agent();
        agent.view.pipeline.refuse(Refusal::Time, "a\"} 1\nforged_total 99\\");
        let page = page(&agent.view, Status::Healthy, &Sample::default(), Duration::ZERO);
        let expected = r#"pyvorin_edge_sensor_readings_refused_total{sensor="a\"} 1\nforged_total 99\\",reason="time"} 1"#;
        assert!(page.lines().any(|line| line == expected), "{page}");
        assert!(!page.lines().any(|line| line.starts_with("forged_total")));
    }

    #[test]
    fn exactly_one_status_is_set() {
        let page = page(&agent().view, Status::Degraded, &Sample::default(), Duration::ZERO);
        let set: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("pyvorin_edge_health_status{") && line.ends_with(" 1"))
            .collect();
        assert_eq!(set, [r#"pyvorin_edge_health_status{status="degraded"} 1"#]);
    }

    #[test]
    fn a_board_without_a_sensor_has_no_temperature() {
        let page = page(&agent().view, Status::Healthy, &Sample::default(), Duration::ZERO);
        assert!(!page.contains("celsius"));
    }
}
