//! A release is refused while anything is stale: `scripts/release --check`, in a copy of the project that could be one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The project as it stands, committed, its changelog and README those of a release.
struct Release {
    folder: tempfile::TempDir,
}

impl Release {
    fn new() -> Self {
        let release = Self { folder: tempfile::tempdir().unwrap() };
        let listed =
            output(Path::new("."), "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        for name in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
            // What was removed is still listed.
            if Path::new(name).exists() {
                fs::create_dir_all(release.path(name).parent().unwrap()).unwrap();
                fs::copy(name, release.path(name)).unwrap();
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        release.edit("CHANGELOG.md", |text| {
            text.replacen("## [", &format!("## [{version}] - 2026-01-01\n\n- Made.\n\n## [before "), 1)
        });
        release.edit("README.md", |text| format!("{text}\nState of this version ({version})\n"));
        release.git(&["init", "--quiet"]);
        release.commit();
        release
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed, "{name} is not what the test was made for");
        fs::File::create(self.path(name)).unwrap().write_all(changed.as_bytes()).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let identity =
            ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"];
        let output = output(self.folder.path(), "git", &[&identity, arguments].concat());
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "release"]);
    }

    /// What is stale, a line each, without the sum at the end.
    fn stale(&self) -> Vec<String> {
        let output = output(self.folder.path(), "scripts/release", &["--check"]);
        let said = String::from_utf8(output.stderr).unwrap();
        let problems =
            said.lines().filter(|line| line.starts_with("release: ") && !line.ends_with("nothing was built"));
        let problems: Vec<_> = problems.map(str::to_owned).collect();
        assert_eq!(output.status.success(), problems.is_empty(), "{said}");
        problems
    }
}

fn output(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    // What a hook of git sets is of another repository.
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE");
    command.output().unwrap_or_else(|error| panic!("{program}: {error}; scripts/apt-install git python3"))
}

#[test]
fn a_release_without_anything_stale_is_let_through() {
    assert_eq!(Release::new().stale(), [""; 0]);
}

#[test]
fn a_version_that_was_raised_in_one_place_alone_is_refused_for_each_of_the_others() {
    let release = Release::new();
    let (version, raised) = (env!("CARGO_PKG_VERSION"), "77.0.0");
    let line = |version: &str| format!("name = \"pyvorin-edge\"\nversion = \"{version}\"");
    for name in ["Cargo.toml", "Cargo.lock"] {
        release.edit(name, |text| text.replace(&line(version), &line(raised)));
    }
    release.commit();
    let stale = release.stale();
    for part in [
        "the newest entry of CHANGELOG.md",
        "README.md does not say",
        "pyvorin-edge_77",
        "pyvorin-edge-bin_77",
    ] {
        assert!(stale.iter().any(|line| line.contains(part)), "{part}: {stale:#?}");
    }
    assert_eq!(stale.len(), 4, "{stale:#?}");
}

#[test]
fn changes_that_are_not_released_yet_are_refused() {
    let release = Release::new();
    release.edit("CHANGELOG.md", |text| text.replacen("## [", "## [Unreleased]\n\n## [", 1));
    let stale = release.stale();
    assert!(stale.iter().any(|line| line.contains("not committed")), "{stale:#?}");
    assert!(stale.iter().any(|line| line.contains("'## [Unreleased]'")), "{stale:#?}");
    assert_eq!(stale.len(), 2, "{stale:#?}");
}

#[test]
fn a_list_of_crates_or_a_lock_file_that_is_behind_is_refused() {
    let release = Release::new();
    release.edit("Cargo.lock", |text| text.replacen("checksum = \"", "checksum = \"0", 1));
    release.edit("Cargo.toml", |text| text.replacen("[dependencies]", "[dependencies]\nadler2 = \"1\"", 1));
    release.commit();
    let stale = release.stale();
    assert!(stale.iter().any(|line| line.contains("scripts/crates-inc writes it")), "{stale:#?}");
    assert!(stale.iter().any(|line| line.contains("Cargo.lock does not fit")), "{stale:#?}");
}

#[test]
fn a_number_that_was_given_to_another_commit_is_refused() {
    let release = Release::new();
    release.git(&["tag", concat!("v", env!("CARGO_PKG_VERSION"))]);
    assert_eq!(release.stale(), [""; 0]);
    release.git(&["commit", "--quiet", "--allow-empty", "--message", "more"]);
    let stale = release.stale();
    assert!(matches!(&stale[..], [line] if line.contains("is another commit")), "{stale:#?}");
}
