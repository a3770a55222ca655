//! Simulated sensors: a baseline with drift, Gaussian noise and anomalies, the same on every run.
//!
//! All simulated devices are one source with one timer.

use std::f64::consts::TAU;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{Device, Error, Intake, State};
use crate::clock;
use crate::config::section::Section;
use crate::reading::{Batch, Reading};

pub const RUNS_ONCE: bool = true;

pub const SAMPLE: &str = r#"
[[sensors.devices]]
name = "boiler"
ingest_type = "simulator"
sensor_type = "temperature"
baseline = 60.0
min_value = 20.0
max_value = 110.0
noise_std = 0.4
drift_type = "SINUSOIDAL"
drift_amplitude = 8.0
drift_period = 86400.0
anomaly_probability = 0.001
anomaly_magnitude = 35.0
interval_seconds = 1.0
seed = 7
"#;

/// Every simulated device.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    devices: Vec<Simulated>,
}

/// One simulated sensor; values are in its unit.
#[derive(Clone, Debug, PartialEq)]
struct Simulated {
    name: String,
    unit: String,
    seed: u64,
    /// Missing: that of all polled devices.
    interval: Option<Duration>,
    baseline: f64,
    min: f64,
    max: f64,
    noise_std: f64,
    drift: Drift,
    /// From 0 to 1, for each reading.
    anomaly_probability: f64,
    /// Added or subtracted.
    anomaly_magnitude: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Drift {
    None,
    Linear { rate_per_second: f64 },
    Sinusoidal { amplitude: f64, period_seconds: f64 },
}

/// What a kind of sensor usually shows.
struct Profile {
    sensor_type: &'static str,
    unit: &'static str,
    baseline: f64,
    min: f64,
    max: f64,
    noise_std: f64,
}

impl Source {
    pub fn read(_shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        if devices.is_empty() {
            return Vec::new();
        }
        vec![Self { devices: devices.into_iter().map(Simulated::read).collect() }]
    }

    pub fn name(&self) -> String {
        "simulator".to_owned()
    }

    /// Reads each device at its interval. A reading that fell due while the pipeline was full is left
    /// out, as it would be on a real sensor.
    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        intake.status.set(State::Connected);
        let start = Instant::now();
        let mut timers: Vec<_> =
            self.devices.iter().map(|device| Timer { due: start, rng: Rng::with_seed(device.seed) }).collect();
        loop {
            let now = Instant::now();
            let timestamp = clock::boot_seconds();
            let mut batch = Batch::default();
            for (device, timer) in self.devices.iter().zip(&mut timers) {
                if timer.due > now {
                    continue;
                }
                let value = value_at(device, timer.due.duration_since(start), &mut timer.rng);
                timer.advance(device.interval.unwrap_or(intake.poll_interval), now);
                let (sensor_name, unit) = (&device.name, &device.unit);
                batch.push_stamped(Reading { sensor_name, timestamp, value, unit, metadata: "{}" });
                if batch.is_full() {
                    intake.send(std::mem::take(&mut batch)).await?;
                }
            }
            intake.send(batch).await?;
            let next = timers.iter().map(|timer| timer.due).min();
            let Some(next) = next.filter(|_| !intake.once) else { return Ok(()) };
            if !intake.pause(next.saturating_duration_since(Instant::now())).await {
                return Ok(());
            }
        }
    }
}

impl Simulated {
    fn read(mut device: Device<'_>) -> Self {
        let profile = PROFILES.iter().find(|profile| profile.sensor_type == device.sensor_type);
        let profile = profile.unwrap_or(&OTHER);
        let section = &mut device.section;
        let min = section.float("min_value", profile.min, NUMBERS);
        let max = section.float("max_value", profile.max, NUMBERS);
        if min > max {
            section.refuse("min_value", format_args!("{min} is above max_value, which is {max}; give less"));
        }
        let baseline = section.float("baseline", profile.baseline, NUMBERS);
        if min <= max && !(min..=max).contains(&baseline) {
            let message = format!("{baseline} is outside min_value to max_value, which are {min} and {max}");
            section.refuse("baseline", format_args!("{message}; give a value between"));
        }
        let noise_std = section.float("noise_std", profile.noise_std, NOT_NEGATIVE);
        let has_seed = section.has("seed");
        let seed = section.integer("seed", 0, i64::MIN..=i64::MAX).cast_unsigned();
        Self {
            seed: if has_seed { seed } else { seed_of(&device.name) },
            interval: section
                .optional_float("interval_seconds", INTERVAL_SECONDS_MIN..=INTERVAL_SECONDS_MAX)
                .map(Duration::from_secs_f64),
            baseline,
            min,
            max,
            noise_std,
            drift: Drift::read(section, noise_std),
            anomaly_probability: section.float("anomaly_probability", 0.0, 0.0..=1.0),
            anomaly_magnitude: section.float("anomaly_magnitude", STRONG * noise_std, NUMBERS),
            unit: if device.unit.is_empty() { profile.unit.to_owned() } else { device.unit },
            name: device.name,
        }
    }
}

