//! What `/proc` and the file systems say: CPU, memory, disk, load, uptime and network.

use std::path::Path;

use super::sample::{Fault, Sample, read_text};

/// Ticks since boot, of all CPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CpuTimes {
    idle: u64,
    total: u64,
}

/// How busy the CPUs were since `previous`, which is updated; at first since boot.
pub(super) fn cpu(sample: &mut Sample<'_>, path: &Path, previous: &mut Option<CpuTimes>) {
    let times = read_text(path).map_err(Fault::from).and_then(|text| cpu_times(&text));
    let percent = match times {
        Err(fault) => Err(fault),
        Ok(now) => {
            let before = previous.replace(now).unwrap_or(CpuTimes { idle: 0, total: 0 });
            let total = now.total.saturating_sub(before.total);
            if total == 0 {
                // Polled faster than the kernel counts: there is nothing to say yet.
                return;
            }
            // The kernel's idle time may step back (proc(5), iowait).
            let idle = now.idle.saturating_sub(before.idle).min(total);
            Ok(percent_of((total - idle) as f64, total as f64))
        }
    };
    sample.put("cpu_percent", "%", percent);
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. Guest time is
/// part of user time already (proc(5)).
fn cpu_times(text: &str) -> Result<CpuTimes, Fault> {
    let mut words = text.lines().next().unwrap_or_default().split_ascii_whitespace();
    let wrong = Fault::Wrong("not the CPU times of /proc/stat");
    if words.next() != Some("cpu") {
        return Err(wrong);
    }
    let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
    let [_, _, _, idle, ..] = ticks[..] else { return Err(wrong) };
    let waiting = ticks.get(4).copied().unwrap_or(0);
    let total = ticks.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    Ok(CpuTimes { idle: idle.saturating_add(waiting), total })
}

/// What programs could still get, and the rest in percent.
pub(super) fn memory(sample: &mut Sample<'_>, path: &Path) {
    let figures = read_text(path).map_err(Fault::from).and_then(|text| {
        let total = kibibytes(&text, "MemTotal:")?;
        Ok((total, kibibytes(&text, "MemAvailable:")?.min(total)))
    });
    match figures {
        Ok((total, available)) => {
            sample.put("memory_percent", "%", Ok(percent_of(total - available, total)));
            sample.put("memory_available", "B", Ok(available * 1024.0));
        }
        Err(fault) => sample.put("memory_percent", "%", Err(fault)),
    }
}

fn kibibytes(text: &str, key: &str) -> Result<f64, Fault> {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let number = value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    number.ok_or(Fault::Wrong("MemTotal or MemAvailable is missing"))
}

/// Space on the file system at `mount`, as df counts it: without what only root may use.
pub(super) fn disk(sample: &mut Sample<'_>, mount: &Path) {
    match rustix::fs::statvfs(mount) {
        Ok(stat) => {
            let bytes = |blocks: u64| blocks as f64 * stat.f_frsize as f64;
            let (used, available) = (bytes(stat.f_blocks.saturating_sub(stat.f_bfree)), bytes(stat.f_bavail));
            sample.put("disk_percent", "%", Ok(percent_of(used, used + available)));
            sample.put("disk_available", "B", Ok(available));
        }
        Err(error) => sample.put("disk_percent", "%", Err(Fault::Unreadable(error.into()))),
    }
}

/// Runnable and waiting tasks, averaged over 1, 5 and 15 minutes.
pub(super) fn load(sample: &mut Sample<'_>, path: &Path) {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => return sample.put("load_1m", "", Err(error.into())),
    };
    let mut words = text.split_ascii_whitespace();
    for name in ["load_1m", "load_5m", "load_15m"] {
        sample.put(name, "", number(words.next()));
    }
}

/// Seconds since boot.
pub(super) fn uptime(sample: &mut Sample<'_>, path: &Path) {
    let seconds = read_text(path).map_err(Fault::from);
    sample.put("uptime", "s", seconds.and_then(|text| number(text.split_ascii_whitespace().next())));
}

/// Bytes that each interface but the loopback has received and sent since it came up.
pub(super) fn network(sample: &mut Sample<'_>, path: &Path) {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => return sample.put("network", "B", Err(error.into())),
    };
    for line in text.lines() {
        // The two lines of headings have no colon after the name.
        let Some((name, counters)) = line.split_once(':') else { continue };
        let name = name.trim();
        if name == "lo" {
            continue;
        }
        let mut counters = counters.split_ascii_whitespace();
        sample.put(&format!("network.{name}.received"), "B", number(counters.next()));
        sample.put(&format!("network.{name}.sent"), "B", number(counters.nth(SENT_AFTER_RECEIVED - 1)));
    }
}

fn number(word: Option<&str>) -> Result<f64, Fault> {
    word.and_then(|word| word.parse().ok()).ok_or(Fault::Wrong("not a number"))
}

fn percent_of(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

/// Columns from the received to the sent bytes in `/proc/net/dev` (proc(5)).
const SENT_AFTER_RECEIVED: usize = 8;
