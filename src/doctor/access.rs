//! Who may read which file, by the owner and the mode of the file and of the folders above it. Access control lists
//! are not looked at.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::root::Root;

/// Who somebody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    /// The first is the main one.
    pub gids: Vec<u32>,
}

/// `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub fn read(root: &Root) -> Self {
        let text = |path| root.text(path).unwrap_or_default();
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    pub fn by_name(&self, name: &str) -> Option<Account> {
        self.find(|found, _| found == name)
    }

    /// One that has no entry is called by its number.
    pub fn by_uid(&self, uid: u32) -> Account {
        self.find(|_, found| found == uid).unwrap_or_else(|| Account {
            name: uid.to_string(),
            uid,
            gids: Vec::new(),
        })
    }

    fn find(&self, is_it: impl Fn(&str, u32) -> bool) -> Option<Account> {
        self.passwd.lines().find_map(|line| {
            let [name, _, uid, gid, ..] = line.split(':').collect::<Vec<_>>()[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            is_it(name, uid).then(|| Account { name: name.to_owned(), uid, gids: self.groups(name, gid) })
        })
    }

    fn groups(&self, name: &str, main: u32) -> Vec<u32> {
        let further = self.group.lines().filter_map(|line| {
            let [_, _, gid, members] = line.split(':').collect::<Vec<_>>()[..] else { return None };
            members.split(',').any(|member| member == name).then(|| gid.parse().ok())?
        });
        std::iter::once(main).chain(further).collect()
    }
}

/// Whether `who` may read the file at `path`; `None` when this process cannot see that.
pub fn may_read(path: &Path, who: &Account) -> Option<bool> {
    let file = std::fs::metadata(path).ok()?;
    let mut folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    let may_search = folders.all(|folder| match std::fs::metadata(folder) {
        Ok(folder) => allows(&folder, who, 0o1),
        Err(_) => true,
    });
    Some(may_search && allows(&file, who, 0o4))
}

/// Whether anybody at all may read or change the file; `None` when this process cannot see that.
pub fn is_open_to_all(path: &Path) -> Option<bool> {
    let anybody = Account { name: String::new(), uid: ANYBODY, gids: Vec::new() };
    let may_change = std::fs::metadata(path).ok()?.mode() & 0o002 != 0;
    Some(may_change || may_read(path, &anybody)?)
}

fn allows(found: &Metadata, who: &Account, bit: u32) -> bool {
    let mode = found.mode();
    // Root reads everything.
    who.uid == 0
        || if found.uid() == who.uid {
            mode & bit << 6 != 0
        } else if who.gids.contains(&found.gid()) {
            mode & bit << 3 != 0
        } else {
            mode & bit != 0
        }
}

/// What the kernel calls somebody it cannot name (`overflowuid`).
const ANYBODY: u32 = 65_534;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_class_of_a_user_decides_and_a_closed_folder_closes_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::File::create(&path).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let own = std::fs::metadata(&path).unwrap();
        let account = |uid, gid| Account { name: String::new(), uid, gids: vec![gid] };
        let owner = account(own.uid(), own.gid());
        let (in_group, other) = (account(4_000_001, own.gid()), account(4_000_001, 4_000_001));
        set(folder.path(), 0o755);
        for (mode, member, anybody, open) in
            [(0o640, true, false, false), (0o604, false, true, true), (0o600, false, false, false)]
        {
            set(&path, mode);
            assert_eq!(may_read(&path, &owner), Some(true));
            assert_eq!(may_read(&path, &in_group), Some(member), "{mode:o}");
            assert_eq!(may_read(&path, &other), Some(anybody), "{mode:o}");
            assert_eq!(is_open_to_all(&path), Some(open), "{mode:o}");
        }
        set(&path, 0o644);
        set(folder.path(), 0o700);
        assert_eq!(may_read(&path, &other), Some(false));
        assert_eq!(may_read(&folder.path().join("none"), &other), None);
    }

    #[test]
    fn accounts_are_found_with_all_their_groups() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nedge:x:990:980::/:/bin/false\nbroken\n".to_owned(),
            group: "edge:x:980:\ndialout:x:20:pi,edge\ni2c:x:998:pi\n".to_owned(),
        };
        assert_eq!(accounts.by_name("edge").unwrap().gids, [980, 20]);
        assert_eq!(accounts.by_uid(0).name, "root");
        assert_eq!((accounts.by_uid(77).name.as_str(), accounts.by_name("pi")), ("77", None));
    }
}
