//! When each rule last fired for each sensor, for a bounded number of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::TIMESTAMP_PRECISION_SECONDS;

#[derive(Debug)]
pub(super) struct Cooldowns {
    /// Of each rule, its last fires by sensor.
    fires: Vec<HashMap<Arc<str>, Fire>>,
    /// Every fire that is remembered, the oldest first.
    order: BTreeMap<u64, (usize, Arc<str>)>,
    next: u64,
    entries_max: usize,
    evictions: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Fire {
    /// Unix seconds, by the reading.
    timestamp: f64,
    /// By the agent's own clock.
    stamped: bool,
    /// Its key in `order`.
    number: u64,
}

impl Cooldowns {
    pub(super) fn new(rules: usize, entries_max: usize) -> Self {
        Self {
            fires: std::iter::repeat_with(HashMap::new).take(rules).collect(),
            order: BTreeMap::new(),
            next: 0,
            entries_max,
            evictions: Arc::default(),
        }
    }

    /// Whether the rule may fire for this sensor now, and if so, notes that it does.
    ///
    /// The cooldown holds in both directions of time: a late reading from within it does not fire
    /// either, and a clock that was set back by more silences nothing. Time is that of the readings,
    /// in Unix seconds.
    pub(super) fn permits(
        &mut self,
        rule: usize,
        sensor: &str,
        timestamp: f64,
        cooldown: Duration,
        stamped: bool,
    ) -> bool {
        if cooldown.is_zero() {
            return true;
        }
        let Some(fires) = self.fires.get_mut(rule) else {
            return true;
        };
        if let Some(fire) = fires.get(sensor) {
            let distance = (timestamp - fire.timestamp).abs();
            if distance + TIMESTAMP_PRECISION_SECONDS < cooldown.as_secs_f64() {
                return false;
            }
        }
        self.note(rule, sensor, timestamp, stamped);
        true
    }

    /// Notes that the rule fired for this sensor, whether it might or not.
    pub(super) fn note(&mut self, rule: usize, sensor: &str, timestamp: f64, stamped: bool) {
        let Some(fires) = self.fires.get_mut(rule) else { return };
        let number = self.next;
        if let Some(fire) = fires.get_mut(sensor) {
            let before = std::mem::replace(fire, Fire { timestamp, stamped, number });
            let entry = self.order.remove(&before.number).expect("every fire has its place in the order");
            self.order.insert(number, entry);
        } else {
            let sensor: Arc<str> = sensor.into();
            fires.insert(Arc::clone(&sensor), Fire { timestamp, stamped, number });
            self.order.insert(number, (rule, sensor));
            self.evict();
        }
        self.next += 1;
    }

    /// Remembers at most so many from here on, where that is less than before.
    pub(super) fn limit(&mut self, entries_max: usize) {
        self.entries_max = self.entries_max.min(entries_max);
        self.evict();
    }

    pub(super) fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// Moves the fires of the agent's own clock by as many seconds as that was set.
    pub(super) fn clock_moved(&mut self, moved: f64) {
        for fire in self.fires.iter_mut().flat_map(HashMap::values_mut).filter(|fire| fire.stamped) {
            fire.timestamp += moved;
        }
    }

    /// Takes over what `old` remembers, its rule numbers translated; `None` forgets a rule.
    pub(super) fn carry_over(&mut self, mut old: Self, rules: &[Option<usize>]) {
        self.evictions = Arc::clone(&old.evictions);
        self.limit(old.entries_max);
        for (number, (old_rule, sensor)) in old.order {
            let fire = old.fires[old_rule].remove(&sensor);
            let (Some(rule), Some(fire)) = (rules[old_rule], fire) else {
                continue;
            };
            // Of two rules that were alike, the later fire is the one that counts.
            if let Some(before) = self.fires[rule].insert(Arc::clone(&sensor), fire) {
                self.order.remove(&before.number);
            }
            self.order.insert(number, (rule, sensor));
        }
        self.next = old.next;
    }

    pub(super) fn evictions(&self) -> &Arc<AtomicU64> {
        &self.evictions
    }

