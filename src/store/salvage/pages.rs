//! The pages of a database file, each in its newest committed copy, whether SQLite would open it or not.

use std::fs::File;
use std::io;
use std::path::Path;

use super::wal::{APPLICATION_ID_AT, Wal, be32, read_up_to};
use crate::store::inspect::beside;

/// A page and whether its bytes are known to be as they were written.
pub struct Page {
    pub bytes: Vec<u8>,
    /// False where the disk or the end of the file took some of it.
    pub is_whole: bool,
}

pub struct Pages {
    /// `None` when there is only the WAL.
    file: Option<File>,
    log: Option<File>,
    wal: Wal,
    /// Of one page.
    pub size: usize,
    /// Pages are numbered from 1 to this.
    pub count: u32,
}

impl Pages {
    /// Opens the database at `path` together with what `wal` says, which is empty when the WAL is not to be
    /// used.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn open(path: &Path, wal: Wal) -> io::Result<Self> {
        let file = match File::open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let bytes = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|file| file.len()))?;
        let size = page_size(path)?;
        let in_file = u32::try_from(bytes.div_ceil(size as u64)).unwrap_or(u32::MAX);
        let log = if wal.pages.is_empty() && wal.broken.is_empty() {
            None
        } else {
            Some(File::open(beside(path, "-wal"))?)
        };
        let in_log = wal.pages.keys().copied().max().unwrap_or(0).min(wal.database_pages);
        Ok(Self { file, log, wal, size, count: in_file.max(in_log) })
    }

    /// Reads a page. One that cannot be read, or lies behind the end, is zeros.
    pub fn read(&self, number: u32) -> Page {
        let mut bytes = vec![0; self.size];
        if number == 0 || number > self.count {
            return Page { bytes, is_whole: false };
        }
        let read = match (&self.log, self.wal.pages.get(&number)) {
            (Some(log), Some(offset)) => read_up_to(log, &mut bytes, *offset),
            _ => match &self.file {
                Some(file) => read_up_to(file, &mut bytes, u64::from(number - 1) * self.size as u64),
                None => Ok(0),
            },
        };
        // A bad sector takes its page with it and nothing else.
        Page { bytes, is_whole: read.is_ok_and(|read| read == self.size) }
    }

    /// Pages in the WAL whose checksum fails, with their numbers as they stand there.
    pub fn broken(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.wal.broken.iter().filter_map(|(number, offset)| {
            let mut bytes = vec![0; self.size];
            let read = read_up_to(self.log.as_ref()?, &mut bytes, *offset).ok()?;
            (read == self.size).then_some((*number, bytes))
        })
    }
}

/// Bytes in one page of the database at `path`. The header may be what is damaged; then the map of pages tells,
/// which is the second page and begins with the first table's.
///
/// # Errors
///
/// The disk fails.
pub fn page_size(path: &Path) -> io::Result<usize> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(page_size_of_log(path)),
        Err(error) => return Err(error),
    };
    let mut header = [0; 18];
    read_up_to(&file, &mut header, 0)?;
    let claimed = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut sizes = PAGE_SIZES;
    sizes.sort_by_key(|size| *size != claimed);
    for size in sizes {
        let mut entry = [0; 5];
        if read_up_to(&file, &mut entry, size as u64)? == entry.len() && entry == [MAP_ROOT, 0, 0, 0, 0] {
            return Ok(size);
        }
    }
    Ok(sizes[0])
}

/// As the WAL of the database at `path` says, where that is all there is.
fn page_size_of_log(path: &Path) -> usize {
    let mut header = [0; 12];
    let read = File::open(beside(path, "-wal")).and_then(|log| read_up_to(&log, &mut header, 0));
    let claimed = be32(&header, 8) as usize;
    PAGE_SIZES.into_iter().find(|size| read.is_ok() && *size == claimed).unwrap_or(PAGE_SIZES[0])
}

/// Of databases that agents made: of this one first.
const PAGE_SIZES: [usize; 2] = [crate::store::schema::PAGE_BYTES as usize, 4096];
/// In the map of pages: a root, below no other page.
pub const MAP_ROOT: u8 = 1;

/// Whether what never changes in the header of a SQLite file is as it has to be. Another value there makes
/// the file read-only, or its pages smaller.
///
/// # Errors
///
/// The disk fails.
pub fn has_sane_header(path: &Path) -> io::Result<bool> {
    let mut header = [0; 100];
    let read = read_up_to(&File::open(path)?, &mut header, 0)?;
    let versions = &header[18..20];
    Ok(read == header.len()
        && header.starts_with(b"SQLite format 3\0")
        && (versions == [1, 1] || versions == [2, 2])
        && header[21..24] == [64, 32, 32]
        // Another program's file may have these; it is SQLite that opens it then.
        && (header[20] == 0 || be32(&header, APPLICATION_ID_AT) == 0))
}

/// The application id in the file's own copy of page 1, whatever the WAL says; 0 when it has none.
///
/// # Errors
///
/// The disk fails.
pub fn application_id(path: &Path) -> io::Result<u32> {
    let mut header = [0; 100];
    let read = read_up_to(&File::open(path)?, &mut header, 0)?;
    Ok(if read == header.len() { be32(&header, APPLICATION_ID_AT) } else { 0 })
}
