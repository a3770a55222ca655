//! What becomes of one item of the Python agent's queue: privacy holds for it as for a reading that
//! comes in now, and what the policy leaves alone is delivered as it was written.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::adapter::json::{Defaults, push_reading};
use crate::pipeline::encode;
use crate::privacy::{Firewall, Verdict};
use crate::reading::{Batch, Priority, Reading};
use crate::store::{Lane, Staged};

/// How an item was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It will be delivered.
    Queued,
    /// The privacy policy keeps it, or a part of it, on the device.
    KeptLocal,
    /// The privacy policy drops it.
    Dropped,
}

/// Stages what is to be stored for `payload`.
///
/// # Errors
///
/// Why it is no item of the documented form; nothing was staged.
pub fn take_over(
    staged: &mut Staged,
    firewall: &mut Firewall,
    priority: Priority,
    payload: &str,
) -> Result<Taken, &'static str> {
    let Ok(shape) = serde_json::from_str::<Shape<'_>>(payload) else {
        return Err("is not a JSON object with the documented keys");
    };
    let lane = Lane::from(priority);
    match shape {
        Shape { rule_name: Some(_), sensor_readings, timestamp, .. } => {
            Ok(event(staged, firewall, lane, payload, &sensor_readings, timestamp))
        }
        Shape { sensor_name: Some(_), .. } => reading(staged, firewall, lane, payload),
        _ => Err("is neither a reading (sensor_name) nor an event (rule_name)"),
    }
}

/// What tells a reading from an event.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    rule_name: Option<&'a RawValue>,
    #[serde(borrow)]
    sensor_name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sensor_readings: Vec<&'a RawValue>,
    #[serde(default)]
    timestamp: f64,
}

fn reading(
    staged: &mut Staged,
    firewall: &mut Firewall,
    lane: Lane,
    payload: &str,
) -> Result<Taken, &'static str> {
    let mut batch = Batch::default();
    push_reading(&mut batch, payload, &DEFAULTS);
    let Some(reading) = batch.readings().next() else {
        return Err("is not a reading with a name and a finite value");
    };
    let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return Ok(Taken::Dropped) };
    if outbound == Some(reading) && local.is_none() {
        staged.push(lane, reading.timestamp, |out| on_one_line(out, payload));
        return Ok(Taken::Queued);
    }
    let mut stage = |lane, reading: Reading<'_>| {
        staged.push(lane, reading.timestamp, |out| encode::reading(out, reading, None));
    };
    if let Some(local) = local {
        stage(Lane::Local, local);
    }
    Ok(match outbound {
        Some(outbound) => {
            stage(lane, outbound);
            Taken::Queued
        }
        None => Taken::KeptLocal,
    })
}

/// An event goes the way of its readings: it leaves only when all of them may leave as they are.
fn event(
    staged: &mut Staged,
    firewall: &mut Firewall,
    lane: Lane,
    payload: &str,
    readings: &[&RawValue],
    timestamp: f64,
) -> Taken {
    let mut batch = Batch::default();
    for reading in readings {
        push_reading(&mut batch, reading.get(), &DEFAULTS);
    }
    // What cannot be read cannot be judged.
    let mut stays = batch.readings().len() < readings.len();
    for reading in batch.readings() {
        match firewall.judge(reading) {
            Verdict::Drop => return Taken::Dropped,
            Verdict::Keep { outbound, local } => stays |= local.is_some() || outbound != Some(reading),
        }
    }
    let lane = if stays { Lane::Local } else { lane };
    staged.push(lane, timestamp, |out| on_one_line(out, payload));
    if stays { Taken::KeptLocal } else { Taken::Queued }
}

/// Appends JSON text without the white space between its parts, so that it holds no line break.
fn on_one_line(out: &mut Vec<u8>, json: &str) {
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

const DEFAULTS: Defaults<'_> =
    Defaults { sensor_name: None, unit: "", units: None, timestamp: 0.0, origin: "sync_queue" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{Action, HashKey, SensorRule, Settings};

    fn firewall(rules: &[(&str, Action)]) -> Firewall {
        let rules =
            rules.iter().map(|(sensor, action)| SensorRule { sensor: (*sensor).to_owned(), action: *action });
        let settings = Settings { enabled: true, rules: rules.collect(), ..Settings::default() };
        Firewall::new(&settings, HashKey::new(&[7; 32]))
    }

    fn taken(firewall: &mut Firewall, payload: &str) -> Result<Taken, &'static str> {
        take_over(&mut Staged::default(), firewall, Priority::Telemetry, payload)
    }

    #[test]
    fn white_space_goes_and_what_stands_in_strings_stays() {
        let mut out = Vec::new();
        on_one_line(&mut out, "{ \"a \\\" b\" :\n [1.50 , \"\\\\\" ] }");
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a \" b":[1.50,"\\"]}"#);
    }

    #[test]
    fn items_of_another_form_are_refused() {
        let mut firewall = firewall(&[]);
        for payload in
            ["", "[]", "1", "{", "{}", r#"{"sensor_name":"a"}"#, r#"{"sensor_name":"a","value":"x"}"#]
        {
            assert!(taken(&mut firewall, payload).is_err(), "{payload}");
        }
    }

    #[test]
    fn the_privacy_policy_holds_for_readings_and_for_those_inside_of_events() {
        let mut firewall = firewall(&[("secret", Action::Drop), ("home", Action::LocalOnly)]);
        for (sensor, expected) in
            [("plain", Taken::Queued), ("secret", Taken::Dropped), ("home", Taken::KeptLocal)]
        {
            let reading = format!(r#"{{"sensor_name":"{sensor}","value":1.0,"timestamp":1.0}}"#);
            assert_eq!(taken(&mut firewall, &reading), Ok(expected));
            let event = format!(r#"{{"rule_name":"r","timestamp":1.0,"sensor_readings":[{reading}]}}"#);
            assert_eq!(taken(&mut firewall, &event), Ok(expected));
        }
        let unreadable = r#"{"rule_name":"r","timestamp":1.0,"sensor_readings":[{"sensor_name":"secret"}]}"#;
        assert_eq!(taken(&mut firewall, unreadable), Ok(Taken::KeptLocal));
    }
}
