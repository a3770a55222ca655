//! Names that the resolver of this build cannot look up.

use url::Url;

use super::Check;
use super::facts::Facts;

/// musl, which the static binaries are built with, asks name servers and `/etc/hosts` alone: never mDNS, by which
/// `.local` names are found, and never the modules of `/etc/nsswitch.conf`.
pub fn local_names(facts: &Facts) -> Check {
    const NAME: &str = "local_names";
    let hosts = facts.root.text("/etc/hosts").unwrap_or_default();
    let is_listed = |name: &str| {
        let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
        lines.flat_map(str::split_ascii_whitespace).any(|word| word.eq_ignore_ascii_case(name))
    };
    let local: Vec<String> = names(facts)
        .into_iter()
        .filter(|name| name.trim_end_matches('.').to_ascii_lowercase().ends_with(".local"))
        .collect();
    let Some(first) = local.iter().find(|name| !is_listed(name)) else {
        return match local.as_slice() {
            [] => Check::not_applicable(NAME, "no .local name is configured"),
            [name, ..] => Check::ok(NAME, format!("{name} stands in /etc/hosts")),
        };
    };
    if !facts.machine.is_musl {
        return Check::ok(NAME, format!("{first} is looked up by the system's resolver"));
    }
    Check::warning(NAME, format!("{first} is a name of mDNS, and this static build does not ask for those"))
        .means("it is found only where a name server knows it")
        .mend(format!("echo \"$(avahi-resolve -4 -n {first} | cut -f2) {first}\" | sudo tee -a /etc/hosts"))
}

/// Every host that the configuration connects to.
fn names(facts: &Facts) -> Vec<String> {
    let cloud = facts.settings().map(|settings| &settings.cloud).filter(|cloud| cloud.enabled);
    let endpoint = cloud.and_then(|cloud| Some(Url::parse(&cloud.endpoint).ok()?.host_str()?.to_owned()));
    let mut names = Vec::from_iter(endpoint);
    let probed = facts.network.endpoint.as_ref();
    names.extend(probed.filter(|probed| probed.via.is_some()).map(|probed| probed.host.clone()));
    names.extend(facts.mqtt().map(|source| source.broker().0.to_owned()));
    names
}
