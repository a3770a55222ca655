//! What an error of the database means while the agent runs: the disk is in trouble, which is waited out,
//! or the database is, which ends the process so that the next start looks at the whole file.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use super::Error;

/// Why commits wait.
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
            Some(match disk {
                Disk { is_read_only: true, .. } => Trouble::ReadOnly,
                Disk { is_full: true, .. } => Trouble::Full,
                _ => Trouble::Failing,
            })
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
