//! Systems made up of files.

use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::root::Root;

/// A folder that looks like a system.
pub struct System {
    folder: TempDir,
    root: Root,
}

impl System {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = Root::new(folder.path().to_owned());
        Self { folder, root }
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn file(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    pub fn folder(self, path: &str) -> Self {
        std::fs::create_dir_all(self.folder.path().join(path)).unwrap();
        self
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
