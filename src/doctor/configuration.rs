//! The configuration: whether it loads, and whether the service may read its files.

use std::path::PathBuf;

use super::access::may_read;
use super::facts::Facts;
use super::{Account, Check};
use crate::config::LoadError;

/// Whether it loads, with its remarks.
pub fn loads(facts: &Facts) -> Check {
    const NAME: &str = "configuration";
    let loaded = match &facts.config {
        Ok(loaded) => loaded,
        Err(error) => {
            let check = Check::error(NAME, first_lines(&error.to_string()));
            return match error {
                LoadError::Invalid(refused) if refused.lines.iter().any(|line| line.contains(NO_CREDENTIALS)) => {
                    check
                        .means("a value comes from a credential, which this command found neither in /run/credentials nor in the files that the unit names")
                        .mend("run it as root; or put the secret where LoadCredential= of the unit looks for it")
                }
                LoadError::NotFound { .. } => check
                    .means("the agent does not start without one")
                    .mend("give the file with --config PATH"),
                LoadError::Unreadable { .. } => {
                    check.means("nothing below that needs it was looked at").mend("run it as root")
                }
                LoadError::Invalid(_) => check
                    .means("the agent does not start with it, and refuses to reload it")
                    .mend("correct the lines; pyv-edge-agent check says whether they are right"),
            };
        }
    };
    let files: Vec<_> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    match loaded.notes.as_slice() {
        [] => Check::ok(NAME, files.join(", ")),
        notes => Check::warning(NAME, first_lines(&notes.join("\n")))
            .means("allowed, and worth a thought")
            .mend("change the line that is named"),
    }
}

/// Whether the service's user may read it.
pub fn readable(facts: &Facts) -> Check {
    const NAME: &str = "configuration_files";
    let files: Vec<PathBuf> = match &facts.config {
        Ok(loaded) => loaded.files.iter().filter_map(|file| std::path::absolute(file).ok()).collect(),
        Err(LoadError::Unreadable { path, .. }) => vec![path.clone()],
        Err(_) => return Check::unknown(NAME, "the configuration does not load"),
    };
    let who = match service_user(facts) {
        Ok(who) => who,
        Err(check) => return check(NAME),
    };
    let refused = files.iter().find(|file| may_read(file, &who) == Some(false));
    let Some(file) = refused else {
        return Check::ok(NAME, format!("{} may read {}", who.name, count(files.len(), "file", "files")));
    };
    Check::error(NAME, format!("{} may not read {}", who.name, file.display()))
        .means("the service does not start with it, or refuses to reload it")
        .mend(format!("sudo chgrp {0} {1} && sudo chmod g+r {1}", who.name, file.display()))
}

/// As whom the service runs.
///
/// # Errors
///
/// What to say when there is no service, or no such user.
pub fn service_user(facts: &Facts) -> Result<Account, fn(&'static str) -> Check> {
    if facts.service.file.is_none() {
        return Err(|name| {
            Check::not_applicable(name, "no unit is installed, so no other user needs to read it")
        });
    }
    let name = facts.service.value("User").unwrap_or("root");
    if name == "root" {
        return Ok(Account { name: "root".to_owned(), uid: 0, gids: vec![0] });
    }
    facts.accounts.by_name(name).ok_or(|name| {
        Check::error(name, "the user of the unit does not exist")
            .means("the service does not start")
            .mend("sudo systemd-sysusers")
    })
}

pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A report is read on one screen; `check` says all of it.
fn first_lines(text: &str) -> String {
    const LINES_MAX: usize = 5;
    let lines: Vec<_> = text.lines().collect();
    let mut shown = lines[..lines.len().min(LINES_MAX)].join("; ");
    if lines.len() > LINES_MAX {
        shown.push_str("; and more");
    }
    shown
}

/// In the message of a credential without a place to look.
const NO_CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
