//! `query`: stored items in the order of their times, for a person or a program.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufWriter};
use std::path::PathBuf;

use super::EXIT_OK;
use super::items::{Format, Kept, Printer, had_enough};
use super::store::{Target, Time, Wanted, report_unreadable};
use crate::store::export::export;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: Wanted,
    /// Only items of this time or later: ISO 8601, Unix seconds, or back from now such as 90s, 15m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: Time,
    /// Only items before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Time>,
    /// The newest of them, at most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    limit: u32,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub fn run(config: Option<PathBuf>, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { target, wanted, since, until, limit, format } = arguments;
    let path = match target.resolve(config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let mut filter = wanted.filter();
    (filter.since, filter.until) = (Some(since.0), until.map(|until| until.0));
    let mut newest = Newest::of(limit as usize);
    let unreadable = export(&path, &filter, |item| {
        if newest.wants(item.fields.timestamp) {
            newest.take(Kept::of(item));
        }
        true
    })?;
    let older = newest.left_out;
    let mut printer = Printer::new(BufWriter::new(io::stdout().lock()), format);
    let written = printer.print(&newest.in_order());
    match written {
        Err(error) if had_enough(&error) => return Ok(EXIT_OK),
        written => written?,
    }
    if older > 0 {
        eprintln!(
            "pyv-edge-agent: {older} older items were left out; raise --limit, or take all with store export"
        );
    }
    Ok(report_unreadable(&unreadable))
}

/// The newest items by their own times, a bounded number of them.
struct Newest {
    /// The oldest on top.
    heap: BinaryHeap<Reverse<ByTime>>,
    count_max: usize,
    left_out: u64,
}

struct ByTime(Kept);

impl Newest {
    fn of(count_max: usize) -> Self {
        Self { heap: BinaryHeap::new(), count_max, left_out: 0 }
    }

    /// Whether an item of this time is among the newest so far; counts it as left out when not.
    fn wants(&mut self, timestamp: f64) -> bool {
        let oldest = self.heap.peek().filter(|_| self.heap.len() >= self.count_max);
        let wanted = oldest.is_none_or(|Reverse(ByTime(oldest))| timestamp >= oldest.timestamp);
        self.left_out += u64::from(!wanted);
        wanted
    }

    fn take(&mut self, item: Kept) {
        self.heap.push(Reverse(ByTime(item)));
        if self.heap.len() > self.count_max {
            self.heap.pop();
            self.left_out += 1;
        }
    }

    fn in_order(self) -> Vec<Kept> {
        // Sorted by what is reversed, so the newest are first.
        self.heap.into_sorted_vec().into_iter().rev().map(|Reverse(ByTime(item))| item).collect()
    }
}

impl Ord for ByTime {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let place = |item: &Kept| (item.lane, item.sequence);
        self.0.timestamp.total_cmp(&other.0.timestamp).then_with(|| place(&self.0).cmp(&place(&other.0)))
    }
}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByTime {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByTime {}

/// All of them are held in memory, of 10 KiB at most each; a longer list is for `store export`.
const ITEMS_MAX: i64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Lane;
    use crate::store::export::{Fields, Item};

    #[test]
    fn the_newest_stay_in_order_of_their_times_and_the_rest_is_counted() {
        let mut newest = Newest::of(3);
        for (sequence, timestamp) in (1..).zip([5.0, 1.0, 9.0, 3.0, 9.0, 2.0]) {
            let mut fields = Fields::default();
            fields.timestamp = timestamp;
            if newest.wants(timestamp) {
                newest.take(Kept::of(&Item { lane: Lane::Telemetry, sequence, text: "{}", fields }));
            }
        }
        assert_eq!(newest.left_out, 3);
        let times: Vec<_> = newest.in_order().iter().map(|item| (item.timestamp, item.sequence)).collect();
        assert_eq!(times, [(5.0, 1), (9.0, 3), (9.0, 5)]);
    }
}
