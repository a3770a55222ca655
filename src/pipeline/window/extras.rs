//! What only those windows keep that ask for it: values for a percentile, and means weighted by age.

use super::ewma::Ewma;
use super::settings::Settings;
use super::sketch::{Sketch, percentile};

/// Beside the panes of one window of one sensor, at the same slots.
pub(super) struct Extras {
    sketches: Box<[Sketch]>,
    ewmas: Box<[Ewma]>,
}

impl Extras {
    /// For a window with so many slots; none where it asks for nothing.
    pub(super) fn new(settings: &Settings, slots: usize) -> Option<Box<Self>> {
        let Settings { percentile, half_life, .. } = settings;
        let of = |is_wanted: bool| if is_wanted { slots } else { 0 };
        (percentile.is_some() || half_life.is_some()).then(|| {
            Box::new(Self {
                sketches: vec![Sketch::EMPTY; of(percentile.is_some())].into(),
                ewmas: vec![Ewma::EMPTY; of(half_life.is_some())].into(),
            })
        })
    }

    pub(super) fn add(&mut self, settings: &Settings, slot: usize, time_us: i64, value: f64) {
        if let Some(sketch) = self.sketches.get_mut(slot) {
            sketch.add(value);
        }
        if let (Some(ewma), Some(half_life)) = (self.ewmas.get_mut(slot), settings.half_life) {
            ewma.add(micros(half_life), time_us, value);
        }
    }

    /// Empties a slot for another pane.
    pub(super) fn clear(&mut self, slot: usize) {
        if let Some(sketch) = self.sketches.get_mut(slot) {
            sketch.clear();
        }
        if let Some(ewma) = self.ewmas.get_mut(slot) {
            *ewma = Ewma::EMPTY;
        }
    }

    /// Puts what is at slot `from[n]` to slot `n`, and empties the slots without one. The clock of what is kept was
    /// set by `moved_us`.
    pub(super) fn rearrange(&mut self, from: &[Option<usize>], moved_us: i64) {
        if !self.sketches.is_empty() {
            let of = |from: &Option<usize>| from.map_or(Sketch::EMPTY, |slot| self.sketches[slot].clone());
            self.sketches = from.iter().map(of).collect();
        }
        if !self.ewmas.is_empty() {
            let of = |from: &Option<usize>| from.map_or(Ewma::EMPTY, |slot| self.ewmas[slot]);
            self.ewmas = from.iter().map(of).collect();
            self.ewmas.iter_mut().for_each(|ewma| ewma.clock_moved(moved_us));
        }
    }

    /// The percentile and the weighted mean of the panes at `slots`, which hold at least one value.
    pub(super) fn of(
        &self,
        settings: &Settings,
        slots: impl Iterator<Item = usize>,
    ) -> (Option<f64>, Option<f64>) {
        let mut weighed = Vec::new();
        let mut mean = Ewma::EMPTY;
        for slot in slots {
            if let Some(sketch) = self.sketches.get(slot) {
                sketch.weigh(&mut weighed);
            }
            if let (Some(ewma), Some(half_life)) = (self.ewmas.get(slot), settings.half_life) {
                mean.merge(micros(half_life), ewma);
            }
        }
        (settings.percentile.map(|p| percentile(&mut weighed, p)), settings.half_life.map(|_| mean.mean()))
    }

    /// Bytes that a window of this shape takes for it.
    pub(super) fn bytes(settings: &Settings, slots: usize) -> usize {
        let sketch = settings.percentile.map_or(0, |_| size_of::<Sketch>());
        let ewma = settings.half_life.map_or(0, |_| size_of::<Ewma>());
        slots * (sketch + ewma)
    }
}

fn micros(half_life: std::time::Duration) -> f64 {
    half_life.as_secs_f64() * 1e6
}
