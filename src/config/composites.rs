//! Reads what a rule over other rules says, and holds all of them against each other.

use super::rules::{SPAN_SECONDS_MAX, about_events};
use super::section::{Section, nearest};
use crate::pipeline::rule;

/// The lists and the span of a rule over rules; `None` for a rule over readings.
pub fn composite(table: &mut Section<'_>) -> Option<rule::Composite> {
    let is_composite = [ALL, ANY, NONE].iter().any(|key| table.has(key));
    if !is_composite {
        return None;
    }
    let groups =
        [("all", rule::GroupBy::All), ("prefix", rule::GroupBy::Prefix), ("sensor", rule::GroupBy::Sensor)];
    let composite = rule::Composite {
        all_of: table.strings(ALL),
        any_of: table.strings(ANY),
        none_of: table.strings(NONE),
        within: table.seconds("within_seconds", WITHIN_SECONDS, 0.0..=SPAN_SECONDS_MAX as f64),
        group_by: table.choice("group_by", rule::GroupBy::default(), &groups),
    };
    for (key, names) in [(ALL, &composite.all_of), (ANY, &composite.any_of), (NONE, &composite.none_of)] {
        if names.len() > MEMBERS_MAX {
            table.refuse(key, format_args!("{} rules; give at most {MEMBERS_MAX}", names.len()));
        }
    }
    if composite.all_of.is_empty() && composite.any_of.is_empty() {
        table.missing(ALL, "the rules that have to hold, or any_of; none_of alone never begins to hold");
    }
    let mut seen = Vec::new();
    for name in composite.members() {
        if seen.contains(&name) {
            table.refuse(
                ALL,
                format_args!("'{name}' stands there or in any_of or none_of twice; name it once"),
            );
        }
        seen.push(name);
    }
    Some(composite)
}

/// A rule over rules; what only readings have is refused.
pub fn over_rules(name: String, table: &mut Section<'_>, composite: rule::Composite) -> rule::Settings {
    for key in ["condition_expr", "clear_expr", "window"] {
        if table.string(key).is_some() {
            table.refuse(key, OTHER_KIND);
        }
    }
    for key in ["for_seconds", "silent_seconds"] {
        if table.optional_float(key, 0.0..=SPAN_SECONDS_MAX as f64).is_some() {
            table.refuse(key, OTHER_KIND);
        }
    }
    rule::Settings {
        condition_expr: "True".to_owned(),
        composite: Some(composite),
        ..about_events(name, table)
    }
}

/// Every rule that is named is there, and none depends on itself.
pub fn check_members(tables: &[(Option<String>, Section<'_>)], rules: &[rule::Settings]) {
    let names = || rules.iter().map(|rule| rule.name.as_str());
    for ((_, table), rule) in tables.iter().zip(rules) {
        let Some(composite) = &rule.composite else { continue };
        for (key, members) in [(ALL, &composite.all_of), (ANY, &composite.any_of), (NONE, &composite.none_of)]
        {
            for member in members.iter().filter(|member| !names().any(|known| known == *member)) {
                table.refuse(key, format_args!("there is no rule '{member}'{}", nearest(member, names())));
            }
        }
    }
    for (index, way) in rule::cycles(rules) {
        let (_, table) = &tables[index];
        table.refuse("name", format_args!("the rule depends on itself: {way}; take one of them out"));
    }
}

const ALL: &str = "all_of";
const ANY: &str = "any_of";
const NONE: &str = "none_of";
const OTHER_KIND: &str =
    "is about readings, and a rule with all_of or any_of about other rules; give one of them";
/// Of each list.
const MEMBERS_MAX: usize = 32;
const WITHIN_SECONDS: f64 = 60.0;
