//! The device's hash key: made once, kept in a file that only the agent may read, or handed in by
//! the service manager.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The key of every hash the firewall writes. Its debug form is `***`.
///
/// Another key gives other hashes: whoever loses the file can no longer tell that a hashed sensor
/// is the one it was before.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the privacy key {} cannot be read; nothing is taken in without it", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "the privacy key {} has {bytes} bytes, {KEY_BYTES} to {KEY_BYTES_MAX} were expected; put the right \
         file back, or remove it to have a new one made, with which all hashes change",
        path.display()
    )]
    Length { path: PathBuf, bytes: usize },
    #[error("the privacy key {} cannot be made; nothing is taken in without it", path.display())]
    NotMade { path: PathBuf, source: io::Error },
    #[error("the system gave no random numbers for the privacy key; nothing is taken in without it")]
    NoRandom,
}

impl HashKey {
    /// The credential of the service manager that stands for the file.
    pub const CREDENTIAL: &'static str = "privacy.key";

    /// A key of any bytes; at least 32 random ones protect.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The key in the file `credential`, when one is given, else that in `<state_dir>/privacy.key`,
    /// which is made when it is not there. Waits for the disk; a key that was made is durable when
    /// this returns.
    ///
    /// # Errors
    /// See [`KeyError`]; the caller must not go on with another key. A key that is there is never
    /// replaced.
    pub fn load_or_create(state_dir: &Path, credential: Option<&Path>) -> Result<Self, KeyError> {
        if let Some(path) = credential {
            return read(path).map_err(|source| unreadable(path, source))?;
        }
        let path = state_dir.join(FILE_NAME);
        match read(&path) {
            Ok(key) => key,
            Err(error) if error.kind() == ErrorKind::NotFound => create(state_dir, &path),
            Err(source) => Err(unreadable(&path, source)),
        }
    }

    /// By which the audit trail names the key without telling it: 16 hexadecimal characters.
    pub fn id(&self) -> String {
        let tag = hmac::sign(&self.0, ID_TEXT);
        let mut id = String::new();
        push_hex(&tag.as_ref()[..ID_BYTES], &mut id);
        id
    }

    /// The key as [`Self::load_or_create`] finds it, but none is made: `None` when there is none.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(state_dir: &Path, credential: Option<&Path>) -> Result<Option<Self>, KeyError> {
        let path = credential.map_or_else(|| state_dir.join(FILE_NAME), Path::to_owned);
        match read(&path) {
            Ok(key) => key.map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(unreadable(&path, source)),
        }
    }

    /// Puts a new key in the place of that in `<state_dir>/privacy.key`, for the same user, and returns it. At a
    /// power cut there is the old one or the new one. Durable when this returns; the old one is gone, as far as
    /// the file system goes.
    ///
    /// # Errors
    /// [`KeyError`]; then the old one holds.
    pub fn rotate(state_dir: &Path) -> Result<Self, KeyError> {
        create(state_dir, &state_dir.join(FILE_NAME))
    }

    /// Appends the hash of `text`: HMAC-SHA-256 in lower-case hexadecimal, the first 32 characters.
    ///
    /// 128 bits keep a billion names apart, and half the length keeps payloads small.
    pub(super) fn write_hex(&self, text: &str, out: &mut String) {
        let tag = hmac::sign(&self.0, text.as_bytes());
        push_hex(&tag.as_ref()[..HASH_BYTES], out);
    }
}

/// Two are the same when their ids are.
impl PartialEq for HashKey {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Appends `bytes` in lower-case hexadecimal.
pub(super) fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn read(path: &Path) -> io::Result<Result<HashKey, KeyError>> {
    let mut bytes = Vec::with_capacity(KEY_BYTES);
    File::open(path)?.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if (KEY_BYTES..=KEY_BYTES_MAX).contains(&bytes.len()) {
        return Ok(Ok(HashKey::new(&bytes)));
    }
    Ok(Err(KeyError::Length { path: path.to_owned(), bytes: bytes.len() }))
}

fn create(state_dir: &Path, path: &Path) -> Result<HashKey, KeyError> {
    // fastrand is for jitter; a key needs the system's generator.
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::NoRandom)?;
    store(state_dir, path, &bytes).map_err(|source| KeyError::NotMade { path: path.to_owned(), source })?;
    Ok(HashKey::new(&bytes))
}

