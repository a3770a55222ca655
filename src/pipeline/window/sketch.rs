//! Percentiles in bounded memory: the values of a pane themselves while they are few, and then how many of them lie
//! in which of 256 buckets of one width.
//!
//! The width is a power of two, and bucket `i` spans `[i, i + 1)` of it, so buckets of any two panes fit into each
//! other and nothing depends on the order in which values come. It is the smallest with which all values of the pane
//! fit into the buckets, so it is less than 2/255 of the distance between the least and the greatest of them; a value
//! that is taken to lie in the middle of its bucket is off by at most half of that.

/// The values of one pane.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    count: u32,
    cells: Cells,
}

#[derive(Clone, Debug)]
enum Cells {
    Values([f64; VALUES_MAX]),
    Buckets(Buckets),
}

#[derive(Clone, Debug)]
struct Buckets {
    /// The width is 2 to the power of this.
    exponent: i32,
    /// The number of the first bucket that there is a count for.
    first: i64,
    counts: [u32; BUCKETS],
}

impl Sketch {
    pub(super) const EMPTY: Self = Self { count: 0, cells: Cells::Values([0.0; VALUES_MAX]) };

    /// Forgets all values.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        if !matches!(self.cells, Cells::Values(_)) {
            self.cells = Cells::Values([0.0; VALUES_MAX]);
        }
    }

    /// Takes a finite value. Takes no memory.
    pub(super) fn add(&mut self, value: f64) {
        if let Cells::Values(values) = &self.cells
            && self.count as usize == VALUES_MAX
        {
            self.cells = Cells::Buckets(Buckets::of(values));
        }
        match &mut self.cells {
            Cells::Values(values) => values[self.count as usize] = value,
            Cells::Buckets(buckets) => buckets.add(value, 1),
        }
        self.count = self.count.saturating_add(1);
    }

    /// Appends its values and how often each is there, in no order.
    pub(super) fn weigh(&self, into: &mut Vec<(f64, u32)>) {
        match &self.cells {
            Cells::Values(values) => {
                into.extend(values[..self.count as usize].iter().map(|value| (*value, 1)));
            }
            Cells::Buckets(buckets) => {
                let width = power_of_two(buckets.exponent);
                for (bucket, count) in (buckets.first..).zip(&buckets.counts).filter(|(_, count)| **count > 0)
                {
                    into.push(((bucket as f64 + 0.5) * width, *count));
                }
            }
        }
    }
}

impl Buckets {
    fn of(values: &[f64; VALUES_MAX]) -> Self {
        let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), v| (min.min(*v), max.max(*v)));
        // Finer than this no two values differ.
        let mut exponent = exponent_of(min.abs().max(max.abs())) - 52;
        while bucket(max, exponent) - bucket(min, exponent) >= BUCKETS as i64 {
            exponent += 1;
        }
        let mut buckets = Self { exponent, first: bucket(min, exponent), counts: [0; BUCKETS] };
        values.iter().for_each(|value| buckets.add(*value, 1));
        buckets
    }

    fn add(&mut self, value: f64, times: u32) {
        let finest = exponent_of(value.abs()) - 52;
        if finest > self.exponent {
            self.coarsen(finest);
        }
        let mut at = bucket(value, self.exponent) - self.first;
        if !(0..BUCKETS as i64).contains(&at) {
            self.make_room_for(value);
            at = bucket(value, self.exponent) - self.first;
        }
        let count = usize::try_from(at).ok().and_then(|at| self.counts.get_mut(at));
        let count = count.expect("room was made for it");
        *count = count.saturating_add(times);
    }

    /// Makes the buckets as wide as they have to be, and moves them to where `value` has one, with the room that is
    /// left on its side: there the next ones are to be expected.
    fn make_room_for(&mut self, value: f64) {
        loop {
            let wanted = bucket(value, self.exponent);
            let (lowest, highest) = self.held();
            let (low, high) = (wanted.min(lowest), wanted.max(highest));
            if high - low >= BUCKETS as i64 {
                self.coarsen(self.exponent + 1);
                continue;
            }
            self.move_to(if wanted < lowest { high - BUCKETS as i64 + 1 } else { low });
            return;
        }
    }

    /// The first and the last bucket with a value.
    fn held(&self) -> (i64, i64) {
        let is_held = |count: &u32| *count > 0;
        let low = self.counts.iter().position(is_held).unwrap_or(0);
        let high = self.counts.iter().rposition(is_held).unwrap_or(0);
        (self.first + low as i64, self.first + high as i64)
    }

    fn coarsen(&mut self, exponent: i32) {
        let by = (exponent - self.exponent).clamp(0, 63);
        let first = self.first >> by;
        let mut counts = [0_u32; BUCKETS];
        for (bucket, count) in (self.first..).zip(self.counts) {
            let at = usize::try_from((bucket >> by) - first).expect("buckets only fall together");
            counts[at] = counts[at].saturating_add(count);
        }
        *self = Self { exponent, first, counts };
    }

    fn move_to(&mut self, first: i64) {
        let mut counts = [0; BUCKETS];
        for (bucket, count) in (self.first..).zip(self.counts).filter(|(_, count)| *count > 0) {
            counts[usize::try_from(bucket - first).expect("what is held stays within")] = count;
        }
        (self.first, self.counts) = (first, counts);
    }
}

