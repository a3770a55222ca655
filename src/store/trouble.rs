//! What an error means for the agent: the disk is in trouble, which is waited out at the start and while it
//! runs, or something else is, which ends the process.

use std::io;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};
use rustix::io::Errno;

use super::Error;

/// Why commits wait, or the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// No room, or no inodes.
    Full = 1,
    /// Nothing may be written: ext4 goes over to that after errors.
    ReadOnly = 2,
    /// Reads, writes or syncs fail.
    Failing = 3,
    /// Another program holds the database.
    Locked = 4,
}

impl Trouble {
    pub const ALL: [Self; 4] = [Self::Full, Self::ReadOnly, Self::Failing, Self::Locked];

    /// For metrics and log fields.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Failing => "failing",
            Self::Locked => "locked",
        }
    }

    /// For the health page.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Full => "the disk is full, commits wait for room",
            Self::ReadOnly => "the disk is read-only, commits wait until it can be written",
            Self::Failing => "the disk fails to read or write, commits are tried again",
            Self::Locked => "another program holds the database, commits wait for it",
        }
    }

    /// What an error of a call on files in `state_dir` is called while it is waited out; `None` when waiting
    /// cannot help, because something of another kind lies there.
    pub fn of_io(error: &io::Error, state_dir: &Path) -> Option<Self> {
        of_io(error, Disk::of(state_dir))
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|trouble| *trouble as u8 == number)
    }
}

/// The file system, as far as it explains an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub is_full: bool,
    pub is_read_only: bool,
}

impl Disk {
    /// Asks for the file system of `folder`; a disk that does not answer explains nothing.
    pub fn of(folder: &Path) -> Self {
        let Ok(found) = rustix::fs::statvfs(folder) else { return Self::default() };
        // Some file systems have no inodes to count.
        let is_without_inodes = found.f_files > 0 && found.f_favail == 0;
        Self {
            is_full: found.f_bavail == 0 || is_without_inodes,
            is_read_only: found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        }
    }

    fn explains_failure(self) -> Trouble {
        match self {
            Self { is_read_only: true, .. } => Trouble::ReadOnly,
            Self { is_full: true, .. } => Trouble::Full,
            _ => Trouble::Failing,
        }
    }
}

impl Error {
    /// What the start waits for after this error; `None` unless [`Error::is_transient`].
    pub fn trouble_at_start(&self, state_dir: &Path) -> Option<Trouble> {
        match self {
            Self::Io { source, .. } => Trouble::of_io(source, state_dir),
            // What a running agent must not go on with is opened anew by a start.
            error if error.is_transient() => {
                Some(of(error, Disk::of(state_dir)).unwrap_or(Trouble::ReadOnly))
            }
            _ => None,
        }
    }
}

/// Whether `error` goes away while the agent waits.
pub(super) fn passes(error: &io::Error) -> bool {
    of_io(error, Disk::default()).is_some()
}

fn of_io(error: &io::Error, disk: Disk) -> Option<Trouble> {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Some(Trouble::Full),
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Some(Trouble::ReadOnly),
        Some(
            Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL,
        ) => None,
        _ => Some(disk.explains_failure()),
    }
}

/// What `error` is called while it is waited out; `None` when waiting cannot help.
pub(super) fn of(error: &Error, disk: Disk) -> Option<Trouble> {
    let Error::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. } = error else { return None };
    match failure.code {
        ErrorCode::DiskFull => Some(Trouble::Full),
        // Moved away or deleted under the agent: what is there now is not what it wrote.
        ErrorCode::ReadOnly if failure.extended_code == ffi::SQLITE_READONLY_DBMOVED => None,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Some(Trouble::ReadOnly),
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::FileLockingProtocolFailed => {
            Some(disk.explains_failure())
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Some(Trouble::Locked),
        _ => None,
    }
}

