//! What `/sys` shows of sensors: thermal zones, hwmon chips, 1-Wire thermometers and IIO devices.

use std::path::Path;

use super::sample::{Fault, Namer, Sample, names_in, read_number, read_text};

/// Thermal zones, by their type.
pub(super) fn thermal(sample: &mut Sample<'_>, dir: &Path) {
    let mut namer = Namer::default();
    for zone in names_in(dir).iter().filter(|name| name.starts_with("thermal_zone")) {
        let path = dir.join(zone);
        let name = namer.unique(label(&path.join("type"), zone));
        sample.put(&format!("thermal.{name}"), "C", thousandths(read_number(&path.join("temp"))));
    }
}

/// The inputs of hwmon chips, in the units of the kernel's documentation (hwmon/sysfs-interface).
pub(super) fn hwmon(sample: &mut Sample<'_>, dir: &Path) {
    let mut chips = Namer::default();
    for folder in names_in(dir) {
        let path = dir.join(&folder);
        let chip = chips.unique(label(&path.join("name"), &folder));
        let mut inputs = Namer::default();
        for file in names_in(&path) {
            let Some(input) = file.strip_suffix("_input") else { continue };
            let kind = input.trim_end_matches(|letter: char| letter.is_ascii_digit());
            let Some((_, unit, divisor)) = HWMON_UNITS.iter().find(|(name, ..)| *name == kind) else { continue };
            let name = inputs.unique(label(&path.join(format!("{input}_label")), input));
            let value = read_number(&path.join(&file)).map(|value| value / divisor);
            sample.put(&format!("hwmon.{chip}.{name}"), unit, value);
        }
    }
}

/// 1-Wire thermometers. Each takes up to 0.75 s to measure.
pub(super) fn w1(sample: &mut Sample<'_>, dir: &Path) {
    for name in names_in(dir) {
        let path = dir.join(&name);
        // Other 1-Wire devices and the bus master have neither file.
        let value = if path.join("temperature").exists() {
            read_number(&path.join("temperature"))
        } else if path.join("w1_slave").exists() {
            read_text(&path.join("w1_slave")).map_err(Fault::from).and_then(|text| w1_slave(&text))
        } else {
            continue;
        };
        sample.put(&format!("w1.{name}"), "C", thousandths(value.and_then(measured)));
    }
}

/// The first line says whether the checksum was right, the second ends in `t=` and millidegrees.
fn w1_slave(text: &str) -> Result<f64, Fault> {
    if !text.lines().next().is_some_and(|line| line.trim_end().ends_with("YES")) {
        return Err(Fault::Wrong("the checksum is wrong"));
    }
    let number = text.rsplit_once("t=").and_then(|(_, number)| number.trim().parse().ok());
    number.ok_or(Fault::Wrong("not a number"))
}

/// A DS18B20 shows 85 degrees from power-on until it has measured.
fn measured(millidegrees: f64) -> Result<f64, Fault> {
    if millidegrees == 85_000.0 { Err(Fault::Wrong("the power-on value of 85 degrees")) } else { Ok(millidegrees) }
}

/// The channels of IIO devices; raw ones are `(raw + offset) * scale`
/// (Documentation/ABI/testing/sysfs-bus-iio).
pub(super) fn iio(sample: &mut Sample<'_>, dir: &Path) {
    let mut devices = Namer::default();
    for folder in names_in(dir).iter().filter(|name| name.starts_with("iio:device")) {
        let path = dir.join(folder);
        let device = devices.unique(label(&path.join("name"), &folder.replace(':', "-")));
        let files = names_in(&path);
        for file in &files {
            let Some(stem) = file.strip_prefix("in_") else { continue };
            let (channel, value) = if let Some(channel) = stem.strip_suffix("_input") {
                (channel, read_number(&path.join(file)))
            } else if let Some(channel) = stem.strip_suffix("_raw") {
                if files.contains(&format!("in_{channel}_input")) {
                    continue;
                }
                (channel, scaled(&path, channel))
            } else {
                continue;
            };
            let kind = kind_of(channel);
            let found = IIO_UNITS.iter().find(|(name, ..)| *name == kind);
            let (unit, divisor) = found.map_or(("", 1.0), |(_, unit, divisor)| (*unit, *divisor));
            sample.put(&format!("iio.{device}.{channel}"), unit, value.map(|value| value / divisor));
        }
    }
}

fn scaled(device: &Path, channel: &str) -> Result<f64, Fault> {
    let raw = read_number(&device.join(format!("in_{channel}_raw")))?;
    // A factor belongs to one channel, or to all of its kind.
    let factor = |suffix: &str, default: f64| {
        for name in [channel, kind_of(channel)] {
            let path = device.join(format!("in_{name}_{suffix}"));
            if path.exists() {
                return read_number(&path);
            }
        }
        Ok(default)
    };
    Ok((raw + factor("offset", 0.0)?) * factor("scale", 1.0)?)
}

/// `voltage` of `voltage0`, `accel` of `accel_x`.
fn kind_of(channel: &str) -> &str {
    channel.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or(channel)
}

/// The line in a file, or `default` when there is none.
fn label(path: &Path, default: &str) -> String {
    let text = read_text(path).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { default.to_owned() } else { line.to_owned() }
}

fn thousandths(value: Result<f64, Fault>) -> Result<f64, Fault> {
    value.map(|value| value / 1000.0)
}

/// Kind of input, unit, and what to divide the kernel's figure by.
const HWMON_UNITS: [(&str, &str, f64); 6] = [
    ("temp", "C", 1e3),
    ("in", "V", 1e3),
    ("fan", "rpm", 1.0),
    ("curr", "A", 1e3),
    ("power", "W", 1e6),
    ("humidity", "%", 1e3),
];
const IIO_UNITS: [(&str, &str, f64); 12] = [
    ("temp", "C", 1e3),
    ("humidityrelative", "%", 1e3),
    ("pressure", "kPa", 1.0),
    ("voltage", "V", 1e3),
    ("current", "A", 1e3),
    ("illuminance", "lux", 1.0),
    ("accel", "m/s2", 1.0),
    ("anglvel", "rad/s", 1.0),
    ("magn", "G", 1.0),
    ("resistance", "ohm", 1.0),
    ("concentration", "%", 1.0),
    ("distance", "m", 1.0),
];
