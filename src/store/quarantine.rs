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

/// Finishes an exchange that was begun, if there is one.
///
/// # Errors
///
/// The disk fails or is full.
pub fn finish(state_dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(state_dir).map_err(|source| failed("cannot list", state_dir, source))? {
        let entry = entry.map_err(|source| failed("cannot list", state_dir, source))?;
        let name = entry.file_name();
        let Some(folder) = name.to_str().and_then(|name| name.strip_prefix(COMPLETE)) else { continue };
        let quarantine = state_dir.join(FOLDER);
        let folder = quarantine.join(folder);
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&folder)
            .map_err(|source| failed("cannot make", &folder, source))?;
        sync(&quarantine)?;
        sync(state_dir)?;
        let database = state_dir.join(DATABASE_FILE);
        // The database last: as long as it is there, what is beside it belongs to it.
        for suffix in ["-shm", "-wal", ""] {
            move_aside(&beside(&database, suffix), &folder)?;
        }
        sync(&folder)?;
        sync(state_dir)?;
        rename(&entry.path(), &database)?;
        unmark(state_dir)?;
        sync(state_dir)?;
    }
    Ok(())
}

/// Deletes the oldest until at most [`KEPT_MAX`] are left, with at most `bytes_max` bytes together, and
/// `bytes_wanted` bytes are free on the disk.
///
/// # Errors
///
/// The quarantine cannot be read.
pub fn prune(state_dir: &Path, bytes_max: u64, bytes_wanted: u64) -> Result<(), Error> {
    let folders = folders(state_dir)?;
    let mut sizes = Vec::with_capacity(folders.len());
    for (_, folder) in &folders {
        sizes.push(size_of(folder).map_err(|source| failed("cannot list", folder, source))?);
    }
    for (index, (_, folder)) in folders.iter().enumerate() {
        let kept: u64 = sizes[index..].iter().sum();
        let is_short = free_bytes(state_dir).is_some_and(|free| free < bytes_wanted);
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
    use io::Write;
    let path = state_dir.join(MARK);
    let mut file = File::create(&path)?;
    file.write_all(reason.as_bytes())?;
    file.sync_all()?;
    File::open(state_dir)?.sync_all()
}

/// The reason that was noted.
///
/// # Errors
///
/// The disk fails.
pub fn marked(state_dir: &Path) -> io::Result<Option<String>> {
    use io::Read;
    let mut reason = Vec::new();
    match File::open(state_dir.join(MARK)) {
        Ok(file) => file.take(REASON_BYTES_MAX).read_to_end(&mut reason)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(String::from_utf8_lossy(&reason).into_owned()))
}

fn unmark(state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join(MARK);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("cannot remove", &path, source))
        }
        _ => Ok(()),
    }
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
/// Damaged databases that are kept.
const KEPT_MAX: usize = 3;
const REASON_BYTES_MAX: u64 = 1024;
/// Of one file in one folder.
const NAMES_MAX: u32 = 16;
