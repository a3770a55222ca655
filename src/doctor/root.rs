//! The file system that is looked at: `/`, or in tests a folder that looks like one. Every read is bounded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where `/` is. A symbolic link in it that is absolute leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// What became of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    Found(T),
    Absent,
    /// It may be there; this user may not look.
    Hidden,
}

impl<T> Seen<T> {
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Absent | Self::Hidden => None,
        }
    }

    fn of(result: io::Result<T>) -> Self {
        match result {
            Ok(found) => Self::Found(found),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Hidden,
            Err(_) => Self::Absent,
        }
    }
}

impl Root {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether it is the machine's own: then what only system calls tell belongs to it.
    pub fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where `path` is below this root; one that is not absolute stays as it is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        path.strip_prefix("/").map_or_else(|_| path.to_owned(), |path| self.0.join(path))
    }

    /// The text of a file, of which what is too long is cut off.
    pub fn read(&self, path: impl AsRef<Path>) -> Seen<String> {
        Seen::of(read(&self.path(path)))
    }

    /// [`Self::read`] without the reason why not.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read(path).found()
    }

    /// One line, as the kernel writes its numbers.
    pub fn line(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.text(path)?.trim_matches(['\n', '\0', ' ']).to_owned())
    }

    /// Whether something is there, as far as this user can see; a link that leads nowhere is.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The names in a folder, sorted; none when it is not there.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        self.list(path).found().unwrap_or_default()
    }

    /// The names in a folder, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> Seen<Vec<String>> {
        let names = |entries: fs::ReadDir| {
            let names = entries.take(ENTRIES_MAX).filter_map(Result::ok);
            let mut names: Vec<_> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        Seen::of(fs::read_dir(self.path(path)).map(names))
    }
}

fn read(path: &Path) -> io::Result<String> {
    // A pipe in the place of a file would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const FILE_BYTES_MAX: u64 = 256 * 1024;
const ENTRIES_MAX: usize = 1024;
