//! Where damaged databases go: moved aside whole, the newest few kept, and never in the place of an earlier one.
//!
//! The new database is built beside the damaged one. Under the name `edge_store.salvaged-<folder>` it is
//! complete, and from then on the exchange is finished by whichever start comes next; before that, a crash
//! leaves the damaged files where they were, and the next start salvages them again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::inspect::beside;
use super::{DATABASE_FILE, Error};

/// Where the new database is built.
pub fn building(state_dir: &Path) -> PathBuf {
    state_dir.join("edge_store.salvaging")
}

/// The name of the folder for the next damaged database, as a path below the state directory.
///
/// # Errors
///
/// The quarantine cannot be read.
pub fn next_folder(state_dir: &Path) -> Result<String, Error> {
    let newest = folders(state_dir)?.last().map_or(0, |(number, _)| *number);
    Ok(format!("{FOLDER}/{:06}", newest + 1))
}

/// Puts the database that was built in the place of the damaged one, which goes into `folder`.
///
/// # Errors
///
/// The disk fails or is full; the next call of [`finish`] goes on with it.
pub fn exchange(state_dir: &Path, folder: &str) -> Result<(), Error> {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    let complete = state_dir.join(format!("{COMPLETE}{name}"));
    rename(&building(state_dir), &complete)?;
    sync(state_dir)?;
    finish(state_dir)
}

/// Finishes an exchange that was begun, if there is one, and throws away what was not built to its end.
///
/// # Errors
///
/// The disk fails or is full.
pub fn finish(state_dir: &Path) -> Result<(), Error> {
    super::salvage::remove(&building(state_dir))?;
    for entry in fs::read_dir(state_dir).map_err(|source| failed("cannot list", state_dir, source))? {
        let entry = entry.map_err(|source| failed("cannot list", state_dir, source))?;
        let name = entry.file_name();
        let Some(folder) = name.to_str().and_then(|name| name.strip_prefix(COMPLETE)) else { continue };
        let folder = state_dir.join(FOLDER).join(folder);
        make_folder(state_dir, &folder)?;
        let database = state_dir.join(DATABASE_FILE);
        // The database last: as long as it is there, what is beside it belongs to it.
        for suffix in ["-shm", "-wal", ""] {
            move_aside(&beside(&database, suffix), &folder)?;
        }
        sync(&folder)?;
        // The mark is about what was moved: behind the new database it would have that salvaged too.
        unmark(state_dir, MARK)?;
        sync(state_dir)?;
        rename(&entry.path(), &database)?;
        sync(state_dir)?;
    }
    Ok(())
}

/// How much of the quarantine is kept, the newest [`KEPT_MAX`] at most.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Together.
    pub bytes_max: u64,
    /// To be free on the disk.
    pub bytes_free: u64,
}

impl Kept {
    /// Whatever room it takes.
    pub const ALL: Self = Self { bytes_max: u64::MAX, bytes_free: 0 };
}

/// Deletes the oldest until no more is left than is to be kept.
///
/// # Errors
///
/// The quarantine cannot be read.
pub fn prune(state_dir: &Path, Kept { bytes_max, bytes_free }: Kept) -> Result<(), Error> {
    let folders = folders(state_dir)?;
    let mut sizes = Vec::with_capacity(folders.len());
    for (_, folder) in &folders {
        sizes.push(size_of(folder).map_err(|source| failed("cannot list", folder, source))?);
    }
    for (index, (_, folder)) in folders.iter().enumerate() {
        let kept: u64 = sizes[index..].iter().sum();
        let is_short = free_bytes(state_dir).is_some_and(|free| free < bytes_free);
        if folders.len() - index <= KEPT_MAX && kept <= bytes_max && !is_short {
            break;
        }
        fs::remove_dir_all(folder).map_err(|source| failed("cannot delete", folder, source))?;
        tracing::warn!(folder = %folder.display(), bytes = sizes[index], "a quarantined database was deleted to keep the quarantine small");
    }
    Ok(())
}

/// Notes that the database is damaged, with the reason, for the next start: what it holds looks whole to
/// SQLite.
///
/// # Errors
///
/// The disk fails.
pub fn mark(state_dir: &Path, reason: &str) -> io::Result<()> {
    write_mark(state_dir, MARK, reason)
}

/// The reason that was noted.
///
/// # Errors
///
/// The disk fails.
pub fn marked(state_dir: &Path) -> Result<Option<String>, Error> {
    read_mark(state_dir, MARK)
}

/// A database that vanished while an agent ran on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub store_id: String,
    /// For a person.
    pub reason: String,
}

/// Notes that a database is gone, for the next start, which uses another one.
///
/// # Errors
///
/// The disk fails.
pub fn mark_gone(state_dir: &Path, gone: &Gone) -> io::Result<()> {
    write_mark(state_dir, MARK_GONE, &format!("{}\n{}", gone.store_id, gone.reason))
}

/// The one that is gone.
///
/// # Errors
///
/// The disk fails.
pub fn gone(state_dir: &Path) -> Result<Option<Gone>, Error> {
    let Some(text) = read_mark(state_dir, MARK_GONE)? else { return Ok(None) };
    let (store_id, reason) = text.split_once('\n').unwrap_or(("", &text));
    // A mark that was cut off says that one is gone, but not which.
    let store_id = Some(store_id).filter(|id| super::salvage::is_store_id(id)).unwrap_or_default();
    Ok(Some(Gone { store_id: store_id.to_owned(), reason: reason.to_owned() }))
}

