//! What one reading goes through: validation, the privacy firewall, rules, windows, encoding.

use std::sync::atomic::Ordering::Relaxed;

use crate::action::{Doors, Occasion};
use crate::clock::mark::{self, Mark};
use crate::privacy::{self, Action, Firewall, Verdict};
use crate::reading::{Batch, Committed, Reading, Refusal, Severity};
use crate::store::{Lane, Staged};

use super::rule::{Fired, Judged, Rule, Rules, Silent};
use super::selection::{Selected, Selection};
use super::window::{WindowResult, Windows};
use super::{Counters, Standing, encode, validate};

/// The configured stages, ready to run. Built whole before it replaces the running one.
pub struct Stages {
    pub firewall: Firewall,
    pub rules: Rules,
    pub windows: Windows,
    pub selection: Selection,
    /// The ways to the actions that rules name.
    pub doors: Doors,
    /// Whether anything leaves the device; without it everything goes to the local lane, and stays
    /// there when delivery is enabled later.
    pub deliver: bool,
}

/// What a reload brings: built whole, before anything is replaced.
pub struct Plan {
    pub rules: Rules,
    pub windows: Windows,
    pub selection: Selection,
    pub privacy: privacy::Settings,
    pub doors: Doors,
    /// Of hashes.
    pub key: privacy::HashKey,
    pub deliver: bool,
}

impl Stages {
    /// Goes over to `plan`; cooldowns and windows whose settings are the same go on.
    pub fn reload(&mut self, plan: Plan) {
        self.firewall.reload(&plan.privacy, plan.key);
        // What was taken in while nothing was to leave does not leave later in a window or as a last reading.
        let forgets = plan.deliver && !self.deliver;
        let mut rules = std::mem::replace(&mut self.rules, plan.rules);
        if forgets {
            rules.forget_readings();
        }
        self.rules.carry_over(rules);
        let windows = std::mem::replace(&mut self.windows, plan.windows);
        if forgets {
            self.windows.begin_anew(&windows);
        } else {
            self.windows.carry_over(windows);
        }
        self.selection.reload(plan.selection);
        (self.doors, self.deliver) = (plan.doors, plan.deliver);
    }

    /// Goes along when the wall clock is set by `moved` seconds: what is open stays open, and what has to
    /// pass still has to.
    pub fn clock_moved(&mut self, moved: f64) {
        self.windows.clock_moved(moved);
        self.rules.clock_moved(moved);
        self.selection.clock_moved(moved);
    }

    /// Drops what is made anew when it is needed.
    pub fn shed(&mut self) {
        self.firewall.shed();
        self.selection.shed();
    }

    /// Takes every reading of `batch` through the stages and stages what comes out. The agent's own
    /// stamps become wall time by `standing`.
    pub fn take_in(
        &mut self,
        batch: &Batch,
        standing: &Standing<'_>,
        staged: &mut Staged,
        counters: &Counters,
    ) -> Committed {
        let mut committed = Committed::default();
        for (reason, sensor) in batch.refusals() {
            self.count_refusal(reason, sensor, standing.now, staged, counters);
            committed.refused += 1;
        }
        for (reading, stamped) in batch.rows() {
            let mark = if stamped { standing.mark(reading.timestamp) } else { None };
            let timestamp = if stamped { reading.timestamp + standing.offset } else { reading.timestamp };
            let reading = Reading { timestamp, ..reading };
            if let Some(reason) = validate::refusal(&reading, stamped, standing) {
                self.count_refusal(reason, reading.sensor_name, standing.now, staged, counters);
                committed.refused += 1;
                continue;
            }
            let metadata = mark::disarm(reading.metadata);
            let reading = Reading { metadata: &metadata, ..reading };
            if self.process(reading, Stamp { stamped, mark, standing }, staged, counters) {
                committed.accepted += 1;
            } else {
                // Without the name: what is private is on no page.
                self.note_refusal(Refusal::Privacy, "", standing.now, staged, counters);
                committed.refused += 1;
            }
        }
        self.firewall.tell(staged.filtered());
        counters.readings_processed.fetch_add(u64::from(committed.accepted), Relaxed);
        let errors = self.rules.counters().map(|(_, rule)| rule.evaluation_errors.load(Relaxed)).sum();
        counters.rule_errors.store(errors, Relaxed);
        counters.rule_states_forgotten.store(self.rules.state_evictions().load(Relaxed), Relaxed);
        committed
    }

