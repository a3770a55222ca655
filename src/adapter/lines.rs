//! Lines of bounded length, out of a file or a pipe that may hold anything.

use std::io::{self, BufRead};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The line being read. What is beyond the limit is skipped, not kept.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    bytes_max: usize,
    too_long: bool,
    complete: bool,
}

impl LineBuffer {
    /// For lines of at most `bytes_max` bytes, the line break not counted.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, too_long: false, complete: false }
    }

    /// The line, without its break; missing when it was too long or is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok().filter(|_| !self.too_long)
    }

    /// What was kept of the line, however long it was.
    pub fn start(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes from `chunk` up to the next line break, and says how many bytes that were. An empty chunk
    /// is the end of the input, where a line without a break is complete too.
    fn take(&mut self, chunk: &[u8]) -> usize {
        if self.complete {
            self.bytes.clear();
            (self.complete, self.too_long) = (false, false);
        }
        if chunk.is_empty() {
            self.complete = !self.bytes.is_empty();
            return 0;
        }
        let line_break = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..line_break.unwrap_or(chunk.len())];
        let room = self.bytes_max - self.bytes.len();
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        self.too_long |= part.len() > room;
        self.complete = line_break.is_some();
        part.len() + usize::from(self.complete)
    }
}

/// Reads the next line into `line`; false at the end of the input.
///
/// # Errors
///
/// That of the reader.
pub fn read(reader: &mut impl BufRead, line: &mut LineBuffer) -> io::Result<bool> {
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        let at_end = chunk.is_empty();
        let taken = line.take(chunk);
        reader.consume(taken);
        if line.complete || at_end {
            return Ok(line.complete);
        }
    }
}

/// As [`read`], waiting for input. Cancel-safe: a line read in part is kept for the next call.
///
/// # Errors
///
/// That of the reader.
pub async fn next(reader: &mut (impl AsyncBufRead + Unpin), line: &mut LineBuffer) -> io::Result<bool> {
    loop {
        let chunk = reader.fill_buf().await?;
        let at_end = chunk.is_empty();
        let taken = line.take(chunk);
        reader.consume(taken);
        if line.complete || at_end {
            return Ok(line.complete);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], chunk_bytes: usize) -> Vec<Option<String>> {
        let mut reader = io::BufReader::with_capacity(chunk_bytes, input);
        let mut line = LineBuffer::new(4);
        let mut lines = Vec::new();
        while read(&mut reader, &mut line).unwrap() {
            lines.push(line.text().map(str::to_owned));
        }
        lines
    }

    #[test]
    fn a_line_too_long_is_skipped_whole_and_the_next_one_is_read() {
        let text = |text: &str| Some(text.to_owned());
        let expected = [text("ab"), text(""), None, text("abcd"), None, text("end")];
        for chunk_bytes in [1, 2, 3, 100] {
            assert_eq!(all(b"ab\n\nabcde\nabcd\n\xff\nend", chunk_bytes), expected);
        }
        assert_eq!(all(b"", 8), []);
        assert_eq!(all(b"a\n", 8), [text("a")]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_its_limit() {
        let mut line = LineBuffer::new(4);
        for _ in 0..1000 {
            line.take(&[b'x'; 1000]);
        }
        assert!(line.bytes.capacity() <= 16);
        assert_eq!((line.start(), line.text()), (&b"xxxx"[..], None));
    }
}
