//! What the kernel tells of its OOM killer.

use std::path::Path;

use super::record::OomKills;
use crate::lifecycle::memory::cgroup::{self, Version, read};

/// The counts of now. `root` is `/` but in tests.
pub fn kills(root: &Path) -> OomKills {
    let mut kills = OomKills {
        board: read(&root.join("proc/vmstat")).and_then(|vmstat| find(&vmstat)).unwrap_or(0),
        ..OomKills::default()
    };
    for group in cgroup::groups(root) {
        let file = match group.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let mut counts =
            group.folders.iter().map(|folder| read(&folder.join(file)).and_then(|text| find(&text)));
        kills.cgroup = counts.next().flatten().unwrap_or(kills.cgroup);
        if group.version == Version::Two {
            // It counts for those below it too, also when they are gone.
            kills.above = counts.next().flatten();
        }
    }
    kills
}

/// All these files have a line of this name.
fn find(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const V2: &str = "25 24 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn of(files: &[(&str, &str)]) -> OomKills {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut File::create(path).unwrap(), text.as_bytes()).unwrap();
        }
        kills(root.path())
    }

    #[test]
    fn the_counts_of_the_board_of_the_control_group_and_of_the_one_above_are_found() {
        assert_eq!(of(&[]), OomKills::default());
        let found = of(&[
            ("proc/vmstat", "nr_free_pages 5\noom_kill 7\n"),
            ("proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/pyvorin-edge.service\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/system.slice/pyvorin-edge.service/memory.events", "oom 3\noom_kill 2\n"),
            ("sys/fs/cgroup/system.slice/memory.events", "oom 9\noom_kill 5\n"),
        ]);
        assert_eq!(found, OomKills { board: 7, cgroup: 2, above: Some(5) });
    }

    #[test]
    fn a_group_of_version_1_counts_for_itself_alone() {
        let found = of(&[
            ("proc/self/cgroup", "4:memory:/unit\n0::/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/memory/unit/memory.oom_control", "under_oom 0\noom_kill 4\n"),
            ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill 9\n"),
        ]);
        assert_eq!(found, OomKills { board: 0, cgroup: 4, above: None });
    }
}
