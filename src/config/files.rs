//! Finds the files of a configuration and reads them, bounded in size and number.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("does not exist")]
    NotFound,
    #[error("may not be read by this user")]
    Forbidden,
    #[error("is not a regular file")]
    NotRegular,
    #[error("is longer than {bytes_max} bytes")]
    TooLong { bytes_max: u64 },
    #[error("cannot be read: {0}")]
    Failed(#[source] io::Error),
}

/// Reads a regular file of at most `bytes_max`. A pipe is refused, because nobody may ever write
/// into it.
///
/// # Errors
///
/// Each variant is what to tell the user, after the file's name.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    if !path.metadata()?.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut bytes = Vec::new();
    // One more than allowed tells a full file from a longer one.
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(ReadError::TooLong { bytes_max });
    }
    Ok(bytes)
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Failed(error),
        }
    }
}

/// The `*.toml` of the `conf.d` beside `main`, in the order of their names. As in a shell, a name
/// that begins with a dot does not count. No `conf.d` is an empty one.
///
/// # Errors
///
/// The folder, and why it cannot be listed.
pub fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, (PathBuf, ReadError)> {
    let folder = main.with_file_name("conf.d");
    let names = match names(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err((folder, error.into())),
    };
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in folder.read_dir()? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".toml") && !bytes.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_an_absent_and_an_endless_file_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten");
        std::io::Write::write_all(&mut File::create(&path).unwrap(), b"0123456789").unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap().len(), 10);
        assert!(matches!(read_bounded(&path, 9), Err(ReadError::TooLong { bytes_max: 9 })));
        assert!(matches!(read_bounded(folder.path(), 9), Err(ReadError::NotRegular)));
        assert!(matches!(read_bounded(Path::new("/dev/zero"), 9), Err(ReadError::NotRegular)));
        assert!(matches!(read_bounded(&folder.path().join("none"), 9), Err(ReadError::NotFound)));
    }
}
