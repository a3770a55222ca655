//! The aggregate of a span that slides over panes, at a constant number of merges on average, extremes included: two
//! stacks (Tangwongsan, Hirzel and Schneider 2015), suffix aggregates of the older panes and one aggregate of the
//! newer ones.

use std::ops::Range;

use super::stats::Stats;

pub(super) struct Stacks {
    /// At the slot of pane `i`: panes `i..suffix_end` merged.
    suffixes: Box<[Stats]>,
    suffix_end: i64,
    /// Panes `suffix_end..back_end` merged.
    back: Stats,
    back_end: i64,
    /// Whether the merged values still say what is in the panes.
    merged: bool,
}

impl Stacks {
    /// For spans of `panes`; none where a span is a single one.
    pub(super) fn new(panes: i64) -> Option<Box<Self>> {
        let slots = usize::try_from(panes).ok().filter(|panes| *panes > 1)?;
        Some(Box::new(Self {
            suffixes: vec![Stats::EMPTY; slots].into(),
            suffix_end: 0,
            back: Stats::EMPTY,
            back_end: 0,
            merged: false,
        }))
    }

    /// All panes of `span`, whose length is always the same; `merge` adds one of them.
    pub(super) fn aggregate(&mut self, span: Range<i64>, merge: impl Fn(i64, &mut Stats)) -> Stats {
        if !self.merged || span.start >= self.suffix_end {
            let mut total = Stats::EMPTY;
            for pane in span.clone().rev() {
                merge(pane, &mut total);
                let slot = self.slot(pane);
                self.suffixes[slot] = total;
            }
            (self.suffix_end, self.back_end) = (span.end, span.end);
            self.back = Stats::EMPTY;
            self.merged = true;
            return total;
        }
        for pane in self.back_end..span.end {
            merge(pane, &mut self.back);
        }
        self.back_end = span.end;
        let mut total = self.suffixes[self.slot(span.start)];
        total.merge(&self.back);
        total
    }

    /// There is more in `pane` than there was.
    pub(super) fn changed(&mut self, pane: i64) {
        if pane < self.back_end {
            self.merged = false;
        }
    }

    /// The panes are others than they were.
    pub(super) fn forget(&mut self) {
        (self.merged, self.suffix_end, self.back_end) = (false, 0, 0);
    }

    fn slot(&self, pane: i64) -> usize {
        usize::try_from(pane.rem_euclid(self.suffixes.len() as i64)).expect("a remainder is not negative")
    }
}
