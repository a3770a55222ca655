use std::time::Duration;

use super::*;

fn named(names: &str) -> Vec<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

/// Rules `a`, `b` and `c`, and behind them those of `lists`: all, any, none.
fn composites(lists: &[(&str, &str, &str)], group_by: GroupBy) -> Composites {
    let mut all: Vec<Settings> = ["a", "b", "c"]
        .iter()
        .map(|name| Settings { name: (*name).to_owned(), ..Settings::default() })
        .collect();
    for (index, (all_of, any_of, none_of)) in lists.iter().enumerate() {
        let composite = Composite {
            all_of: named(all_of),
            any_of: named(any_of),
            none_of: named(none_of),
            within: Duration::from_secs(10),
            group_by,
        };
        all.push(Settings {
            name: format!("over{index}"),
            composite: Some(composite),
            ..Settings::default()
        });
    }
    Composites::new(&all)
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn at(sensor: &str, timestamp: f64) -> Moment<'_> {
    Moment { sensor, timestamp, stamped: false, leaves: true }
}

/// Numbers of the rules over rules that hold, counted from the first of them.
fn judged(composites: &mut Composites, moment: Moment<'_>, held: &[usize]) -> Vec<(usize, bool)> {
    held.iter().for_each(|rule| composites.note(*rule));
    let mut found = Vec::new();
    composites.judge(moment, &mut |holds| found.push((holds.rule - 3, holds.leaves)));
    found
}

fn hold(composites: &mut Composites, sensor: &str, timestamp: f64, held: &[usize]) -> usize {
    judged(composites, at(sensor, timestamp), held).len()
}

#[test]
fn all_any_and_none_are_what_they_say_within_the_span() {
    for (lists, steps) in [
        (("a b", "", ""), vec![(0.0, A, 0), (10.0, B, 1), (10.5, B, 0), (11.0, A, 1), (20.0, A, 1)]),
        (("", "a b", ""), vec![(0.0, A, 1), (50.0, C, 0), (100.0, B, 1)]),
        (("a", "b c", ""), vec![(0.0, A, 0), (1.0, C, 1), (30.0, B, 0), (31.0, A, 1)]),
        (("a", "", "b"), vec![(0.0, A, 1), (1.0, B, 0), (11.0, A, 0), (11.1, A, 1)]),
    ] {
        let mut rules = composites(&[lists], GroupBy::All);
        for (time, held, expected) in steps {
            assert_eq!(hold(&mut rules, "x", time, &[held]), expected, "{lists:?} at {time}");
        }
    }
}

#[test]
fn what_holds_on_the_same_reading_is_seen_together() {
    let mut rules = composites(&[("a b", "", "c")], GroupBy::Sensor);
    assert_eq!(hold(&mut rules, "x", 1.0, &[A, B]), 1);
    assert_eq!(hold(&mut rules, "x", 2.0, &[A, B, C]), 0);
}

#[test]
fn groups_are_all_sensors_those_of_a_prefix_or_each_alone() {
    for (group_by, together) in [(GroupBy::All, [1, 1]), (GroupBy::Prefix, [1, 0]), (GroupBy::Sensor, [0, 0])]
    {
        let mut rules = composites(&[("a b", "", "")], group_by);
        hold(&mut rules, "plant/pump1.heat", 1.0, &[A]);
        let same = hold(&mut rules, "plant/pump1.shake", 2.0, &[B]);
        let other = hold(&mut rules, "plant/pump2.shake", 3.0, &[B]);
        assert_eq!([same, other], together, "{group_by:?}");
    }
    assert_eq!(GroupBy::Prefix.of("alone"), "alone");
    assert_eq!(GroupBy::Prefix.of("a.b/c"), "a.b");
}

#[test]
fn a_rule_over_rules_over_rules_holds_on_the_same_reading_whatever_their_order() {
    // over0 judges over1, which comes behind it.
    let mut rules = composites(&[("over1 c", "", ""), ("a b", "", "")], GroupBy::All);
    hold(&mut rules, "x", 1.0, &[C]);
    hold(&mut rules, "x", 2.0, &[A]);
    let held: Vec<_> = judged(&mut rules, at("x", 3.0), &[B]).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(held, [1, 0]);
}

