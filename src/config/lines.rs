//! From a byte of a text to its line and column.

use std::rc::Rc;

use super::tree::Place;
use crate::reading::clip;

/// Finds places in one file. A lookup costs the same on a line of a megabyte as on a short one.
pub struct Lines<'t> {
    file: Rc<str>,
    text: &'t str,
    /// The byte at which each line begins.
    starts: Vec<usize>,
    /// Characters before each block of [`BLOCK_BYTES`].
    characters: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// `file` is the name that messages show.
    pub fn new(file: Rc<str>, text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(newlines).collect();
        let characters = text
            .as_bytes()
            .chunks(BLOCK_BYTES)
            .scan(0, |total, block| {
                let before = *total;
                *total += count(block);
                Some(before)
            })
            .collect();
        Self { file, text, starts, characters }
    }

    /// The place of the byte at `offset`; the end of the text for whatever lies beyond it.
    pub fn place(&self, offset: usize) -> Place {
        let offset = clip(self.text, offset).len();
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let column = self.characters_before(offset) - self.characters_before(start) + 1;
        Place { file: Rc::clone(&self.file), line: number(line), column: number(column) }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK_BYTES;
        let Some(before) = self.characters.get(block) else {
            // Only the very end of a text that fills its last block, or of an empty one.
            return count(self.text.as_bytes());
        };
        before + count(&self.text.as_bytes()[block * BLOCK_BYTES..offset])
    }
}

/// Characters that begin in these bytes.
fn count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count()
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const BLOCK_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_the_place_that_counting_finds() {
        let text = format!("a\r\n\nzwölf = \"°\"\n{}\n", "é".repeat(200));
        let lines = Lines::new("f".into(), &text);
        for (offset, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            let place = lines.place(offset);
            assert_eq!((place.line as usize, place.column as usize), (line, column), "at byte {offset}");
        }
    }

    #[test]
    fn a_text_that_fills_its_last_block_has_an_end() {
        let text = "x".repeat(2 * BLOCK_BYTES);
        assert_eq!(Lines::new("f".into(), &text).place(usize::MAX).column as usize, text.len() + 1);
        assert_eq!(Lines::new("f".into(), "").place(7).to_string(), "f:1:1");
    }
}
