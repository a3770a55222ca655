//! `check`: loads a configuration as the agent would, and says what came of it.

use std::path::PathBuf;

use super::{EXIT_CONFIG, EXIT_OK};
use crate::config::{LoadOptions, Loaded, load};

/// Prints what is wrong to standard error, or a summary to standard output.
pub fn run(config: Option<PathBuf>) -> u8 {
    match load(&LoadOptions::of_process(config)) {
        Ok(loaded) => {
            print(&loaded);
            EXIT_OK
        }
        Err(error) => {
            eprintln!("{error}");
            EXIT_CONFIG
        }
    }
}

fn print(loaded: &Loaded) {
    let Loaded { config, files, notes } = loaded;
    for note in notes {
        println!("note: {note}");
    }
    for file in files {
        println!("read: {}", file.display());
    }
    println!("sources: {}", list(config.sources.iter().map(crate::adapter::Source::name)));
    println!("rules: {}", list(config.rules.iter().map(|rule| rule.name.clone())));
    println!("windows: {}", list(config.windows.iter().map(|window| window.name.clone())));
    let delivery = if config.cloud.enabled { config.cloud.endpoint.as_str() } else { "off" };
    println!("delivery: {delivery}");
    println!("privacy: {}", if config.privacy.enabled { "on" } else { "off" });
    println!("the configuration is good");
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
