//! Configuration files: the main file and what is merged over it.
//!
//! The input is the text of the main file, JSON when it begins with `{`. A line `%%%` ends a file; what
//! follows is the next one of `conf.d`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{self, Config, LoadError, LoadOptions, Loaded, Problems, diff};
use crate::pipeline::rule::Rules;
use crate::pipeline::window::Windows;
use crate::privacy::{Firewall, HashKey};

pub(super) fn run(input: &[u8]) {
    // The kernel makes these up anew at each look, and some wait for ever.
    if ["/proc", "/sys", "/dev"].iter().any(|folder| contains(input, folder.as_bytes())) {
        return;
    }
    let files = split(input);
    match (load(&files), load(&files)) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.config, second.config, "one text, two meanings");
            assert_eq!(first.notes, second.notes);
            assert!(diff(&first.config, &second.config).is_empty(), "a reload would restart something");
            check_usable(&first.config);
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.to_string(), second.to_string(), "one text, two refusals");
            check_refusal(&first, &files);
        }
        _ => panic!("one text, accepted and refused"),
    }
}

/// The configuration of one TOML text, for the other targets.
pub(super) fn config_of(toml: &str) -> Config {
    let loaded = load(&[("config.toml".into(), toml.as_bytes().to_vec())]);
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

fn split(input: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut parts: Vec<Vec<u8>> = vec![Vec::new()];
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        if line.trim_ascii_end() == b"%%%" && parts.len() < FILES_MAX {
            parts.push(Vec::new());
        } else {
            parts.last_mut().expect("there is one from the start").extend_from_slice(line);
        }
    }
    let is_json = parts[0].starts_with(b"{");
    let name = |(index, part)| match index {
        0 if is_json => (PathBuf::from("config.json"), part),
        0 => (PathBuf::from("config.toml"), part),
        _ => (PathBuf::from(format!("conf.d/{index}.toml")), part),
    };
    parts.into_iter().enumerate().map(name).collect()
}

fn load(files: &[(PathBuf, Vec<u8>)]) -> Result<Loaded, LoadError> {
    let options = LoadOptions {
        path: None,
        environment: Box::new(|name| {
            let value: OsString = match name {
                "SECRET" => SECRET.into(),
                "PORT" => "9100".into(),
                "YES" => "true".into(),
                "EMPTY" => "".into(),
                _ => return None,
            };
            Some(value)
        }),
        credentials_dir: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/credentials").into()),
        state_dir_env: Some("/var/lib/example".into()),
    };
    config::understand(files.to_vec(), &options, Problems::default())
}

/// What was accepted can be built: nothing is found wrong later.
fn check_usable(config: &Config) {
    Rules::new(&config.rules).unwrap_or_else(|error| panic!("an accepted rule is refused: {error}"));
    Windows::new(&config.windows);
    Firewall::new(&config.privacy, HashKey::new(&[7; 32]));
    let mut names: Vec<String> = config.sources.iter().map(|source| source.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), config.sources.len(), "two sources of one name");
}

/// Every problem stands at a place that the files have, on one line, and shows no secret.
fn check_refusal(error: &LoadError, files: &[(PathBuf, Vec<u8>)]) {
    let LoadError::Invalid(refused) = error else { panic!("the files were given: {error}") };
    assert!(refused.count > 0 && refused.count >= refused.lines.len());
    for line in &refused.lines {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.len() <= LINE_BYTES_MAX, "{} bytes", line.len());
        if !files.iter().any(|(_, bytes)| contains(bytes, SECRET.as_bytes())) {
            assert!(!line.contains(SECRET), "{line}");
        }
        check_place(line, files);
    }
}

fn check_place(line: &str, files: &[(PathBuf, Vec<u8>)]) {
    let mut parts = line.splitn(4, ':');
    let file = parts.next().and_then(|name| files.iter().find(|(path, _)| path.to_str() == Some(name)));
    let Some((_, bytes)) = file else { panic!("no file in {line:?}") };
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
    let (Some(at_line), Some(column)) = (number(), number()) else { panic!("no place in {line:?}") };
    let found = bytes.split(|byte| *byte == b'\n').nth(at_line.wrapping_sub(1));
    let Some(found) = found else { panic!("no such line: {line:?}") };
    assert!((1..=found.len() + 1).contains(&column), "no such column: {line:?}");
    assert!(parts.next().is_some_and(|message| !message.trim().is_empty()), "no message: {line:?}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

const SECRET: &str = "q7#Zt-secret";
const FILES_MAX: usize = 4;
/// A message of 1024 bytes, escaped, and its place.
const LINE_BYTES_MAX: usize = 12 * 1024;
