//! Rows out of b-tree pages: cells, overflow chains and records, each checked before it is believed.
//! The format: sqlite.org/fileformat2.html, sections 1.6 and 2.1.

use rusqlite::types::Value;

use super::pages::Pages;
use super::wal::be32;

/// A row; `rowid` is `None` in a table without rowids.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub rowid: Option<i64>,
    pub values: Vec<Value>,
}

/// What kind of page a page says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    TableLeaf,
    TableInterior,
    IndexLeaf,
    IndexInterior,
}

/// A b-tree page, its header checked.
pub struct Node<'p> {
    bytes: &'p [u8],
    pub kind: Kind,
    header: usize,
    pub cells: usize,
}

impl<'p> Node<'p> {
    /// `number` is that of the page: page 1 begins with the header of the file.
    pub fn parse(bytes: &'p [u8], number: u32) -> Option<Self> {
        let header = if number == 1 { 100 } else { 0 };
        let kind = match bytes[header] {
            0x0d => Kind::TableLeaf,
            0x05 => Kind::TableInterior,
            0x0a => Kind::IndexLeaf,
            0x02 => Kind::IndexInterior,
            _ => return None,
        };
        let node = Self { bytes, kind, header, cells: be16(bytes, header + 3) };
        (node.pointers_at() + 2 * node.cells <= bytes.len()).then_some(node)
    }

    pub fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::TableLeaf | Kind::IndexLeaf)
    }

    /// The child left of cell `index`, or the rightmost one for the index behind the last.
    pub fn child(&self, index: usize) -> Option<u32> {
        if index == self.cells {
            return Some(be32(self.bytes, self.header + 8));
        }
        let at = self.cell_at(index)?;
        (at + 4 <= self.bytes.len()).then(|| be32(self.bytes, at))
    }

    /// The row in cell `index`, with what lies on overflow pages; `overflow` is asked before a page of such a
    /// chain is used, and refuses one that is in use already.
    pub fn row(&self, index: usize, pages: &Pages, overflow: &mut dyn FnMut(u32) -> bool) -> Option<Row> {
        let mut at = self.cell_at(index)?;
        if self.kind == Kind::IndexInterior {
            at += 4;
        }
        let mut input = Input(self.bytes.get(at..)?);
        let length = usize::try_from(input.varint()?).ok()?;
        if length > PAYLOAD_BYTES_MAX {
            return None;
        }
        let rowid = match self.kind {
            Kind::TableLeaf => Some(input.varint()?.cast_signed()),
            _ => None,
        };
        let local = self.local_bytes(length);
        let mut payload = input.0.get(..local)?.to_vec();
        if local < length {
            let first = be32(input.0.get(local..local + 4)?, 0);
            follow(first, length, pages, overflow, &mut payload)?;
        }
        Some(Row { rowid, values: record(&payload)? })
    }

    /// Whether cells and free bytes fill the page: with a count of cells that is too low, rows vanish without
    /// a trace.
    pub fn is_filled(&self) -> bool {
        let content = match be16(self.bytes, self.header + 5) {
            content if (self.pointers_at() + 2 * self.cells..=self.bytes.len()).contains(&content) => content,
            _ => return false,
        };
        let mut filled = usize::from(self.bytes[self.header + 7]);
        for index in 0..self.cells {
            let Some(bytes) = self.cell_at(index).and_then(|at| self.cell_bytes(at)) else { return false };
            filled += bytes;
        }
        let mut free = be16(self.bytes, self.header + 1);
        // Each block is behind the one before.
        while free != 0 {
            if free < content || free + 4 > self.bytes.len() {
                return false;
            }
            filled += be16(self.bytes, free + 2);
            let next = be16(self.bytes, free);
            if next != 0 && next <= free {
                return false;
            }
            free = next;
        }
        content + filled == self.bytes.len()
    }

    /// How much of the page the cell at `at` takes.
    fn cell_bytes(&self, at: usize) -> Option<usize> {
        let is_interior = !self.is_leaf();
        let mut input = Input(self.bytes.get(at + 4 * usize::from(is_interior)..)?);
        let before = input.0.len();
        let length = input.varint()?;
        let mut bytes = 4 * usize::from(is_interior);
        if self.kind == Kind::TableInterior {
            return Some(bytes + before - input.0.len());
        }
        if self.kind == Kind::TableLeaf {
            input.varint()?;
        }
        bytes += before - input.0.len();
        let length = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
        let local = self.local_bytes(length);
        bytes += if local < length { local + 4 } else { local };
        Some(bytes.max(CELL_BYTES_MIN))
    }

    fn cell_at(&self, index: usize) -> Option<usize> {
        if index >= self.cells {
            return None;
        }
        let at = be16(self.bytes, self.pointers_at() + 2 * index);
        (at >= self.pointers_at() + 2 * self.cells && at < self.bytes.len()).then_some(at)
    }

    fn pointers_at(&self) -> usize {
        self.header + if self.is_leaf() { 8 } else { 12 }
    }

    /// How much of a payload of `length` bytes lies on the page itself.
    fn local_bytes(&self, length: usize) -> usize {
        let page = self.bytes.len();
        let local_max = if self.kind == Kind::TableLeaf { page - 35 } else { (page - 12) * 64 / 255 - 23 };
        if length <= local_max {
            return length;
        }
        let local_min = (page - 12) * 32 / 255 - 23;
        let local = local_min + (length - local_min) % (page - 4);
        if local <= local_max { local } else { local_min }
    }
}

