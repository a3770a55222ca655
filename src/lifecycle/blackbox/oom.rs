//! What the kernel tells of its OOM killer.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::record::OomKills;

/// The counts of now. `root` is `/` but in tests.
pub fn kills(root: &Path) -> OomKills {
    let cgroup = || {
        let own = read(&root.join("proc/self/cgroup"))?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        find(&read(&root.join("sys/fs/cgroup").join(path).join("memory.events"))?)
    };
    OomKills {
        board: read(&root.join("proc/vmstat")).and_then(|vmstat| find(&vmstat)).unwrap_or(0),
        cgroup: cgroup().unwrap_or(0),
    }
}

/// Both files have a line of this name.
fn find(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

const FILE_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_the_board_and_of_the_control_group_are_found() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kills(root.path()), OomKills::default());
        let unit = "sys/fs/cgroup/system.slice/pyvorin-edge.service";
        for (path, text) in [
            ("proc/vmstat", "nr_free_pages 5\noom_kill 7\n"),
            ("proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/pyvorin-edge.service\n"),
            (&format!("{unit}/memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut File::create(path).unwrap(), text.as_bytes()).unwrap();
        }
        assert_eq!(kills(root.path()), OomKills { board: 7, cgroup: 2 });
    }
}
