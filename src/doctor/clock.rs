//! The wall clock, and what keeps it while the board is off.

use super::Check;
use super::facts::Facts;
use super::root::Root;

pub fn synchronised(facts: &Facts) -> Check {
    const NAME: &str = "clock";
    let is_trusted = facts.settings().is_some_and(|settings| settings.clock.trusted);
    match facts.machine.clock_is_synchronised {
        Some(true) => Check::ok(NAME, "synchronised"),
        _ if is_trusted => Check::ok(NAME, "trusted, as agent.clock says"),
        None => Check::unknown(NAME, "the kernel may not be asked"),
        Some(false) => {
            let check = Check::warning(NAME, "not synchronised").means(
                "what the agent stamps is marked provisional and put right later; TLS may refuse certificates meanwhile",
            );
            match is_container(&facts.root) {
                true => check.mend("where the host keeps the clock right: agent.clock = \"trusted\""),
                false => check.mend("sudo timedatectl set-ntp true; timedatectl timesync-status"),
            }
        }
    }
}

pub fn rtc(facts: &Facts) -> Check {
    const NAME: &str = "rtc";
    let root = &facts.root;
    let clocks = root.names("/sys/class/rtc");
    if let Some(clock) = clocks.first() {
        let name = root.line(format!("/sys/class/rtc/{clock}/name"));
        return Check::ok(NAME, name.unwrap_or_else(|| clock.clone()));
    }
    if is_container(root) {
        return Check::not_applicable(NAME, "the host keeps the clock");
    }
    let none = "none: after each boot the time is wrong until the network has set it";
    if facts.machine.clock_is_synchronised == Some(true) {
        return Check::ok(NAME, none);
    }
    Check::warning(NAME, none)
        .means("without a network the right time never comes; order and delivery do not depend on it")
        .mend("fit one, such as a DS3231: dtoverlay=i2c-rtc,ds3231 in /boot/firmware/config.txt")
}

fn is_container(root: &Root) -> bool {
    ["/run/systemd/container", "/run/.containerenv", "/.dockerenv"].iter().any(|mark| root.has(mark))
}
