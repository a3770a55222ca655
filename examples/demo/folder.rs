//! The folder of the demonstration: configuration, certificates, logs and the agent's state.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use crate::receiver::certificates;

/// Where everything is.
pub struct Folder {
    pub path: PathBuf,
    /// The user changed the configuration, so it was left as it is.
    pub config_edited: bool,
    /// Held until the end: two would write into each other's files.
    _lock: File,
}

/// What a closed store holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contents {
    /// Items that were ever stored.
    pub stored: u64,
    /// Items that are not delivered yet.
    pub queued: u64,
}

impl Folder {
    /// Makes the folder and what belongs into it; what an earlier run left is used again.
    pub fn prepare(path: &Path, has_broker: bool) -> Result<Self, Box<dyn Error + Send + Sync>> {
        fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = path.canonicalize()?;
        let lock = File::create(path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!(
                "{}: another demonstration runs in this folder; stop it, or give --folder",
                path.display()
            )
        })?;
        let mut folder = Self { path, config_edited: false, _lock: lock };
        certificates::provide(&folder.path.join("tls"))?;
        let with_mqtt = format!("{CONFIG}{MQTT}");
        let wanted = if has_broker { with_mqtt.as_str() } else { CONFIG };
        match fs::read_to_string(folder.config()) {
            Ok(found) if found != CONFIG && found != with_mqtt => folder.config_edited = true,
            Ok(_) => write(&folder.config(), wanted)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(&folder.config(), wanted)?,
            Err(error) => return Err(format!("{}: {error}", folder.config().display()).into()),
        }
        Ok(folder)
    }

    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Opens a log file of the last run anew.
    pub fn log(&self, name: &str) -> io::Result<File> {
        File::create(self.path.join(name))
    }

    /// What the store holds; nothing when there is none yet. The agent must not run.
    pub fn contents(&self) -> rusqlite::Result<Contents> {
        let path = self.state().join(pyvorin_edge::store::DATABASE_FILE);
        if !path.exists() {
            return Ok(Contents::default());
        }
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let count = |sql| {
            db.query_row(&format!("{NEXT}{sql}"), [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        };
        Ok(Contents { stored: count(STORED)?, queued: count(QUEUED)? })
    }

    /// Bytes of the agent's state on the disk.
    pub fn state_bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.state()) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    File::create(path)?.write_all(text.as_bytes())
}

const CONFIG: &str = include_str!("config.toml");
const MQTT: &str = include_str!("mqtt.toml");
/// The number after the last one given out in each lane, from 1; `lane` alone lags behind.
const NEXT: &str = "WITH given (lane, next) AS (
      SELECT lane, next_sequence FROM lane
      UNION ALL SELECT 1, max(first + count) FROM block_critical
      UNION ALL SELECT 2, max(first + count) FROM block_anomaly
      UNION ALL SELECT 3, max(first + count) FROM block_telemetry
      UNION ALL SELECT 4, max(first + count) FROM block_logs
      UNION ALL SELECT 5, max(first + count) FROM block_local),
    top (lane, next) AS (SELECT lane, coalesce(max(next), 1) FROM given GROUP BY lane) ";
const STORED: &str = "SELECT sum(next - 1) FROM top";
/// The range that grows with its lane has no last number.
const QUEUED: &str = "SELECT coalesce(sum(coalesce(pending.last + 1, top.next) - pending.first), 0)
    FROM pending JOIN top USING (lane)";