    fn evict(&mut self) {
        while self.order.len() > self.entries_max
            && let Some((_, (rule, sensor))) = self.order.pop_first()
        {
            self.fires[rule].remove(&sensor);
            self.evictions.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn readings_exactly_a_cooldown_apart_all_fire() {
        let mut cooldowns = Cooldowns::new(1, 8);
        for turn in 0..1000 {
            let timestamp = 1_717_156_800.1 + 60.0 * f64::from(turn);
            assert!(cooldowns.permits(0, "x", timestamp, MINUTE, false), "{timestamp}");
            assert!(!cooldowns.permits(0, "x", timestamp + 59.9, MINUTE, false));
        }
    }

    #[test]
    fn a_late_reading_is_silent_and_a_clock_set_back_is_not() {
        let mut cooldowns = Cooldowns::new(1, 8);
        assert!(cooldowns.permits(0, "x", 10_000.0, MINUTE, false));
        assert!(!cooldowns.permits(0, "x", 9_950.0, MINUTE, false));
        assert!(cooldowns.permits(0, "x", 5_000.0, MINUTE, false));
        assert!(!cooldowns.permits(0, "x", 5_059.0, MINUTE, false));
        assert!(cooldowns.permits(0, "x", 5_060.0, MINUTE, false));
    }

    #[test]
    fn a_cooldown_on_the_agents_own_clock_lasts_as_long_whatever_the_clock_jumps() {
        for jump in [1.8e9, -1.8e9, 40.0] {
            let mut cooldowns = Cooldowns::new(1, 8);
            assert!(cooldowns.permits(0, "x", 2e9, MINUTE, true));
            assert!(cooldowns.permits(0, "of a source", 2e9, MINUTE, false));
            cooldowns.clock_moved(jump);
            assert!(!cooldowns.permits(0, "x", 2e9 + jump + 59.0, MINUTE, true));
            assert!(cooldowns.permits(0, "x", 2e9 + jump + 60.0, MINUTE, true));
            assert!(!cooldowns.permits(0, "of a source", 2e9 + 59.0, MINUTE, false));
        }
    }

    #[test]
    fn the_sensor_that_fired_longest_ago_is_forgotten_first() {
        let mut cooldowns = Cooldowns::new(2, 2);
        assert!(cooldowns.permits(0, "x", 100.0, MINUTE, false));
        assert!(cooldowns.permits(1, "x", 100.0, MINUTE, false));
        assert!(cooldowns.permits(0, "x", 160.0, MINUTE, false));
        assert!(cooldowns.permits(0, "y", 161.0, MINUTE, false));
        assert_eq!(cooldowns.evictions().load(Relaxed), 1);
        assert!(!cooldowns.permits(0, "x", 162.0, MINUTE, false));
        assert!(!cooldowns.permits(0, "y", 162.0, MINUTE, false));
        // Rule 1 was the one forgotten, and fires early.
        assert!(cooldowns.permits(1, "x", 110.0, MINUTE, false));
        assert_eq!(cooldowns.order.len(), 2);
        assert_eq!(cooldowns.fires.iter().map(HashMap::len).sum::<usize>(), 2);
    }

    #[test]
    fn a_rule_without_a_cooldown_is_not_remembered() {
        let mut cooldowns = Cooldowns::new(1, 8);
        for _ in 0..3 {
            assert!(cooldowns.permits(0, "x", 1.0, Duration::ZERO, false));
        }
        assert!(cooldowns.order.is_empty());
    }

    #[test]
    fn what_is_carried_over_stays_bounded_and_in_order() {
        let mut old = Cooldowns::new(2, 4);
        for (rule, sensor) in [(0, "a"), (1, "b"), (0, "c")] {
            assert!(old.permits(rule, sensor, 100.0, MINUTE, false));
        }
        let mut cooldowns = Cooldowns::new(1, 2);
        cooldowns.carry_over(old, &[Some(0), None]);
        assert!(!cooldowns.permits(0, "a", 110.0, MINUTE, false));
        assert!(cooldowns.permits(0, "b", 110.0, MINUTE, false));
        assert_eq!(cooldowns.order.len(), 2);
        // "a" was the oldest, and made room for "b".
        assert!(cooldowns.permits(0, "a", 110.0, MINUTE, false));
    }
}
