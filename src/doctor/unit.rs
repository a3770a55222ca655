//! The service's unit, read from its files as systemd would: the first of the places that has it, and the drop-ins
//! of all of them. No systemctl is asked, so that it works on a system that is not running.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::root::{Root, Seen};

/// A unit by its name, `pyvorin-edge.service` or `pyvorin-edge@lab.service`.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    pub name: String,
    /// The unit's own file; none when it is not installed.
    pub file: Option<PathBuf>,
    /// In the order in which they take effect.
    pub drop_ins: Vec<PathBuf>,
    /// Its file leads to /dev/null.
    pub is_masked: bool,
    /// `Key=value` of all files in turn, by section and key.
    assignments: Vec<(String, String, String)>,
}

impl Unit {
    /// Reads the unit `name`; a template is read as the instance.
    pub fn read(root: &Root, name: &str) -> Self {
        let names = [Some(name.to_owned()), template(name)];
        let names: Vec<_> = names.into_iter().flatten().collect();
        let places = || PLACES.iter().flat_map(|place| names.iter().map(move |name| (*place, name)));
        let file = places().map(|(place, name)| Path::new(place).join(name)).find(|path| root.has(path));
        let is_masked = file.as_ref().is_some_and(|file| {
            std::fs::read_link(root.path(file)).is_ok_and(|target| target == Path::new("/dev/null"))
        });
        // One of the same name in an earlier place hides the later one.
        let mut drop_ins = BTreeMap::new();
        for (place, name) in places() {
            let folder = Path::new(place).join(format!("{name}.d"));
            for file in root.names(&folder).into_iter().filter(|file| file.ends_with(".conf")) {
                drop_ins.entry(file.clone()).or_insert_with(|| folder.join(file));
            }
        }
        let drop_ins: Vec<_> = drop_ins.into_values().collect();
        let mut unit = Self { name: name.to_owned(), file, drop_ins, is_masked, assignments: Vec::new() };
        let files: Vec<_> = unit.file.iter().chain(&unit.drop_ins).cloned().collect();
        let texts = files.iter().filter_map(|file| root.text(file)).collect::<Vec<_>>();
        texts.iter().for_each(|text| unit.parse(text));
        unit
    }

    /// The last value of a key that takes one.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.assignments.iter().rev().find(|(_, name, _)| name == key).map(|(_, _, value)| value.as_str())
    }

    /// All values of a key that is a list; an empty one empties it.
    pub fn values(&self, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for (_, _, value) in self.assignments.iter().filter(|(_, name, _)| name == key) {
            if value.is_empty() { values.clear() } else { values.push(value.as_str()) }
        }
        values
    }

    /// Whether a target pulls it in: a link in some `*.wants` or `*.requires` of the administrator's or the system's.
    pub fn is_enabled(&self, root: &Root) -> bool {
        PLACES.iter().any(|place| {
            let folders = root.names(place).into_iter();
            let mut wants = folders.filter(|name| name.ends_with(".wants") || name.ends_with(".requires"));
            wants.any(|folder| root.has(Path::new(place).join(folder).join(&self.name)))
        })
    }

    /// The part of the name behind the `@`.
    pub fn instance(&self) -> Option<&str> {
        self.name.split_once('@')?.1.rsplit_once('.').map(|(instance, _)| instance)
    }

    /// Where the credential of each name comes from, as far as a plain file holds it.
    pub fn credentials(&self, root: &Root) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        for value in self.values("LoadCredential") {
            let (name, source) = value.split_once(':').unwrap_or((value, value));
            let source = source.replace("%i", self.instance().unwrap_or_default());
            let path = if source.starts_with('/') {
                PathBuf::from(&source)
            } else {
                let in_stores = CREDENTIAL_STORES.iter().map(|store| Path::new(store).join(&source));
                let known = |path: &PathBuf| !matches!(root.read(path), Seen::Absent);
                in_stores.clone().find(known).unwrap_or_else(|| Path::new(CREDENTIAL_STORES[0]).join(&source))
            };
            found.insert(name.to_owned(), path);
        }
        found
    }

    /// What `Environment=` and `EnvironmentFile=` set.
    pub fn environment(&self, root: &Root) -> BTreeMap<String, String> {
        let mut set = BTreeMap::new();
        for line in self.values("Environment") {
            set.extend(words(line).iter().filter_map(|word| pair(word)));
        }
        for path in self.values("EnvironmentFile") {
            let text = root.text(path.trim_start_matches('-')).unwrap_or_default();
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            set.extend(lines.filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.trim().to_owned(), words(value).join(" ")))
            }));
        }
        set
    }

    fn parse(&mut self, text: &str) {
        let mut section = String::new();
        // A backslash at the end of a line goes on with the next.
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                self.assignments.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
            }
        }
    }
}

