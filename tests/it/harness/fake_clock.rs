//! A clock that the test sets, for a real daemon: a small library in C is loaded in front of libc. The
//! product has no hook for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::daemon::Home;
use super::write;

/// What the daemon takes for the clocks of the board. It starts in boot `first`, just begun, not
/// synchronised, as a board without a clock: shortly after the start of 1970.
pub struct FakeClock {
    folder: TempDir,
    state: File,
    /// Of the fake boot, by the real boot clock.
    booted: Duration,
}

impl FakeClock {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        build(&folder.path().join("fake_clock.so"));
        let state = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(folder.path().join("state"))
            .unwrap();
        let mut clock = Self { folder, state, booted: Duration::ZERO };
        clock.boot("first", 12.0);
        clock
    }

    /// A home whose daemon lives by this clock.
    pub fn home(&self, config: &str) -> Home {
        let library = self.path("fake_clock.so").display().to_string();
        Home::new(config)
            .env("LD_PRELOAD", &library)
            .env("FAKE_CLOCK", &self.path("state").display().to_string())
    }

    /// A new boot, begun right now, whose wall clock shows `wall` and is not synchronised. For a daemon
    /// that does not run.
    pub fn boot(&mut self, id: &str, wall: f64) {
        write(&self.path("state.boot_id"), &format!("{id}\n"));
        self.booted = real_since_boot();
        self.put(8, -i64::try_from(self.booted.as_nanos()).unwrap());
        self.set(wall, false);
    }

    /// Sets the wall clock to `wall`, Unix seconds, and what the kernel says of it.
    pub fn set(&self, wall: f64, synchronised: bool) {
        // A wall clock that is set is not synchronised until somebody says so.
        self.put(16, 0);
        self.put(0, ((wall - real_now()) * 1e9) as i64);
        self.put(16, i64::from(synchronised));
    }

    /// The wall clock is right from now on, and the kernel says so.
    pub fn synchronise(&self) {
        self.put(0, 0);
        self.put(16, 1);
    }

    /// When the fake boot really began, Unix seconds.
    pub fn began(&self) -> f64 {
        real_now() - (real_since_boot() - self.booted).as_secs_f64()
    }

    fn put(&self, at: u64, value: i64) {
        self.state.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The time as it is, Unix seconds.
pub fn real_now() -> f64 {
    pyvorin_edge::clock::unix_seconds()
}

fn real_since_boot() -> Duration {
    pyvorin_edge::clock::since_boot()
}

fn build(library: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/fake_clock.c");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(library)
        .arg(source)
        .output()
        .expect("gcc is not there: apt-get install gcc libc6-dev");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}
