//! The board: CPU, memory, disk and temperature, read from the kernel at most once a second.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::lifecycle::memory::kib_behind;

/// Reads the board's figures.
#[derive(Debug)]
pub struct Host {
    roots: Roots,
    /// A lock, because the figures belong together and the CPU's is a difference to the last ones;
    /// held for the few reads of a sample, never across an await.
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Roots {
    proc: PathBuf,
    sys: PathBuf,
    state_dir: PathBuf,
}

#[derive(Debug, Default)]
struct Last {
    sample: Sample,
    /// Boot clock; none before the first.
    taken_at: Option<Duration>,
    cpu: CpuTime,
}

/// One look at the board. A figure that cannot be read is 0, or `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Of all cores, since the sample before: 0 to 100.
    pub cpu_percent: f64,
    /// Memory that is not available to new programs: 0 to 100.
    pub ram_percent: f64,
    /// Of the file system of the state directory, as `df` computes it: 0 to 100.
    pub disk_percent: f64,
    /// What this user may still write there.
    pub disk_free_bytes: u64,
    /// The hottest thermal zone, where the board has one.
    pub thermal_celsius: Option<f64>,
    /// Memory of this process.
    pub resident_bytes: Option<u64>,
}

/// Ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTime {
    total: u64,
    idle: u64,
}

impl Host {
    /// Of this machine; the disk is the one that holds `state_dir`.
    pub fn new(state_dir: PathBuf) -> Self {
        Self::with_roots("/proc".into(), "/sys".into(), state_dir)
    }

    /// With other folders in the place of `/proc` and `/sys`.
    pub fn with_roots(proc: PathBuf, sys: PathBuf, state_dir: PathBuf) -> Self {
        let roots = Roots { proc, sys, state_dir };
        let cpu = roots.cpu().unwrap_or_default();
        Self { roots, last: Mutex::new(Last { cpu, ..Default::default() }) }
    }

    /// The figures, at most a second old. `since_boot` is the boot clock. Reads a dozen files that
    /// the kernel makes up, and asks the file system for its counters: no disk is waited for.
    pub fn sample(&self, since_boot: Duration) -> Sample {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: Duration| since_boot.saturating_sub(at) < SAMPLE_INTERVAL_MIN;
        if last.taken_at.is_some_and(is_fresh) {
            return last.sample;
        }
        let cpu = self.roots.cpu().unwrap_or(last.cpu);
        let (disk_percent, disk_free_bytes) = self.roots.disk().unwrap_or_default();
        last.sample = Sample {
            cpu_percent: cpu.percent_since(last.cpu).unwrap_or(last.sample.cpu_percent),
            ram_percent: self.roots.ram_percent().unwrap_or_default(),
            disk_percent,
            disk_free_bytes,
            thermal_celsius: self.roots.thermal_celsius(),
            resident_bytes: self.roots.resident_bytes(),
        };
        last.cpu = cpu;
        last.taken_at = Some(since_boot);
        last.sample
    }
}

impl Roots {
    fn cpu(&self) -> Option<CpuTime> {
        parse_cpu(&read(&self.proc.join("stat"))?)
    }

    fn ram_percent(&self) -> Option<f64> {
        let info = read(&self.proc.join("meminfo"))?;
        let total = kib_behind(&info, "MemTotal:")? as f64;
        let available = kib_behind(&info, "MemAvailable:")? as f64;
        (total > 0.0).then(|| percent(total - available, total))
    }

    fn resident_bytes(&self) -> Option<u64> {
        // Not statm: that counts pages, and a Pi 5 has 16 KiB ones.
        kib_behind(&read(&self.proc.join("self/status"))?, "VmRSS:")?.checked_mul(1024)
    }

