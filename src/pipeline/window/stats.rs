//! Aggregates that take one value at a time and can be merged, without losing digits on the way.

/// Count, mean, spread, extremes and sum of some values, in constant space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stats {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The running mean, only for `squares`: the sum gives a better one.
    centre: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
    sum: f64,
    /// What rounding has taken from `sum`.
    lost: f64,
    first: Dated,
    last: Dated,
}

/// A value and its time, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Dated {
    time_us: i64,
    value: f64,
}

impl Stats {
    pub(super) const EMPTY: Self = Self {
        count: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        centre: 0.0,
        squares: 0.0,
        sum: 0.0,
        lost: 0.0,
        first: Dated { time_us: i64::MAX, value: 0.0 },
        last: Dated { time_us: i64::MIN, value: 0.0 },
    };

    /// Takes a value of at most [`VALUE_MAX`], either sign.
    ///
    /// Welford (1962) for the spread, Neumaier (1974) for the sum.
    pub(super) fn add(&mut self, time_us: i64, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let distance = value - self.centre;
        self.centre += distance / self.count as f64;
        self.squares += distance * (value - self.centre);
        self.add_to_sum(value);
        let dated = Dated { time_us, value };
        self.note_ends(dated, dated);
    }

    /// Takes all values of `other`: Chan, Golub and LeVeque (1979).
    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (here, there) = (self.count as f64, other.count as f64);
        let distance = other.centre - self.centre;
        let share = there / (here + there);
        self.centre += distance * share;
        self.squares += other.squares + distance * distance * here * share;
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.add_to_sum(other.sum);
        self.lost += other.lost;
        self.note_ends(other.first, other.last);
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum + self.lost
    }

    /// Of at least one value.
    pub(super) fn mean(&self) -> f64 {
        // Rounding may carry the quotient just past the extremes.
        (self.sum() / self.count as f64).max(self.min).min(self.max)
    }

    /// Population standard deviation of at least one value.
    pub(super) fn std(&self) -> f64 {
        (self.squares.max(0.0) / self.count as f64).sqrt()
    }

    /// Of the earliest and of the latest of at least one value.
    pub(super) fn first(&self) -> f64 {
        self.first.value
    }

    pub(super) fn last(&self) -> f64 {
        self.last.value
    }

    /// From the earliest to the latest, per second; `None` when no time is between them.
    pub(super) fn rate(&self) -> Option<f64> {
        let seconds = (self.last.time_us - self.first.time_us) as f64 / 1e6;
        (seconds > 0.0).then(|| (self.last.value - self.first.value) / seconds)
    }

    /// Goes along when the clock of the values, of at least one, is set: none is further from the next for it.
    pub(super) fn clock_moved(&mut self, moved_us: i64) {
        self.first.time_us += moved_us;
        self.last.time_us += moved_us;
    }

    /// What comes later is the last of those with the same time.
    fn note_ends(&mut self, first: Dated, last: Dated) {
        if first.time_us < self.first.time_us {
            self.first = first;
        }
        if last.time_us >= self.last.time_us {
            self.last = last;
        }
    }

    fn add_to_sum(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }
}

/// Up to here squares and sums of any number of values stay finite; no quantity comes near.
pub(super) const VALUE_MAX: f64 = 1e140;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::python;

    fn of(values: &[f64]) -> Stats {
        let mut stats = Stats::EMPTY;
        (0..).zip(values).for_each(|(time, value)| stats.add(time * 1_000_000, *value));
        stats
    }

    /// Values of many kinds: small spread on a large offset, wide ranges, cancellation, one value.
    fn cases() -> Vec<Vec<f64>> {
        let mut random = fastrand::Rng::with_seed(11);
        let mut cases = vec![
            vec![0.1; 10],
            vec![1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0],
            vec![1.0, 1e100, 1.0, -1e100],
            vec![VALUE_MAX, -VALUE_MAX],
            vec![-0.0],
        ];
        for case in 0..300 {
            let offset = if case % 3 == 0 { 1e8 } else { 0.0 };
            let scale = 10_f64.powi(random.i32(-6..12));
            let count = random.usize(1..200);
            cases.push((0..count).map(|_| offset + (random.f64() - 0.5) * scale).collect());
        }
        cases
    }

    /// Answers of python3, which computes with exact fractions: sum, mean and std of each case.
    fn python(cases: &[Vec<f64>]) -> Vec<[f64; 3]> {
        const SCRIPT: &str = "\
import math, statistics, sys
for line in sys.stdin:
    v = [float(x) for x in line.split()]
    print(repr(math.fsum(v)), repr(math.fsum(v) / len(v)), repr(float(statistics.pstdev(v))))
";
        let mut input = String::new();
        for case in cases {
            case.iter().for_each(|value| write!(input, "{value:?} ").unwrap());
            input.push('\n');
        }
        let text = python::answers(SCRIPT, input);
        let rows = text.lines().map(|line| {
            let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            [numbers[0], numbers[1], numbers[2]]
        });
        rows.collect()
    }

    fn near(found: f64, exact: f64, scale: f64) -> bool {
        (found - exact).abs() <= 1e-13 * exact.abs() + 1e-15 * scale
    }

    #[test]
    fn aggregates_are_those_that_python_computes_exactly() {
        let cases = cases();
        let answers = python(&cases);
        assert_eq!(answers.len(), cases.len());
        let mut random = fastrand::Rng::with_seed(3);
        for (values, [sum, mean, std]) in cases.iter().zip(answers) {
            let scale: f64 = values.iter().map(|value| value.abs()).sum();
            let largest = scale / values.len() as f64;
            // Once in a row, once in parts that are merged.
            let mut merged = Stats::EMPTY;
            let mut rest = &values[..];
            while !rest.is_empty() {
                let (part, left) = rest.split_at(random.usize(1..=rest.len()));
                merged.merge(&of(part));
                rest = left;
            }
            for stats in [of(values), merged] {
                assert!(near(stats.sum(), sum, scale), "sum {} {sum}: {values:?}", stats.sum());
                assert!(near(stats.mean(), mean, largest), "mean {} {mean}: {values:?}", stats.mean());
                assert!(
                    (stats.std() - std).abs() <= 1e-9 * std + 1e-15 * largest,
                    "std {} {std}: {values:?}",
                    stats.std()
                );
                assert!(stats.min <= stats.mean() && stats.mean() <= stats.max);
                assert_eq!(stats.count, values.len() as u64);
            }
        }
    }
}
