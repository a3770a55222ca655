//! The write-ahead log as bytes: which frames hold, and whether commits are missing from it.
//!
//! SQLite reads it up to the first frame whose checksum fails and takes the rest for an interrupted write,
//! in silence. Here the rest is looked at too. The format: sqlite.org/fileformat2.html, section 4; the
//! index beside it: sqlite.org/walformat.html, section 2.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the log says.
#[derive(Debug, Default)]
pub struct Wal {
    /// Where the newest committed copy of each page lies whose checksum holds.
    pub pages: HashMap<u32, u64>,
    /// Page numbers and places of committed copies whose checksum fails: either may be what is damaged.
    pub broken: Vec<(u32, u64)>,
    /// Of the database after the last commit, in pages; 0 without one.
    pub database_pages: u32,
    /// Commits are missing: its end was cut off, a frame within is damaged, or it is not there at all.
    pub loses_commits: Option<&'static str>,
    /// The application id in its copies of page 1, when there is one and they agree.
    pub application_id: Option<u32>,
}

/// What the index beside the log remembers. SQLite writes it after the log is synced, so it is never ahead of
/// an honest disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Index {
    salts: [u8; 8],
    /// Frames up to the last commit.
    frames: u32,
}

impl Wal {
    /// Reads the log at `wal` and its index at `shm`, of a database with pages of `page_size` bytes; a file that
    /// is not there is empty.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn read(wal: &Path, shm: &Path, page_size: usize, tick: &dyn Fn()) -> io::Result<Self> {
        let index = read_index(shm)?;
        let file = match File::open(wal) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::missing(index)),
            Err(error) => return Err(error),
        };
        let mut header = [0; HEADER_BYTES];
        if read_up_to(&file, &mut header, 0)? < HEADER_BYTES {
            return Ok(Self::missing(index));
        }
        let Some(log) = Header::parse(&header, page_size) else {
            return Ok(Self { loses_commits: Some("the header of the WAL is damaged"), ..Self::default() });
        };
        let mut wal = Self::default();
        let known = index.filter(|index| index.salts == log.salts).map_or(0, |index| index.frames);
        let whole = wal.scan(&file, &log, known, tick)?;
        if let Some(index) = index {
            if index.salts != log.salts && index.frames == 0 {
                // The log is about to be begun anew: all of this one is in the database, and synced.
            } else if index.salts != log.salts {
                // After a power cut the index may be an older one; it is the newer log then, and no sign.
                wal.loses_commits = wal.loses_commits.or_else(|| is_older(&log, &index));
            } else if index.frames > whole {
                wal.loses_commits = Some("the WAL is shorter than its index says");
            }
        }
        Ok(wal)
    }

    fn missing(index: Option<Index>) -> Self {
        let lost = index.is_some_and(|index| index.frames > 0);
        Self { loses_commits: lost.then_some("the WAL is gone, and its index remains"), ..Self::default() }
    }

    /// Takes in every frame; returns how many there are up to the last commit that SQLite would read. The
    /// first `known` ones are known to have been committed.
    fn scan(&mut self, file: &File, log: &Header, known: u32, tick: &dyn Fn()) -> io::Result<u32> {
        let frame_bytes = FRAME_HEADER_BYTES + log.page_size;
        let mut frame = vec![0; frame_bytes];
        let mut sum = log.sum;
        let (mut is_chain, mut committed) = (true, 0);
        let (mut breaks_commit, mut strangers) = (false, 0);
        // Since the last commit: they count once there is one.
        let mut open: Vec<(u32, u64, bool)> = Vec::new();
        for number in 1..=FRAMES_MAX {
            tick();
            let offset = HEADER_BYTES as u64 + u64::from(number - 1) * frame_bytes as u64;
            if read_up_to(file, &mut frame, offset)? < frame_bytes || strangers > STRANGERS_MAX {
                break;
            }
            let (page, size_after) = (be32(&frame, 0), be32(&frame, 4));
            let stored = [be32(&frame, 16), be32(&frame, 20)];
            let is_ours = frame[8..16] == log.salts && page != 0;
            let is_whole = is_ours && log.sum_on(&frame, sum) == stored;
            sum = stored;
            is_chain &= is_whole;
            // What is not ours is left over from before the log was begun anew, or damaged.
            strangers += u32::from(!is_ours);
            if is_whole && breaks_commit {
                // Written only after the commit before it was synced: that commit was durable.
                self.loses_commits = Some("a frame within the WAL is damaged");
            }
            if is_whole && page == 1 {
                self.application_id = Some(be32(&frame, FRAME_HEADER_BYTES + APPLICATION_ID_AT));
            }
            if is_ours || number <= known {
                open.push((page, offset + FRAME_HEADER_BYTES as u64, is_whole));
            }
            let is_commit = is_ours && size_after != 0;
            if is_commit && is_chain {
                committed = number;
            }
            breaks_commit |= is_commit && !is_chain;
            if number == known || is_commit && (is_chain || is_whole || number < known) {
                self.settle(&mut open);
                self.database_pages = if is_whole { size_after } else { self.database_pages };
            }
        }
        Ok(committed)
    }

    fn settle(&mut self, open: &mut Vec<(u32, u64, bool)>) {
        for (page, offset, is_whole) in open.drain(..) {
            if is_whole {
                self.pages.insert(page, offset);
            } else if self.broken.len() < BROKEN_MAX {
                self.broken.push((page, offset));
            }
        }
    }
}

