//! Voltage and heat, as the firmware of a Raspberry Pi reports them.

use super::Check;
use super::facts::Facts;
use super::root::Root;

/// Whether the supply gives enough.
pub fn supply(facts: &Facts) -> Check {
    const NAME: &str = "power_supply";
    let means = "the board resets, and cards are damaged by writes at low voltage";
    let mend = "use the power supply made for the board, with its own cable, and fewer devices on USB";
    match throttled(&facts.root) {
        Some(bits) if bits & UNDER_VOLTAGE != 0 => {
            Check::error(NAME, "the voltage is too low now").means(means).mend(mend)
        }
        Some(bits) if bits & UNDER_VOLTAGE << SINCE_BOOT != 0 => {
            Check::warning(NAME, "the voltage was too low since boot").means(means).mend(mend)
        }
        Some(_) => Check::ok(NAME, "enough since boot"),
        None => match alarm(&facts.root) {
            Some(true) => Check::error(NAME, "the voltage is too low").means(means).mend(mend),
            Some(false) => Check::ok(NAME, "enough"),
            None => Check::not_applicable(NAME, "the board does not measure it"),
        },
    }
}

/// Whether the board slows down to stay cool.
pub fn heat(facts: &Facts) -> Check {
    const NAME: &str = "heat";
    let Some(bits) = throttled(&facts.root) else {
        return Check::not_applicable(NAME, "the board does not tell");
    };
    let warning = |found| {
        Check::warning(NAME, found)
            .means("the board runs slower, and its card and battery age faster")
            .mend("give it air or a heat sink")
    };
    match bits & (HOT | HOT << SINCE_BOOT) {
        0 => Check::ok(NAME, "never throttled since boot"),
        bits if bits & HOT != 0 => warning("too hot now: the firmware throttles the processor"),
        _ => warning("it was too hot since boot"),
    }
}

/// The bits of the firmware's `get_throttled`
/// (raspberrypi.com/documentation/computers/os.html#get_throttled).
fn throttled(root: &Root) -> Option<u32> {
    const PLATFORM: &str = "/sys/devices/platform";
    let socs = root.names(PLATFORM).into_iter().filter(|name| name.starts_with("soc"));
    let places = socs.flat_map(|soc| {
        let inner = root.names(format!("{PLATFORM}/{soc}")).into_iter();
        let inner = inner.filter(|name| name.ends_with("firmware"));
        let inner: Vec<_> = inner.map(|name| format!("{PLATFORM}/{soc}/{name}/get_throttled")).collect();
        std::iter::once(format!("{PLATFORM}/{soc}/get_throttled")).chain(inner)
    });
    let text = places.take(PLACES_MAX).find_map(|place| root.line(place))?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// The alarm of the driver raspberrypi-hwmon.
fn alarm(root: &Root) -> Option<bool> {
    const HWMON: &str = "/sys/class/hwmon";
    let monitor = root.names(HWMON).into_iter().find(|monitor| {
        root.line(format!("{HWMON}/{monitor}/name")).is_some_and(|name| name == "rpi_volt")
    })?;
    Some(root.line(format!("{HWMON}/{monitor}/in0_lcrit_alarm"))? == "1")
}

const UNDER_VOLTAGE: u32 = 1;
/// Throttled, or at the soft limit of the temperature.
const HOT: u32 = 1 << 3;
/// The same bits so much higher say whether it ever was so.
const SINCE_BOOT: u32 = 16;
const PLACES_MAX: usize = 64;
