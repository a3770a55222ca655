//! Does harm to a database that nobody has open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pyvorin_edge::store::DATABASE_FILE;
use rusqlite::{Connection, OpenFlags};

use crate::harness::daemon::Home;

pub fn database(home: &Home) -> PathBuf {
    home.state_dir().join(DATABASE_FILE)
}

/// Changes a byte of the name of the file format: found at the next start.
pub fn flip_header(database: &Path) {
    flip(database, 5);
}

/// Changes a byte within what the `nth` block of telemetry holds: found by nobody before it is read.
pub fn flip_block(database: &Path, nth: usize) {
    let mut others = blocks(database);
    let data = others.swap_remove(nth);
    let bytes = std::fs::read(database).unwrap();
    let places = |part: &[u8]| -> Vec<usize> {
        (0..=bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect()
    };
    let is_its_own =
        |part: &&[u8]| !others.iter().any(|other| other.windows(part.len()).any(|its| its == *part));
    // A part that lies on one page. It may have been on other pages before.
    let (head, tail) = data.split_at(data.len() / 2);
    let mut parts = [tail, head].into_iter().flat_map(|half| half.windows(PART_BYTES)).filter(is_its_own);
    let found = parts.find_map(|part| Some(places(part)).filter(|places| !places.is_empty()));
    for at in found.expect("its bytes are in the file") {
        flip(database, at + 1);
    }
}

fn blocks(database: &Path) -> Vec<Vec<u8>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", database.display());
    let db = Connection::open_with_flags(uri, flags).unwrap();
    let mut select = db.prepare("SELECT data FROM block_telemetry ORDER BY first").unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(|row| row.unwrap()).collect()
}

fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at as u64).unwrap();
}

const PART_BYTES: usize = 16;
