//! The configurations that users are shown are accepted as they stand.

use std::fs;
use std::io::Write;
use std::path::Path;

use pyvorin_edge::adapter::{exec, file_replay, http, mqtt, simulator, system};
use pyvorin_edge::config::{self, Config, LoadOptions};

fn load(path: &Path) -> Config {
    // Whatever a sample asks the service manager for.
    let credentials = tempfile::tempdir().unwrap();
    for name in ["mqtt_password", "ingest_token"] {
        fs::File::create(credentials.path().join(name)).unwrap().write_all(b"secret").unwrap();
    }
    let options = LoadOptions {
        path: Some(path.to_owned()),
        environment: Box::new(|_| None),
        credentials_dir: Some(credentials.path().to_owned()),
        state_dir_env: None,
    };
    config::load(&options).unwrap_or_else(|error| panic!("{error}")).config
}

fn load_text(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    load(&path)
}

#[test]
fn the_sample_of_everything_is_accepted() {
    let config = load(Path::new("examples/edge_config.toml"));
    assert_eq!(config.devices, 6);
}

#[test]
fn a_new_device_measures_itself_and_delivers_nothing() {
    let config = load(Path::new("meta-pyvorin/recipes-core/pyvorin-edge/files/config.toml"));
    assert_eq!((config.devices, config.cloud.enabled, config.health.enabled), (1, false, true));
    assert_eq!(config.health.bind.to_string(), "127.0.0.1");
    assert_eq!(config.sources.iter().map(|source| source.name()).collect::<Vec<_>>(), ["system"]);
}

#[test]
fn what_the_sample_calls_defaults_are_the_defaults() {
    let sample = fs::read_to_string("examples/edge_config.toml").unwrap();
    let (general, rest) = sample.split_once("# --- Devices").unwrap();
    assert_eq!(load_text(general), load_text(""));
    let (devices, rest) = rest.split_once("# --- What devices of one type share").unwrap();
    let (_, rest) = rest.split_once("# --- Windows").unwrap();
    assert_eq!(load_text(&sample), load_text(&format!("{general}#{devices}#{rest}")));
}

#[test]
fn every_key_that_the_sample_comments_out_is_known() {
    let sample = fs::read_to_string("examples/edge_config.toml").unwrap();
    let is_setting = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncommented: Vec<_> = sample
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line))
        .collect();
    let config = load_text(&uncommented.join("\n"));
    assert_eq!(config.device_id.as_deref(), Some("plant-7"));
    assert!(config.cloud.tls.client_key_file.is_some());
}

#[test]
fn the_sample_of_every_adapter_is_accepted() {
    for sample in
        [exec::SAMPLE, file_replay::SAMPLE, http::SAMPLE, mqtt::SAMPLE, simulator::SAMPLE, system::SAMPLE]
    {
        assert_eq!(load_text(sample).devices, 1, "{sample}");
    }
}

#[test]
fn every_configuration_in_the_readme_is_accepted() {
    let readme = fs::read_to_string("README.md").unwrap();
    let blocks: Vec<_> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 10);
    for block in blocks {
        load_text(block);
    }
}

#[test]
fn the_readme_names_every_general_key() {
    let readme = fs::read_to_string("README.md").unwrap();
    let sample = fs::read_to_string("examples/edge_config.toml").unwrap();
    for line in sample.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ") else { continue };
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(!is_key || readme.contains(key), "{key}");
    }
}

#[test]
fn the_demonstration_is_accepted_with_and_without_a_broker() {
    let plain = fs::read_to_string("examples/demo/config.toml").unwrap();
    let mqtt = fs::read_to_string("examples/demo/mqtt.toml").unwrap();
    assert_eq!(load_text(&plain).devices + 1, load_text(&format!("{plain}{mqtt}")).devices);
}