struct Header {
    /// The words of checksums are big-endian.
    is_big: bool,
    page_size: usize,
    salts: [u8; 8],
    sum: [u32; 2],
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES], page_size: usize) -> Option<Self> {
        let is_big = match be32(bytes, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let mut header = Self { is_big, page_size, salts: [0; 8], sum: [0; 2] };
        header.salts.copy_from_slice(&bytes[16..24]);
        header.sum = header.add(&bytes[..24], [0; 2]);
        let stored = [be32(bytes, 24), be32(bytes, 28)];
        (header.sum == stored && be32(bytes, 8) as usize == page_size).then_some(header)
    }

    /// The checksum of a frame that follows one with the checksum `sum`.
    fn sum_on(&self, frame: &[u8], sum: [u32; 2]) -> [u32; 2] {
        let sum = self.add(&frame[..8], sum);
        self.add(&frame[FRAME_HEADER_BYTES..], sum)
    }

    fn add(&self, bytes: &[u8], sum: [u32; 2]) -> [u32; 2] {
        let word = |bytes: &[u8]| {
            let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
            if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let [mut a, mut b] = sum;
        for pair in bytes.chunks_exact(8) {
            a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
            b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
        }
        [a, b]
    }
}

/// The index of a log that was begun before `log` has a smaller first salt (sqlite.org/walformat.html, 2.3).
fn is_older(log: &Header, index: &Index) -> Option<&'static str> {
    let ahead = be32(&log.salts, 0).wrapping_sub(be32(&index.salts, 0));
    (ahead > RESTARTS_MAX).then_some("the WAL is not the one that belongs to its index")
}

fn read_index(path: &Path) -> io::Result<Option<Index>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut both = [0; 2 * INDEX_BYTES];
    if read_up_to(&file, &mut both, 0)? < both.len() || both[..INDEX_BYTES] != both[INDEX_BYTES..] {
        return Ok(None);
    }
    let ne32 = |at: usize| u32::from_ne_bytes([both[at], both[at + 1], both[at + 2], both[at + 3]]);
    // Its checksum is made in the byte order of the machine.
    let native = Header { is_big: cfg!(target_endian = "big"), page_size: 0, salts: [0; 8], sum: [0; 2] };
    let is_whole = native.add(&both[..40], [0; 2]) == [ne32(40), ne32(44)];
    if !is_whole || ne32(0) != INDEX_VERSION || both[12] != 1 {
        return Ok(None);
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(&both[32..40]);
    Ok(Some(Index { salts, frames: ne32(16) }))
}

/// Reads as much of `buffer` as there is; a sector that cannot be read counts as zeros.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Of the header of the database, on page 1.
pub const APPLICATION_ID_AT: usize = 68;
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const INDEX_BYTES: usize = 48;
const INDEX_VERSION: u32 = 3_007_000;
/// 16 GiB: a log is reset long before.
const FRAMES_MAX: u32 = 4 * 1024 * 1024;
/// Damaged frames that are looked into.
const BROKEN_MAX: usize = 65_536;
/// Frames of another log before the rest is not looked at any more.
const STRANGERS_MAX: u32 = 4096;
/// The first salt grows by one each time the log is begun anew.
const RESTARTS_MAX: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::store::inspect::beside;
    use crate::store::schema;

    #[test]
    fn a_log_older_than_its_index_misses_commits_only_if_the_index_has_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (db, _) = schema::open(&path).unwrap();
        let commit = |value: &str| {
            db.execute("INSERT INTO meta VALUES (?1, 'x')", [value]).unwrap();
        };
        let [log, index] = ["-wal", "-shm"].map(|suffix| beside(&path, suffix));
        let older = dir.path().join("older");
        let loss = || Wal::read(&older, &index, schema::PAGE_BYTES as usize, &|| ()).unwrap().loses_commits;
        commit("before");
        std::fs::copy(&log, &older).unwrap();
        assert_eq!(loss(), None);
        // What a kill leaves between the two steps of a new beginning: the index has begun anew, the log not.
        assert!(schema::empty_log(&db).unwrap());
        assert_eq!(loss(), None);
        commit("behind");
        assert_eq!(loss(), Some("the WAL is not the one that belongs to its index"));
        std::fs::copy(&log, &older).unwrap();
        assert_eq!(loss(), None);
        File::options().append(true).open(&older).unwrap().write_all(b"rest").unwrap();
        assert_eq!(loss(), None);
    }
}
