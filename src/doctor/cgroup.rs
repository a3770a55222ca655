//! Whether memory limits of units hold.

use super::board::{command_line, kernel_option};
use super::facts::Facts;
use super::{Check, root::Root};

/// What the kernel makes of `MemoryMax=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryController {
    On,
    Off,
    /// There are no control groups to be seen.
    Unseen,
}

/// `cgroup.controllers` and not `/proc/cgroups`, which lists the controller of version 1 also where version 2 has
/// none.
pub fn memory_controller(root: &Root) -> MemoryController {
    if let Some(controllers) = root.text("/sys/fs/cgroup/cgroup.controllers") {
        return match controllers.split_ascii_whitespace().any(|name| name == "memory") {
            true => MemoryController::On,
            false => MemoryController::Off,
        };
    }
    match root.has("/sys/fs/cgroup/memory") {
        true => MemoryController::On,
        false if root.names("/sys/fs/cgroup").is_empty() => MemoryController::Unseen,
        false => MemoryController::Off,
    }
}

pub fn memory(facts: &Facts) -> Check {
    const NAME: &str = "memory_cgroup";
    let limit = facts.service.value("MemoryMax").filter(|limit| !limit.is_empty());
    match memory_controller(&facts.root) {
        MemoryController::Unseen => Check::not_applicable(NAME, "there are no control groups here"),
        MemoryController::On => match limit {
            Some(limit) => Check::ok(NAME, format!("on, MemoryMax={limit} is enforced")),
            None => Check::ok(NAME, "on"),
        },
        MemoryController::Off => {
            let found = match limit {
                Some(limit) => format!(
                    "MemoryMax={limit} is set but not enforced: the kernel's memory controller is off"
                ),
                None => "the kernel's memory controller is off".to_owned(),
            };
            let option = "cgroup_enable=memory";
            let check = Check::warning(NAME, found).means("memory is limited by the agent's own plan alone");
            match command_line(&facts.root).contains(option) {
                true => check
                    .mend("the kernel was told to switch it on and has none; use one that has CONFIG_MEMCG"),
                false => check.mend(kernel_option(&facts.root, option)),
            }
        }
    }
}
