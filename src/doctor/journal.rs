//! Whether the journal outlives a reboot.

use std::collections::BTreeMap;

use super::Check;
use super::facts::{Facts, RUNNING_SYSTEMD};
use super::root::Root;

pub fn kept(facts: &Facts) -> Check {
    const NAME: &str = "journal";
    let root = &facts.root;
    if !root.has(RUNNING_SYSTEMD) {
        return Check::not_applicable(NAME, "systemd does not run here");
    }
    let (storage, file) = storage(root);
    let has_folder = root.has("/var/log/journal");
    let lost = match storage.as_str() {
        "persistent" => None,
        "none" => Some(format!("nothing is kept: Storage=none in {file}")),
        "volatile" => Some(format!("kept in memory alone: Storage=volatile in {file}")),
        _ if has_folder => None,
        _ => Some("kept in memory alone: /var/log/journal is not there".to_owned()),
    };
    let Some(found) = lost else { return Check::ok(NAME, "kept across reboots") };
    Check::warning(NAME, found)
        .means("why a board restarted is gone from it after the reboot; pyv-edge-agent blackbox still tells")
        .mend(MEND)
}

/// `Storage=` as journald reads it, and where it stands: drop-ins by their names, later ones win (journald.conf(5)).
fn storage(root: &Root) -> (String, String) {
    let mut files = BTreeMap::new();
    for place in PLACES {
        for name in root.names(format!("{place}.d")).into_iter().filter(|name| name.ends_with(".conf")) {
            files.entry(name.clone()).or_insert_with(|| format!("{place}.d/{name}"));
        }
    }
    let main = PLACES.iter().find(|place| root.has(place)).map(|place| (*place).to_owned());
    let mut found = ("auto".to_owned(), String::new());
    for file in main.into_iter().chain(files.into_values()) {
        let text = root.text(&file).unwrap_or_default();
        let mut values = text.lines().filter_map(|line| line.trim().strip_prefix("Storage="));
        if let Some(value) = values.next_back() {
            found = (value.trim().to_ascii_lowercase(), file);
        }
    }
    found
}

const PLACES: [&str; 4] = [
    "/etc/systemd/journald.conf",
    "/run/systemd/journald.conf",
    "/usr/local/lib/systemd/journald.conf",
    "/usr/lib/systemd/journald.conf",
];
const MEND: &str = "sudo mkdir -p /etc/systemd/journald.conf.d && \
                    printf '[Journal]\\nStorage=persistent\\nSystemMaxUse=64M\\n' | \
                    sudo tee /etc/systemd/journald.conf.d/90-persistent.conf && \
                    sudo systemctl restart systemd-journald";
