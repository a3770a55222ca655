//! Rules over other rules: when each of them held last, by group of sensors, for a bounded number of groups.

use std::collections::HashMap;

use super::settings::{Composite, GroupBy, Settings};
use super::{Judged, TIMESTAMP_PRECISION_SECONDS};

/// All rules over rules.
#[derive(Debug, Default)]
pub(super) struct Composites {
    /// Each behind those it judges.
    all: Vec<Judge>,
    /// Whether each rule, by its number, holds on what is judged now.
    held: Vec<bool>,
    any_held: bool,
    next_use: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Judge {
    /// Its own number.
    rule: usize,
    members: Vec<Member>,
    within_seconds: f64,
    group_by: GroupBy,
    groups: HashMap<Box<str>, Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    rule: usize,
    list: List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    All,
    Any,
    None,
}

#[derive(Debug)]
struct Group {
    used: u64,
    marks: Box<[Mark]>,
}

/// When one rule held in one group, in Unix seconds, by the readings.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    last: Option<f64>,
    /// The same for readings that stay on the device.
    last_private: Option<f64>,
    /// By the agent's own clock.
    stamped: bool,
}

/// On what a rule holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub sensor: &'a str,
    /// Unix seconds.
    pub timestamp: f64,
    pub stamped: bool,
    /// Something of it may leave the device.
    pub leaves: bool,
}

impl<'a> Moment<'a> {
    pub(super) fn of(judged: Judged<'a>) -> Self {
        let Judged { reading, stamped, leaves, .. } = judged;
        Self { sensor: reading.sensor_name, timestamp: reading.timestamp, stamped, leaves }
    }
}

/// A rule over rules that holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Holds<'a> {
    pub rule: usize,
    pub group: &'a str,
    /// Every reading that it rests on may leave.
    pub leaves: bool,
}

impl Composites {
    /// Of `all`, in which there are no cycles; nothing is remembered yet.
    pub(super) fn new(all: &[Settings]) -> Self {
        let find = |name: &str| all.iter().position(|rule| rule.name == name);
        let mut waiting: Vec<_> =
            all.iter().enumerate().filter_map(|(rule, one)| Some((rule, one.composite.as_ref()?))).collect();
        let mut judges: Vec<Judge> = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let before = waiting.len();
            let open: Vec<usize> = waiting.iter().map(|(rule, _)| *rule).collect();
            waiting.retain(|(rule, settings)| {
                let is_ready = settings.members().filter_map(find).all(|member| !open.contains(&member));
                if is_ready {
                    judges.push(Judge::new(*rule, settings, find));
                }
                !is_ready
            });
            // A cycle: what is in it never holds.
            if waiting.len() == before {
                break;
            }
        }
        let held = if judges.is_empty() { Vec::new() } else { vec![false; all.len()] };
        Self { all: judges, held, any_held: false, next_use: 0, bytes: 0, bytes_max: usize::MAX }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Remembers no more than this from now on.
    pub(super) fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.settle();
    }

    /// Forgets when anything held.
    pub(super) fn clear(&mut self) {
        self.all.iter_mut().for_each(|judge| judge.groups = HashMap::new());
        self.bytes = 0;
    }

    /// Whether some rule over rules asks for this one.
    pub(super) fn ask_for(&self, rule: usize) -> bool {
        self.all.iter().any(|judge| judge.members.iter().any(|member| member.rule == rule))
    }

    /// Notes that a rule holds on what is judged now.
    pub(super) fn note(&mut self, rule: usize) {
        if let Some(held) = self.held.get_mut(rule) {
            *held = true;
            self.any_held = true;
        }
    }

    /// Judges by what was noted since the last time, and calls back for each that holds. Those that only judge
    /// what was not noted are not asked.
    pub(super) fn judge(&mut self, moment: Moment<'_>, holds: &mut impl FnMut(Holds<'_>)) {
        if !std::mem::take(&mut self.any_held) {
            return;
        }
        let Self { all, held, next_use, bytes, .. } = self;
        for judge in all.iter_mut() {
            if !judge.members.iter().any(|member| held[member.rule]) {
                continue;
            }
            *next_use += 1;
            let group = judge.group_by.of(moment.sensor);
            judge.mark(moment, (*next_use, bytes), |rule| held[rule]);
            let is_wanted = |member: &Member| held[member.rule] && member.list != List::None;
            if judge.members.iter().any(is_wanted)
                && let Some(leaves) = judge.verdict(&judge.groups[group].marks, moment.timestamp)
            {
                held[judge.rule] = true;
                holds(Holds { rule: judge.rule, group, leaves });
            }
        }
        held.fill(false);
        self.settle();
    }

    /// Notes that `rule` goes on holding, without asking anybody.
    pub(super) fn goes_on(&mut self, rule: usize, moment: Moment<'_>) {
        let Self { all, next_use, bytes, .. } = self;
        for judge in all.iter_mut().filter(|judge| judge.members.iter().any(|member| member.rule == rule)) {
            *next_use += 1;
            judge.mark(moment, (*next_use, bytes), |held| held == rule);
        }
        self.settle();
    }

    /// Moves what is on the agent's own clock by as many seconds as that was set.
    pub(super) fn clock_moved(&mut self, moved: f64) {
        let groups = self.all.iter_mut().flat_map(|judge| judge.groups.values_mut());
        for mark in groups.flat_map(|group| group.marks.iter_mut()).filter(|mark| mark.stamped) {
            mark.last = mark.last.map(|last| last + moved);
            mark.last_private = mark.last_private.map(|last| last + moved);
        }
    }

    /// Takes over what `old` remembers, its rule numbers translated; `None` forgets a rule.
    pub(super) fn carry_over(&mut self, old: Self, rules: &[Option<usize>]) {
        self.next_use = old.next_use;
        for old in old.all {
            let Some(rule) = rules[old.rule] else { continue };
            let Some(judge) = self.all.iter_mut().find(|judge| judge.rule == rule) else { continue };
            // Of rules that were alike the first one's memory counts. Members have their places from the settings.
            if !judge.groups.is_empty() {
                continue;
            }
            judge.groups = old.groups;
            for group in judge.groups.values_mut() {
                for (mark, before) in group.marks.iter_mut().zip(&old.members) {
                    if rules[before.rule].is_none() {
                        *mark = Mark::default();
                    }
                }
            }
        }
        self.bytes = self.count_bytes();
        self.settle();
    }

    fn count_bytes(&self) -> usize {
        let of = |judge: &Judge| judge.groups.keys().map(|name| judge.group_bytes(name)).sum::<usize>();
        self.all.iter().map(of).sum()
    }

    /// Forgets what there is no room for, used longest ago first.
    fn settle(&mut self) {
        while self.bytes > self.bytes_max {
            let mut uses: Vec<u64> =
                self.all.iter().flat_map(|judge| judge.groups.values().map(|group| group.used)).collect();
            if uses.is_empty() {
                return;
            }
            // A sixteenth at once, so that a flood of new names costs little for each.
            let cut = uses.len() / 16;
            let cut = *uses.select_nth_unstable(cut).1;
            self.all.iter_mut().for_each(|judge| judge.groups.retain(|_, group| group.used > cut));
            self.bytes = self.count_bytes();
        }
    }
}

