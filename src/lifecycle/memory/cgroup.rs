//! Where the memory controller's files for this process are: its own control group and every one above it.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// The group of one hierarchy.
#[derive(Debug)]
pub struct Group {
    pub version: Version,
    /// Its own folder first, then those above it, as far as they are shown to this process.
    pub folders: Vec<PathBuf>,
}

/// The groups of this process: on a machine with both versions one of each. `root` is `/` but in tests.
pub fn groups(root: &Path) -> Vec<Group> {
    let own = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = read(&root.join("proc/self/mountinfo")).unwrap_or_default();
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (version, controller) = match controllers {
            "" => (Version::Two, None),
            names if names.split(',').any(|name| name == CONTROLLER) => (Version::One, Some(CONTROLLER)),
            _ => return None,
        };
        let folders = mount(&mounts, controller)?.folders(path).into_iter();
        let folders = folders.map(|folder| root.join(folder.strip_prefix("/").unwrap_or(&folder)));
        Some(Group { version, folders: folders.collect() })
    };
    own.lines().filter_map(group).collect()
}

/// Where a hierarchy is mounted, and which of its groups the mount shows as its root.
struct Mount {
    point: PathBuf,
    shown: PathBuf,
}

impl Mount {
    /// The folder of the group `path` and of every one above it, as far as the mount shows them.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        // In a container the path may be one of the machine's, outside of what is mounted: then the root is all there is.
        let within = Path::new(path).strip_prefix(&self.shown).unwrap_or(Path::new(""));
        let within = within.strip_prefix("/").unwrap_or(within);
        // So is one that is not below the root that we are shown.
        let is_plain = within.components().all(|part| matches!(part, Component::Normal(_)));
        let within = if is_plain { within.to_owned() } else { PathBuf::new() };
        within.ancestors().take(LEVELS_MAX).map(|level| self.point.join(level)).collect()
    }
}

/// The mount of version 2, or of the version 1 hierarchy of `controller`, from `/proc/self/mountinfo` (proc(5)).
fn mount(mountinfo: &str, controller: Option<&str>) -> Option<Mount> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let mut rest = rest.split(' ');
        let (kind, _, options) = (rest.next()?, rest.next()?, rest.next()?);
        let is_it = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let path = |index: usize| fields.get(index).map(|field| PathBuf::from(field.replace("\\040", " ")));
        is_it.then(|| Some(Mount { shown: path(3)?, point: path(4)? }))?
    })
}

/// At most so much of a small file of the kernel's.
pub fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

const CONTROLLER: &str = "memory";
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// A deeper group is none that a service manager makes.
const LEVELS_MAX: usize = 32;