    fn disk(&self) -> Option<(f64, u64)> {
        let disk = rustix::fs::statvfs(&self.state_dir).ok()?;
        let used = disk.f_blocks.saturating_sub(disk.f_bfree) as f64;
        let usable = used + disk.f_bavail as f64;
        (usable > 0.0).then(|| (percent(used, usable), disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    fn thermal_celsius(&self) -> Option<f64> {
        let zones = fs::read_dir(self.sys.join("class/thermal")).ok()?;
        zones
            .take(THERMAL_ENTRIES_MAX)
            .filter_map(Result::ok)
            .filter(|zone| zone.file_name().to_string_lossy().starts_with("thermal_zone"))
            .filter_map(|zone| read(&zone.path().join("temp"))?.trim().parse::<f64>().ok())
            .map(|millidegrees| millidegrees / 1000.0)
            // A sensor that is absent or broken reports nonsense.
            .filter(|celsius| (-50.0..=150.0).contains(celsius))
            .max_by(f64::total_cmp)
    }
}

impl CpuTime {
    /// `None` when no tick lies between.
    fn percent_since(self, before: Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total).filter(|ticks| *ticks > 0)?;
        // The kernel lets iowait run backwards at times (proc(5)).
        let idle = self.idle.saturating_sub(before.idle).min(total);
        Some(percent((total - idle) as f64, total as f64))
    }
}

/// The first line of `/proc/stat`; guest time is in user time already.
fn parse_cpu(stat: &str) -> Option<CpuTime> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = numbers.split_ascii_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    let [_user, _nice, _system, idle, rest @ ..] = ticks.as_slice() else { return None };
    let total = ticks.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n))?;
    Some(CpuTime { total, idle: idle.saturating_add(rest.first().copied().unwrap_or(0)) })
}

fn percent(part: f64, whole: f64) -> f64 {
    (part / whole * 100.0).clamp(0.0, 100.0)
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reading the temperature costs a call into the firmware; who asks more often gets the last figures.
const SAMPLE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What is looked for stands at the beginning.
const FILE_BYTES_MAX: u64 = 8 * 1024;

const THERMAL_ENTRIES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Board(tempfile::TempDir);

    impl Board {
        fn new() -> Self {
            let board = Self(tempfile::tempdir().unwrap());
            board.put("proc/stat", "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n");
            board.put("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n");
            board.put("proc/self/status", "Name:\tx\nVmRSS:\t    2048 kB\n");
            board.put("sys/class/thermal/thermal_zone0/temp", "41000\n");
            board.put("sys/class/thermal/thermal_zone1/temp", "52500\n");
            board.put("sys/class/thermal/thermal_zone2/temp", "-273200\n");
            board.put("sys/class/thermal/cooling_device0/temp", "99000\n");
            board
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        }

        fn host(&self) -> Host {
            let root = self.0.path();
            Host::with_roots(root.join("proc"), root.join("sys"), root.to_owned())
        }
    }

    #[test]
    fn the_figures_of_a_board_are_read() {
        let board = Board::new();
        let host = board.host();
        board.put("proc/stat", "cpu  150 0 125 700 125 0 0 0 50 0\n");
        let sample = host.sample(Duration::from_secs(10));
        assert_eq!((sample.cpu_percent, sample.ram_percent), (75.0, 75.0));
        assert_eq!((sample.thermal_celsius, sample.resident_bytes), (Some(52.5), Some(2 << 20)));
        assert!((0.0..=100.0).contains(&sample.disk_percent));
    }

    #[test]
    fn figures_are_kept_for_a_second() {
        let board = Board::new();
        let host = board.host();
        board.put("proc/stat", "cpu  200 0 100 700 100 0 0 0\n");
        assert_eq!(host.sample(Duration::from_secs(10)).cpu_percent, 100.0);
        board.put("proc/stat", "cpu  200 0 100 800 100 0 0 0\n");
        assert_eq!(host.sample(Duration::from_millis(10_999)).cpu_percent, 100.0);
        assert_eq!(host.sample(Duration::from_secs(11)).cpu_percent, 0.0);
    }

    #[test]
    fn a_board_without_these_files_shows_zeros_and_no_temperature() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let host = Host::with_roots(missing.clone(), missing.clone(), missing);
        assert_eq!(host.sample(Duration::from_secs(1)), Sample::default());
    }

    #[test]
    fn nonsense_in_the_kernels_files_is_no_figure() {
        for stat in ["", "cpu", "cpu  x y", "cpu  1 2 3", "cpu  18446744073709551615 1 1 1"] {
            assert_eq!(parse_cpu(stat), None, "{stat:?}");
        }
        let (now, before) = (CpuTime { total: 100, idle: 10 }, CpuTime { total: 90, idle: 50 });
        assert_eq!(now.percent_since(before), Some(100.0));
        assert_eq!(before.percent_since(now), None);
        assert_eq!(kib_behind("MemTotal: many kB", "MemTotal:"), None);
    }
}
