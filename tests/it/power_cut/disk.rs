//! A disk that notes every write and flush: a file behind QEMU's blklogwrites, exported by FUSE, with a loop
//! device and ext4 on it. And plain images of it, to be mounted after a cut.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::process::Process;
use crate::harness::until;

use super::write_log;

/// Of the file system, in bytes: little, so that a full disk is soon reached and images are soon copied.
const DISK_BYTES: u64 = 32 * 1024 * 1024;
/// Of the log at most; the file has holes.
const LOG_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// The recording disk, mounted.
pub struct Disk {
    folder: PathBuf,
    log: File,
    // In this order: the mount has to go before what it lies on.
    mount: Mount,
    daemon: Process,
}

impl Disk {
    /// Makes the disk in `folder` and mounts it at `mountpoint`.
    pub async fn start(folder: &Path, mountpoint: &Path) -> Self {
        require();
        let path = |name: &str| folder.join(name);
        let (base, log, export) = (path("base.img"), path("write.log"), path("export"));
        File::create(&base).unwrap().set_len(DISK_BYTES).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&base));
        std::fs::copy(&base, path("before.img")).unwrap();
        File::create(&log).unwrap().set_len(LOG_BYTES).unwrap();
        File::create(&export).unwrap();
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.no-flush=on", path.display())
        };
        let mut command = tokio::process::Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &file("base", &base), "--blockdev", &file("log", &log)]);
        command
            .args(["--blockdev", "driver=blklogwrites,node-name=disk,file=base,log=log,log-sector-size=512"]);
        let export_as = format!("type=fuse,id=e,node-name=disk,mountpoint={},writable=on", export.display());
        let daemon = Process::start(command.args(["--export", &export_as]), INSTALL);
        until("the disk is there", async || {
            let size = std::fs::metadata(&export).map_or(0, |export| export.len());
            (size == DISK_BYTES).then_some(())
        })
        .await;
        let mount = Mount::new(&export, mountpoint);
        let log = File::open(&log).unwrap();
        Self { folder: folder.to_owned(), log, mount, daemon }
    }

    /// Entries of the log that are known to be complete.
    pub fn length(&self) -> usize {
        write_log::length(&self.log)
    }

    /// Another handle for [`write_log::length`].
    pub fn log(&self) -> File {
        self.log.try_clone().unwrap()
    }

    /// Unmounts it, ends the recording, and returns the image of before it and the log.
    pub async fn stop(self) -> (PathBuf, PathBuf) {
        let Self { folder, log: _, mount, mut daemon } = self;
        drop(mount);
        daemon.signal(rustix::process::Signal::TERM);
        daemon.wait_exit().await;
        (folder.join("before.img"), folder.join("write.log"))
    }
}

/// A mounted image; unmounted when it is dropped.
pub struct Mount {
    device: String,
    mountpoint: PathBuf,
}

impl Mount {
    /// What lies in the journal is replayed.
    pub fn new(image: &Path, mountpoint: &Path) -> Self {
        std::fs::create_dir_all(mountpoint).unwrap();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image));
        let mount = Self { device: device.trim().to_owned(), mountpoint: mountpoint.to_owned() };
        run(Command::new("mount").args(["-t", "ext4"]).arg(&mount.device).arg(mountpoint));
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for command in [
            Command::new("umount").arg(&self.mountpoint),
            Command::new("losetup").arg("--detach").arg(&self.device),
        ] {
            // A failing test may leave the daemon on it; the error is on the terminal.
            command.status().ok();
        }
    }
}

/// A copy of `from` that can be written to.
pub fn copy(from: &Path, to: &Path) -> File {
    std::fs::copy(from, to).unwrap();
    OpenOptions::new().read(true).write(true).open(to).unwrap()
}

/// Fails the test with what is missing.
fn require() {
    for device in ["/dev/fuse", "/dev/loop-control"] {
        let found = OpenOptions::new().read(true).write(true).open(device);
        assert!(found.is_ok(), "{device}: {}; power cuts need it, and root", found.unwrap_err());
    }
}

fn run(command: &mut Command) -> String {
    let program = command.get_program().to_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}; {INSTALL}", program.display()));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

const INSTALL: &str = "scripts/test-power-cut installs what is needed";