impl Drift {
    fn read(section: &mut Section<'_>, noise_std: f64) -> Self {
        let rate_per_second = section.float("drift_rate", 0.0, NUMBERS);
        let amplitude = section.float("drift_amplitude", STRONG * noise_std, NUMBERS);
        let period_seconds = section.float("drift_period", DAY_SECONDS, 1e-3..=1e12);
        let linear = Self::Linear { rate_per_second };
        let sinusoidal = Self::Sinusoidal { amplitude, period_seconds };
        let choices = [("NONE", Self::None), ("LINEAR", linear), ("SINUSOIDAL", sinusoidal)];
        section.choice("drift_type", Self::None, &choices)
    }

    fn at(self, since_start_seconds: f64) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Linear { rate_per_second } => rate_per_second * since_start_seconds,
            Self::Sinusoidal { amplitude, period_seconds } => {
                amplitude * (TAU * (since_start_seconds / period_seconds).fract()).sin()
            }
        }
    }
}

struct Timer {
    due: Instant,
    rng: Rng,
}

impl Timer {
    /// To the first whole interval after `now`: missed ticks are not made up.
    fn advance(&mut self, interval: Duration, now: Instant) {
        let interval = interval.max(Duration::from_secs_f64(INTERVAL_SECONDS_MIN));
        let late = now.saturating_duration_since(self.due);
        let intervals = late.as_nanos() / interval.as_nanos() + 1;
        self.due += interval.saturating_mul(u32::try_from(intervals).unwrap_or(u32::MAX));
    }
}

/// The value `since_start` after the source started. It draws the same count of random numbers each
/// time, so that the settings of one part do not change the sequence of another.
fn value_at(device: &Simulated, since_start: Duration, rng: &mut Rng) -> f64 {
    let noise = device.noise_std * gaussian(rng);
    let (chance, sign) = (rng.f64(), if rng.bool() { 1.0 } else { -1.0 });
    let anomaly =
        if chance < device.anomaly_probability { sign * device.anomaly_magnitude } else { 0.0 };
    let value = device.baseline + device.drift.at(since_start.as_secs_f64()) + noise + anomaly;
    // Not `clamp`, which panics where `min` is above `max`; such settings are refused, but elsewhere.
    value.max(device.min).min(device.max)
}

