//! The board and its kernel.

use super::Check;
use super::facts::Facts;
use super::root::Root;

/// What the board calls itself.
pub fn model(root: &Root) -> Option<String> {
    ["/proc/device-tree/model", "/sys/firmware/devicetree/base/model"]
        .iter()
        .find_map(|path| root.line(path))
        .filter(|model| !model.is_empty())
}

/// Whether the kernel counts who waits for processor, memory and disk.
pub fn pressure_stall(facts: &Facts) -> Check {
    const NAME: &str = "pressure_stall";
    let root = &facts.root;
    // Switched off, the file may be there and refuse to be read.
    if root.text("/proc/pressure/memory").is_some_and(|text| text.starts_with("some")) {
        return Check::ok(NAME, "on");
    }
    if !root.has("/proc/self/mounts") {
        return Check::not_applicable(NAME, "there is no /proc here");
    }
    Check::warning(NAME, "the kernel does not count pressure stalls")
        .means("a board that runs out of memory shows it later")
        .mend(kernel_option(root, "psi=1"))
}

pub fn page_size(facts: &Facts) -> Check {
    const NAME: &str = "page_size";
    let maps = facts.root.text("/proc/self/smaps").unwrap_or_default();
    let size = maps.lines().find_map(|line| line.strip_prefix("KernelPageSize:"));
    let kib = size.and_then(|size| size.trim().strip_suffix("kB")?.trim().parse::<u32>().ok());
    match kib {
        None => Check::unknown(NAME, "the kernel does not tell"),
        Some(4) => Check::ok(NAME, "4 KiB"),
        Some(kib) => {
            Check::ok(NAME, format!("{kib} KiB; this agent runs with them, programs with jemalloc may not"))
        }
    }
}

/// Whether this processor runs what is shipped.
pub fn processor(facts: &Facts) -> Check {
    const NAME: &str = "processor";
    let info = facts.root.text("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start().strip_prefix(':').map(str::trim)
    };
    let name = value("model name").or_else(|| value("Model")).or_else(|| value("Hardware"));
    if info.contains("ARMv6") || value("CPU architecture") == Some("6") {
        return Check::error(NAME, format!("{}: ARMv6", name.unwrap_or("an ARM processor")))
            .means("no package is made for it: the binary for armhf dies of SIGILL there")
            .mend("use a Raspberry Pi Zero 2 W, or a Raspberry Pi 2 or later");
    }
    Check::ok(NAME, name.unwrap_or("one that the kernel gives no name"))
}

/// What the kernel was started with.
pub fn command_line(root: &Root) -> String {
    root.text("/proc/cmdline").unwrap_or_default()
}

/// The line that adds `option` to the kernel's command line, or what is left to do when it is there already.
pub fn kernel_option(root: &Root, option: &str) -> String {
    let Some(file) = KERNEL_LINE_FILES.iter().find(|file| root.has(file)) else {
        return format!("add {option} to the kernel command line of the boot loader, and reboot");
    };
    let is_there =
        root.text(file).is_some_and(|line| line.split_ascii_whitespace().any(|word| word == option));
    if is_there {
        return format!("{option} stands in {file}: sudo reboot");
    }
    format!("sudo sed -i '1s/$/ {option}/' {file} && sudo reboot")
}

/// Of Raspberry Pi OS: since bookworm, and before. After the step to bookworm both may be there, and the second is
/// then a note that says so.
const KERNEL_LINE_FILES: [&str; 2] = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
