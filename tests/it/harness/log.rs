//! The log of the test that runs on this thread.
//!
//! One subscriber for the whole binary: tracing keeps for each line of code whether anybody listens,
//! and a subscriber of one thread alone comes too late when another thread passed there first.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

/// Starts to keep what is logged. Call it before anything of the subject runs, in every test of a
/// subject that looks at its log.
pub fn keep() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(|| ThisThread).finish();
        tracing::subscriber::set_global_default(lines).unwrap();
    });
}

/// What was logged on this thread; a test's runtime has no other.
pub fn text() -> String {
    TEXT.with_borrow(|bytes| String::from_utf8(bytes.clone()).unwrap())
}

struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TEXT.with_borrow_mut(|text| text.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
