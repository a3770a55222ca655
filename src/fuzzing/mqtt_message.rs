//! MQTT messages: what a publisher can put into a topic and a payload.
//!
//! The first line of the input is the topic, the rest the payload.

use std::cell::OnceCell;

use super::config_file::config_of;
use super::readings::{self, NOW};
use crate::adapter::Source;
use crate::adapter::mqtt::payload::Route;
use crate::reading::{Batch, Refusal};

pub(super) fn run(input: &[u8]) {
    thread_local! {
        static SOURCE: OnceCell<Source> = const { OnceCell::new() };
    }
    let split = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (topic, payload) = (&input[..split], input.get(split + 1..).unwrap_or_default());
    SOURCE.with(|source| {
        let source = source.get_or_init(|| config_of(CONFIG).sources.remove(0));
        let Source::Mqtt(source) = source else { panic!("it is configured") };
        let mut batch = Batch::default();
        let read = Route::new(source).read(&mut batch, topic, payload, NOW);
        if read.is_err() {
            let reasons: Vec<_> = batch.refusals().map(|(reason, _)| reason).collect();
            assert_eq!(reasons, [Refusal::NotConfigured]);
        }
        assert!(batch.len() <= payload.len() + 1, "more than the payload can hold");
        let bytes_max = payload.len() * GROWTH_MAX + topic.len() + 1024;
        assert!(batch.text_bytes() <= bytes_max, "{} bytes of {}", batch.text_bytes(), payload.len());
        readings::take_in(&batch);
    });
}

/// A reading of twelve bytes takes the name of its topic and the unit of its device.
const GROWTH_MAX: usize = 25;

const CONFIG: &str = "
[[sensors.devices]]
name = 'plain'
ingest_type = 'mqtt'
topic = 't'
unit = 'C'
[[sensors.devices]]
name = 'device'
ingest_type = 'mqtt'
topic = 'd/+/x'
sensor_name_from = 'device'
[[sensors.devices]]
name = 'last'
ingest_type = 'mqtt'
topic = 'l/#'
sensor_name_from = 'last_level'
";
