//! Mounts under a test's own folder, for disks that are full, read-only, or not there yet.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that is mounted; unmounted when it is dropped, which has to be before its folder is removed.
pub struct Mount(PathBuf);

impl Mount {
    /// An empty file system in memory.
    pub fn tmpfs(mountpoint: &Path, size_bytes: u64) -> Self {
        let options = format!("size={size_bytes},mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(mountpoint));
        Self(mountpoint.to_owned())
    }

    /// The folder itself, for [`Self::make_read_only`].
    pub fn itself(folder: &Path) -> Self {
        run(Command::new("mount").arg("--bind").args([folder, folder]));
        Self(folder.to_owned())
    }

    pub fn make_read_only(&self) {
        self.remount("remount,bind,ro");
    }

    pub fn make_writable(&self) {
        self.remount("remount,bind,rw");
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", options]).arg(&self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a failing test leaves its daemon on it; an error is on the terminal.
        as_root(Command::new("umount").arg("--lazy").arg(&self.0)).status().ok();
    }
}

fn run(command: &mut Command) {
    let mut command = as_root(command);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {NEEDS}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}; {NEEDS}", output.status);
}

fn as_root(command: &Command) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        return same;
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--non-interactive").arg(command.get_program()).args(command.get_args());
    sudo
}

const NEEDS: &str =
    "run it as root, or with sudo that asks for no password (sudo --validate); apt-get install mount";
