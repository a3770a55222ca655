//! The load that the benchmarks put on the agent: JSON readings of 134 bytes, as a Python publisher
//! writes them, over 100 sensors in turn or as many as asked for. Values are a random walk with noise on top and times have
//! microseconds, so that they compress no better than those of real sensors.

use std::fmt::Write;

/// Sensors, and the state of the walk of each.
pub struct Load {
    sensors: Vec<Sensor>,
    random: fastrand::Rng,
    next: usize,
    payload: String,
}

struct Sensor {
    name: String,
    topic: String,
    level: f64,
}

/// One message.
pub struct Message<'l> {
    pub topic: &'l str,
    pub payload: &'l str,
}

impl Load {
    /// The same `seed` gives the same values.
    pub fn new(seed: u64, sensors: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let sensor = |index: usize| Sensor {
            name: format!("site-1/hall-{}/line-{:02}/temperature-{index:03}", index / 50, index / 10),
            topic: format!("bench/{:03}", index % TOPICS),
            level: 20.0 + 60.0 * random.f64(),
        };
        let sensors = (0..sensors).map(sensor).collect();
        Self { sensors, random, next: 0, payload: String::with_capacity(2 * READING_BYTES) }
    }

    /// The next reading, taken at `timestamp` in Unix seconds.
    pub fn next(&mut self, timestamp: f64) -> Message<'_> {
        let (sensors, current) = (self.sensors.len(), self.next);
        let sensor = &mut self.sensors[current];
        self.next = (current + 1) % sensors;
        sensor.level = (sensor.level + STEP * spread(&mut self.random)).clamp(VALUE_MIN, VALUE_MAX);
        let value = (sensor.level + NOISE * spread(&mut self.random)).clamp(VALUE_MIN, VALUE_MAX);
        self.payload.clear();
        write!(
            self.payload,
            r#"{{"sensor_name": "{}", "timestamp": {timestamp:.6}, "value": {value:.3}, "unit": "C", "metadata": {{}}}}"#,
            sensor.name
        )
        .expect("a String takes any text");
        debug_assert!(sensors > SENSORS || self.payload.len() == READING_BYTES);
        Message { topic: &sensor.topic, payload: &self.payload }
    }
}

/// Near enough to a normal distribution of standard deviation 1: the sum of twelve even ones.
fn spread(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

/// Unless more are asked for.
pub const SENSORS: usize = 100;
/// A broker keeps a list of its own for each.
const TOPICS: usize = 100;
/// Of a payload, for timestamps of today, as many sensors and the values below.
pub const READING_BYTES: usize = 134;
/// Standard deviation of the walk from one reading of a sensor to its next.
const STEP: f64 = 0.02;
/// Standard deviation of the noise around the walk.
const NOISE: f64 = 0.1;
const VALUE_MIN: f64 = 10.0;
const VALUE_MAX: f64 = 99.0;
