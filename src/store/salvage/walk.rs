//! Finds every row of a table: first down its tree, then on pages that the tree does not reach any more
//! but that say whose they are.

use std::collections::HashMap;

use super::pages::{MAP_ROOT, Pages};
use super::record::{Kind, Node, Row};
use super::wal::be32;

/// Which pages were used, one bit each.
pub struct Used(Vec<u64>);

impl Used {
    pub fn new(pages: u32) -> Self {
        Self(vec![0; pages as usize / 64 + 1])
    }

    /// Marks `page`; false when it was marked before or is none.
    pub fn mark(&mut self, page: u32) -> bool {
        let Some(word) = self.0.get_mut(page as usize / 64) else { return false };
        let bit = 1 << (page % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn has(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_none_or(|word| word & (1 << (page % 64)) != 0)
    }
}

/// What one walk needs.
pub struct Walk<'w> {
    pub pages: &'w Pages,
    pub used: Used,
    /// Tables by their root pages.
    pub roots: HashMap<u32, usize>,
    /// The database has a pointer map: pages that say whose each page is.
    has_map: bool,
    pub tick: &'w dyn Fn(),
}

impl<'w> Walk<'w> {
    pub fn new(pages: &'w Pages, tick: &'w dyn Fn()) -> Self {
        // Page 3 is the first root there, and page 2 begins with its entry.
        let second = pages.read(2).bytes;
        let has_map =
            second[..5] == [MAP_ROOT, 0, 0, 0, 0] || be32(&pages.read(1).bytes, LARGEST_ROOT_AT) != 0;
        Self { pages, used: Used::new(pages.count), roots: HashMap::new(), has_map, tick }
    }

    /// Hands every row below `root` to `take`; true when nothing in its tree was unreadable.
    pub fn down(&mut self, root: u32, take: &mut dyn FnMut(Row)) -> bool {
        self.node(root, root, 0, take)
    }

    fn node(&mut self, root: u32, number: u32, depth: u32, take: &mut dyn FnMut(Row)) -> bool {
        (self.tick)();
        if number == 0 || number > self.pages.count || depth > DEPTH_MAX || self.is_of_another(number, root) {
            return false;
        }
        if !self.used.mark(number) {
            return false;
        }
        let page = self.pages.read(number);
        let Some(node) = Node::parse(&page.bytes, number) else { return false };
        let mut is_whole = page.is_whole && node.is_filled();
        if node.is_leaf() {
            return self.cells(&node, take) && is_whole;
        }
        for index in 0..=node.cells {
            is_whole &= node.child(index).is_some_and(|child| self.node(root, child, depth + 1, take));
            if index < node.cells && node.kind == Kind::IndexInterior {
                is_whole &= self.cell(&node, index, take);
            }
        }
        is_whole
    }

    /// Whether the pointer map gives page `number` to the tree of another table: then the way here was
    /// damaged, and what must stay on the device could be taken for what is sent.
    fn is_of_another(&self, number: u32, root: u32) -> bool {
        number != root
            && self.owner(number).is_some_and(|owner| owner != root && self.roots.contains_key(&owner))
    }

    fn cells(&mut self, node: &Node<'_>, take: &mut dyn FnMut(Row)) -> bool {
        let mut is_whole = true;
        for index in 0..node.cells {
            is_whole &= self.cell(node, index, take);
        }
        is_whole
    }

    fn cell(&mut self, node: &Node<'_>, index: usize, take: &mut dyn FnMut(Row)) -> bool {
        let used = &mut self.used;
        let row = node.row(index, self.pages, &mut |page| used.mark(page));
        row.map(take).is_some()
    }

    /// Hands rows on leaves that no tree reached to `take`, with the table they belonged to; and those on
    /// damaged copies in the WAL, which it may have handed out already.
    pub fn orphans(&mut self, take: &mut dyn FnMut(usize, Row)) {
        for number in 2..=self.pages.count {
            (self.tick)();
            if self.used.has(number) || self.is_map(number) {
                continue;
            }
            let Some(table) = self.table(number) else { continue };
            let page = self.pages.read(number);
            let Some(node) = Node::parse(&page.bytes, number).filter(Node::is_leaf) else { continue };
            self.used.mark(number);
            self.cells(&node, &mut |row| take(table, row));
        }
        for (number, bytes) in self.pages.broken() {
            (self.tick)();
            let Some(node) = Node::parse(&bytes, number).filter(Node::is_leaf) else { continue };
            let Some(table) = self.table(number) else { continue };
            // The number may be what is damaged, and all blocks look alike: what must stay on the device
            // could be taken for what is sent. A row that an undamaged copy has too tells.
            let rows = self.rows(&node);
            let known = self.pages.read(number).bytes;
            let known = Node::parse(&known, number).map_or_else(Vec::new, |known| self.rows(&known));
            if rows.iter().any(|row| known.contains(row)) {
                rows.into_iter().for_each(|row| take(table, row));
            }
        }
    }

    /// The rows of a leaf, whoever else uses the chains they go on in: a wrong one fails at the block's
    /// checksum.
    fn rows(&self, node: &Node<'_>) -> Vec<Row> {
        (0..node.cells).filter_map(|index| node.row(index, self.pages, &mut chain_bound())).collect()
    }

    fn table(&self, number: u32) -> Option<usize> {
        self.roots.get(&self.owner(number)?).copied()
    }

    /// The root above page `number`, as the pointer map has it.
    fn owner(&self, number: u32) -> Option<u32> {
        let mut number = number;
        for _ in 0..=DEPTH_MAX {
            match self.map_entry(number)? {
                (MAP_ROOT, _) => return Some(number),
                (MAP_NODE, parent) if parent > 1 && parent <= self.pages.count => number = parent,
                _ => return None,
            }
        }
        None
    }

    /// The pointer map's entry for page `number`: its kind and the page above it.
    fn map_entry(&self, number: u32) -> Option<(u8, u32)> {
        if number < 3 || !self.has_map || self.is_map(number) {
            return None;
        }
        let map = (number - 2) / self.map_span() * self.map_span() + 2;
        let at = 5 * (number - map - 1) as usize;
        let page = self.pages.read(map);
        Some((page.bytes[at], be32(&page.bytes, at + 1)))
    }

    /// A page of the pointer map and the pages it describes.
    fn map_span(&self) -> u32 {
        (self.pages.size / 5) as u32 + 1
    }

    fn is_map(&self, number: u32) -> bool {
        self.has_map && number >= 2 && (number - 2).is_multiple_of(self.map_span())
    }

    /// Whether the pointer map calls every one of `roots` a root.
    pub fn are_roots(&self, roots: impl IntoIterator<Item = u32>) -> bool {
        roots.into_iter().all(|root| matches!(self.map_entry(root), Some((MAP_ROOT, 0))))
    }
}

/// Lets a chain of overflow pages go on for as long as the largest block.
fn chain_bound() -> impl FnMut(u32) -> bool {
    let mut left = CHAIN_PAGES_MAX;
    move |_| {
        left -= 1;
        left > 0
    }
}

const MAP_NODE: u8 = 5;
/// In the header of the file, on page 1.
const LARGEST_ROOT_AT: usize = 52;
const CHAIN_PAGES_MAX: u32 = 4096;
/// Deeper than any tree that fits into 2^32 pages.
const DEPTH_MAX: u32 = 20;
