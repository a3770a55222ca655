//! What must hold whatever bytes come in: one function for each kind of input, which panics when a law
//! is broken. The targets of `fuzz/` call them, and a test here runs every input that was ever kept.
//!
//! Compiled for tests and under cargo-fuzz only.

mod config_file;
mod connection;
mod expression;
mod health_request;
mod ingest_request;
mod mqtt_message;
mod readings;
mod stored_block;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; the names are those of the binaries and of the folders of inputs.
pub const TARGETS: [Target; 6] = [
    ("config_file", config_file::run),
    ("expression", expression::run),
    ("health_request", health_request::run),
    ("ingest_request", ingest_request::run),
    ("mqtt_message", mqtt_message::run),
    ("stored_block", stored_block::run),
];

/// Runs the target `name` on `input`.
///
/// # Panics
///
/// When a law is broken, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).1(input);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The file that was run when a law broke.
    struct Running(PathBuf);

    impl Drop for Running {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input is {}", self.0.display());
            }
        }
    }

    fn run_all(name: &str) {
        let target = TARGETS.iter().find(|target| target.0 == name).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let corpus = files(&root.join("corpus").join(name));
        assert!(corpus.len() >= 10, "the corpus of {name} is missing");
        let regressions = root.join("regressions").join(name);
        let regressions = if regressions.is_dir() { files(&regressions) } else { Vec::new() };
        for path in corpus.into_iter().chain(regressions) {
            let input = fs::read(&path).unwrap();
            let running = Running(path);
            target.1(&input);
            drop(running);
        }
    }

    #[test]
    fn kept_config_files_break_no_law() {
        run_all("config_file");
    }

    #[test]
    fn kept_expressions_break_no_law() {
        run_all("expression");
    }

    #[test]
    fn kept_health_requests_break_no_law() {
        run_all("health_request");
    }

    #[test]
    fn kept_ingest_requests_break_no_law() {
        run_all("ingest_request");
    }

    #[test]
    fn kept_mqtt_messages_break_no_law() {
        run_all("mqtt_message");
    }

    #[test]
    fn kept_stored_blocks_break_no_law() {
        run_all("stored_block");
    }
}
