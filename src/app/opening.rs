//! What has to be there before anything runs: the state directory, the key of hashes, the store. One attempt to
//! have them, and what its failure means.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use super::place::Place;
use crate::clock;
use crate::lifecycle::blackbox::Previous;
use crate::lifecycle::lock::LockError;
use crate::lifecycle::watchdog::Progress;
use crate::privacy::{HashKey, KeyError};
use crate::store::alive::Alive;
use crate::store::{self, Store, Trouble};

/// All of it.
pub struct Opened {
    pub store: Store,
    /// Resolves when the store thread has ended.
    pub store_end: oneshot::Receiver<Result<(), store::Error>>,
    pub store_progress: Arc<Progress>,
    pub key: HashKey,
    /// How the run before ended.
    pub previous: Option<Previous>,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot open the store in {}", .state_dir.display())]
    Store { state_dir: PathBuf, source: store::Error },
    #[error("cannot start the thread that opens the store")]
    Thread(#[source] io::Error),
}

impl OpenError {
    /// What goes away by itself or by somebody's help while the agent waits; `None` when the process has to end,
    /// because a person has to put it right first.
    pub fn trouble(&self, state_dir: &Path) -> Option<Trouble> {
        match self {
            Self::Lock(LockError::Held { .. }) => None,
            Self::Lock(LockError::Unusable { source, .. })
            | Self::Key(KeyError::Unreadable { source, .. } | KeyError::NotMade { source, .. })
            | Self::Thread(source) => Trouble::of_io(source, state_dir),
            Self::Key(KeyError::Length { .. } | KeyError::NoRandom) => None,
            Self::Store { source, .. } => source.trouble_at_start(state_dir),
        }
    }
}

/// Makes one attempt. Waits for the disk, in the worst case for the salvage of a whole database; `alive` hears of
/// its progress.
///
/// # Errors
///
/// Nothing is open but what `place` holds, and nothing was lost.
pub fn open(place: &Place, settings: store::Settings, alive: &Alive) -> Result<Opened, OpenError> {
    let previous = place.take()?;
    let key = hash_key(place.state_dir())?;
    let store_progress = Arc::new(Progress::default());
    let clocks = Arc::new(clock::OfMachine);
    let (store, store_end) = store::open_watched(settings, store_progress.clone(), clocks, alive)
        .map_err(|source| OpenError::Store { state_dir: place.state_dir().to_owned(), source })?;
    Ok(Opened { store, store_end, store_progress, key, previous })
}

/// [`open`] on a thread of its own, which goes on when nobody waits for it any more. The receiver gets nothing
/// when it panicked.
///
/// # Errors
///
/// There is no thread to be had.
pub fn open_aside(
    place: Arc<Place>,
    settings: store::Settings,
    alive: Alive,
) -> Result<oneshot::Receiver<Result<Opened, OpenError>>, OpenError> {
    let (done, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("store opening".to_owned())
        .spawn(move || {
            // Nobody listens any more only when the process is ending.
            done.send(open(&place, settings, &alive)).ok();
        })
        .map_err(OpenError::Thread)?;
    Ok(outcome)
}

/// The key of hashes: what the service manager hands in, else the file in `state_dir`, which is made first
/// when there is none.
pub fn hash_key(state_dir: &Path) -> Result<HashKey, KeyError> {
    HashKey::load_or_create(state_dir, hash_key_credential().as_deref())
}

/// The same key, where there is one; none is made.
pub fn privacy_key(state_dir: &Path) -> Result<Option<HashKey>, KeyError> {
    HashKey::load(state_dir, hash_key_credential().as_deref())
}

/// A key that the service manager hands in instead of the file in the state directory.
fn hash_key_credential() -> Option<PathBuf> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let path = Path::new(&directory).join(HashKey::CREDENTIAL);
    path.exists().then_some(path)
}