/// The percentile `p`, 0 to 100, of at least one value, each with how often it is there: between two values as far as
/// its place is between theirs, as `statistics.quantiles` has it in Python with the method `inclusive`. Sorts them.
pub(super) fn percentile(weighed: &mut [(f64, u32)], p: f64) -> f64 {
    weighed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = weighed.iter().map(|(_, times)| u64::from(*times)).sum();
    let place = total.saturating_sub(1) as f64 * (p / 100.0);
    let below = place.floor();
    let lower = nth(weighed, below as u64);
    let upper = nth(weighed, below as u64 + 1);
    lower + (upper - lower) * (place - below)
}

/// The `n`th of the sorted values, from 0; the last when there are fewer.
fn nth(weighed: &[(f64, u32)], n: u64) -> f64 {
    let mut passed = 0;
    for (value, times) in weighed {
        passed += u64::from(*times);
        if passed > n {
            return *value;
        }
    }
    weighed.last().map_or(0.0, |(value, _)| *value)
}

/// The number of the bucket of `value`. Exact: to divide by a power of two takes no digits.
fn bucket(value: f64, exponent: i32) -> i64 {
    (value / power_of_two(exponent)).floor() as i64
}

/// Of the power of two that is not above `value`, and not below the least of normal numbers.
fn exponent_of(value: f64) -> i32 {
    let biased = i32::try_from((value.to_bits() >> 52) & 0x7ff).expect("eleven bits");
    // What is divided by it must not become too small, nor it itself.
    (biased - 1023).max(EXPONENT_MIN + 52)
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from(exponent).exp2()
}

/// Values that a pane keeps as they are: what fits into the room of the buckets.
pub(super) const VALUES_MAX: usize = BUCKETS / 2;
const BUCKETS: usize = 256;
/// Below it lies no quantity.
const EXPONENT_MIN: i32 = -900;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::EMPTY;
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    /// By the definition, from all values.
    fn exact(values: &[f64], p: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let place = (sorted.len() - 1) as f64 * (p / 100.0);
        let lower = sorted[place as usize];
        let upper = sorted.get(place as usize + 1).copied().unwrap_or(lower);
        lower + (upper - lower) * place.fract()
    }

    fn found(parts: &[Sketch], p: f64) -> f64 {
        let mut weighed = Vec::new();
        parts.iter().for_each(|part| part.weigh(&mut weighed));
        percentile(&mut weighed, p)
    }

    #[test]
    fn few_values_give_the_percentile_itself() {
        let values: Vec<f64> = (0..VALUES_MAX).map(|n| (n * 37 % 101) as f64).collect();
        for p in [0.0, 1.0, 50.0, 95.0, 99.9, 100.0] {
            assert_eq!(found(&[of(&values)], p), exact(&values, p));
        }
        assert_eq!(found(&[of(&[3.0, 1.0]), of(&[2.0])], 50.0), 2.0);
        assert_eq!(found(&[of(&[7.5])], 95.0), 7.5);
    }

    #[test]
    fn buckets_cost_at_most_four_thousandths_of_the_range() {
        let mut random = fastrand::Rng::with_seed(17);
        for case in 0..400 {
            let scale = 10_f64.powi(random.i32(-9..60));
            let offset = [0.0, 1e9, -1e9, 1e140][case % 4] * random.f64();
            let mut values: Vec<f64> = (0..random.usize(200..4000))
                .map(|n| match case % 3 {
                    0 => offset + scale * random.f64(),
                    1 => offset - scale * n as f64,
                    // One far off makes all buckets wide.
                    _ => offset + scale * if n == 150 { 1000.0 } else { random.f64().powi(8) },
                })
                .collect();
            let part = random.usize(1..values.len());
            let parts = [of(&values[..part]), of(&values[part..])];
            let range = values.iter().fold(f64::MIN, |a, b| a.max(*b))
                - values.iter().fold(f64::MAX, |a, b| a.min(*b));
            let ulp = offset.abs() * f64::EPSILON;
            for p in [0.0, 0.1, 5.0, 50.0, 90.0, 95.0, 99.0, 100.0] {
                let error = (found(&parts, p) - exact(&values, p)).abs();
                assert!(error <= range / 255.0 + ulp, "{error} of {range}, p {p}, case {case}");
            }
            random.shuffle(&mut values);
            assert_eq!(found(&[of(&values)], 42.0), {
                values.reverse();
                found(&[of(&values)], 42.0)
            });
        }
    }

    #[test]
    fn the_same_value_however_often_is_the_percentile() {
        for value in [0.0, -0.0, 21.3, -1e140, 5e-324, 1e-290] {
            let found = found(&[of(&[value; 1000])], 95.0);
            assert!((found - value).abs() <= value.abs() * f64::EPSILON + 1e-270, "{found} for {value}");
        }
    }

    proptest! {
        #[test]
        fn any_values_are_taken_and_bounded(
            values in proptest::collection::vec(-1e140_f64..1e140, 1..600),
            small in proptest::collection::vec(-1.0_f64..1.0, 0..600),
            p in 0.0_f64..=100.0,
        ) {
            let values = [values, small].concat();
            let range = values.iter().fold(f64::MIN, |a, b| a.max(*b)) - values.iter().fold(f64::MAX, |a, b| a.min(*b));
            let error = (found(&[of(&values)], p) - exact(&values, p)).abs();
            prop_assert!(error <= range / 255.0 + range * f64::EPSILON);
        }
    }
}