    /// Counts under the sensor's name only where the privacy policy leaves that alone: the counts stand
    /// on the health page, and the cloud is told of them.
    fn count_refusal(
        &mut self,
        reason: Refusal,
        sensor: &str,
        now: f64,
        staged: &mut Staged,
        counters: &Counters,
    ) {
        let shown = if self.firewall.shows_name(sensor) { sensor } else { "" };
        self.note_refusal(reason, shown, now, staged, counters);
    }

    fn note_refusal(&self, reason: Refusal, shown: &str, now: f64, staged: &mut Staged, counters: &Counters) {
        counters.refuse(reason, shown);
        if self.deliver {
            staged.refuse(reason, shown, now);
        } else {
            staged.refuse_untold(reason, shown, now);
        }
    }

    /// Emits the windows that ended, by the wall clock, without a reading to say so, and the events of sensors
    /// that went silent.
    pub fn tick(&mut self, standing: &Standing<'_>, staged: &mut Staged, counters: &Counters) {
        let Self { firewall, rules, windows, selection, doors, deliver } = self;
        let acts = Acts { doors, delivers: *deliver };
        let mut results =
            Results { firewall, rules, selection, deliver: *deliver, acts, standing, staged, counters };
        if !windows.is_empty() {
            windows.flush(standing.now, &mut |result| results.emit(&result));
        }
        counters.show_windows(windows);
        rules.silences(standing.now - standing.offset, standing.now, &mut |silent| {
            let deliver = *deliver && selection.of(silent.reading.sensor_name).events;
            emit_silence(firewall, (deliver, acts), &silent, standing, staged, counters);
        });
        firewall.tell(staged.filtered());
    }

    /// False when the privacy firewall drops the reading; then nothing is derived from it either.
    fn process(
        &mut self,
        reading: Reading<'_>,
        Stamp { stamped, mark, standing }: Stamp<'_>,
        staged: &mut Staged,
        counters: &Counters,
    ) -> bool {
        let Self { firewall, rules, windows, selection, doors, deliver } = self;
        let deliver = *deliver;
        let acts = Acts { doors, delivers: deliver };
        let has_windows = !windows.is_empty();
        // What is not plain to everybody is not mixed into a window over all sensors either.
        let pooled = has_windows && firewall.sensor_action(reading.sensor_name) == Action::Allow;
        let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return false };
        let selected = if deliver { selection.reading(reading, stamped) } else { Selected::ALL };
        counters.readings_suppressed.fetch_add(u64::from(!selected.reading), Relaxed);
        let mut out = Out { staged, deliver: deliver && selected.reading, acts, mark };
        out.stage(outbound, local, selected.suppressed);
        out.deliver = deliver && selected.events;
        let since_boot = standing.now - standing.offset;
        let judged = Judged { reading, stamped, since_boot, leaves: outbound.is_some() };
        rules.evaluate(judged, &mut |fired: Fired<'_>| {
            counters.events_triggered.fetch_add(1, Relaxed);
            let (outbound, local) = copies(fired.leaves, outbound, local);
            out.stage_event(About::reading(fired.rule, reading.timestamp, mark), outbound, local);
        });
        if has_windows {
            let mut results =
                Results { firewall, rules, selection, deliver, acts, standing, staged, counters };
            windows.add(reading, pooled, stamped, &mut |result| results.emit(&result));
        }
        true
    }
}

/// Whose time a reading has, and the mark it gets for it.
#[derive(Clone, Copy)]
struct Stamp<'a> {
    stamped: bool,
    mark: Option<Mark<'a>>,
    standing: &'a Standing<'a>,
}

/// Which event, besides its reading.
#[derive(Clone, Copy)]
struct About<'a> {
    rule: &'a Rule,
    /// Unix seconds UTC.
    timestamp: f64,
    metadata: &'a str,
    /// Of the event's own time.
    mark: Option<Mark<'a>>,
}