/// Under its final name the file is always whole: a power cut leaves at most the temporary one.
fn store(state_dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = state_dir.join(TEMPORARY_NAME);
    // One left behind by a power cut may have any mode, so it is not reused.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    // Root may do it for the agent's user, who has to be able to read it: the owner of what is replaced, or of
    // the folder.
    let owner = fs::metadata(path).or_else(|_| fs::metadata(state_dir))?;
    let made = file.metadata()?;
    if (owner.uid(), owner.gid()) != (made.uid(), made.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(state_dir)?.sync_all()
}

fn unreadable(path: &Path, source: io::Error) -> KeyError {
    KeyError::Unreadable { path: path.to_owned(), source }
}

/// Bytes of a key that is made here, and the least that is taken.
const KEY_BYTES: usize = 32;
/// More is not a key but some other file.
const KEY_BYTES_MAX: usize = 4096;
/// Bytes of the HMAC that are written out.
const HASH_BYTES: usize = 16;
/// Of an id.
const ID_BYTES: usize = 8;
/// What no sensor or value is called.
const ID_TEXT: &[u8] = b"\0pyvorin-edge privacy key\0";
const FILE_NAME: &str = "privacy.key";
const TEMPORARY_NAME: &str = "privacy.key.new";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hex(key: &HashKey, text: &str) -> String {
        let mut out = String::new();
        key.write_hex(text, &mut out);
        out
    }

    fn put(path: &Path, bytes: &[u8]) {
        File::create(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_hash_is_the_first_half_of_the_hmac() {
        // RFC 4231, test case 2.
        assert_eq!(
            hex(&HashKey::new(b"Jefe"), "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c7"
        );
    }

    #[test]
    fn a_key_is_made_once_and_only_for_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join(TEMPORARY_NAME), b"left behind by a power cut");
        let first = HashKey::load_or_create(dir.path(), None).unwrap();
        let second = HashKey::load_or_create(dir.path(), None).unwrap();
        assert_eq!(hex(&first, "x"), hex(&second, "x"));
        let meta = fs::metadata(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(meta.len(), KEY_BYTES as u64);
        assert!(!dir.path().join(TEMPORARY_NAME).exists());
        let elsewhere = tempfile::tempdir().unwrap();
        let other = HashKey::load_or_create(elsewhere.path(), None).unwrap();
        assert_ne!(hex(&first, "x"), hex(&other, "x"));
    }

    #[test]
    fn a_credential_is_used_instead_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let credential = dir.path().join("credential");
        put(&credential, &[7; 32]);
        let key = HashKey::load_or_create(dir.path(), Some(&credential)).unwrap();
        assert_eq!(hex(&key, "x"), hex(&HashKey::new(&[7; 32]), "x"));
        assert!(!dir.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_key_that_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        for bytes in [0, 31, KEY_BYTES_MAX + 1] {
            put(&path, &vec![1; bytes]);
            assert!(matches!(HashKey::load_or_create(dir.path(), None), Err(KeyError::Length { .. })));
            assert_eq!(fs::metadata(&path).unwrap().len(), bytes as u64);
        }
        let missing = dir.path().join("missing");
        assert!(matches!(
            HashKey::load_or_create(dir.path(), Some(&missing)),
            Err(KeyError::Unreadable { .. })
        ));
        assert!(matches!(HashKey::load_or_create(&missing, None), Err(KeyError::NotMade { .. })));
    }

    #[test]
    fn a_key_that_is_rotated_is_another_and_what_a_power_cut_leaves_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let old = HashKey::load_or_create(dir.path(), None).unwrap();
        put(&dir.path().join(TEMPORARY_NAME), b"left behind by a power cut");
        let new = HashKey::rotate(dir.path()).unwrap();
        assert_ne!(hex(&old, "x"), hex(&new, "x"));
        assert_ne!(old, new);
        assert_eq!(HashKey::load(dir.path(), None).unwrap(), Some(new));
        let meta = fs::metadata(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join(TEMPORARY_NAME).exists());
        assert_eq!(HashKey::load(&dir.path().join("missing"), None).unwrap(), None);
    }

    #[test]
    fn the_id_of_a_key_is_the_same_each_time_and_is_no_hash_of_a_name() {
        let key = HashKey::new(&[1; 32]);
        assert_eq!(key.id(), HashKey::new(&[1; 32]).id());
        assert_eq!(key.id().len(), 16);
        assert!(!hex(&key, "pyvorin-edge privacy key").starts_with(&key.id()));
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", HashKey::new(&[1; 32])), "***");
    }
}
