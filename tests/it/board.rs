//! The systemd generator that sets the memory limit by the board, run as systemd runs it, on made-up roots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::harness::write;

const GENERATOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/meta-pyvorin/recipes-core/pyvorin-edge/files/pyvorin-edge-generator"
);
const UNITS: [&str; 2] = ["pyvorin-edge.service", "pyvorin-edge@.service"];

/// A root file system, and where the generator writes.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, text);
    }

    /// As the firmware leaves them: a NUL behind each string.
    fn board(self, compatible: &str, model: &str) -> Self {
        self.put("proc/device-tree/compatible", &(compatible.replace(' ', "\0") + "\0"));
        self.put("proc/device-tree/model", &format!("{model}\0"));
        self
    }

    fn memory_kib(self, kib: &str) -> Self {
        self.put("proc/meminfo", &format!("MemTotal:       {kib} kB\nMemFree:          5 kB\n"));
        self
    }

    /// The limits that it sets for the unit and for its instances.
    fn limits(&self) -> [Option<String>; 2] {
        self.limits_by(&["sh"])
    }

    fn limits_by(&self, shell: &[&str]) -> [Option<String>; 2] {
        let out = self.path("out");
        fs::create_dir_all(&out).unwrap();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(GENERATOR).args([&out, &self.path("early"), &self.path("late")]);
        // Nothing to find: what is not built in must not be needed, but for mkdir.
        let output = command.env("PYVORIN_ROOT", self.0.path()).output();
        let output = output.unwrap_or_else(|error| {
            panic!("cannot run {}: {error}; install it: scripts/apt-install {}", shell[0], shell[0])
        });
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "systemd logs what a generator says");
        UNITS.map(|unit| limit(&out.join(format!("{unit}.d/0-board.conf"))))
    }
}

fn limit(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "[Service]", "{text}");
    assert_eq!(lines.len(), 2, "{text}");
    Some(lines[1].strip_prefix("MemoryMax=").unwrap().to_owned())
}

fn both(limit: &str) -> [Option<String>; 2] {
    [Some(limit.to_owned()), Some(limit.to_owned())]
}

const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

#[test]
fn each_board_has_its_limit_in_every_shell_of_a_small_image() {
    for (compatible, model, expected) in [
        ("raspberrypi,5-model-b brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0", "512M"),
        ("raspberrypi,500 brcm,bcm2712", "Raspberry Pi 500 Rev 1.0", "512M"),
        ("raspberrypi,5-compute-module brcm,bcm2712", "Raspberry Pi Compute Module 5 Rev 1.0", "512M"),
        ("raspberrypi,4-model-b brcm,bcm2711", "Raspberry Pi 4 Model B Rev 1.4", "512M"),
        ("raspberrypi,400 brcm,bcm2711", "Raspberry Pi 400 Rev 1.0", "512M"),
        ("raspberrypi,4-compute-module brcm,bcm2711", "Raspberry Pi Compute Module 4 Rev 1.1", "512M"),
        ("raspberrypi,4-compute-module-s brcm,bcm2711", "Raspberry Pi Compute Module 4S Rev 1.0", "512M"),
        ("raspberrypi,3-model-b brcm,bcm2837", "Raspberry Pi 3 Model B Rev 1.2", "512M"),
        ("raspberrypi,3-model-b-plus brcm,bcm2837", "Raspberry Pi 3 Model B Plus Rev 1.3", "512M"),
        ("raspberrypi,3-model-a-plus brcm,bcm2837", "Raspberry Pi 3 Model A Plus Rev 1.0", "256M"),
        ("raspberrypi,3-compute-module brcm,bcm2837", "Raspberry Pi Compute Module 3 Plus Rev 1.0", "512M"),
        ("raspberrypi,2-model-b brcm,bcm2836", "Raspberry Pi 2 Model B Rev 1.1", "512M"),
        ("raspberrypi,model-zero-2-w brcm,bcm2837", "Raspberry Pi Zero 2 W Rev 1.0", "256M"),
    ] {
        for shell in SHELLS {
            // The GPU's share is gone from it: what the board is counts, not half of that.
            let root = Root::new().board(compatible, model).memory_kib("437140");
            assert_eq!(root.limits_by(shell), both(expected), "{model} in {shell:?}");
            // Either file says it.
            fs::remove_file(root.path("proc/device-tree/compatible")).unwrap();
            assert_eq!(root.limits_by(shell), both(expected), "{model} in {shell:?}");
            let root = Root::new().board(compatible, "");
            assert_eq!(root.limits_by(shell), both(expected), "{compatible} in {shell:?}");
        }
    }
}

#[test]
fn another_board_has_what_the_unit_says_or_half_of_a_small_memory() {
    let other = || Root::new().board("pine64,rock64 rockchip,rk3328", "Pine64 Rock64");
    assert_eq!(other().limits(), [None, None]);
    assert_eq!(other().memory_kib("3900000").limits(), [None, None]);
    assert_eq!(other().memory_kib("1048576").limits(), [None, None]);
    assert_eq!(other().memory_kib("493568").limits(), both("241M"));
    assert_eq!(Root::new().memory_kib("245760").limits(), both("120M"));
    // An ARMv6 board, on which the agent does not run.
    let zero = Root::new().board("raspberrypi,model-zero-w brcm,bcm2835", "Raspberry Pi Zero W Rev 1.1");
    assert_eq!(zero.memory_kib("443444").limits(), both("216M"));
}

