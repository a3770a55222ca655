//! Files that hold secrets: nobody else may read them, and the service has to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Check;
use super::access::{is_open_to_all, may_read};
use super::configuration::{count, service_user};
use super::facts::Facts;
use crate::adapter::Source;
use crate::config::Config;
use crate::upload::Proxy;

pub fn closed(facts: &Facts) -> Check {
    const NAME: &str = "secrets";
    let Some(settings) = facts.settings() else {
        return Check::unknown(NAME, "the configuration does not load");
    };
    let mut files = files(settings);
    let handed_in = facts.service.credentials(&facts.root);
    let handed_in: BTreeSet<_> = handed_in.values().map(|path| facts.root.path(path)).collect();
    files.extend(handed_in.iter().filter(|path| path.exists()).cloned());
    let privacy_key = facts.root.path(&settings.store.state_dir).join("privacy.key");
    files.extend(privacy_key.exists().then_some(privacy_key));
    let files: BTreeSet<PathBuf> = files.iter().map(|path| real(path)).collect();
    if files.is_empty() {
        return Check::not_applicable(NAME, "no secret comes from a file");
    }
    if let Some(open) = files.iter().find(|path| is_open_to_all(path) == Some(true)) {
        return Check::warning(NAME, format!("every user may read or change {}", open.display()))
            .means("whoever can log in, or breaks into another service, has the secret")
            .mend(format!("sudo chmod o= {}", open.display()));
    }
    // What the service manager hands in, it reads as root.
    let own = files.iter().filter(|path| !handed_in.contains(*path) && !path.starts_with(CREDENTIALS));
    let own: Vec<_> = own.collect();
    if let Ok(who) = service_user(facts)
        && let Some(closed) = own.iter().find(|path| may_read(path, &who) == Some(false))
    {
        return Check::error(NAME, format!("{} may not read {}", who.name, closed.display()))
            .means("the service does not start, or cannot connect with it")
            .mend(format!("sudo chown {} {}", who.name, closed.display()));
    }
    let unseen = files.iter().filter(|path| is_open_to_all(path).is_none()).count();
    if unseen > 0 {
        return Check::unknown(NAME, format!("{} cannot be looked at", count(unseen, "file", "files")))
            .mend("run it as root");
    }
    Check::ok(NAME, format!("{}, closed to others", count(files.len(), "file", "files")))
}

/// Files of secrets that the configuration names.
pub fn files(settings: &Config) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut secrets = Vec::from_iter(&settings.cloud.api_key);
    if let Proxy::Url(url) = &settings.cloud.proxy {
        secrets.push(url);
    }
    found.extend(settings.cloud.tls.client_key_file.clone());
    for source in &settings.sources {
        match source {
            Source::Mqtt(source) => {
                secrets.extend(source.password());
                found.extend(source.tls().and_then(|files| files.client_key_file.clone()));
            }
            Source::Http(source) => secrets.extend(source.token()),
            _ => {}
        }
    }
    found.extend(secrets.iter().flat_map(|secret| secret.files().map(Path::to_owned)));
    found
}

/// Where a link leads, because that is what has to be closed.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Where systemd shows a service its credentials.
const CREDENTIALS: &str = "/run/credentials";