/// `pyvorin-edge@.service` of `pyvorin-edge@lab.service`.
fn template(name: &str) -> Option<String> {
    let (before, instance) = name.split_once('@')?;
    let (_, kind) = instance.rsplit_once('.')?;
    Some(format!("{before}@.{kind}"))
}

fn pair(word: &str) -> Option<(String, String)> {
    word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Words with blanks between, where quotes hold blanks together.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in text.chars() {
        match quote {
            Some(mark) if char == mark => quote = None,
            None if matches!(char, '"' | '\'') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            None if char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// As in systemd.unit(5), the first that has a name wins.
const PLACES: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    // Where it is not the same folder as the one before.
    "/lib/systemd/system",
    "/usr/local/share/systemd/system",
    "/run/systemd/generator.late",
];

/// Where systemd looks for a credential that has no absolute path (systemd.exec(5)).
const CREDENTIAL_STORES: [&str; 3] = ["/etc/credstore", "/run/credstore", "/usr/lib/credstore"];

#[cfg(test)]
mod tests {
    use super::super::test_support::System;
    use super::*;

    #[test]
    fn drop_ins_of_all_places_take_effect_in_the_order_of_their_names() {
        let system = System::new()
            .file("usr/lib/systemd/system/a@.service", "[Service]\nUser=x\nMemoryMax=512M\nWatchdogSec=30\n")
            .file("usr/lib/systemd/system/a@.service.d/10-board.conf", "[Service]\nMemoryMax=256M\n")
            .file("run/systemd/generator/a@lab.service.d/10-board.conf", "[Service]\nMemoryMax=128M\n")
            .file("etc/systemd/system/a@lab.service.d/override.conf", "[Service]\nUser=y\n# User=z\n");
        let unit = Unit::read(system.root(), "a@lab.service");
        assert_eq!(unit.file.as_deref(), Some(Path::new("/usr/lib/systemd/system/a@.service")));
        assert_eq!((unit.value("User"), unit.value("MemoryMax")), (Some("y"), Some("128M")));
        assert_eq!((unit.value("WatchdogSec"), unit.instance()), (Some("30"), Some("lab")));
        assert_eq!(unit.drop_ins.len(), 2);
        assert!(!unit.is_enabled(system.root()));
    }

    #[test]
    fn lists_are_emptied_and_credentials_and_environment_are_found_where_they_come_from() {
        let system = System::new()
            .file(
                "etc/systemd/system/a@b.service",
                "[Service]\nLoadCredential=gone:/gone\nLoadCredential=\nLoadCredential=key:a@%i.key\n\
                 LoadCredential=pem:/etc/a.pem\nEnvironment=A=1 \"B=two words\" \\\n  C='3'\nEnvironmentFile=-/etc/default/a\n",
            )
            .file("usr/lib/credstore/a@b.key", "secret")
            .file("etc/default/a", "# D=0\nD=\"4\"\nnothing\n");
        let unit = Unit::read(system.root(), "a@b.service");
        let credentials = unit.credentials(system.root());
        assert_eq!(credentials.len(), 2);
        assert_eq!(credentials["key"], Path::new("/usr/lib/credstore/a@b.key"));
        let environment = unit.environment(system.root());
        let values = ["A", "B", "C", "D"].map(|name| environment[name].as_str());
        assert_eq!(values, ["1", "two words", "3", "4"]);
    }
}
