//! The file system of the state directory.

use std::path::{Path, PathBuf};

use super::Check;
use super::facts::Facts;

pub fn space(facts: &Facts) -> Check {
    const NAME: &str = "disk_space";
    let (Some(settings), Some(disk)) = (facts.settings(), facts.machine.disk) else {
        return Check::unknown(NAME, "the file system of the state directory gives no answer");
    };
    let needed = settings.store.budget.free_bytes_min;
    let found = format!("{:.0} MB free", disk.free_bytes as f64 / 1e6);
    let mend = "sudo du -xh --max-depth=2 / | sort -h | tail; sudo journalctl --vacuum-size=50M";
    if disk.free_bytes == 0 {
        return Check::error(NAME, found).means("nothing new is stored or acknowledged").mend(mend);
    }
    if disk.free_bytes < needed {
        return Check::warning(
            NAME,
            format!("{found}, less than store.free_min_mb, {:.0} MB", needed as f64 / 1e6),
        )
        .means("history goes and telemetry is thinned to leave room to others")
        .mend(mend);
    }
    Check::ok(NAME, found)
}

pub fn inodes(facts: &Facts) -> Check {
    const NAME: &str = "disk_inodes";
    let (Some(settings), Some(disk)) = (facts.settings(), facts.machine.disk) else {
        return Check::unknown(NAME, "the file system of the state directory gives no answer");
    };
    if disk.inodes == 0 {
        return Check::not_applicable(NAME, "the file system does not count them");
    }
    let needed = settings.store.budget.free_inodes_min;
    if disk.free_inodes < needed {
        return Check::warning(
            NAME,
            format!("{} free, less than store.free_inodes_min, {needed}", disk.free_inodes),
        )
        .means("soon no program can make a file, and the agent is degraded")
        .mend("sudo du -x --inodes --max-depth=3 / | sort -n | tail");
    }
    Check::ok(NAME, format!("{} free", disk.free_inodes))
}

pub fn file_system(facts: &Facts) -> Check {
    const NAME: &str = "file_system";
    let Some(settings) = facts.settings() else {
        return Check::unknown(NAME, "the configuration does not load");
    };
    let state_dir = std::path::absolute(&settings.store.state_dir).unwrap_or_default();
    let mounts = facts.root.text("/proc/self/mounts").unwrap_or_default();
    let Some(mount) = mount_of(&mounts, &state_dir) else {
        return Check::unknown(NAME, "/proc/self/mounts does not say where the state directory lies");
    };
    let place = mount.folder.display();
    let found = format!("{} on {place}", mount.kind);
    match mount.kind.as_str() {
        _ if mount.is_read_only => Check::error(NAME, format!("{found} is read-only"))
            .means("nothing is stored; a file system that was writable turns so when the card fails")
            .mend(format!("sudo mount -o remount,rw {place} && dmesg | tail, or give agent.state_dir a writable place")),
        "tmpfs" | "ramfs" => Check::warning(NAME, format!("{found} is in memory"))
            .means("what is stored is gone after a reboot")
            .mend("give agent.state_dir a place on a disk"),
        "overlay" => Check::warning(NAME, format!("{found} is a layer over another file system"))
            .means("what is stored is gone after a reboot, or with the container")
            .mend("give agent.state_dir a place on a disk or a volume; on a Raspberry Pi: sudo raspi-config nonint disable_overlayfs"),
        "nfs" | "nfs4" | "cifs" | "smb3" | "fuse.sshfs" => Check::warning(NAME, format!("{found} is another machine's"))
            .means("SQLite's write-ahead log needs a local disk, and the agent stands still without the network")
            .mend("give agent.state_dir a place on a local disk"),
        _ => Check::ok(NAME, format!("{found}, writable")),
    }
}

struct Mount {
    folder: PathBuf,
    kind: String,
    is_read_only: bool,
}

/// The mount that holds `path`: the longest, and of the same place the last.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let mount = |line: &str| {
        let [_, folder, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        // Blanks in it are written so (proc_mounts(5)).
        let folder = PathBuf::from(folder.replace("\\040", " "));
        path.starts_with(&folder).then(|| Mount {
            folder,
            kind: kind.to_owned(),
            is_read_only: options.split(',').any(|option| option == "ro"),
        })
    };
    mounts.lines().filter_map(mount).max_by_key(|mount| mount.folder.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_lies_on_top_holds_the_folder() {
        let mounts = "/dev/root / ext4 ro,noatime 0 0\ntmpfs /var tmpfs rw 0 0\n/dev/sda1 /var/lib\\040x ext4 rw 0 0\n\
                      /dev/mmcblk0p3 /var ext4 rw,errors=remount-ro 0 0\n";
        let found =
            |path: &str| mount_of(mounts, Path::new(path)).map(|mount| (mount.kind, mount.is_read_only));
        assert_eq!(found("/var/lib/pyvorin-edge"), Some(("ext4".to_owned(), false)));
        assert_eq!(found("/variable"), Some(("ext4".to_owned(), true)));
        assert_eq!(mount_of(mounts, Path::new("/var/lib x/y")).unwrap().folder, Path::new("/var/lib x"));
        assert!(mount_of("", Path::new("/")).is_none());
    }
}
