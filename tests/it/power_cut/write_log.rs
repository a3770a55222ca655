//! What reached a disk, in order, and what may be left of it when the power goes.
//!
//! The format is that of dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), as QEMU's
//! blklogwrites writes it: a super block, then for each entry one sector of header and its data.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request that the disk completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Of its data, in the log.
    at: u64,
}

impl Entry {
    pub fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }
}

/// How many entries the log says it has: with each completed flush it says at least so many that the flush
/// is among them.
pub fn length(log: &File) -> usize {
    let mut bytes = [0; 8];
    log.read_exact_at(&mut bytes, 16).unwrap();
    usize::try_from(u64::from_le_bytes(bytes)).unwrap()
}

/// A finished log.
pub struct WriteLog {
    file: File,
    pub entries: Vec<Entry>,
}

impl WriteLog {
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut entries = Vec::new();
        let mut at = SECTOR;
        let [magic, ..] = words(&file, 0);
        assert_eq!(magic, MAGIC, "{} is no write log", path.display());
        for _ in 0..length(&file) {
            let [sector, sectors, flags, _] = words(&file, at);
            entries.push(Entry { sector, sectors, flags, at: at + SECTOR });
            at += SECTOR;
            if flags & DISCARD == 0 {
                at += sectors * SECTOR;
            }
        }
        Self { file, entries }
    }

    /// The lengths of the log right before flushes that several writes wait for.
    pub fn before_laden_flushes(&self) -> Vec<usize> {
        let mut laden = Vec::new();
        let mut last = 0;
        for (at, _) in self.entries.iter().enumerate().filter(|(_, entry)| entry.is_flush()) {
            if at - last >= LADEN_WRITES_MIN {
                laden.push(at);
            }
            last = at + 1;
        }
        laden
    }

    /// Brings to `image` what is certain after a cut behind the first `cut` entries and was not before one
    /// behind `from`: everything up to the last flush. Returns where the uncertain begins.
    pub fn settle(&self, image: &File, from: usize, cut: usize) -> usize {
        let flushed = self.entries[..cut].iter().rposition(Entry::is_flush).map_or(0, |last| last + 1);
        for entry in &self.entries[from.min(flushed)..flushed] {
            self.write(image, entry, |_| true);
        }
        flushed
    }

    /// Brings to `image` what chance leaves of `self.entries[flushed..cut]`: each write whole, in part or not
    /// at all, in any order.
    pub fn scatter(&self, image: &File, flushed: usize, cut: usize, random: &mut fastrand::Rng) {
        let mut later: Vec<&Entry> = self.entries[flushed..cut].iter().collect();
        // How much survives differs from cut to cut: often nothing, sometimes all.
        let survives = [0.0, 0.2, 0.5, 0.8, 1.0][random.usize(..5)];
        random.shuffle(&mut later);
        for entry in later {
            if entry.flags & FUA != 0 || random.f64() < survives {
                self.write(image, entry, |_| true);
            } else if random.f64() < TORN {
                self.write(image, entry, |_| random.bool());
            }
        }
    }

    /// Writes those sectors of `entry` that `takes` is for.
    fn write(&self, image: &File, entry: &Entry, mut takes: impl FnMut(u64) -> bool) {
        if entry.flags & DISCARD != 0 {
            return;
        }
        let mut data = vec![0; usize::try_from(entry.sectors * SECTOR).unwrap()];
        self.file.read_exact_at(&mut data, entry.at).unwrap();
        for (index, sector) in (0..).zip(data.chunks_exact(SECTOR as usize)) {
            if takes(index) {
                image.write_all_at(sector, (entry.sector + index) * SECTOR).unwrap();
            }
        }
    }
}

fn words(file: &File, at: u64) -> [u64; 4] {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at).unwrap();
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
    [word(0), word(1), word(2), word(3)]
}

/// A flush waits for so many writes when it counts as laden.
const LADEN_WRITES_MIN: usize = 4;
/// Of the writes that do not survive whole, so many leave some of their sectors.
const TORN: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, u8)]) -> (tempfile::NamedTempFile, WriteLog) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; SECTOR as usize];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[16..24].copy_from_slice(&(entries.len() as u64).to_le_bytes());
        for (sector, flags, fill) in entries {
            let sectors = u64::from(flags & FLUSH == 0);
            let header = [*sector, sectors, *flags, 0];
            let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(header.iter().copied().chain(std::iter::repeat(0)).take(SECTOR as usize));
            bytes.extend(std::iter::repeat_n(*fill, (sectors * SECTOR) as usize));
        }
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let log = WriteLog::read(file.path());
        (file, log)
    }

    fn sectors(image: &File) -> Vec<u8> {
        (0..3)
            .map(|sector| {
                let mut byte = [0];
                image.read_exact_at(&mut byte, sector * SECTOR).unwrap();
                byte[0]
            })
            .collect()
    }

    #[test]
    fn what_was_flushed_is_certain_and_the_rest_is_chance_but_for_fua() {
        let (_file, log) = log(&[(0, 0, 1), (0, FLUSH, 0), (1, 0, 2), (2, FUA, 3)]);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let image = tempfile::tempfile().unwrap();
            image.set_len(3 * SECTOR).unwrap();
            let flushed = log.settle(&image, 0, 4);
            assert_eq!((flushed, sectors(&image)), (2, vec![1, 0, 0]));
            log.scatter(&image, flushed, 4, &mut fastrand::Rng::with_seed(seed));
            seen.insert(sectors(&image));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [vec![1, 0, 3], vec![1, 2, 3]]);
    }
}
