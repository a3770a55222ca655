//! What the tests of all adapters share: an intake to feed, and sources read from TOML text.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use toml::de::{DeTable, DeValue};

use super::{Error, Intake, Messages, Source, State, Status, read_sources};
use crate::config::section::{Problems, Section};
use crate::config::tree::{Entry, Node, Place, Table, Value};
use crate::lifecycle::memory::Memory;
use crate::reading::{Batch, Committed};

/// An intake that polls every 10 ms, and the far end of its channel.
pub fn intake(batches_max: usize) -> (Intake, mpsc::Receiver<Batch>) {
    let (batches, received) = mpsc::channel(batches_max);
    let intake = Intake {
        batches,
        memory: Memory::default(),
        stop: CancellationToken::new(),
        status: Arc::new(Status::new("test".to_owned(), "test")),
        poll_interval: Duration::from_millis(10),
        once: false,
        device_id: "device".to_owned(),
        messages: Messages::default(),
    };
    (intake, received)
}

/// The sources that a configuration file with `[ingest]` and `[[sensors.devices]]` describes, or its
/// problems.
pub fn sources(toml: &str) -> Result<Vec<Source>, Vec<String>> {
    let table = DeTable::parse(toml).expect("the test's TOML is valid");
    let root = Node { place: place(), value: Value::Table(convert(table.into_inner())) };
    let problems = Problems::default();
    let sources = {
        let mut root = Section::new(String::new(), Some(&root), &problems);
        let devices = root.section("sensors").list("devices");
        read_sources(&mut root.section("ingest"), devices, &problems)
    };
    if problems.is_empty() {
        return Ok(sources);
    }
    Err(problems.into_sorted().into_iter().map(|problem| problem.message).collect())
}

/// The next batch; fails the test when none comes within ten seconds.
pub async fn next(received: &mut mpsc::Receiver<Batch>) -> Batch {
    within(received.recv()).await.expect("the source still runs")
}

/// Waits for `future`, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within ten seconds")
}

/// Runs `source` until it ends by itself, and gives all its batches.
pub async fn run_to_end(source: &Source, mut intake: Intake) -> (Result<(), Error>, Vec<Batch>) {
    let (batches, mut received) = mpsc::channel(1);
    intake.batches = batches;
    let run = async {
        let result = source.run(&intake).await;
        drop(intake);
        result
    };
    let collect = async {
        let mut all = Vec::new();
        while let Some(batch) = received.recv().await {
            all.push(batch);
        }
        all
    };
    within(async { tokio::join!(run, collect) }).await
}

/// Answers the receipt of `batch` as the store would.
pub fn commit(batch: &mut Batch) {
    let count = |length| u32::try_from(length).expect("a batch is small");
    let committed =
        Committed { accepted: count(batch.readings().len()), refused: count(batch.refusals().len()) };
    if let Some(receipt) = batch.receipt.take() {
        receipt.send(committed).expect("somebody waits for the receipt");
    }
}

/// Name, value and unit of every reading.
pub fn readings_of(batch: &Batch) -> Vec<(String, f64, String)> {
    batch.readings().map(|r| (r.sensor_name.to_owned(), r.value, r.unit.to_owned())).collect()
}

/// The state a source shows when its test is over.
pub fn state_of(intake: &Intake) -> State {
    intake.status.state()
}

fn convert(table: DeTable<'_>) -> Table {
    let entry = |value: DeValue<'_>| Entry {
        key_place: place(),
        node: Node { place: place(), value: convert_value(value) },
    };
    table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), entry(value.into_inner()))).collect()
}

fn convert_value(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).expect("a small number"))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().expect("a plain number")),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Null,
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| Node { place: place(), value: convert_value(item.into_inner()) })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert(table)),
    }
}

fn place() -> Place {
    Place { file: Rc::from("test.toml"), line: 1, column: 1 }
}
