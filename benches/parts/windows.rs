//! Windows: what a reading costs them, and what a start costs that rebuilds them from the store.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use pyvorin_edge::pipeline::encode;
use pyvorin_edge::pipeline::rebuild::{Clock, Kept, Past, rebuild};
use pyvorin_edge::pipeline::rule::Rules;
use pyvorin_edge::pipeline::window::{Aggregation, Kind, Settings, Windows};
use pyvorin_edge::privacy::{self, HashKey};
use pyvorin_edge::reading::Reading;
use pyvorin_edge::store::{DATABASE_FILE, Lane, Staged};
use tokio_util::sync::CancellationToken;

use super::{NOW, open};

/// 1,000 sensors, a reading each a second, in 20 windows over each.
pub fn add(criterion: &mut Criterion) {
    let names = names(1000);
    let mut windows = Windows::new(&many());
    let mut second = 0;
    let mut group = criterion.benchmark_group("windows");
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function("20 windows", |bencher| {
        bencher.iter(|| {
            let now = NOW + f64::from(second);
            second += 1;
            windows.flush(now, &mut |result| {
                black_box(result);
            });
            for name in &names {
                windows.add(reading(name, now), true, false, &mut |result| {
                    black_box(result);
                });
            }
        });
    });
    group.finish();
}

/// Ten minutes of readings, a commit a second: of the sample configuration, and of 1,000 sensors in 20 windows.
pub fn resume(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let sample =
        vec![window("boiler_minute", "boiler", 60, 60), window("plant_ten_minutes", "plant/*", 600, 60)];
    let mut group = criterion.benchmark_group("rebuild");
    group.sample_size(10);
    for (what, settings, names) in [
        ("the sample", sample, vec!["boiler".to_owned(), "plant/1".to_owned(), "plant/2".to_owned()]),
        ("1000 sensors, 20 windows", many(), names(1000)),
    ] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the store");
        runtime.block_on(fill(folder.path(), &names));
        group.throughput(Throughput::Elements(600 * names.len() as u64));
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    let kept = Kept { windows: Windows::new(&settings), rules: Rules::default() };
                    let clock = Clock { boot: String::new(), offset: NOW };
                    let began = Instant::now();
                    let (kept, readings) = runtime.block_on(rebuild(past(folder.path()), kept, clock));
                    took += began.elapsed();
                    assert_eq!(readings, 600 * names.len() as u64);
                    drop(kept);
                }
                took
            });
        });
    }
    group.finish();
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("plant/line-{}/sensor-{number}", number % 7)).collect()
}

fn reading(sensor_name: &str, timestamp: f64) -> Reading<'_> {
    Reading { sensor_name, timestamp, value: (timestamp / 7.0).sin(), unit: "C", metadata: "{}" }
}

fn many() -> Vec<Settings> {
    (0..20)
        .map(|number| window(&format!("w{number}"), "plant/*", 60 + 30 * number, 60 + 30 * number))
        .collect()
}

fn window(name: &str, sensor: &str, duration: u64, step: u64) -> Settings {
    let step = Duration::from_secs(step);
    Settings {
        name: name.to_owned(),
        sensor_name: Some(sensor.to_owned()),
        duration: Duration::from_secs(duration),
        step,
        kind: Kind::Rolling,
        aggregation: Aggregation::Mean,
        allowed_lateness: Settings::usual_lateness(step),
        percentile: None,
        half_life: None,
    }
}

fn past(folder: &Path) -> Past {
    Past {
        database: folder.join(DATABASE_FILE),
        privacy: privacy::Settings { enabled: true, ..Default::default() },
        key: HashKey::new(&[7; 32]),
        delivers: true,
        stop: CancellationToken::new(),
    }
}

async fn fill(folder: &Path, names: &[String]) {
    let (store, _end) = open(folder);
    for second in 0..600 {
        let now = NOW + f64::from(second);
        let mut staged = Staged::default();
        for name in names {
            staged.push(Lane::Telemetry, now, |out| encode::reading(out, reading(name, now), None));
        }
        store.append(staged).await.expect("the store is open");
        store.ping().await.expect("the store is open");
    }
}
