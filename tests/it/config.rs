//! Configuration files as users write them: `tests/config/good` with what is read out of each, and
//! `tests/config/bad` with the exact text of its refusal.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use pyvorin_edge::config::{self, Config, LoadError, LoadOptions, Loaded, diff};

/// A file of `tests/config/<folder>`, or a folder there with a main file and a `conf.d`.
struct Case {
    name: String,
    path: PathBuf,
}

fn cases(folder: &str) -> Vec<Case> {
    let folder = Path::new("tests/config").join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        let extension = path.extension().map(|extension| extension.to_str().unwrap().to_owned());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        match extension.as_deref() {
            Some("toml") => cases.push(Case { name, path }),
            Some("json") => cases.push(Case { name: format!("{name}_json"), path }),
            Some(_) => {}
            None => cases.push(Case { name, path: path.join("config.toml") }),
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn options(path: &Path) -> LoadOptions {
    LoadOptions {
        path: Some(path.to_owned()),
        environment: Box::new(|name| {
            let value: OsString = match name {
                "API_KEY" => "hunter2-hunter2".into(),
                "PORT" => "9100".into(),
                "LARGE" => "70000".into(),
                "ONE" => "1".into(),
                "YES" => "true".into(),
                "WORD" => "hunter2".into(),
                "EMPTY" => "".into(),
                _ => return None,
            };
            Some(value)
        }),
        credentials_dir: Some("tests/config/credentials".into()),
        state_dir_env: Some("/var/lib/example:/var/lib/second".into()),
    }
}

fn load(path: &Path) -> Result<Loaded, LoadError> {
    config::load(&options(path))
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// The configuration of `text`, which must be good.
fn config_of(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    write(&path, text.as_bytes());
    load(&path).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

#[test]
fn good_files_are_read_as_recorded() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../config/good");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let cases = cases("good");
    assert!(cases.len() >= 8);
    for Case { name, path } in cases {
        let loaded = load(&path).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
        settings.bind(|| insta::assert_debug_snapshot!(name, loaded));
    }
}

/// `BLESS=1` records what is said now; read the difference before you commit it.
#[test]
fn bad_files_are_refused_with_the_recorded_text() {
    let cases = cases("bad");
    assert!(cases.len() >= 25);
    let mut wrong = Vec::new();
    for Case { path, .. } in cases {
        let Err(error) = load(&path) else { panic!("{} was accepted", path.display()) };
        let said = format!("{error}\n");
        let is_folder = path.ends_with("config.toml");
        let recorded =
            if is_folder { path.with_file_name("expected.txt") } else { path.with_extension("txt") };
        if std::env::var_os("BLESS").is_some() {
            write(&recorded, said.as_bytes());
        }
        if fs::read_to_string(&recorded).unwrap_or_default() != said {
            wrong.push(format!("{} says:\n{said}", path.display()));
        }
        for secret in ["hunter2", "s3cr3t"] {
            assert!(!said.contains(secret), "{} shows a secret:\n{said}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_file_is_told_from_one_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(&folder.path().join("none.toml")).unwrap_err();
    assert!(matches!(&error, LoadError::NotFound { looked_at } if looked_at.len() == 1), "{error}");
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, LoadError::Unreadable { .. }), "{error}");
    assert!(error.to_string().ends_with("is not a regular file; nothing was loaded"), "{error}");
}

#[test]
fn without_a_path_both_usual_places_are_named() {
    // The tests run in the package's folder, which has no edge_config.toml, and on machines
    // without an installed agent.
    let error = config::load(&LoadOptions { path: None, ..options(Path::new("")) }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no configuration file: ./edge_config.toml and /etc/pyvorin-edge/config.toml do not exist; \
         give one with --config"
    );
}

#[test]
fn a_file_of_more_than_a_mebibyte_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    write(&path, &vec![b'#'; 1024 * 1024]);
    load(&path).unwrap();
    write(&path, &vec![b'#'; 1024 * 1024 + 1]);
    assert!(load(&path).unwrap_err().to_string().contains("is longer than 1048576 bytes"));
}

#[test]
fn more_than_sixty_four_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    write(&path, b"");
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    for index in 0..63 {
        write(&folder.path().join(format!("conf.d/{index}.toml")), b"");
    }
    assert_eq!(load(&path).unwrap().files.len(), 64);
    write(&folder.path().join("conf.d/63.toml"), b"");
    assert!(load(&path).unwrap_err().to_string().contains("conf.d: 64 files; at most 63 are read"));
}

#[test]
fn a_secret_file_is_read_without_its_last_line_end() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("key");
    write(&secret, b"two lines\r\n\r\n");
    let text = format!("[agent]\nstate_dir = \"${{file:{}}}\"", secret.display());
    assert_eq!(config_of(&text).store.state_dir, Path::new("two lines\r\n"));
}

#[test]
fn a_hundred_thousand_problems_are_counted_and_not_all_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let text: String = (0..100_000).map(|index| format!("k{index}=1\n")).collect();
    write(&path, text.as_bytes());
    let said = load(&path).unwrap_err().to_string();
    assert!(said.ends_with("... and 99800 more\nthe configuration is refused: 100000 problems"));
    assert!(said.len() < 100_000);
}

