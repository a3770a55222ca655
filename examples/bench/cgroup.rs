//! A control group of its own with a limit on memory, page cache included, as a service manager gives one to a unit:
//! version 2 where the machine has its memory controller there, version 1 else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A control group, removed with this value once its processes have ended.
pub struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What the kernel counted.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// The most that was charged to it at once, page cache included.
    pub peak_bytes: u64,
    /// Times that the limit was met; the kernel reclaims page cache then, and that is no failure.
    pub limit_hits: u64,
    /// Processes that the OOM killer ended.
    pub oom_kills: u64,
}

impl Cgroup {
    /// Makes one in which at most `bytes` may be used.
    ///
    /// # Errors
    ///
    /// This machine has no memory controller, or may not be asked to make groups; the message says which.
    pub fn with_limit(bytes: u64) -> Result<Self> {
        let name = format!("pyvorin-edge-test-{}-{}", std::process::id(), fastrand::u32(..));
        let (parent, version) = parent()?;
        let folder = parent.join(name);
        let shown = folder.display();
        fs::create_dir(&folder).with_context(|| {
            format!("cannot make the control group {shown}: run as root, with /sys/fs/cgroup writable")
        })?;
        let cgroup = Self { folder, version };
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        cgroup.set(limit, &bytes.to_string())?;
        if version == Version::Two {
            // Not there on a kernel without swap.
            cgroup.set("memory.swap.max", "0").ok();
        }
        Ok(cgroup)
    }

    /// The words before a command that run it in this group, under the same process id.
    pub fn words(&self) -> [PathBuf; 4] {
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        ["sh".into(), "-c".into(), script.into(), self.folder.clone()]
    }

    /// # Errors
    ///
    /// A file of the group cannot be read.
    pub fn counts(&self) -> Result<Counts> {
        let (peak, hits, kills) = match self.version {
            Version::One => ("memory.max_usage_in_bytes", "memory.failcnt", "memory.oom_control"),
            Version::Two => ("memory.peak", "memory.events", "memory.events"),
        };
        let hits_key = if self.version == Version::One { "" } else { "max " };
        Ok(Counts {
            // Before Linux 5.19 version 2 has no peak.
            peak_bytes: self.number(peak, "").unwrap_or(0),
            limit_hits: self.number(hits, hits_key)?,
            oom_kills: self.number(kills, "oom_kill ")?,
        })
    }

    fn number(&self, file: &str, key: &str) -> Result<u64> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let number =
            text.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.trim().parse().ok());
        number.with_context(|| format!("no number '{key}' in {}", path.display()))
    }

    fn set(&self, file: &str, text: &str) -> Result<()> {
        put(&self.folder.join(file), text)
    }
}

/// Writes to a file that the kernel made.
fn put(path: &Path, text: &str) -> Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.with_context(|| {
        format!("cannot write {text} to {}: run as root, with /sys/fs/cgroup writable", path.display())
    })
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Refused while somebody is in it; then it stays, and is empty later.
        fs::remove_dir(&self.folder).ok();
    }
}

/// The folder in which a group with a limit can be made.
fn parent() -> Result<(PathBuf, Version)> {
    let root = Path::new("/sys/fs/cgroup");
    let own = fs::read_to_string("/proc/self/cgroup").context("this kernel has no control groups")?;
    let of_version_1 = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then(|| path.trim_start_matches('/'))
    });
    if let Some(path) = of_version_1 {
        let folder = root.join("memory");
        // In a container the path can be one of the machine's.
        let own = folder.join(path);
        return Ok((if own.is_dir() { own } else { folder }, Version::One));
    }
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|name| name == "memory") {
        bail!("this machine has no memory controller: boot it with cgroup_enable=memory");
    }
    // A group with processes in it can have no limited children, but for the root.
    put(&root.join("cgroup.subtree_control"), "+memory")?;
    Ok((root.to_owned(), Version::Two))
}
