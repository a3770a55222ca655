//! The mean of a span in which a reading counts half as much for each half-life that it is older than the newest.

/// A mean of values weighted by `2^(-age / half-life)`, the age being that before the newest of them. It does not
/// depend on the order in which they come, but for rounding, and two of them can be merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ewma {
    /// Of the newest value, in microseconds; the others' weights are as seen from there.
    newest_us: i64,
    mean: f64,
    /// Of all values together: at least the newest one's, which is 1. None yet when it is 0.
    weight: f64,
}

impl Ewma {
    pub(super) const EMPTY: Self = Self { newest_us: i64::MIN, mean: 0.0, weight: 0.0 };

    pub(super) fn add(&mut self, half_life_us: f64, time_us: i64, value: f64) {
        self.merge(half_life_us, &Self { newest_us: time_us, mean: value, weight: 1.0 });
    }

    pub(super) fn merge(&mut self, half_life_us: f64, other: &Self) {
        if other.weight == 0.0 {
            return;
        }
        if self.weight == 0.0 {
            *self = *other;
            return;
        }
        let newest_us = self.newest_us.max(other.newest_us);
        let faded =
            |ewma: &Self| ewma.weight * (-((newest_us - ewma.newest_us) as f64) / half_life_us).exp2();
        let (here, there) = (faded(self), faded(other));
        // One of them has the newest value, so the sum is at least 1.
        self.weight = here + there;
        // A step from the heavier mean to the other: nothing is lost to an offset of both, nor to a light one far off.
        let (from, to, light) =
            if here >= there { (self.mean, other.mean, there) } else { (other.mean, self.mean, here) };
        self.mean = from + (to - from) * (light / self.weight);
        self.newest_us = newest_us;
    }

    /// Of at least one value.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    pub(super) fn clock_moved(&mut self, moved_us: i64) {
        self.newest_us = self.newest_us.saturating_add(moved_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_reading_counts_half_as_much_for_each_half_life() {
        let mut ewma = Ewma::EMPTY;
        for (second, value) in [(0, 8.0), (10, 4.0), (20, 1.0)] {
            ewma.add(10e6, second * SECOND, value);
        }
        assert!((ewma.mean() - (8.0 / 4.0 + 4.0 / 2.0 + 1.0) / 1.75).abs() < 1e-15);
    }

    #[test]
    fn order_and_parts_do_not_matter_nor_does_a_large_offset() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let offset = if random.bool() { 1e9 } else { 0.0 };
            let half_life_us = f64::from(random.u32(1..100)) * 1e6;
            let values: Vec<(i64, f64)> = (0..random.usize(1..300))
                .map(|_| (random.i64(0..1_000 * SECOND), offset + random.f64()))
                .collect();
            let newest = values.iter().map(|(time, _)| *time).max().unwrap();
            let weight = |time: i64| (-((newest - time) as f64) / half_life_us).exp2();
            let total: f64 = values.iter().map(|(time, _)| weight(*time)).sum();
            let above: f64 = values.iter().map(|(time, value)| weight(*time) * (value - offset)).sum();
            let mut parts = [Ewma::EMPTY; 3];
            for (time, value) in &values {
                parts[random.usize(..3)].add(half_life_us, *time, *value);
            }
            let [mut merged, second, third] = parts;
            merged.merge(half_life_us, &third);
            merged.merge(half_life_us, &second);
            let found = merged.mean() - offset;
            assert!((found - above / total).abs() < 1e-12 + offset * 1e-14, "{found} {}", above / total);
        }
    }

    #[test]
    fn what_is_far_older_than_the_half_life_counts_nothing_and_breaks_nothing() {
        let mut ewma = Ewma::EMPTY;
        ewma.add(1.0, 0, 1e140);
        ewma.add(1.0, 400 * 86_400 * SECOND, -2.0);
        ewma.add(1.0, 5, 7.0);
        assert_eq!(ewma.mean(), -2.0);
    }
}