/// Moves the WAL and its index aside, without a database.
///
/// # Errors
///
/// The disk fails.
pub fn set_log_aside(state_dir: &Path) -> Result<(), Error> {
    let folder = state_dir.join(next_folder(state_dir)?);
    make_folder(state_dir, &folder)?;
    for suffix in ["-shm", "-wal"] {
        move_aside(&beside(&state_dir.join(DATABASE_FILE), suffix), &folder)?;
    }
    sync(&folder)?;
    sync(state_dir)
}

/// What [`mark_gone`] noted is declared.
///
/// # Errors
///
/// The disk fails.
pub fn forget_gone(state_dir: &Path) -> Result<(), Error> {
    unmark(state_dir, MARK_GONE)
}

fn write_mark(state_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    use io::Write;
    let mut file = File::create(state_dir.join(name))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(state_dir)?.sync_all()
}

fn read_mark(state_dir: &Path, name: &str) -> Result<Option<String>, Error> {
    use io::Read;
    let path = state_dir.join(name);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(REASON_BYTES_MAX).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("cannot read", &path, source)),
    }
}

fn unmark(state_dir: &Path, name: &str) -> Result<(), Error> {
    let path = state_dir.join(name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("cannot remove", &path, source))
        }
        _ => Ok(()),
    }
}

fn make_folder(state_dir: &Path, folder: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(folder)
        .map_err(|source| failed("cannot make", folder, source))?;
    sync(&state_dir.join(FOLDER))?;
    sync(state_dir)
}

fn move_aside(from: &Path, folder: &Path) -> Result<(), Error> {
    let name = from.file_name().unwrap_or_default();
    let mut to = folder.join(name);
    for attempt in 1..=NAMES_MAX {
        match fs::symlink_metadata(&to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            _ => to = beside(&folder.join(name), &format!(".{attempt}")),
        }
    }
    match fs::rename(from, &to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("cannot move aside", from, source))
        }
        _ => Ok(()),
    }
}

/// The folders and their numbers, oldest first.
fn folders(state_dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let quarantine = state_dir.join(FOLDER);
    let entries = match fs::read_dir(&quarantine) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("cannot list", &quarantine, source)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| failed("cannot list", &quarantine, source))?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            folders.push((number, entry.path()));
        }
    }
    folders.sort_unstable();
    Ok(folders)
}

fn size_of(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| failed("cannot rename", from, source))
}

fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| failed("cannot sync", folder, source))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { what, path: path.to_owned(), source }
}

const FOLDER: &str = "quarantine";
const COMPLETE: &str = "edge_store.salvaged-";
const MARK: &str = "edge_store.damaged";
const MARK_GONE: &str = "edge_store.gone";
/// Damaged databases that are kept.
const KEPT_MAX: usize = 3;
const REASON_BYTES_MAX: u64 = 1024;
/// Of one file in one folder.
const NAMES_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn put(path: &Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn an_exchange_that_was_cut_off_after_any_step_is_finished_by_the_next_start() {
        // Before the first, and after each of: the folder, the index, the log, the database, the mark, the new one.
        for steps in 0..=6_usize {
            let dir = tempfile::tempdir().unwrap();
            let database = dir.path().join(DATABASE_FILE);
            for suffix in ["", "-wal", "-shm"] {
                put(&beside(&database, suffix), &format!("damaged{suffix}"));
            }
            mark(dir.path(), "a block is damaged").unwrap();
            put(&building(dir.path()), "half of a later one");
            let complete = dir.path().join(format!("{COMPLETE}000001"));
            put(&complete, "salvaged");
            let folder = dir.path().join(FOLDER).join("000001");
            if steps > 0 {
                fs::create_dir_all(&folder).unwrap();
            }
            for suffix in ["-shm", "-wal", ""].into_iter().take(steps.saturating_sub(1)) {
                move_aside(&beside(&database, suffix), &folder).unwrap();
            }
            if steps >= 5 {
                unmark(dir.path(), MARK).unwrap();
            }
            if steps == 6 {
                fs::rename(&complete, &database).unwrap();
            }
            finish(dir.path()).unwrap();
            assert_eq!(text(&database), "salvaged", "{steps} steps");
            for suffix in ["", "-wal", "-shm"] {
                let kept = folder.join(format!("{DATABASE_FILE}{suffix}"));
                assert_eq!(text(&kept), format!("damaged{suffix}"), "{steps} steps");
            }
            assert!(!building(dir.path()).exists(), "{steps} steps");
            assert_eq!(marked(dir.path()).unwrap(), None, "{steps} steps");
        }
    }

    #[test]
    fn what_is_gone_is_remembered_until_it_is_declared() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(gone(dir.path()).unwrap(), None);
        let noted = Gone { store_id: "0123456789abcdef".to_owned(), reason: "moved\naway".to_owned() };
        mark_gone(dir.path(), &noted).unwrap();
        assert_eq!(gone(dir.path()).unwrap(), Some(noted));
        put(&dir.path().join(MARK_GONE), "0123");
        assert_eq!(gone(dir.path()).unwrap().unwrap().store_id, "", "cut off: one is gone, but not which");
        forget_gone(dir.path()).unwrap();
        assert_eq!(gone(dir.path()).unwrap(), None);
    }
}
