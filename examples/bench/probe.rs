//! What the kernel counts of a process: CPU time, memory, bytes written; and of the machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Of all its threads, user and system.
    pub cpu: Duration,
    /// `write_bytes` of `/proc/PID/io`: what it sent towards the disk. A page of the page cache counts
    /// each time it turns dirty, so with an fsync per commit it is what reaches the disk, in whole
    /// pages, and without the file system's own journal.
    pub written_bytes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let io = read(&format!("/proc/{pid}/io"))?;
        let written_bytes = number_after(&io, "\nwrite_bytes:").context("no write_bytes in /proc/PID/io")?;
        Ok(Self { cpu: cpu(pid)?, written_bytes })
    }

    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

/// What a process costs the machine's memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Proportional set size.
    pub pss_bytes: u64,
    /// Heap and stacks: what the kernel cannot take back without swap.
    pub anonymous_bytes: u64,
}

pub fn memory(pid: u32) -> Result<Memory> {
    let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |key| Some(number_after(&rollup, key)? * 1024);
    let missing = "no Pss or Anonymous in smaps_rollup";
    Ok(Memory {
        pss_bytes: bytes("\nPss:").context(missing)?,
        anonymous_bytes: bytes("\nAnonymous:").context(missing)?,
    })
}

/// The threads' own counts have nanoseconds but lose what ended threads used; the process's count has
/// all, in ticks of 10 ms.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let whole = Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    let mut threads = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        threads += Duration::from_nanos(
            text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0),
        );
    }
    Ok(threads.max(whole.saturating_sub(2 * Duration::from_millis(1000 / TICKS_PER_SECOND))))
}

/// Model, cores, memory and kernel, as the results name them.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = ["model name", "Model"]
        .iter()
        .find_map(|key| text_after(&cpuinfo, key))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = number_after(&meminfo, "MemTotal:").unwrap_or(0) / 1024;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, {memory} MiB, Linux {}", kernel.trim())
}

/// The file system of `path`, such as `ext4`.
pub fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && path.starts_with(fields[1]));
    holding.max_by_key(|fields| fields[1].len()).map_or_else(String::new, |fields| fields[2].to_owned())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}: the process is gone, or of another user"))
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    text.split_once(key)?.1.split_whitespace().next()?.parse().ok()
}

fn text_after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

/// `USER_HZ` of every Linux that is in use.
const TICKS_PER_SECOND: u64 = 100;
