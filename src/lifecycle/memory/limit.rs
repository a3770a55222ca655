//! The limit that holds for this process: the least of its own control group and all above it, else what the machine
//! has.

use std::path::Path;

use serde::Serialize;

use super::cgroup::{self, Group, Version};

/// How much memory this process may use at most, page cache included, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub bytes: u64,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `memory.max` of a control group (version 2), at which the kernel kills.
    CgroupMax,
    /// `memory.high` of one, at which it slows down.
    CgroupHigh,
    /// `memory.limit_in_bytes` of one (version 1).
    CgroupV1,
    /// Half of the machine: the rest is for the others on it.
    Machine,
    /// Nothing could be read.
    Unknown,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::CgroupMax => "memory.max",
            Self::CgroupHigh => "memory.high",
            Self::CgroupV1 => "memory.limit_in_bytes",
            Self::Machine => "half of the machine's memory",
            Self::Unknown => "unknown",
        }
    }
}

/// The limit of now. `root` is `/` but in tests.
pub fn find(root: &Path) -> Limit {
    let half =
        cgroup::read(&root.join("proc/meminfo")).as_deref().and_then(total_bytes).map(|bytes| bytes / 2);
    let of_machine = match half {
        Some(bytes) => Limit { bytes, source: Source::Machine },
        None => Limit { bytes: UNKNOWN_BYTES, source: Source::Unknown },
    };
    of_cgroups(root)
        .into_iter()
        // A limit that is not set reads as a huge one in version 1.
        .filter(|limit| half.is_none_or(|half| limit.bytes < half * 2))
        .chain([of_machine])
        .min_by_key(|limit| limit.bytes)
        .expect("the machine's is there")
}

fn of_cgroups(root: &Path) -> Vec<Limit> {
    let of_group = |group: Group| {
        let files: &[(&str, Source)] = match group.version {
            Version::One => &[("memory.limit_in_bytes", Source::CgroupV1)],
            Version::Two => &[("memory.max", Source::CgroupMax), ("memory.high", Source::CgroupHigh)],
        };
        let limits = group.folders.iter().flat_map(|folder| {
            files.iter().filter_map(|(file, source)| {
                // "max" is no number.
                let bytes = cgroup::read(&folder.join(file))?.trim().parse().ok()?;
                Some(Limit { bytes, source: *source })
            })
        });
        limits.collect::<Vec<_>>()
    };
    cgroup::groups(root).into_iter().flat_map(of_group).collect()
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    kib_behind(meminfo, "MemTotal:")?.checked_mul(1024)
}

/// The KiB behind `key` in a file like `/proc/meminfo`.
pub fn kib_behind(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What the smallest boards have.
const UNKNOWN_BYTES: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    const MIB: u64 = 1 << 20;
    const V2: &str = "25 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const UNIT: &str = "0::/system.slice/pyvorin-edge.service\n";
    const OWN: &str = "sys/fs/cgroup/system.slice/pyvorin-edge.service";

    fn limit(files: &[(&str, &str)]) -> (u64, Source) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        }
        let Limit { bytes, source } = find(root.path());
        (bytes, source)
    }

    fn on_machine(kib: u64, files: &[(&str, &str)]) -> (u64, Source) {
        let meminfo = format!("MemTotal:  {kib} kB\nMemFree: 1 kB\n");
        limit(&[files, &[("proc/meminfo", &meminfo)]].concat())
    }

    #[test]
    fn a_unit_of_version_2_has_the_least_of_its_own_limits_and_those_above() {
        let group = [("proc/self/cgroup", UNIT), ("proc/self/mountinfo", V2)];
        let with = |files: &[(&str, &str)]| on_machine(4 << 20, &[&group, files].concat());
        let max = format!("{OWN}/memory.max");
        let high = format!("{OWN}/memory.high");
        assert_eq!(with(&[(&max, "33554432\n"), (&high, "max\n")]), (32 * MIB, Source::CgroupMax));
        assert_eq!(with(&[(&max, "33554432\n"), (&high, "16777216\n")]), (16 * MIB, Source::CgroupHigh));
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(with(&[(&max, "max\n"), (slice, "67108864\n")]), (64 * MIB, Source::CgroupMax));
        assert_eq!(with(&[(&max, "max\n"), (&high, "max\n")]), (2048 * MIB, Source::Machine));
        // The memory controller is off: there are no such files.
        assert_eq!(with(&[]), (2048 * MIB, Source::Machine));
    }

    #[test]
    fn a_group_of_version_1_is_found_where_it_is_mounted() {
        let mounts = "36 32 0:30 / /mnt/with\\040space rw - cgroup cgroup rw,memory\n\
                      35 32 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let group =
            [("proc/self/cgroup", "9:cpu:/x\n4:memory:/a/b\n0::/\n"), ("proc/self/mountinfo", mounts)];
        let with = |files: &[(&str, &str)]| on_machine(1 << 20, &[&group, files].concat());
        assert_eq!(
            with(&[("mnt/with space/a/b/memory.limit_in_bytes", "33554432\n")]),
            (32 * MIB, Source::CgroupV1)
        );
        assert_eq!(with(&[("mnt/with space/a/memory.limit_in_bytes", "33554432\n")]).0, 32 * MIB);
        let unset = [("mnt/with space/a/b/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(with(&unset), (512 * MIB, Source::Machine));
    }

    #[test]
    fn a_container_that_is_shown_only_its_own_group_finds_that() {
        let mounts = "36 32 0:30 /docker/17 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let limits = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n");
        for path in ["4:memory:/docker/17\n", "4:memory:/elsewhere/17\n"] {
            let files = [("proc/self/cgroup", path), ("proc/self/mountinfo", mounts), limits];
            assert_eq!(on_machine(1 << 20, &files), (64 * MIB, Source::CgroupV1), "{path}");
        }
    }

    #[test]
    fn a_limit_above_what_the_machine_has_is_none() {
        let files = [
            ("proc/self/cgroup", UNIT),
            ("proc/self/mountinfo", V2),
            (&format!("{OWN}/memory.max"), "536870912\n"),
        ];
        assert_eq!(on_machine(256 << 10, &files), (128 * MIB, Source::Machine));
    }

    #[test]
    fn what_cannot_be_read_is_not_believed() {
        assert_eq!(limit(&[]), (UNKNOWN_BYTES, Source::Unknown));
        for text in ["", ":", "0:", "0::", "\u{0}", "x:memory\n", "4:memory:/a/../../..\n"] {
            for mounts in ["", " - ", "1 2 3 - cgroup2\n", V2] {
                let files = [("proc/self/cgroup", text), ("proc/self/mountinfo", mounts)];
                assert_eq!(on_machine(1 << 20, &files), (512 * MIB, Source::Machine), "{text:?} {mounts:?}");
            }
        }
        let garbage = format!("{OWN}/memory.max");
        for text in ["", "-1", "32M", "99999999999999999999999"] {
            let files = [("proc/self/cgroup", UNIT), ("proc/self/mountinfo", V2), (garbage.as_str(), text)];
            assert_eq!(on_machine(1 << 20, &files), (512 * MIB, Source::Machine), "{text:?}");
        }
    }
}
