use std::time::Duration;

use super::*;
use crate::reading::Severity;

fn settings(name: &str, condition_expr: &str, cooldown_seconds: u64) -> Settings {
    Settings {
        name: name.to_owned(),
        condition_expr: condition_expr.to_owned(),
        severity: Severity::Warning,
        cooldown: Duration::from_secs(cooldown_seconds),
        ..Settings::default()
    }
}

fn reading(sensor_name: &str, timestamp: f64, value: f64) -> Reading<'_> {
    Reading { sensor_name, timestamp, value, unit: "C", metadata: "{}" }
}

fn judged(reading: Reading<'_>) -> Judged<'_> {
    Judged { reading, stamped: false, since_boot: 0.0, leaves: true }
}

fn fires(rules: &mut Rules, reading: Reading<'_>) -> Vec<String> {
    let mut names = Vec::new();
    rules.evaluate(judged(reading), &mut |fired| names.push(fired.rule.name().to_owned()));
    names
}

fn count(rules: &Rules, name: &str) -> (u64, u64) {
    let (_, counters) = rules.counters().find(|(rule, _)| *rule == name).unwrap();
    (counters.events.load(Relaxed), counters.evaluation_errors.load(Relaxed))
}

#[test]
fn rules_fire_in_order_with_the_reading_and_the_default_message() {
    let warm = settings("warm", "ctx.value > 20", 0);
    let hot = Settings { message: Some("hot!".to_owned()), ..settings("hot", "ctx.value > 80", 0) };
    let mut rules = Rules::new(&[warm, hot]).unwrap();
    let mut seen = Vec::new();
    rules.evaluate(judged(reading("oven", 10.0, 90.0)), &mut |fired| {
        assert_eq!(fired.reading.sensor_name, "oven");
        assert_eq!(fired.rule.severity(), Severity::Warning);
        seen.push(fired.rule.message().to_owned());
    });
    assert_eq!(seen, ["Rule 'warm' fired", "hot!"]);
    assert_eq!(fires(&mut rules, reading("oven", 11.0, 30.0)), ["warm"]);
    assert_eq!(count(&rules, "warm"), (2, 0));
    assert_eq!(count(&rules, "hot"), (1, 0));
}

#[test]
fn a_cooldown_holds_for_its_own_sensor_and_rule_only() {
    let all = [settings("a", "ctx.value > 0", 60), settings("b", "ctx.value > 0", 10)];
    let mut rules = Rules::new(&all).unwrap();
    assert_eq!(fires(&mut rules, reading("x", 1000.0, 1.0)), ["a", "b"]);
    assert_eq!(fires(&mut rules, reading("y", 1001.0, 1.0)), ["a", "b"]);
    assert_eq!(fires(&mut rules, reading("x", 1010.0, 1.0)), ["b"]);
    assert_eq!(fires(&mut rules, reading("x", 1059.9, 1.0)), ["b"]);
    assert_eq!(fires(&mut rules, reading("x", 1060.0, 1.0)), ["a"]);
}

#[test]
fn an_error_is_counted_and_stops_neither_other_rules_nor_later_readings() {
    let all = [settings("deep", "ctx.metadata['k'] > 1", 0), settings("plain", "True", 0)];
    let mut rules = Rules::new(&all).unwrap();
    assert_eq!(fires(&mut rules, reading("x", 1.0, 1.0)), ["plain"]);
    assert_eq!(count(&rules, "deep"), (0, 1));
    let with_key = Reading { metadata: r#"{"k":2}"#, ..reading("x", 2.0, 1.0) };
    assert_eq!(fires(&mut rules, with_key), ["deep", "plain"]);
    let broken = Reading { metadata: "{", ..reading("x", 3.0, 1.0) };
    assert_eq!(fires(&mut rules, broken), ["plain"]);
    assert_eq!(count(&rules, "deep"), (1, 2));
}

#[test]
fn all_conditions_that_do_not_compile_are_named_at_once() {
    let all = [settings("a", "ctx.value >", 0), settings("b", "True", 0), settings("c", "open('x')", 0)];
    let refused = Rules::new(&all).unwrap_err();
    let text = refused.to_string();
    assert_eq!(refused.problems.iter().map(|problem| problem.index).collect::<Vec<_>>(), [0, 2]);
    assert!(text.contains("rules[0].condition_expr of 'a': column 12: expected a value"), "{text}");
    assert!(text.contains("of 'c': column 1: 'open' is not available"), "{text}");
}

#[test]
fn a_reload_keeps_cooldowns_of_unchanged_rules_and_counters_of_all() {
    let before = [settings("same", "ctx.value > 0", 60), settings("changed", "ctx.value > 0", 60)];
    let mut old = Rules::new(&before).unwrap();
    assert_eq!(fires(&mut old, reading("x", 1000.0, 1.0)).len(), 2);

    let after = [settings("new", "True", 0), settings("changed", "ctx.value > 0", 50), before[0].clone()];
    let mut rules = Rules::new(&after).unwrap();
    rules.carry_over(old);
    assert_eq!(fires(&mut rules, reading("x", 1030.0, 1.0)), ["new", "changed"]);
    assert_eq!(fires(&mut rules, reading("x", 1060.0, 1.0)), ["new", "same"]);
    assert_eq!(count(&rules, "changed"), (2, 0));
    assert_eq!(count(&rules, "same"), (2, 0));
}

#[test]
fn rules_can_move_between_threads() {
    fn require_send<T: Send>() {}
    require_send::<Rules>();
}

#[test]
fn a_rule_with_a_duration_fires_once_its_condition_held_so_long() {
    let steady = Settings { hold: Duration::from_secs(30), ..settings("steady", "ctx.value > 80", 60) };
    let mut rules = Rules::new(&[steady]).unwrap();
    let mut times = Vec::new();
    for second in 0..200_u32 {
        let time = 1000.0 + f64::from(second);
        let value = if second == 20 { 70.0 } else { 90.0 };
        if !fires(&mut rules, reading("x", time, value)).is_empty() {
            times.push(second);
        }
        // Another sensor that dips again and again never fires.
        assert_eq!(fires(&mut rules, reading("y", time, f64::from(second % 30) * 9.0)), [""; 0]);
    }
    assert_eq!(times, [51, 111, 171], "30 s after the dip, then as the cooldown allows");
}

#[test]
fn the_previous_value_is_the_sensors_own_and_none_before_the_first() {
    let jump = settings("jump", "prev.value is not None and ctx.value - prev.value > 5", 0);
    let first = settings("first", "prev.value is None and prev.timestamp is None", 0);
    let mut rules = Rules::new(&[jump, first]).unwrap();
    assert_eq!(fires(&mut rules, reading("x", 1.0, 10.0)), ["first"]);
    assert_eq!(fires(&mut rules, reading("y", 2.0, 50.0)), ["first"]);
    assert_eq!(fires(&mut rules, reading("x", 3.0, 15.0)), [""; 0]);
    assert_eq!(fires(&mut rules, reading("x", 4.0, 20.5)), ["jump"]);
    assert_eq!(fires(&mut rules, reading("y", 5.0, 20.5)), [""; 0]);
    assert_eq!(count(&rules, "jump"), (1, 0));
}

#[test]
fn a_rule_of_a_window_judges_its_results_and_no_readings() {
    let of_window =
        |name: &str, text: &str| Settings { window: Some("minute".to_owned()), ..settings(name, text, 0) };
    let spread = of_window("spread", "win.max - win.min > 3 and win.count >= 2");
    let rising = of_window("rising", "prev.value is not None and ctx.value > prev.value");
    let mut rules = Rules::new(&[spread, rising, settings("plain", "True", 0)]).unwrap();
    let mut results = |window: &str, mean: f64, max: f64| {
        let mut names = Vec::new();
        let values = window::Values { mean, max, count: 2, ..window::Values::default() };
        rules.evaluate_result(window, values, judged(reading("x", 60.0, mean)), &mut |fired| {
            names.push(fired.rule.name().to_owned());
        });
        names
    };
    assert_eq!(results("minute", 1.0, 9.0), ["spread"]);
    assert_eq!(results("hour", 2.0, 9.0), [""; 0]);
    assert_eq!(results("minute", 2.0, 2.0), ["rising"]);
    assert_eq!(fires(&mut rules, reading("x", 1.0, 100.0)), ["plain"]);
}

/// Names of sensors that went silent, and for how long.
fn silences(rules: &mut Rules, since_boot: f64) -> Vec<(String, f64)> {
    let mut silent = Vec::new();
    rules.silences(since_boot, 1.8e9 + since_boot, &mut |found| {
        silent.push((found.reading.sensor_name.to_owned(), found.seconds));
    });
    silent.sort_by(|a, b| a.0.cmp(&b.0));
    silent
}

#[test]
fn a_silent_sensor_fires_once_and_again_only_after_it_came_back() {
    let silent = |text: &str| Settings { silent: Some(MINUTE), ..settings("silent", text, 0) };
    let mut rules = Rules::new(&[silent("ctx.sensor_name != 'z'")]).unwrap();
    let hear = |rules: &mut Rules, name: &str, since_boot: f64| {
        // Their own clocks say anything.
        let read = Judged { since_boot, ..judged(reading(name, 7.0, 1.0)) };
        rules.evaluate(read, &mut |fired| panic!("{} fired", fired.rule.name()));
    };
    for (name, at) in [("x", 100.0), ("y", 130.0), ("z", 100.0)] {
        hear(&mut rules, name, at);
    }
    assert_eq!(silences(&mut rules, 159.9), []);
    assert_eq!(silences(&mut rules, 160.0), [("x".to_owned(), 60.0)]);
    assert_eq!(silences(&mut rules, 200.0), [("y".to_owned(), 70.0)]);
    assert_eq!(silences(&mut rules, 9000.0), []);
    hear(&mut rules, "x", 9000.0);
    assert_eq!(silences(&mut rules, 9060.0), [("x".to_owned(), 60.0)]);
    assert_eq!(count(&rules, "silent"), (3, 0));

    hear(&mut rules, "x", 9100.0);
    let mut after = Rules::new(&[settings("other", "True", 0), silent("ctx.sensor_name != 'z'")]).unwrap();
    after.carry_over(rules);
    assert_eq!(silences(&mut after, 9160.0), [("x".to_owned(), 60.0)], "a reload changes nothing");
}

#[test]
fn what_rules_remember_is_bounded_whatever_names_come() {
    let silent = Settings { silent: Some(MINUTE), ..settings("silent", "True", 0) };
    let all = [silent, settings("jump", "prev.value == 1", 0)];
    let mut rules = Rules::new(&all).unwrap().remembering(4096, 1024 * 1024);
    let mut after = Rules::new(&all).unwrap();
    let metadata = format!("{{\"k\":\"{}\"}}", "x".repeat(4000));
    let fill = |rules: &mut Rules| {
        for number in 0..1000 {
            let name = number.to_string();
            let reading = Reading { metadata: &metadata, ..reading(&name, 1.0, 1.0) };
            rules.evaluate(judged(reading), &mut |_| {});
        }
    };
    fill(&mut rules);
    let forgotten = rules.state_evictions().load(Relaxed);
    after.carry_over(rules);
    fill(&mut after);
    assert!(after.state_evictions().load(Relaxed) > forgotten);
    let kept = silences(&mut after, 60.0).len();
    assert!((150..1024 * 1024 / 4000).contains(&kept), "{kept}");
}

#[test]
fn a_rule_with_a_clear_condition_fires_again_only_once_it_was_cleared() {
    let latched = Settings {
        clear_expr: Some("ctx.value < 70 and prev.value is not None".to_owned()),
        ..settings("latched", "ctx.value > 80", 0)
    };
    let mut rules = Rules::new(std::slice::from_ref(&latched)).unwrap();
    let mut run = |sensor: &str, values: &[f64]| {
        let fired = |value: &f64| !fires(&mut rules, reading(sensor, 1.0, *value)).is_empty();
        values.iter().map(fired).collect::<Vec<_>>()
    };
    assert_eq!(run("x", &[90.0, 90.0, 75.0, 85.0, 60.0, 90.0]), [true, false, false, false, false, true]);
    assert_eq!(run("y", &[60.0, 90.0]), [false, true], "each sensor by itself");
    let mut after = Rules::new(&[latched]).unwrap();
    after.carry_over(rules);
    assert_eq!(fires(&mut after, reading("x", 1.0, 90.0)), [""; 0], "a reload clears nothing");
}

#[test]
fn a_fire_that_the_cooldown_holds_back_needs_no_clearing() {
    let latched = Settings {
        clear_expr: Some("ctx.value < 70".to_owned()),
        ..settings("latched", "ctx.value > 80", 60)
    };
    let mut rules = Rules::new(&[latched]).unwrap();
    let mut at = |time: f64, value: f64| fires(&mut rules, reading("x", time, value)).len();
    assert_eq!(
        [at(0.0, 90.0), at(10.0, 60.0), at(20.0, 90.0), at(61.0, 90.0), at(200.0, 90.0)],
        [1, 0, 0, 1, 0]
    );
}

fn over(name: &str, all_of: &[&str], group_by: GroupBy) -> Settings {
    let all_of = all_of.iter().map(|name| (*name).to_owned()).collect();
    let within = Duration::from_secs(10);
    let composite = Composite { all_of, within, group_by, ..Composite::default() };
    Settings { composite: Some(composite), ..settings(name, "True", 0) }
}

#[test]
fn rules_over_rules_see_conditions_and_not_cooldowns_and_have_their_own() {
    let trouble = Settings { cooldown: MINUTE, ..over("trouble", &["hot", "shakes"], GroupBy::Prefix) };
    let hot = settings("hot", "ctx.unit == 'C' and ctx.value > 80", 3600);
    let shakes = settings("shakes", "ctx.value == 7", 3600);
    let mut rules = Rules::new(&[trouble, hot, shakes]).unwrap();
    let mut at = |sensor: &str, time: f64, value: f64| fires(&mut rules, reading(sensor, time, value));
    assert_eq!(at("pump1/heat", 0.0, 90.0), ["hot"]);
    assert_eq!(at("pump2/shake", 1.0, 7.0), ["shakes"], "another pump");
    assert_eq!(at("pump1/shake", 2.0, 7.0), ["shakes", "trouble"]);
    assert_eq!(at("pump1/shake", 3.0, 7.0), [""; 0], "its own cooldown");
    // Both rules are in their cooldowns, and hold all the same.
    assert_eq!(at("pump1/heat", 70.0, 90.0), [""; 0]);
    assert_eq!(at("pump1/shake", 71.0, 7.0), ["trouble"]);
    assert_eq!(count(&rules, "trouble"), (2, 0));
}

#[test]
fn a_silence_stands_for_a_rule_over_rules_as_long_as_it_lasts() {
    let gone = Settings { silent: Some(MINUTE), ..settings("gone", "ctx.sensor_name == 'flow'", 0) };
    let on = settings("on", "ctx.sensor_name == 'pump' and ctx.value > 0", 0);
    let mut rules = Rules::new(&[gone, on, over("dry", &["gone", "on"], GroupBy::All)]).unwrap();
    let hear = |rules: &mut Rules, name: &str, since_boot: f64, value: f64| {
        let judged = Judged { since_boot, ..judged(reading(name, 1.8e9 + since_boot, value)) };
        let mut names = Vec::new();
        rules.evaluate(judged, &mut |fired| names.push(fired.rule.name().to_owned()));
        names
    };
    let tick = |rules: &mut Rules, since_boot: f64| {
        let mut names = Vec::new();
        rules.silences(since_boot, 1.8e9 + since_boot, &mut |silent| {
            names.push(silent.rule.name().to_owned())
        });
        names
    };
    hear(&mut rules, "flow", 0.0, 1.0);
    assert_eq!(hear(&mut rules, "pump", 55.0, 1.0), ["on"]);
    assert_eq!(tick(&mut rules, 61.0), ["gone", "dry"]);
    assert_eq!(tick(&mut rules, 62.0), [""; 0]);
    tick(&mut rules, 500.0);
    assert_eq!(hear(&mut rules, "pump", 501.0, 1.0), ["on", "dry"], "it is silent still");
    hear(&mut rules, "flow", 502.0, 1.0);
    assert_eq!(hear(&mut rules, "pump", 520.0, 1.0), ["on"]);
}

#[test]
fn fifty_reloads_change_nothing_about_rules_that_stay_as_they_are() {
    let clear_expr = Some("ctx.value < 20".to_owned());
    let kept = [
        settings("plain", "ctx.value > 90", 7),
        Settings { hold: Duration::from_secs(5), ..settings("held", "ctx.value > 30", 11) },
        settings("jump", "prev.value is not None and ctx.value - prev.value > 50", 0),
        Settings { clear_expr, ..settings("latched", "ctx.value > 80", 0) },
        over("both", &["plain", "jump"], GroupBy::Prefix),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let readings: Vec<_> =
        (0..5_000).map(|step| (step % 3, f64::from(step) / 3.0, random.f64() * 100.0)).collect();
    let run = |reloads_every: usize| {
        let mut rules = Rules::new(&kept).unwrap();
        let mut events = Vec::new();
        for (step, (sensor, time, value)) in readings.iter().enumerate() {
            if step % reloads_every == reloads_every - 1 {
                // One comes, changes and goes, in front of the others and behind them.
                let other = settings("other", &format!("ctx.value > {step}"), 5);
                let mut all = kept.to_vec();
                all.insert(if step % 2 == 0 { 0 } else { kept.len() }, other);
                let mut after = Rules::new(if step % 3 == 0 { &kept } else { &all }).unwrap();
                after.carry_over(rules);
                rules = after;
            }
            let name = format!("plant/{sensor}");
            for fired in fires(&mut rules, reading(&name, *time, *value)) {
                if fired != "other" {
                    events.push((step, fired));
                }
            }
        }
        events
    };
    let events = run(usize::MAX);
    for rule in &kept {
        assert!(events.iter().filter(|(_, name)| *name == rule.name).count() > 10, "{}", rule.name);
    }
    assert_eq!(run(100), events);
    assert_eq!(run(1), events, "a reload before each reading");
}

const MINUTE: Duration = Duration::from_secs(60);
