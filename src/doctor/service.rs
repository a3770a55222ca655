//! The units: installed, enabled, overridden, and what they promise.

use std::path::Path;

use super::Check;
use super::configuration::count;
use super::facts::{Facts, RUNNING_SYSTEMD};

/// Whether the service starts with the board.
pub fn unit(facts: &Facts) -> Check {
    const NAME: &str = "unit";
    let (unit, name) = (&facts.service, &facts.service.name);
    if unit.is_masked {
        return Check::error(NAME, format!("{name} is masked"))
            .means("nothing can start it")
            .mend(format!("sudo systemctl unmask {name} && sudo systemctl enable --now {name}"));
    }
    let Some(file) = &unit.file else { return no_unit(facts, NAME) };
    let state = facts.machine.service.as_ref();
    if let Some(state) = state.filter(|state| state.active == "failed") {
        return Check::error(NAME, format!("{name} has failed: {}", state.result))
            .means("systemd does not start it again by itself")
            .mend(format!(
                "journalctl -u {name} -n 50; when that is put right: sudo systemctl reset-failed {name} && sudo systemctl start {name}"
            ));
    }
    if state.is_some_and(|state| state.needs_daemon_reload) {
        return Check::warning(NAME, format!("the files of {name} changed since systemd read them"))
            .means("what they say now does not hold yet")
            .mend(format!("sudo systemctl daemon-reload && sudo systemctl restart {name}"));
    }
    if !unit.is_enabled(&facts.root) {
        return Check::warning(NAME, format!("{name} is installed and not enabled"))
            .means("after the next boot it does not run")
            .mend(format!("sudo systemctl enable --now {name}"));
    }
    let active = state.map_or_else(String::new, |state| format!(", {}", state.active));
    Check::ok(NAME, format!("{}, enabled{active}", file.display()))
}

/// Whether what runs is what the package ships.
pub fn overridden(facts: &Facts) -> Check {
    const NAME: &str = "unit_overridden";
    let unit = &facts.service;
    let Some(file) = &unit.file else { return no_unit(facts, NAME) };
    let shipped = ["/usr/lib/systemd/system", "/lib/systemd/system"]
        .map(|place| Path::new(place).join(file.file_name().unwrap_or_default()));
    let shipped = shipped.iter().find(|path| facts.root.has(path));
    if let Some(shipped) = shipped.filter(|_| file.starts_with("/etc")) {
        return Check::warning(NAME, format!("{} takes the place of {}", file.display(), shipped.display()))
            .means("what an upgrade changes in the unit does not reach this service")
            .mend(format!(
                "keep only your own lines: sudo systemctl revert {0} && sudo systemctl edit {0}",
                unit.name
            ));
    }
    let own = unit.drop_ins.iter().filter(|path| path.starts_with("/etc"));
    let own: Vec<_> = own.map(|path| path.display().to_string()).collect();
    match own.as_slice() {
        [] => Check::ok(NAME, "as it was installed"),
        own => Check::ok(NAME, format!("{}: {}", count(own.len(), "drop-in", "drop-ins"), own.join(", "))),
    }
}

/// Who holds the port of the health page.
pub fn socket(facts: &Facts) -> Check {
    const NAME: &str = "socket_unit";
    let unit = &facts.socket;
    if unit.file.is_none() || unit.is_masked {
        return Check::not_applicable(NAME, "none; the agent binds the port of its health page itself");
    }
    if !unit.is_enabled(&facts.root) {
        return Check::ok(NAME, "off; the agent binds the port of its health page itself");
    }
    let listens = unit.values("ListenStream").join(", ");
    let Some(settings) = facts.settings().map(|settings| &settings.health) else {
        return Check::ok(NAME, format!("on, {listens}"));
    };
    if !settings.enabled {
        return Check::warning(NAME, format!("on, {listens}, while health.enabled is false"))
            .means("connections to it are taken and never answered")
            .mend(format!("sudo systemctl disable --now {}", unit.name));
    }
    let port =
        unit.values("ListenStream").into_iter().find_map(|stream| stream.rsplit(':').next()?.parse().ok());
    if port.is_some_and(|port: u16| port != settings.port) {
        return Check::warning(NAME, format!("on, {listens}, while health.port is {}", settings.port))
            .means("the socket unit decides; who reads the configuration looks at the wrong port")
            .mend("give both the same port: sudo systemctl edit ".to_owned() + &unit.name);
    }
    Check::ok(NAME, format!("on, {listens}"))
}

/// Whether a hang ends in a restart.
pub fn watchdog(facts: &Facts) -> Check {
    const NAME: &str = "watchdog";
    let unit = &facts.service;
    if unit.file.is_none() {
        return no_unit(facts, NAME);
    }
    let add = |line: &str| {
        let (name, folder) = (&unit.name, format!("/etc/systemd/system/{}.d", unit.name));
        format!(
            "sudo mkdir -p {folder} && printf '[Service]\\n{line}\\n' | sudo tee {folder}/watchdog.conf && \
             sudo systemctl daemon-reload && sudo systemctl restart {name}"
        )
    };
    let means = "an agent that hangs is not restarted";
    match unit.value("WatchdogSec").unwrap_or_default() {
        "" | "0" | "infinity" => {
            Check::warning(NAME, "WatchdogSec= is not set").means(means).mend(add("WatchdogSec=30"))
        }
        _ if !matches!(unit.value("Type"), Some("notify" | "notify-reload")) => {
            Check::warning(NAME, "Type= is not notify").means(means).mend(add("Type=notify"))
        }
        every => Check::ok(
            NAME,
            format!("on, {every}{}", if every.ends_with(|c: char| c.is_ascii_digit()) { " s" } else { "" }),
        ),
    }
}

fn no_unit(facts: &Facts, name: &'static str) -> Check {
    if facts.root.has(RUNNING_SYSTEMD) {
        return Check::not_applicable(name, format!("{} is not installed", facts.service.name));
    }
    Check::not_applicable(name, "systemd does not run here")
}
