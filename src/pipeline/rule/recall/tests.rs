use super::super::{Composite, GroupBy};
use super::*;
use crate::reading::Severity;

const T: f64 = 1_717_156_800.0;
const WHOLE: Sight = Sight { metadata: true, unit: true };
const MINUTE: Duration = Duration::from_secs(60);

fn rule(name: &str, expr: &str) -> Settings {
    Settings { name: name.to_owned(), condition_expr: expr.to_owned(), ..Settings::default() }
}

fn silent(name: &str) -> Settings {
    Settings { silent: Some(MINUTE), ..rule(name, "True") }
}

/// A reading of sensor `x` that arrived at `seconds`.
fn judged(seconds: f64, value: f64) -> Judged<'static> {
    let metadata = r#"{"k":1}"#;
    let reading = Reading { sensor_name: "x", timestamp: T + seconds, value, unit: "C", metadata };
    Judged { reading, stamped: false, since_boot: seconds, leaves: true }
}

fn fire(rule: &str, seconds: f64, about: f64) -> Fire<'_> {
    Fire { rule, sensor: "x", timestamp: T + seconds, about: T + about, stamped: false }
}

/// What `all` remember of readings at these seconds with these values, the run before having ended at `end`. It is
/// second 1000 of the boot clock then.
fn after(all: &[Settings], seen: &[(f64, f64)], fires: &[Fire<'_>], end: f64) -> Rules {
    let mut recall = Recall::new(Rules::new(all).unwrap(), WHOLE);
    fires.iter().for_each(|fire| recall.will_fire(*fire));
    seen.iter().for_each(|(seconds, value)| recall.reading(judged(*seconds, *value)));
    fires.iter().for_each(|fire| recall.fired(*fire));
    recall.next_commit();
    let mut rules = recall.finish(1000.0, end);
    rules.resume(1000.0);
    rules
}

/// Names of the rules that fire on a reading.
fn fires(rules: &mut Rules, seconds: f64, value: f64) -> Vec<String> {
    let mut names = Vec::new();
    rules.evaluate(judged(seconds, value), &mut |fired| names.push(fired.rule.name().to_owned()));
    names
}

/// Rule and length of the silences that are told at `since_boot`.
fn silences(rules: &mut Rules, since_boot: f64) -> Vec<(String, f64)> {
    let mut told = Vec::new();
    rules.silences(since_boot, T + since_boot, &mut |silent| {
        told.push((silent.rule.name().to_owned(), silent.seconds));
    });
    told
}

#[test]
fn a_condition_that_held_goes_on_and_fires_when_it_is_due() {
    let all = [Settings { hold: MINUTE, ..rule("held", "ctx.value > 1") }];
    let mut rules = after(&all, &[(0.0, 0.0), (10.0, 2.0), (40.0, 2.0)], &[], 41.0);
    assert_eq!(fires(&mut rules, 69.0, 2.0), [""; 0]);
    assert_eq!(fires(&mut rules, 70.0, 2.0), ["held"]);
}

#[test]
fn a_cooldown_is_that_of_the_event_whatever_the_readings_would_have_fired() {
    let all = [Settings { cooldown: MINUTE, ..rule("cooled", "ctx.value > 1") }];
    let mut rules = after(&all, &[(10.0, 2.0), (40.0, 2.0)], &[fire("cooled", 10.0, 10.0)], 41.0);
    assert_eq!(fires(&mut rules, 69.0, 2.0), [""; 0]);
    assert_eq!(fires(&mut rules, 70.0, 2.0), ["cooled"]);
    // Of a rule that is gone nothing is known.
    let mut rules = after(&all, &[], &[fire("gone", 10.0, 10.0)], 41.0);
    assert_eq!(fires(&mut rules, 11.0, 2.0), ["cooled"]);
}

#[test]
fn what_fired_stays_so_until_it_is_cleared() {
    let all = [Settings { clear_expr: Some("ctx.value < 1".to_owned()), ..rule("full", "ctx.value > 2") }];
    let fired = [fire("full", 10.0, 10.0)];
    let mut rules = after(&all, &[(5.0, 0.0), (10.0, 3.0), (20.0, 1.5)], &fired, 41.0);
    assert_eq!(fires(&mut rules, 50.0, 3.0), [""; 0]);
    let mut rules = after(&all, &[(10.0, 3.0), (20.0, 0.5), (30.0, 1.5)], &fired, 41.0);
    assert_eq!(fires(&mut rules, 50.0, 3.0), ["full"]);
}

#[test]
fn the_time_away_is_no_silence_and_a_start_listens_before_it_tells_of_one() {
    let all = [silent("gone")];
    // Silent for 20 s when the run ended.
    let mut rules = after(&all, &[(0.0, 1.0), (100.0, 2.0)], &[], 120.0);
    assert_eq!(silences(&mut rules, 1039.0), []);
    assert_eq!(silences(&mut rules, 1040.0), [("gone".to_owned(), 60.0)]);
    assert_eq!(silences(&mut rules, 1041.0), []);
    // For 55 s: who sends has half a minute to come back.
    let mut rules = after(&all, &[(100.0, 2.0)], &[], 155.0);
    assert_eq!(silences(&mut rules, 1029.0), []);
    assert_eq!(silences(&mut rules, 1030.0), [("gone".to_owned(), 85.0)]);
}

#[test]
fn a_silence_that_was_told_is_not_told_again_unless_something_came_since() {
    let all = [Settings { severity: Severity::Critical, ..silent("gone") }];
    let told = [fire("gone", 160.0, 100.0)];
    let mut rules = after(&all, &[(100.0, 2.0)], &told, 170.0);
    assert_eq!(silences(&mut rules, 2000.0), []);
    let mut rules = after(&all, &[(100.0, 2.0), (165.0, 2.0)], &told, 170.0);
    assert_eq!(silences(&mut rules, 2000.0).len(), 1);
}

#[test]
fn rules_over_rules_know_what_held_before_and_count_no_event_of_it() {
    let composite = Composite {
        all_of: vec!["a".to_owned(), "b".to_owned()],
        within: MINUTE,
        group_by: GroupBy::Sensor,
        ..Composite::default()
    };
    let both = Settings { composite: Some(composite), ..rule("both", "True") };
    let all = [rule("a", "ctx.value == 1"), rule("b", "ctx.value == 2"), both];
    let mut rules = after(&all, &[(10.0, 1.0), (20.0, 2.0)], &[], 41.0);
    assert!(rules.counters().all(|(_, counters)| counters.events.load(Relaxed) == 0));
    assert_eq!(fires(&mut rules, 65.0, 2.0), ["b", "both"]);
    assert_eq!(fires(&mut rules, 81.0, 1.0), ["a", "both"]);
    let mut rules = after(&all, &[(10.0, 1.0)], &[], 41.0);
    assert_eq!(fires(&mut rules, 71.0, 2.0), ["b"]);
}

#[test]
fn a_rule_that_fails_on_what_was_before_is_neither_counted_nor_mute_afterwards() {
    let all = [Settings { hold: MINUTE, ..rule("odd", "ctx.metadata['nothing']") }];
    let mut rules = after(&all, &[(10.0, 1.0)], &[], 41.0);
    let errors = |rules: &Rules| rules.counters().next().unwrap().1.evaluation_errors.load(Relaxed);
    assert_eq!(errors(&rules), 0);
    fires(&mut rules, 50.0, 1.0);
    assert_eq!(errors(&rules), 1);
}

#[test]
fn where_metadata_and_units_are_not_stored_as_they_came_rules_that_look_at_them_begin_anew() {
    let held = |name: &str, expr: &str| Settings { hold: MINUTE, ..rule(name, expr) };
    let all = [
        held("keyed", "'k' in ctx.metadata"),
        held("of unit", "ctx.unit == 'C'"),
        held("plain", "True"),
        silent("gone"),
    ];
    let mut recall = Recall::new(Rules::new(&all).unwrap(), Sight { metadata: false, unit: false });
    recall.reading(judged(0.0, 1.0));
    let mut rules = recall.finish(1000.0, 0.0);
    rules.silences(2000.0, T, &mut |silent| {
        assert_eq!((silent.reading.metadata, silent.reading.unit), ("{}", ""));
    });
    assert_eq!(fires(&mut rules, 60.0, 1.0), ["plain"]);
}

#[test]
fn what_is_forgotten_of_readings_leaves_cooldowns() {
    let all = [Settings { hold: MINUTE, cooldown: MINUTE, ..rule("r", "True") }];
    let mut recall = Recall::new(Rules::new(&all).unwrap(), WHOLE);
    recall.reading(judged(0.0, 1.0));
    recall.forget_readings();
    recall.reading(judged(60.0, 1.0));
    recall.fired(fire("r", 60.0, 60.0));
    let mut rules = recall.finish(1000.0, 60.0);
    for (seconds, expected) in [(61.0, vec![]), (119.0, vec![]), (121.0, vec!["r"])] {
        assert_eq!(fires(&mut rules, seconds, 1.0), expected, "{seconds}");
    }
}

#[test]
fn only_what_is_remembered_is_looked_back_for() {
    let reach = |settings| Rules::new(&[settings]).unwrap().reach();
    let hour = Duration::from_secs(3600);
    assert_eq!(reach(rule("plain", "True")), Reach::default());
    let cooled = Settings { cooldown: MINUTE, ..rule("r", "True") };
    assert_eq!(reach(cooled), Reach { each: Duration::ZERO, last: MINUTE });
    assert_eq!(reach(rule("r", "prev.value")), Reach { each: Duration::ZERO, last: hour });
    let held = Settings { hold: 2 * hour, ..rule("r", "True") };
    assert_eq!(reach(held), Reach { each: 2 * hour, last: 2 * hour });
}