/// Appends a chain of overflow pages until `payload` is `length` long.
fn follow(
    first: u32,
    length: usize,
    pages: &Pages,
    overflow: &mut dyn FnMut(u32) -> bool,
    payload: &mut Vec<u8>,
) -> Option<()> {
    let mut number = first;
    while payload.len() < length {
        if number == 0 || number > pages.count || !overflow(number) {
            return None;
        }
        let page = pages.read(number);
        let bytes = (length - payload.len()).min(pages.size - 4);
        payload.extend_from_slice(&page.bytes[4..4 + bytes]);
        number = be32(&page.bytes, 0);
    }
    (number == 0).then_some(())
}

/// The values of a record that fills `payload` exactly.
fn record(payload: &[u8]) -> Option<Vec<Value>> {
    let mut header = Input(payload);
    let header_bytes = usize::try_from(header.varint()?).ok()?;
    let consumed = payload.len() - header.0.len();
    let mut types = Input(payload.get(consumed..header_bytes)?);
    let mut body = Input(payload.get(header_bytes..)?);
    let mut values = Vec::new();
    while !types.0.is_empty() {
        if values.len() >= COLUMNS_MAX {
            return None;
        }
        values.push(body.value(types.varint()?)?);
    }
    body.0.is_empty().then_some(values)
}

struct Input<'i>(&'i [u8]);

impl<'i> Input<'i> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..9 {
            let byte = *self.0.get(at)?;
            if at == 8 {
                value = value << 8 | u64::from(byte);
            } else {
                value = value << 7 | u64::from(byte & 0x7f);
            }
            if byte < 0x80 || at == 8 {
                self.0 = &self.0[at + 1..];
                break;
            }
        }
        Some(value)
    }

    fn take(&mut self, bytes: usize) -> Option<&'i [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn value(&mut self, serial_type: u64) -> Option<Value> {
        Some(match serial_type {
            0 => Value::Null,
            1..=4 => self.integer(usize::try_from(serial_type).ok()?)?,
            5 => self.integer(6)?,
            6 => self.integer(8)?,
            7 => Value::Real(f64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            10 | 11 => return None,
            _ => {
                let bytes = self.take(usize::try_from((serial_type - 12) / 2).ok()?)?;
                if serial_type.is_multiple_of(2) {
                    Value::Blob(bytes.to_vec())
                } else {
                    Value::Text(std::str::from_utf8(bytes).ok()?.to_owned())
                }
            }
        })
    }

    fn integer(&mut self, bytes: usize) -> Option<Value> {
        let bytes = self.take(bytes)?;
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1_i64 };
        Some(Value::Integer(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte))))
    }
}

pub fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// A block of the largest size with its row; more is not a row of this agent.
const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
const COLUMNS_MAX: usize = 64;
/// So that it can become a free block.
const CELL_BYTES_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    #[test]
    fn a_page_that_lost_a_cell_is_not_filled_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (db, _) = schema::open(&path).unwrap();
        db.execute_batch("BEGIN").unwrap();
        for number in 0..300_usize {
            let (key, value) = (format!("key {number}"), "x".repeat(number * 37 % 6000));
            db.execute("INSERT INTO meta VALUES (?1, ?2)", [&key, &value]).unwrap();
            db.execute("INSERT INTO dead_letter VALUES (NULL, 1, 1, 1.0, ?1, ?2)", [key, value]).unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        db.execute("DELETE FROM dead_letter WHERE id % 7 = 0", []).unwrap();
        db.execute("DELETE FROM meta WHERE key LIKE '%3'", []).unwrap();
        schema::empty_log(&db).unwrap();
        const PAGE: usize = schema::PAGE_BYTES as usize;
        let file = std::fs::read(&path).unwrap();
        let mut kinds = Vec::new();
        for root in ["meta", "dead_letter"] {
            let sql = "SELECT rootpage FROM sqlite_master WHERE name = ?1";
            let root: u32 = db.query_row(sql, [root], |row| row.get(0)).unwrap();
            let mut pages = vec![root];
            while let Some(number) = pages.pop() {
                let mut bytes = file[(number as usize - 1) * PAGE..][..PAGE].to_vec();
                let node = Node::parse(&bytes, number).unwrap();
                assert!(node.is_filled(), "page {number}, {:?}", node.kind);
                kinds.push(node.kind);
                if !node.is_leaf() {
                    pages.extend((0..=node.cells).map(|index| node.child(index).unwrap()));
                }
                bytes[4] -= 1;
                assert!(!Node::parse(&bytes, number).unwrap().is_filled(), "page {number}");
            }
        }
        for kind in [Kind::TableLeaf, Kind::TableInterior, Kind::IndexLeaf, Kind::IndexInterior] {
            assert!(kinds.contains(&kind), "{kind:?} is not among them");
        }
    }
}