#[test]
fn garbage_sets_nothing_and_is_no_failure() {
    let garbage =
        ["", "\0\0\0", "\u{1}\u{2}\0", "raspberrypi,", "$(touch hacked)", "`id`", "* ? [", "-n", "\n\n"];
    for text in garbage {
        let root = Root::new().board(text, text);
        root.put("proc/meminfo", text);
        for shell in SHELLS {
            assert_eq!(root.limits_by(shell), [None, None], "{text:?} in {shell:?}");
        }
    }
    for kib in ["", "lots", "-5", "0", "1", "0x100000", "99999999999999999999", "4 8"] {
        assert_eq!(Root::new().memory_kib(kib).limits(), [None, None], "{kib:?}");
    }
    // Not UTF-8, and folders where files belong.
    let root = Root::new();
    fs::create_dir_all(root.path("proc/device-tree/compatible")).unwrap();
    fs::create_dir_all(root.path("proc/meminfo")).unwrap();
    std::io::Write::write_all(
        &mut fs::File::create(root.path("proc/device-tree/model")).unwrap(),
        &[0xff, 0xfe, 0, 0x80, 0xff],
    )
    .unwrap();
    assert_eq!(root.limits(), [None, None]);
    assert_eq!(Root::new().limits(), [None, None]);
}

#[test]
fn what_others_decided_stays() {
    let board =
        || Root::new().board("raspberrypi,model-zero-2-w brcm,bcm2837", "Raspberry Pi Zero 2 W Rev 1.0");
    // An image that was built for the board.
    let root = board();
    root.put("usr/lib/systemd/system/pyvorin-edge.service.d/0-board.conf", "[Service]\nMemoryMax=200M\n");
    assert_eq!(root.limits(), [None, Some("256M".to_owned())]);
    // A unit of the administrator's own, as systemctl edit --full makes it.
    let root = board();
    root.put("etc/systemd/system/pyvorin-edge.service", "[Service]\nMemoryMax=100M\n");
    assert_eq!(root.limits(), [None, Some("256M".to_owned())]);
    // A masked one.
    let root = board();
    fs::create_dir_all(root.path("etc/systemd/system")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.path("etc/systemd/system/pyvorin-edge.service")).unwrap();
    assert_eq!(root.limits(), [None, Some("256M".to_owned())]);
    // His drop-ins do not keep it from its own: they are read later.
    let root = board();
    root.put("etc/systemd/system/pyvorin-edge.service.d/00-first.conf", "[Service]\nMemoryMax=100M\n");
    assert_eq!(root.limits(), both("256M"));
}

#[test]
fn a_folder_that_cannot_be_written_is_no_failure() {
    let root = Root::new().board("raspberrypi,4-model-b", "");
    root.put("out", "");
    let run = |words: &[&Path]| {
        Command::new("sh").arg(GENERATOR).args(words).env("PYVORIN_ROOT", root.0.path()).output().unwrap()
    };
    assert!(run(&[&root.path("out")]).status.success());
    // Nor is one that is not given, which no systemd does.
    assert!(run(&[]).status.success());
}

#[test]
fn the_generator_is_clean_for_shellcheck() {
    let output = Command::new("shellcheck").arg(GENERATOR).output();
    let output = output.expect("shellcheck is missing; install it: scripts/apt-install shellcheck");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// As systemd reads it, without one that runs: drop-ins of all folders in the order of their names. It does not look
/// into the generators' folder then, so the drop-in lies in the one beside that.
#[test]
fn an_administrators_drop_in_is_read_behind_the_boards_whatever_its_name() {
    let root = Root::new().board("raspberrypi,model-zero-2-w", "");
    root.put(
        "usr/lib/systemd/system/pyvorin-edge.service",
        "[Service]\nExecStart=/bin/true\nMemoryMax=512M\n",
    );
    root.limits();
    let text = fs::read_to_string(root.path("out/pyvorin-edge.service.d/0-board.conf")).unwrap();
    root.put("run/systemd/system/pyvorin-edge.service.d/0-board.conf", &text);
    for name in ["00-first", "10-memory", "50-MemoryMax", "A", "memory", "override"] {
        let own = format!("etc/systemd/system/pyvorin-edge.service.d/{name}.conf");
        root.put(&own, "[Service]\nMemoryMax=100M\n");
        let output = Command::new("systemd-analyze")
            .arg(format!("--root={}", root.0.path().display()))
            .args(["cat-config", "systemd/system/pyvorin-edge.service"])
            .output();
        let output = output.expect("systemd-analyze is missing; install it: scripts/apt-install systemd");
        let text = String::from_utf8_lossy(&output.stdout);
        let limits: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("MemoryMax=")).collect();
        assert_eq!(limits, ["512M", "256M", "100M"], "{name}: {text}");
        fs::remove_file(root.path(&own)).unwrap();
    }
}