/// Mean 0, standard deviation 1 (Box and Muller, 1958).
fn gaussian(rng: &mut Rng) -> f64 {
    // In (0, 1], as the logarithm of 0 is infinite.
    let (radius, angle) = (1.0 - rng.f64(), rng.f64());
    (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
}

/// FNV-1a: the same name gives the same seed in every version of this program.
fn seed_of(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

const NUMBERS: RangeInclusive<f64> = -1e12..=1e12;
const NOT_NEGATIVE: RangeInclusive<f64> = 0.0..=1e12;
const INTERVAL_SECONDS_MIN: f64 = 0.001;
const INTERVAL_SECONDS_MAX: f64 = 1e9;
const DAY_SECONDS: f64 = 86_400.0;
/// How many standard deviations of noise a drift or an anomaly has unless it is said.
const STRONG: f64 = 10.0;

const fn profile(sensor_type: &'static str, unit: &'static str, values: [f64; 4]) -> Profile {
    let [baseline, min, max, noise_std] = values;
    Profile { sensor_type, unit, baseline, min, max, noise_std }
}

const PROFILES: &[Profile] = &[
    profile("temperature", "C", [22.0, -40.0, 125.0, 0.2]),
    profile("humidity", "%", [45.0, 0.0, 100.0, 1.0]),
    profile("pressure", "hPa", [1013.25, 300.0, 1100.0, 0.5]),
    profile("vibration", "g", [0.5, 0.0, 16.0, 0.05]),
    profile("voltage", "V", [12.0, 0.0, 48.0, 0.05]),
    profile("current", "A", [2.0, 0.0, 20.0, 0.05]),
    profile("power", "W", [150.0, 0.0, 5000.0, 2.0]),
    profile("light", "lux", [300.0, 0.0, 100_000.0, 5.0]),
    profile("co2", "ppm", [600.0, 400.0, 5000.0, 10.0]),
    profile("flow", "L/min", [10.0, 0.0, 100.0, 0.3]),
    profile("level", "%", [60.0, 0.0, 100.0, 0.5]),
    profile("speed", "rpm", [1500.0, 0.0, 10_000.0, 15.0]),
];
const OTHER: Profile = profile("", "", [50.0, -1e12, 1e12, 1.0]);

#[cfg(test)]
mod tests {
    use super::super::{Source as Any, test_support};
    use super::*;

    fn device(settings: &str) -> Simulated {
        let toml = format!("[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\n{settings}");
        let Any::Simulator(source) = test_support::sources(&toml).unwrap().remove(0) else { panic!() };
        source.devices.into_iter().next().unwrap()
    }

    fn values(device: &Simulated, count: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(device.seed);
        (0..count).map(|second| value_at(device, Duration::from_secs(second), &mut rng)).collect()
    }

    fn problem(settings: &str) -> String {
        let toml = format!("[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\n{settings}");
        test_support::sources(&toml).unwrap_err().join("\n")
    }

    #[test]
    fn a_seed_repeats_its_values_and_the_name_is_the_default_seed() {
        let first = values(&device("sensor_type = 'temperature'"), 100);
        assert_eq!(first, values(&device("sensor_type = 'temperature'"), 100));
        assert_ne!(first, values(&device("sensor_type = 'temperature'\nseed = 1"), 100));
    }

    #[test]
    fn noise_has_the_mean_and_deviation_that_were_asked_for() {
        let values = values(&device("baseline = 10.0\nnoise_std = 2.0"), 20_000);
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean - 10.0).abs() < 0.1 && (variance.sqrt() - 2.0).abs() < 0.1, "{mean} {variance}");
    }

    #[test]
    fn drift_follows_its_formula() {
        let quiet = "noise_std = 0.0\nbaseline = 10.0\n";
        let linear = values(&device(&format!("{quiet}drift_type = 'LINEAR'\ndrift_rate = 0.5")), 4);
        assert_eq!(linear, [10.0, 10.5, 11.0, 11.5]);
        let settings = "drift_type = 'SINUSOIDAL'\ndrift_amplitude = 3.0\ndrift_period = 4.0";
        let wave = values(&device(&format!("{quiet}{settings}")), 4);
        let expected = [10.0, 13.0, 10.0, 7.0];
        assert!(wave.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{wave:?}");
    }

    #[test]
    fn anomalies_come_as_often_as_asked_and_clamps_hold() {
        let settings = "noise_std = 0.0\nanomaly_probability = 0.1\nanomaly_magnitude = 20.0\nmax_value = 60.0";
        let values = values(&device(settings), 10_000);
        let count = |wanted| values.iter().filter(|value| **value == wanted).count();
        assert!((400..600).contains(&count(60.0)) && (400..600).contains(&count(30.0)));
        assert_eq!(count(50.0) + count(60.0) + count(30.0), 10_000);
    }

    #[test]
    fn a_timer_skips_what_it_missed() {
        let start = Instant::now();
        let mut timer = Timer { due: start, rng: Rng::with_seed(0) };
        let second = Duration::from_secs(1);
        timer.advance(second, start);
        assert_eq!(timer.due, start + second);
        timer.advance(second, start + Duration::from_millis(3500));
        assert_eq!(timer.due, start + 4 * second);
    }

    #[test]
    fn contradicting_settings_are_refused() {
        assert!(problem("min_value = 2.0\nmax_value = 1.0").contains("min_value: 2 is above max_value"));
        assert!(problem("sensor_type = 'humidity'\nbaseline = 101").contains("baseline: 101 is outside"));
        assert!(problem("drift_type = 'LINAER'").contains("did you mean 'LINEAR'"));
        assert!(problem("interval_seconds = 0.0001").contains("out of range"));
        assert!(problem("nois_std = 1.0").contains("did you mean 'noise_std'"));
    }

    #[tokio::test]
    async fn once_reads_every_device_once() {
        let toml = format!("{SAMPLE}\n{}", SAMPLE.replace("boiler", "other"));
        let sources = test_support::sources(&toml).unwrap();
        assert_eq!(sources.len(), 1);
        let (mut intake, _received) = test_support::intake(1);
        intake.once = true;
        let (result, batches) = test_support::run_to_end(&sources[0], intake).await;
        result.unwrap();
        let names: Vec<_> = batches.iter().flat_map(test_support::readings_of).map(|r| (r.0, r.2)).collect();
        assert_eq!(names, [("boiler".into(), "C".into()), ("other".into(), "C".into())]);
    }

    #[tokio::test]
    async fn each_device_keeps_its_own_interval_and_a_stop_ends_the_source() {
        let toml = format!(
            "{}\n{}",
            SAMPLE.replace("interval_seconds = 1.0", ""),
            SAMPLE.replace("boiler", "slow").replace("interval_seconds = 1.0", "interval_seconds = 1000"),
        );
        let source = test_support::sources(&toml).unwrap().remove(0);
        let (intake, mut received) = test_support::intake(1);
        let consume = async {
            let mut names = Vec::new();
            while names.len() < 8 {
                let batch = received.recv().await.unwrap();
                names.extend(test_support::readings_of(&batch).into_iter().map(|reading| reading.0));
            }
            intake.stop.cancel();
            names
        };
        let (result, names) = test_support::within(async { tokio::join!(source.run(&intake), consume) }).await;
        result.unwrap();
        assert_eq!(names[..2], ["boiler", "slow"]);
        assert!(names[2..].iter().all(|name| name == "boiler"), "{names:?}");
        assert_eq!(intake.status.state(), State::Connected);
    }
}
