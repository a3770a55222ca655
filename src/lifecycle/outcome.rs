//! What came of the last reload, in a small file: SIGHUP has no answer, and `systemctl reload` wants one.
//!
//! In the runtime directory, which is in memory, or else in the state directory. Written whole under another
//! name and renamed, so that whoever waits for it never reads a half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::reading::clip;

/// The file inside its directory.
const FILE_NAME: &str = "reload.json";

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the agent.
    pub pid: u32,
    /// Counts the reloads of this process, from 1 on.
    pub number: u64,
    pub applied: bool,
    /// Why not, for a person; holds no secret. May be several lines.
    pub reason: String,
}

/// Writes outcomes.
#[derive(Debug)]
pub struct Outcomes {
    dir: PathBuf,
    number: u64,
}

impl Outcomes {
    /// Of this process, in the first of `runtime_dirs` (colons between, as systemd gives it), or in `state_dir`. Goes
    /// on with the numbers that are there of this process.
    pub fn new(runtime_dirs: Option<&str>, state_dir: &Path) -> Self {
        // What cannot be read cannot be waited for either.
        let last = read(runtime_dirs, state_dir, std::process::id()).ok().flatten();
        Self { dir: dir(runtime_dirs, state_dir), number: last.map_or(0, |outcome| outcome.number) }
    }

    /// Notes the next outcome; `None` is success. Waits for the file system.
    ///
    /// # Errors
    ///
    /// The file cannot be written: who waits for it is not answered.
    pub fn note(&mut self, refusal: Option<&str>) -> io::Result<()> {
        self.number += 1;
        let outcome = Outcome {
            pid: std::process::id(),
            number: self.number,
            applied: refusal.is_none(),
            reason: clip(refusal.unwrap_or_default(), REASON_BYTES_MAX).to_owned(),
        };
        let (path, temporary) = (self.dir.join(FILE_NAME), self.dir.join(TEMPORARY_NAME));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&outcome)?)?;
        fs::rename(&temporary, &path)
    }
}

/// The newest outcome that the agent `pid` left in that place; `None` before its first.
///
/// # Errors
///
/// The file is there and cannot be read.
pub fn read(runtime_dirs: Option<&str>, state_dir: &Path, pid: u32) -> io::Result<Option<Outcome>> {
    let mut bytes = Vec::new();
    match File::open(dir(runtime_dirs, state_dir).join(FILE_NAME)) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let outcome: Option<Outcome> = serde_json::from_slice(&bytes).ok();
    Ok(outcome.filter(|outcome| outcome.pid == pid))
}

fn dir(runtime_dirs: Option<&str>, state_dir: &Path) -> PathBuf {
    let first = runtime_dirs.and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
    first.map_or_else(|| state_dir.to_owned(), PathBuf::from)
}

const TEMPORARY_NAME: &str = "reload.json.new";
/// A configuration can have very many problems.
const REASON_BYTES_MAX: usize = 16 * 1024;
/// With every character of the reason escaped.
const FILE_BYTES_MAX: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_numbered_and_belong_to_their_process() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, pid) = (dir.path().to_str(), std::process::id());
        let state = Path::new("/nowhere");
        assert_eq!(read(runtime, state, pid).unwrap(), None);
        let mut outcomes = Outcomes::new(runtime, state);
        outcomes.note(Some("line 3: no\nline 4: no")).unwrap();
        let refused = read(runtime, state, pid).unwrap().unwrap();
        assert_eq!((refused.number, refused.applied, &*refused.reason), (1, false, "line 3: no\nline 4: no"));
        Outcomes::new(runtime, state).note(None).unwrap();
        assert_eq!(read(None, dir.path(), pid).unwrap().unwrap().number, 2);
        assert_eq!(read(runtime, state, pid + 1).unwrap(), None);
    }
}