impl<'a> About<'a> {
    /// Of a reading, at its time.
    fn reading(rule: &'a Rule, timestamp: f64, mark: Option<Mark<'a>>) -> Self {
        Self { rule, timestamp, metadata: "{}", mark }
    }
}

/// What events start, whatever is selected of their sensor for delivery.
#[derive(Clone, Copy)]
struct Acts<'a> {
    doors: &'a Doors,
    /// Delivery is on.
    delivers: bool,
}

/// Where the copies of one item go.
struct Out<'a> {
    staged: &'a mut Staged,
    deliver: bool,
    acts: Acts<'a>,
    mark: Option<Mark<'a>>,
}

impl Out<'_> {
    /// Puts what may leave into the lane of telemetry, and what may not, or differs, into the local one.
    ///
    /// What leaves says how many readings of its sensor a deadband held back before it.
    fn stage(&mut self, outbound: Option<Reading<'_>>, local: Option<Reading<'_>>, suppressed: u32) {
        // Without delivery one copy is enough: the fuller one.
        let outbound = if self.deliver || local.is_none() { outbound } else { None };
        let mark = self.mark;
        if let Some(reading) = outbound {
            let lane = if self.deliver { Lane::Telemetry } else { Lane::Local };
            let metadata = encode::with_suppressed(reading.metadata, suppressed);
            let reading = Reading { metadata: &metadata, ..reading };
            self.push(lane, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
        if let Some(reading) = local {
            self.push(Lane::Local, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
    }

    /// An event goes the way of the reading that fired it: it stays on the device when the reading does.
    fn stage_event(&mut self, about: About<'_>, outbound: Option<Reading<'_>>, local: Option<Reading<'_>>) {
        let About { rule, timestamp, metadata, mark: event_mark } = about;
        let lane = match rule.severity() {
            Severity::Critical => Lane::Critical,
            Severity::Warning => Lane::Anomaly,
            Severity::Info => Lane::Telemetry,
        };
        let (lane, about) = match outbound {
            Some(reading) if self.deliver => (lane, Some(reading)),
            _ => (Lane::Local, local.or(outbound)),
        };
        let Some(about) = about else { return };
        let text = encode::EventText {
            rule_name: rule.name(),
            timestamp,
            severity: rule.severity(),
            message: rule.message(),
            metadata,
            mark: event_mark,
        };
        let mark = self.mark;
        self.push(lane, timestamp, |out| encode::event(out, text, Some(about), mark));
        if event_mark.is_some() && mark.is_none() {
            self.staged.note_provisional(lane);
        }
        self.start_actions(rule, text, outbound);
    }

    /// Keeps places for what the event starts; each gets what may leave the device, wherever it is.
    fn start_actions(&mut self, rule: &Rule, text: encode::EventText<'_>, outbound: Option<Reading<'_>>) {
        let (mark, Acts { doors, delivers }) = (self.mark, self.acts);
        let sensor = outbound.map(|reading| reading.sensor_name);
        let occasion = Occasion { rule: rule.name(), sensor, delivers };
        for door in rule.actions().iter().filter_map(|name| doors.get(name)) {
            let admitted = door.admit(occasion, |out| encode::event(out, text, outbound, mark));
            if let Some(admitted) = admitted {
                self.staged.after_commit(move || admitted.start());
            }
        }
    }

    fn push(&mut self, lane: Lane, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        self.staged.push(lane, timestamp, write);
        if self.mark.is_some() {
            self.staged.note_provisional(lane);
        }
    }
}

/// What the results of windows pass through.
struct Results<'a, 's> {
    firewall: &'a mut Firewall,
    rules: &'a mut Rules,
    selection: &'a mut Selection,
    deliver: bool,
    acts: Acts<'a>,
    standing: &'a Standing<'s>,
    staged: &'a mut Staged,
    counters: &'a Counters,
}

impl Results<'_, '_> {
    /// A window's result travels as a reading of its sensor, so that the sensor's privacy holds for it.
    fn emit(&mut self, result: &WindowResult<'_>) {
        let Self { firewall, rules, selection, deliver, acts, standing, staged, counters } = self;
        let metadata = encode::window_metadata(result);
        let end = result.values.end;
        let reading = Reading {
            sensor_name: result.sensor_name,
            timestamp: end,
            value: result.value,
            unit: result.unit,
            metadata: &metadata,
        };
        counters.windows_emitted.fetch_add(1, Relaxed);
        let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return };
        // The end of a span of the agent's own time stands as far from the wall clock as that does.
        let mark = if result.stamped { standing.mark(end - standing.offset) } else { None };
        let selected = selection.of(result.sensor_name);
        let mut out = Out { staged, deliver: *deliver && selected.windows, acts: *acts, mark };
        out.stage(outbound, local, 0);
        out.deliver = *deliver && selected.events;
        let judged = Judged { reading, stamped: result.stamped, since_boot: 0.0, leaves: outbound.is_some() };
        rules.evaluate_result(&result.window.name, result.values, judged, &mut |fired| {
            counters.events_triggered.fetch_add(1, Relaxed);
            let (outbound, local) = copies(fired.leaves, outbound, local);
            out.stage_event(About::reading(fired.rule, reading.timestamp, mark), outbound, local);
        });
    }
}

/// The copies of a reading for an event that may not leave although the reading may, or of one that may.
fn copies<'r>(
    leaves: bool,
    outbound: Option<Reading<'r>>,
    local: Option<Reading<'r>>,
) -> (Option<Reading<'r>>, Option<Reading<'r>>) {
    if leaves { (outbound, local) } else { (None, local.or(outbound)) }
}

/// The event of a sensor that went silent carries its last reading, as privacy leaves that now.
fn emit_silence(
    firewall: &mut Firewall,
    (deliver, acts): (bool, Acts<'_>),
    silent: &Silent<'_>,
    standing: &Standing<'_>,
    staged: &mut Staged,
    counters: &Counters,
) {
    let Silent { rule, reading, stamped, seconds, leaves } = *silent;
    let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return };
    let (outbound, local) = copies(leaves, outbound, local);
    counters.events_triggered.fetch_add(1, Relaxed);
    let mark = if stamped { standing.mark(reading.timestamp - standing.offset) } else { None };
    let metadata = encode::silence_metadata(seconds);
    let about = About {
        rule,
        timestamp: standing.now,
        metadata: &metadata,
        mark: standing.mark(standing.now - standing.offset),
    };
    Out { staged, deliver, acts, mark }.stage_event(about, outbound, local);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipeline::rule;
    use crate::privacy::{HashKey, SensorRule};

    #[test]
    fn a_refusal_of_a_private_sensor_is_counted_without_its_name() {
        let rule = |sensor: &str, action| SensorRule { sensor: sensor.to_owned(), action };
        let settings = privacy::Settings {
            enabled: true,
            rules: vec![rule("badge-*", Action::Hash), rule("*-bedroom", Action::Drop)],
            ..privacy::Settings::default()
        };
        let mut stages = Stages {
            firewall: Firewall::new(&settings, HashKey::new(&[7; 32])),
            rules: Rules::new(&[]).unwrap(),
            windows: Windows::new(&[]),
            selection: Selection::new(&[]),
            doors: Doors::default(),
            deliver: true,
        };
        let mut batch = Batch::default();
        let long = format!("{}-bedroom", "x".repeat(300));
        for sensor_name in ["badge-7", "door", &long] {
            batch.push(Reading { sensor_name, timestamp: 0.0, value: 1.0, unit: "", metadata: "{}" });
        }
        for sensor in ["the-bedroom", "door", &long] {
            batch.refuse(Refusal::Malformed, sensor);
        }
        let counters = Counters::default();
        let now = 1_800_000_000.0;
        let standing = Standing { boot: "b", offset: now, now, is_synchronised: true };
        let committed = stages.take_in(&batch, &standing, &mut Staged::default(), &counters);
        assert_eq!((committed.accepted, committed.refused), (0, 6));
        let names: Vec<_> = counters.refused_by_sensor().into_keys().collect();
        assert_eq!(names, ["", "door"]);
    }

    #[test]
    fn the_event_of_a_rule_over_rules_stays_on_the_device_where_one_of_its_readings_does() {
        let plain = |name: &str, expr: &str| rule::Settings {
            name: name.to_owned(),
            condition_expr: expr.to_owned(),
            ..rule::Settings::default()
        };
        let composite = rule::Composite {
            all_of: vec!["open".to_owned(), "hot".to_owned()],
            within: Duration::from_secs(60),
            ..rule::Composite::default()
        };
        let over = rule::Settings { composite: Some(composite), ..plain("both", "True") };
        let all = [plain("open", "ctx.sensor_name[:4] == 'door'"), plain("hot", "ctx.value > 80"), over];
        let settings = privacy::Settings {
            enabled: true,
            local_only: vec![privacy::FieldPattern("door-private".to_owned())],
            ..privacy::Settings::default()
        };
        for (door, is_outbound) in [("door-private", false), ("door", true)] {
            let mut stages = Stages {
                firewall: Firewall::new(&settings, HashKey::new(&[7; 32])),
                rules: Rules::new(&all).unwrap(),
                windows: Windows::new(&[]),
                selection: Selection::new(&[]),
                doors: Doors::default(),
                deliver: true,
            };
            let mut batch = Batch::default();
            let now = 1_800_000_000.0;
            for (sensor_name, value) in [(door, 1.0), ("oven", 90.0)] {
                batch.push(Reading { sensor_name, timestamp: now, value, unit: "", metadata: "{}" });
            }
            let standing = Standing { boot: "b", offset: now, now, is_synchronised: true };
            let mut staged = Staged::default();
            stages.take_in(&batch, &standing, &mut staged, &Counters::default());
            let holds = |lane: Lane| String::from_utf8_lossy(staged.lines(lane)).contains("both");
            assert_eq!((holds(Lane::Telemetry), holds(Lane::Local)), (is_outbound, !is_outbound), "{door}");
        }
    }

    #[test]
    fn the_event_of_a_silent_sensor_is_what_privacy_makes_of_its_last_reading() {
        let settings = privacy::Settings {
            enabled: true,
            redact_fields: vec![privacy::FieldPattern("operator".to_owned())],
            local_only: vec![privacy::FieldPattern("gps".to_owned())],
            ..privacy::Settings::default()
        };
        let silent = rule::Settings {
            name: "silent".to_owned(),
            condition_expr: "True".to_owned(),
            severity: Severity::Critical,
            silent: Some(Duration::from_secs(60)),
            ..rule::Settings::default()
        };
        let mut stages = Stages {
            firewall: Firewall::new(&settings, HashKey::new(&[7; 32])),
            rules: Rules::new(&[silent]).unwrap(),
            windows: Windows::new(&[]),
            selection: Selection::new(&[]),
            doors: Doors::default(),
            deliver: true,
        };
        let metadata = r#"{"operator":"ann","gps":[1,2],"line":"a"}"#;
        let mut batch = Batch::default();
        batch.push_stamped(Reading { sensor_name: "door", timestamp: 5.0, value: 1.0, unit: "C", metadata });
        let counters = Counters::default();
        let at = |since_boot: f64| Standing {
            boot: "b",
            offset: 1e9,
            now: 1e9 + since_boot,
            is_synchronised: false,
        };
        let mut staged = Staged::default();
        stages.take_in(&batch, &at(6.0), &mut staged, &counters);
        let mut staged = Staged::default();
        stages.tick(&at(65.9), &mut staged, &counters);
        assert!(staged.is_empty());
        stages.tick(&at(66.5), &mut staged, &counters);
        assert!(staged.is_urgent());
        let text = String::from_utf8(staged.lines(Lane::Critical).to_vec()).unwrap();
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        let clock =
            |boot_time| serde_json::json!({"quality": "provisional", "boot_time": boot_time, "boot": "b"});
        assert_eq!(
            event,
            serde_json::json!({
                "rule_name": "silent", "timestamp": 1_000_000_066.5, "severity": "critical",
                "message": "Rule 'silent' fired",
                "sensor_readings": [{
                    "sensor_name": "door", "timestamp": 1_000_000_005.0, "value": 1.0, "unit": "C",
                    "metadata": {"line": "a", "_clock": clock(5.0)},
                }],
                "metadata": {"silent_seconds": 60.5, "_clock": clock(66.5)},
            })
        );
        assert_eq!(counters.events_triggered.load(Relaxed), 1);
    }
}