impl Judge {
    fn new(rule: usize, settings: &Composite, find: impl Fn(&str) -> Option<usize>) -> Self {
        let lists =
            [(&settings.all_of, List::All), (&settings.any_of, List::Any), (&settings.none_of, List::None)];
        let members = lists.into_iter().flat_map(|(names, list)| {
            names
                .iter()
                .filter_map(|name| find(name))
                .map(move |rule| Member { rule, list })
                .collect::<Vec<_>>()
        });
        Self {
            rule,
            members: members.collect(),
            within_seconds: settings.within.as_secs_f64(),
            group_by: settings.group_by,
            groups: HashMap::new(),
        }
    }

    /// Notes `moment` for the members that `holds` says; `used` is the number of this use, and `bytes` grows with
    /// what is remembered.
    fn mark(&mut self, moment: Moment<'_>, (used, bytes): (u64, &mut usize), holds: impl Fn(usize) -> bool) {
        let name = self.group_by.of(moment.sensor);
        if !self.groups.contains_key(name) {
            *bytes += self.group_bytes(name);
            let marks = vec![Mark::default(); self.members.len()].into();
            self.groups.insert(name.into(), Group { used, marks });
        }
        let group = self.groups.get_mut(name).expect("it was just put there");
        group.used = used;
        for (mark, _) in group.marks.iter_mut().zip(&self.members).filter(|(_, member)| holds(member.rule)) {
            mark.set(moment, self.within_seconds);
        }
    }

    /// Whether the marks are as the lists want them at `timestamp`, and if so, whether that may leave the device.
    fn verdict(&self, marks: &[Mark], timestamp: f64) -> Option<bool> {
        let stands = |last: Option<f64>| {
            last.is_some_and(|last| {
                (timestamp - last).abs() <= self.within_seconds + TIMESTAMP_PRECISION_SECONDS
            })
        };
        let (mut any, mut leaves) = (!self.members.iter().any(|member| member.list == List::Any), true);
        for (member, mark) in self.members.iter().zip(marks) {
            match (member.list, stands(mark.last)) {
                (List::All, false) | (List::None, true) => return None,
                (List::Any, stands) => any |= stands,
                (List::All, true) | (List::None, false) => {}
            }
            leaves &= match member.list {
                // That a rule does not hold says something of its sensors too.
                List::None => mark.last_private.is_none(),
                List::All | List::Any => !stands(mark.last_private),
            };
        }
        any.then_some(leaves)
    }

    fn group_bytes(&self, name: &str) -> usize {
        GROUP_BYTES + name.len() + self.members.len() * size_of::<Mark>()
    }
}

impl Mark {
    fn set(&mut self, moment: Moment<'_>, within_seconds: f64) {
        // A late reading takes nothing back; one that is older than counts means that a clock was set back.
        let newer = |last: Option<f64>| match last {
            Some(last) if last > moment.timestamp && last - moment.timestamp <= within_seconds => Some(last),
            _ => Some(moment.timestamp),
        };
        self.last = newer(self.last);
        if !moment.leaves {
            self.last_private = newer(self.last_private);
        }
        self.stamped = moment.stamped;
    }
}

/// A group without its name and marks: map, allocations.
const GROUP_BYTES: usize = 96;

#[cfg(test)]
mod tests;