#[test]
fn a_late_reading_takes_nothing_back_and_a_clock_set_back_begins_anew() {
    let mut rules = composites(&[("a b", "", "")], GroupBy::All);
    hold(&mut rules, "x", 100.0, &[A]);
    hold(&mut rules, "x", 95.0, &[A]);
    assert_eq!(hold(&mut rules, "x", 110.0, &[B]), 1);
    hold(&mut rules, "x", 50.0, &[A]);
    assert_eq!(hold(&mut rules, "x", 55.0, &[B]), 1);
}

#[test]
fn a_jump_of_the_agents_clock_moves_only_what_it_stamped() {
    for stamped in [true, false] {
        let mut rules = composites(&[("a b", "", "")], GroupBy::All);
        judged(&mut rules, Moment { stamped, ..at("x", 100.0) }, &[A]);
        rules.clock_moved(1e9);
        let moved = if stamped { 1e9 } else { 0.0 };
        assert_eq!(hold(&mut rules, "x", 105.0 + moved, &[B]), 1);
    }
}

#[test]
fn what_rests_on_a_reading_that_stays_stays_too() {
    let private = |sensor, timestamp| Moment { leaves: false, ..at(sensor, timestamp) };
    let mut rules = composites(&[("a b", "", "")], GroupBy::All);
    judged(&mut rules, private("door", 1.0), &[A]);
    judged(&mut rules, at("x", 2.0), &[A]);
    assert_eq!(judged(&mut rules, at("x", 3.0), &[B]), [(0, false)]);
    // Behind the span nothing private is left in it.
    judged(&mut rules, at("x", 12.0), &[A]);
    assert_eq!(judged(&mut rules, at("x", 12.0), &[B]), [(0, true)]);
    let mut rules = composites(&[("a", "", "b")], GroupBy::All);
    assert_eq!(judged(&mut rules, at("x", 1.0), &[A]), [(0, true)]);
    judged(&mut rules, private("door", 2.0), &[B]);
    assert_eq!(judged(&mut rules, at("x", 50.0), &[A]), [(0, false)], "that the door is shut says something");
}

#[test]
fn what_is_remembered_of_groups_is_bounded_whatever_names_come() {
    let mut rules = composites(&[("a b", "", "")], GroupBy::Sensor);
    rules.limit(50_000);
    for number in 0..10_000 {
        hold(&mut rules, &format!("sensor{number}"), 1.0, &[A]);
        hold(&mut rules, "always", 1.0, &[A]);
        assert!(rules.bytes <= 50_000 && rules.bytes == rules.count_bytes());
    }
    assert!(rules.all[0].groups.len() > 100);
    assert_eq!(hold(&mut rules, "always", 2.0, &[B]), 1);
    assert_eq!(hold(&mut rules, "sensor1", 2.0, &[B]), 0);
}

#[test]
fn a_reload_forgets_the_members_that_changed_and_no_others() {
    for (kept, expected) in [(Some(A), 1), (None, 0)] {
        let mut old = composites(&[("a b", "", "")], GroupBy::All);
        hold(&mut old, "x", 1.0, &[A]);
        let mut rules = composites(&[("a b", "", "")], GroupBy::All);
        rules.carry_over(old, &[kept, Some(B), Some(C), Some(3)]);
        assert_eq!(hold(&mut rules, "x", 2.0, &[B]), expected);
    }
}

#[test]
fn a_rule_that_depends_on_itself_is_named_with_the_way_back() {
    let over = |name: &str, members: &str| Settings {
        name: name.to_owned(),
        composite: Some(Composite { all_of: named(members), ..Composite::default() }),
        ..Settings::default()
    };
    let all = [over("a", "b"), over("b", "c"), over("c", "a plain"), over("self", "self"), over("fine", "a")];
    let ways = super::super::cycles(&all);
    let expected = [(0, "a, b, c, a"), (1, "b, c, a, b"), (2, "c, a, b, c"), (3, "self, self")];
    assert_eq!(ways, expected.map(|(index, way)| (index, way.to_owned())));
}