/// Whether the connection may go on after a rollback. After anything else it may not: what the kernel
/// failed to write it forgets, so the connection and the cached pages know more than the disk does.
pub(super) fn leaves_connection_whole(error: &Error) -> bool {
    matches!(
        error,
        Error::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. }
            if matches!(failure.code, ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> Error {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        Error::Sqlite { what: "cannot commit", source }
    }

    #[test]
    fn a_disk_that_fails_is_waited_out_and_a_damaged_database_is_not() {
        for (code, expected) in [
            (ffi::SQLITE_FULL, Some(Trouble::Full)),
            (ffi::SQLITE_IOERR_FSYNC, Some(Trouble::Failing)),
            (ffi::SQLITE_IOERR_SHORT_READ, Some(Trouble::Failing)),
            (ffi::SQLITE_CANTOPEN, Some(Trouble::Failing)),
            (ffi::SQLITE_READONLY, Some(Trouble::ReadOnly)),
            (ffi::SQLITE_READONLY_DBMOVED, None),
            (ffi::SQLITE_BUSY, Some(Trouble::Locked)),
            (ffi::SQLITE_CORRUPT, None),
            (ffi::SQLITE_NOTADB, None),
        ] {
            assert_eq!(of(&error(code), Disk::default()), expected, "{code}");
        }
        let damaged = Error::Damaged { what: "a block", detail: String::new() };
        assert_eq!(of(&damaged, Disk::default()), None);
    }

    #[test]
    fn the_file_system_says_why_it_cannot_be_written() {
        let full = Disk { is_full: true, is_read_only: false };
        let read_only = Disk { is_full: false, is_read_only: true };
        for code in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_CANTOPEN] {
            assert_eq!(of(&error(code), full), Some(Trouble::Full));
            assert_eq!(of(&error(code), read_only), Some(Trouble::ReadOnly));
        }
    }

    #[test]
    fn at_the_start_what_passes_is_told_from_what_somebody_has_to_put_right() {
        for (errno, expected) in [
            (libc::ENOSPC, Some(Trouble::Full)),
            (libc::EDQUOT, Some(Trouble::Full)),
            (libc::EROFS, Some(Trouble::ReadOnly)),
            (libc::EACCES, Some(Trouble::ReadOnly)),
            (libc::EPERM, Some(Trouble::ReadOnly)),
            (libc::EIO, Some(Trouble::Failing)),
            (libc::EMFILE, Some(Trouble::Failing)),
            (libc::ENOENT, Some(Trouble::Failing)),
            (libc::ENOTDIR, None),
            (libc::EISDIR, None),
            (libc::EEXIST, None),
        ] {
            let source = io::Error::from_raw_os_error(errno);
            assert_eq!(of_io(&source, Disk::default()), expected, "{source}");
            let error = Error::Io { what: "cannot read", path: "/state/file".into(), source };
            assert_eq!(error.is_transient(), expected.is_some(), "{error:?}");
        }
        let state_dir = Path::new("/nonexistent");
        for (code, expected) in [
            (ffi::SQLITE_BUSY, Some(Trouble::Locked)),
            (ffi::SQLITE_READONLY_DBMOVED, Some(Trouble::ReadOnly)),
            (ffi::SQLITE_CORRUPT, None),
            (ffi::SQLITE_NOMEM, None),
        ] {
            assert_eq!(error(code).trouble_at_start(state_dir), expected, "{code}");
        }
        let newer = Error::NewerSchema { path: state_dir.to_owned(), found: 9, known: 2 };
        assert_eq!(newer.trouble_at_start(state_dir), None);
    }

    #[test]
    fn only_what_failed_before_anything_was_written_leaves_the_connection_whole() {
        assert!(leaves_connection_whole(&error(ffi::SQLITE_FULL)));
        assert!(!leaves_connection_whole(&error(ffi::SQLITE_IOERR_FSYNC)));
        assert!(!leaves_connection_whole(&error(ffi::SQLITE_READONLY)));
    }

    #[test]
    fn every_trouble_is_found_by_its_number() {
        for trouble in Trouble::ALL {
            assert_eq!(Trouble::from_number(trouble as u8), Some(trouble));
        }
        assert_eq!(Trouble::from_number(0), None);
    }
}
