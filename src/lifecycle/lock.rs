//! One agent per state directory: a lock that ends with the process, however it ends.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held until it is dropped. The file stays: to remove it would let a third process lock a new file
/// beside the second, which still holds the old one.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

/// Why the state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it; this one must end.
    #[error("{}: another pyv-edge-agent ({holder}) uses this state directory; \
             stop it, or give this one its own agent.state_dir", .dir.display())]
    Held { dir: PathBuf, holder: Holder },
    /// The directory or the file cannot be made or opened.
    #[error("{}: cannot be prepared as the state directory; \
             it has to be a directory this user may write to", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Who holds a lock, as far as its file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("pid unknown"),
        }
    }
}

impl StateLock {
    /// Creates `state_dir` (mode 0750) when it is missing and locks `<state_dir>/lock` without
    /// waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when another agent runs on this directory; [`LockError::Unusable`] when the
    /// directory or the file cannot be had, for now or for good.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let unusable = |path: &Path, source| LockError::Unusable { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(state_dir)
            .map_err(|error| unusable(state_dir, error))?;
        let path = state_dir.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(|error| unusable(&path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = Holder(read_pid(&mut file));
                return Err(LockError::Held { dir: state_dir.to_owned(), holder });
            }
            Err(error) => return Err(unusable(&path, error.into())),
        }
        // The pid only serves the message of a second start: on a full disk the lock holds without.
        write_pid(&mut file).ok();
        Ok(Self { file })
    }

    /// Whether the lock is that of what lies at `state_dir` now. It is not once something was mounted over it.
    pub fn is_of(&self, state_dir: &Path) -> bool {
        let id = |found: io::Result<Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
        let own = id(self.file.metadata());
        own.is_some() && own == id(fs::metadata(state_dir.join(FILE_NAME)))
    }
}

/// The process that uses `state_dir` now; `None` when there is none. Takes no lock itself: a start that met it would
/// take us for another agent.
///
/// # Errors
///
/// The lock cannot be looked at.
pub fn holder(state_dir: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(state_dir.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let inode = file.metadata()?.ino();
    let Some(pid) = read_pid(&mut file) else { return Ok(None) };
    let locks = fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().any(|line| is_lock(line, pid, inode)).then_some(pid))
}

/// Whether a line of /proc/locks (proc_locks(5)) is `pid`'s flock of `inode`. The device is left out: some file
/// systems show another one there.
fn is_lock(line: &str, pid: u32, inode: u64) -> bool {
    let mut words = line.split_ascii_whitespace().skip(1);
    let mut next = || words.next().unwrap_or_default();
    let (kind, _advisory, _write, owner, file) = (next(), next(), next(), next(), next());
    let found = file.rsplit(':').next();
    kind == "FLOCK" && owner.parse() == Ok(pid) && found.is_some_and(|found| found.parse() == Ok(inode))
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

const FILE_NAME: &str = "lock";

/// A pid has at most seven digits.
const PID_BYTES_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_start_is_refused_and_told_the_directory_and_the_pid() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let first = StateLock::take(&state_dir).unwrap();
        let message = StateLock::take(&state_dir).unwrap_err().to_string();
        assert!(message.contains(&state_dir.display().to_string()), "{message}");
        assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
        assert_eq!(holder(&state_dir).unwrap(), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(&state_dir).unwrap(), None);
        StateLock::take(&state_dir).unwrap();
    }

    #[test]
    fn the_directory_is_created_with_its_parents_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("a/b");
        let _lock = StateLock::take(&state_dir).unwrap();
        let mode = std::fs::metadata(&state_dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{mode:o}");
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateLock::take(file.path()).unwrap_err();
        assert!(matches!(&error, LockError::Unusable { path, .. } if path == file.path()), "{error}");
    }

    #[test]
    fn a_lock_of_another_file_than_lies_there_now_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let lock = StateLock::take(&state_dir).unwrap();
        assert!(lock.is_of(&state_dir));
        fs::rename(&state_dir, dir.path().join("under the mount")).unwrap();
        assert!(!lock.is_of(&state_dir));
        let _second = StateLock::take(&state_dir).unwrap();
        assert!(!lock.is_of(&state_dir));
    }

    #[test]
    fn a_lock_file_with_rubbish_in_it_holds_too() {
        let dir = tempfile::tempdir().unwrap();
        let _first = StateLock::take(dir.path()).unwrap();
        let mut file = OpenOptions::new().write(true).open(dir.path().join(FILE_NAME)).unwrap();
        file.write_all(&[0xff; 64]).unwrap();
        let error = StateLock::take(dir.path()).unwrap_err();
        assert!(error.to_string().contains("(pid unknown)"), "{error}");
    }
}
