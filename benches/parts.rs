//! The agent's parts alone, on one core and without the broker: what JSON, the stages and the store
//! cost. `cargo bench --bench parts`; what the disk does is in the store's figures.

#[path = "../examples/publish/load.rs"]
#[expect(dead_code, reason = "nothing is published here")]
mod load;
#[path = "parts/windows.rs"]
mod windows;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pyvorin_edge::adapter::json::{self, Defaults};
use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::pipeline::rule::{self, Rules};
use pyvorin_edge::pipeline::selection::Selection;
use pyvorin_edge::pipeline::window::Windows;
use pyvorin_edge::pipeline::{Counters, Stages, Standing};
use pyvorin_edge::privacy::{self, Firewall, HashKey};
use pyvorin_edge::reading::{Batch, Severity};
use pyvorin_edge::store::{self, Lane, Staged, Store, Want};

use load::Load;

criterion_group! {
    name = parts;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    targets = parse, take_in, append, windows::add, windows::resume
}
criterion_main!(parts);

/// JSON text to a batch.
fn parse(criterion: &mut Criterion) {
    let payloads = payloads(BATCH_READINGS);
    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Elements(BATCH_READINGS as u64));
    group.bench_function("push_line", |bencher| bencher.iter(|| black_box(batch(&payloads))));
    group.finish();
}

/// The agent's clock, right.
const STANDING: Standing<'_> = Standing { boot: "bench", offset: NOW, now: NOW, is_synchronised: true };

/// Validation, privacy, rules and encoding, with and without rules.
fn take_in(criterion: &mut Criterion) {
    let batch = batch(&payloads(BATCH_READINGS));
    let counters = Counters::default();
    let mut group = criterion.benchmark_group("take_in");
    group.throughput(Throughput::Elements(BATCH_READINGS as u64));
    for rules in [0, 1, 10] {
        let mut stages = stages(rules);
        group.bench_function(format!("{rules} rules"), |bencher| {
            bencher.iter_batched(
                Staged::default,
                |mut staged| {
                    let committed = stages.take_in(&batch, &STANDING, &mut staged, &counters);
                    assert_eq!(committed.refused, 0, "a refusal is faster than a reading");
                    staged
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// From encoded items to the end of the commit, fsync included, and what is written for it.
fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let mut group = criterion.benchmark_group("store");
    for readings in [10, 100, 1000, 10_000] {
        // Beside the build's own files: a tmpfs would sync nothing.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the store");
        let (store, _end) = open(folder.path());
        let payloads = payloads(readings);
        let (mut commits, written) = (0_u64, written_bytes());
        group.throughput(Throughput::Elements(readings as u64));
        group.bench_function(format!("{readings} a commit"), |bencher| {
            bencher.iter_batched(
                || staged(&payloads),
                |staged| {
                    commits += 1;
                    runtime.block_on(async {
                        store.append(staged).await.expect("the store is open");
                        store.ping().await.expect("the store is open");
                    });
                },
                BatchSize::PerIteration,
            );
        });
        let bytes = (written_bytes() - written) as f64 / (commits * readings as u64) as f64;
        println!("store/{readings} a commit: {bytes:.1} B written per reading");
    }
    group.finish();
    wear_of_delivery(&runtime);
}

/// What is written for commits of 1,000 readings and the batches that take them away, each with its audit record.
fn wear_of_delivery(runtime: &tokio::runtime::Runtime) {
    const COMMITS: u64 = 200;
    for batch in [500, 1000] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the store");
        let (store, _end) = open(folder.path());
        let payloads = payloads(1000);
        let written = written_bytes();
        runtime.block_on(async {
            for _ in 0..COMMITS {
                store.append(staged(&payloads)).await.expect("the store is open");
                store.ping().await.expect("the store is open");
                while let Some(frozen) =
                    store.next_batch(Want::new(batch, 1 << 24, true)).await.expect("open")
                {
                    store.settle(frozen.key, store::Outcome::Delivered).await.expect("the store is open");
                }
            }
        });
        let bytes = (written_bytes() - written) as f64 / (COMMITS * 1000) as f64;
        println!("store/1000 a commit, delivered {batch} at a time: {bytes:.1} B written per reading");
    }
}

fn open(folder: &Path) -> (Store, impl Sized) {
    let settings = store::Settings {
        state_dir: folder.to_owned(),
        size_bytes_max: 4 * 1024 * 1024 * 1024,
        quarantine_bytes_max: 1 << 30,
        commit_interval: Duration::from_secs(1),
        budget: store::Budget::default(),
        ttl: store::Ttl::default(),
    };
    store::open(settings, Arc::new(Progress::default())).expect("the store opens")
}

fn stages(rules: usize) -> Stages {
    let rule = |index: usize| rule::Settings {
        name: format!("rule-{index}"),
        condition_expr: format!(r#"ctx.value > {}.0 and ctx.unit == "C""#, 1000 + index),
        severity: Severity::Warning,
        ..rule::Settings::default()
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    Stages {
        firewall: Firewall::new(
            &privacy::Settings { enabled: true, ..Default::default() },
            HashKey::new(&[7; 32]),
        ),
        rules: Rules::new(&rules).expect("the conditions are valid"),
        windows: Windows::new(&[]),
        selection: Selection::new(&[]),
        doors: Default::default(),
        deliver: true,
    }
}

fn payloads(count: usize) -> Vec<String> {
    let mut load = Load::new(1, load::SENSORS);
    let (mut random, mut timestamp) = (fastrand::Rng::with_seed(1), NOW);
    let mut payload = || {
        // Evenly spaced times would compress too well.
        timestamp += 40e-6 * random.f64();
        load.next(timestamp).payload.to_owned()
    };
    (0..count).map(|_| payload()).collect()
}

fn batch(payloads: &[String]) -> Batch {
    let defaults = Defaults { sensor_name: None, unit: "", units: None, timestamp: NOW, origin: "bench" };
    let mut batch = Batch::default();
    for payload in payloads {
        json::push_line(&mut batch, payload, &defaults);
    }
    assert_eq!(batch.readings().len(), payloads.len(), "a refusal is faster than a reading");
    batch
}

fn staged(payloads: &[String]) -> Staged {
    let mut staged = Staged::default();
    for payload in payloads {
        staged.push(Lane::Telemetry, NOW, |out| out.extend_from_slice(payload.as_bytes()));
    }
    staged
}

/// Of this process; see `examples/bench/probe.rs` for what it counts.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    written.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// As many as a source puts into one batch.
const BATCH_READINGS: usize = 1024;
/// Unix seconds; payloads have the length that times of today have.
const NOW: f64 = 1_790_000_000.0;
