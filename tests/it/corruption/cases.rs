//! What is done to the files.

use std::sync::Arc;

use super::life::{Files, Life, Truth};

/// What is done to which files. The files of all cases together would fill the memory.
pub struct Case {
    pub name: String,
    snapshot: Arc<(Files, Truth)>,
    change: Box<dyn FnOnce(&mut Files) + Send>,
}

impl Case {
    /// The files after it was done, and what is true of what was stored.
    pub fn apply(self) -> (Files, Truth) {
        let (mut files, truth) = (*self.snapshot).clone();
        (self.change)(&mut files);
        (files, truth)
    }
}

/// As `PRAGMA page_size` has it.
const PAGE: usize = 2048;
const FRAME: usize = PAGE + 24;

fn case(
    name: String,
    snapshot: &Arc<(Files, Truth)>,
    change: impl FnOnce(&mut Files) + Send + 'static,
) -> Case {
    Case { name, snapshot: snapshot.clone(), change: Box::new(change) }
}

fn noise(bytes: &mut [u8], seed: u64) {
    fastrand::Rng::with_seed(seed).fill(bytes);
}

fn database(files: &mut Files) -> &mut Vec<u8> {
    files.database.as_mut().unwrap()
}

fn wal(files: &mut Files) -> &mut Vec<u8> {
    files.wal.as_mut().unwrap()
}

/// Bytes at the places of a page that mean something, and whole pages of zeros and noise.
pub fn pages(life: &Life) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut cases = Vec::new();
    for (state, snapshot) in [("stopped", &life.stopped), ("running", &life.running)] {
        let pages = snapshot.0.database.as_ref().unwrap().len() / PAGE;
        for page in 0..pages {
            let at = page * PAGE;
            let header = if page == 0 { 100 } else { 0 };
            let offsets = [
                header,
                header + 3,
                header + 4,
                header + 6,
                header + 9,
                header + 13,
                350,
                1000,
                1750,
                2000,
                2040,
            ];
            for offset in offsets {
                let mask = random.u8(1..);
                let name = format!("{state}: page {} byte {offset} xor {mask:#x}", page + 1);
                cases.push(case(name, snapshot, move |files| database(files)[at + offset] ^= mask));
            }
            cases.push(case(format!("{state}: page {} zeros", page + 1), snapshot, move |files| {
                database(files)[at..at + PAGE].fill(0);
            }));
            cases.push(case(format!("{state}: page {} noise", page + 1), snapshot, move |files| {
                noise(&mut database(files)[at..at + PAGE], at as u64);
            }));
            cases.push(case(format!("{state}: page {} half noise", page + 1), snapshot, move |files| {
                noise(&mut database(files)[at + PAGE / 2..at + PAGE], at as u64);
            }));
        }
    }
    cases
}

pub fn header(life: &Life) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(2);
    let states = [("stopped", &life.stopped), ("running", &life.running)];
    let change = |(state, snapshot): (&str, &Arc<(Files, Truth)>)| {
        (0..100)
            .map(|at| {
                let mask = random.u8(1..);
                case(format!("{state}: header byte {at} xor {mask:#x}"), snapshot, move |files| {
                    database(files)[at] ^= mask
                })
            })
            .collect::<Vec<_>>()
    };
    states.into_iter().flat_map(change).collect()
}

/// The WAL cut at every frame and within, and bytes of every frame changed.
pub fn log(life: &Life) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(3);
    let snapshot = &life.running;
    let bytes = snapshot.0.wal.as_ref().unwrap().len();
    let frames = (bytes - 32) / FRAME;
    let mut cases = Vec::new();
    for frame in 0..frames {
        let at = 32 + frame * FRAME;
        for cut in [0, 10, 24, 1000] {
            cases.push(case(
                format!("WAL cut {cut} bytes into frame {}", frame + 1),
                snapshot,
                move |files| {
                    wal(files).truncate(at + cut);
                },
            ));
        }
        for offset in [3, 6, 9, 17, 24, 24 + 3, 24 + 1000, 24 + 2000] {
            let mask = random.u8(1..);
            let name = format!("WAL frame {} byte {offset} xor {mask:#x}", frame + 1);
            cases.push(case(name, snapshot, move |files| wal(files)[at + offset] ^= mask));
        }
        cases.push(case(format!("WAL frame {} zeros", frame + 1), snapshot, move |files| {
            wal(files)[at..at + FRAME].fill(0);
        }));
    }
    for at in 0..32 {
        cases.push(case(format!("WAL header byte {at}"), snapshot, move |files| wal(files)[at] ^= 0x55));
    }
    cases
}

pub fn files(life: &Life, other: &Life) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut cases = Vec::new();
    for (state, snapshot) in [("stopped", &life.stopped), ("running", &life.running)] {
        let bytes = snapshot.0.database.as_ref().unwrap().len();
        let mut lengths = vec![
            0,
            1,
            16,
            99,
            100,
            101,
            512,
            PAGE - 1,
            PAGE,
            PAGE + 1,
            4 * PAGE - 1,
            4 * PAGE,
            bytes - 1,
            bytes - PAGE,
        ];
        lengths.extend((0..25).map(|_| random.usize(..bytes)));
        for length in lengths {
            cases.push(case(format!("{state}: database cut to {length} bytes"), snapshot, move |files| {
                database(files).truncate(length);
            }));
        }
        cases.push(case(format!("{state}: database of noise"), snapshot, move |files| {
            noise(database(files), 4);
        }));
        cases.push(case(format!("{state}: database of zeros"), snapshot, move |files| {
            database(files).fill(0)
        }));
        cases.push(case(format!("{state}: noise behind the database"), snapshot, move |files| {
            let mut behind = vec![0; 10_000];
            noise(&mut behind, 5);
            database(files).extend(behind);
        }));
        let others = other.running.clone();
        cases.push(case(format!("{state}: the WAL of another store"), snapshot, move |files| {
            files.wal.clone_from(&others.0.wal);
        }));
        let others = other.running.clone();
        cases.push(case(format!("{state}: WAL and index of another store"), snapshot, move |files| {
            files.wal.clone_from(&others.0.wal);
            files.shm.clone_from(&others.0.shm);
        }));
        cases.push(case(format!("{state}: WAL of noise"), snapshot, move |files| {
            files.wal = Some(vec![0; 100_000]);
            noise(wal(files), 6);
        }));
    }
    let snapshot = &life.running;
    cases.push(case("the WAL is empty".to_owned(), snapshot, move |files| wal(files).clear()));
    cases.push(case("the WAL is gone".to_owned(), snapshot, move |files| files.wal = None));
    cases.push(case("the WAL is empty, its index gone".to_owned(), snapshot, move |files| {
        wal(files).clear();
        files.shm = None;
    }));
    cases.push(case("the WAL and its index are gone".to_owned(), snapshot, move |files| {
        (files.wal, files.shm) = (None, None);
    }));
    cases.push(case("the database is gone".to_owned(), snapshot, move |files| files.database = None));
    cases.push(case("the database and the index are gone".to_owned(), snapshot, move |files| {
        (files.database, files.shm) = (None, None);
    }));
    cases.push(case("the index of the WAL is gone".to_owned(), snapshot, move |files| files.shm = None));
    cases.push(case("the index of the WAL is noise".to_owned(), snapshot, move |files| {
        noise(files.shm.as_mut().unwrap(), 7);
    }));
    cases.push(case("nothing is wrong".to_owned(), snapshot, move |_| {}));
    cases.push(case("nothing is wrong after a stop in order".to_owned(), &life.stopped, move |_| {}));
    cases
}