#[test]
fn a_reload_changes_what_can_change_and_refuses_the_rest_by_name() {
    let old = config_of("");
    assert!(diff(&old, &config_of("")).is_empty());

    let live = config_of(
        "cloud.batch_size = 7\nlogging.level = 'debug'\nprivacy.enabled = false\n\
         [windows.w]\n[rules.r]\ncondition_expr = 'True'",
    );
    let plan = diff(&old, &live);
    assert!(plan.cloud_changed && plan.logging_changed && plan.privacy_changed);
    assert!(plan.windows_changed && plan.rules_changed);
    assert!(plan.refused.is_empty());

    let fixed = config_of(
        "agent.device_id = 'x'\nagent.state_dir = '/x'\nstore.size_max_mb = 1\nstore.quarantine_max_mb = 9\n\
         store.commit_interval_seconds = 2\nstore.history_max_mb = 1\nstore.free_min_mb = 1\n\
         store.free_inodes_min = 1\nstore.ttl_seconds.logs = 9\nhealth.enabled = false\nhealth.bind = '::'\nhealth.port = 1",
    );
    assert_eq!(
        diff(&old, &fixed).refused,
        [
            "agent.device_id",
            "agent.state_dir",
            "store.size_max_mb",
            "store.quarantine_max_mb",
            "store.commit_interval_seconds",
            "store.history_max_mb",
            "store.free_min_mb",
            "store.free_inodes_min",
            "store.ttl_seconds",
            "health.enabled",
            "health.bind",
            "health.port"
        ]
    );
}

#[test]
fn a_changed_poll_interval_restarts_every_source() {
    let device = "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\n";
    let old = config_of(device);
    let new = config_of(&format!("sensors.poll_interval_seconds = 9\n{device}"));
    let names = |config: &Config| config.sources.iter().map(|source| source.name()).collect::<Vec<_>>();
    assert!(diff(&old, &old).is_empty());
    let plan = diff(&old, &new);
    assert_eq!((plan.sources_stopped, plan.sources_started), (names(&old), names(&new)));
}

#[test]
fn an_error_can_cross_threads_as_error_types_must() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<LoadError>();
    crosses::<Config>();
}

/// What a mutation does to a good file.
#[derive(Clone, Debug)]
enum Mutation {
    Truncate(prop::sample::Index),
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, String),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let piece = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\\",
        "\\u",
        "\\ud800",
        "${",
        "$",
        ":-",
        ".",
        "=",
        ",",
        "\n",
        "\r",
        "\0",
        "é",
        "\u{feff}",
        "#",
        "//",
        "1e999",
        "99999999999999999999",
        "null",
        "nan",
        "-inf",
        "0x",
        "1979-05-27",
        "${WORD}",
        "${file:/dev/zero}",
        "[[rules]]",
        "a.b.c",
    ]);
    prop_oneof![
        1 => index().prop_map(Mutation::Truncate),
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        4 => (index(), piece).prop_map(|(at, text)| Mutation::Insert(at, text.to_owned())),
        1 => (index(), index()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let length = bytes.len() + 1;
        match mutation {
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
            Mutation::Replace(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Replace(..) => {}
            Mutation::Insert(at, text) => {
                let at = at.index(length);
                bytes.splice(at..at, text.bytes());
            }
            Mutation::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a file, loading it returns, and every line of a refusal names a place.
    #[test]
    fn no_file_can_make_loading_panic(
        seed in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
        noise in prop::option::weighted(0.1, prop::collection::vec(any::<u8>(), 0..200)),
    ) {
        let seeds = cases("good");
        let path = &seeds[seed.index(seeds.len())].path;
        let bytes = mutated(noise.unwrap_or_else(|| fs::read(path).unwrap()), &mutations);
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.toml", "config.json"] {
            let copy = folder.path().join(name);
            write(&copy, &bytes);
            if let Err(LoadError::Invalid(refused)) = load(&copy) {
                prop_assert!(refused.count > 0);
                for line in &refused.lines {
                    prop_assert!(line.contains(&format!("{name}:")), "{line}");
                    prop_assert!(!line.contains("hunter2"), "{line}");
                }
            }
        }
    }
}
