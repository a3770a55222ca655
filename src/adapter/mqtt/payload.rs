//! From the topic and the payload of a message to its readings.

use std::collections::HashMap;

use rumqttc::mqttbytes::matches;

use super::super::json::{self, Defaults};
use super::{NameFrom, Source, Topic};
use crate::reading::{Batch, Refusal};

/// Finds the device of a topic.
pub(crate) struct Route<'s> {
    exact: HashMap<&'s str, &'s Topic>,
    wildcards: Vec<&'s Topic>,
}

/// A topic that no device is configured for; it is counted as refused by then.
pub(crate) struct NotConfigured<'n>(pub &'n str);

impl<'s> Route<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        let is_wildcard = |topic: &&Topic| topic.filter.contains(['+', '#']);
        let (wildcards, exact): (Vec<_>, Vec<_>) = source.topics.iter().partition(is_wildcard);
        Self { exact: exact.into_iter().map(|topic| (topic.filter.as_str(), topic)).collect(), wildcards }
    }

    fn find(&self, name: &str) -> Option<&'s Topic> {
        let wildcard = || self.wildcards.iter().find(|topic| matches(name, &topic.filter)).copied();
        self.exact.get(name).copied().or_else(wildcard)
    }

    /// Adds what the message says to `batch`; what cannot be read is counted there. `now` is the wall
    /// clock in Unix seconds.
    pub(crate) fn read<'n>(
        &self,
        batch: &mut Batch,
        topic: &'n [u8],
        payload: &[u8],
        now: f64,
    ) -> Result<(), NotConfigured<'n>> {
        let Ok(name) = std::str::from_utf8(topic) else {
            batch.refuse(Refusal::Malformed, "");
            return Ok(());
        };
        let Some(topic) = self.find(name) else {
            batch.refuse(Refusal::NotConfigured, name);
            return Err(NotConfigured(name));
        };
        let sensor_name = match topic.sensor_name_from {
            NameFrom::Topic => name,
            NameFrom::LastLevel => name.rsplit('/').next().unwrap_or(name),
            NameFrom::Device => &topic.device,
        };
        let Ok(payload) = std::str::from_utf8(payload) else {
            batch.refuse(Refusal::Malformed, sensor_name);
            return Ok(());
        };
        let defaults = Defaults {
            sensor_name: Some(sensor_name),
            unit: &topic.unit,
            units: None,
            timestamp: now,
            origin: name,
        };
        if payload.trim_ascii_start().starts_with('[') {
            if json::push_document(batch, payload, &defaults).is_err() {
                batch.refuse(Refusal::Malformed, name);
            }
        } else {
            json::push_line(batch, payload, &defaults);
        }
        Ok(())
    }
}
