//! Accounts for every number of a lane after damage: what is still stored and waits, what is lost, and what
//! cannot be told any more. Pure.

/// Numbers from the first up to, and not including, the second.
pub type Span = (u64, u64);

/// A range of the delivery queue as it was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    pub first: u64,
    /// One behind the last; `None` in the range that grew with its lane.
    pub end: Option<u64>,
    /// It is a batch: sent as it is, under one id.
    pub frozen_at: Option<f64>,
    /// It was old when it was frozen.
    pub is_backlog: bool,
}

/// What is known of a lane that is delivered.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The numbers that are stored, in order, none twice.
    pub stored: Vec<Span>,
    pub waiting: Vec<Waiting>,
    /// Set aside or declared as a gap before.
    pub settled: Vec<Span>,
    /// Every range that waited was read.
    pub is_queue_whole: bool,
    /// Everything that was settled was read.
    pub is_ledger_whole: bool,
    /// One behind the highest number that is known.
    pub next: u64,
    /// Higher ones may have been given out.
    pub is_end_lost: bool,
}

/// What becomes of the lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    pub waiting: Vec<Waiting>,
    /// Was to be delivered, and is not there any more.
    pub lost: Vec<Span>,
    /// May have been delivered, may be lost, may never have been given out.
    pub unknown: Vec<Span>,
    /// The number that the next item gets.
    pub next: u64,
}

/// What becomes of a lane. Numbers whose state is not known are sent again when they are stored, and
/// declared unknown when they are not.
pub fn account(known: &Known) -> Account {
    let mut account = Account { next: known.next, ..Account::default() };
    let all = [(1, known.next)];
    let (mut frozen, mut open) = (Vec::new(), Vec::new());
    for range in &known.waiting {
        let span = (range.first, range.end.unwrap_or(known.next));
        // A batch that lost a part cannot keep its id: that would stand for other bytes.
        let is_whole = intersect(&known.stored, &[span]) == [span];
        if range.frozen_at.is_some() && is_whole && intersect(&frozen, &[span]).is_empty() {
            account.waiting.push(*range);
            frozen = sorted([frozen, vec![span]].concat());
        } else {
            open.push(span);
        }
    }
    let settled = sorted(known.settled.clone());
    let open = if known.is_queue_whole {
        let open = sorted(open);
        account.lost = subtract(&subtract(&open, &known.stored), &settled);
        intersect(&known.stored, &open)
    } else {
        // Whatever is stored and not known to be settled may be undelivered.
        subtract(&known.stored, &settled)
    };
    let waiting = subtract(&open, &frozen).into_iter();
    account.waiting.extend(waiting.map(|(first, end)| Waiting {
        first,
        end: Some(end),
        frozen_at: None,
        is_backlog: false,
    }));
    if !known.is_queue_whole || !known.is_ledger_whole {
        let told = sorted(known.settled.iter().chain(&known.stored).chain(&account.lost).copied().collect());
        account.unknown.extend(subtract(&all, &told));
    }
    if known.is_end_lost {
        account.next = known.next + MARGIN;
        account.unknown.push((known.next, account.next));
    }
    account.waiting.sort_by_key(|range| range.first);
    account.unknown = sorted(account.unknown);
    account
}

/// What is missing within the stored numbers of a lane that nothing takes but its oldest end, and below them
/// when its end is lost too.
pub fn account_local(stored: &[Span], settled: &[Span], next: u64, is_end_lost: bool) -> Account {
    let settled = sorted(settled.to_vec());
    let lowest = stored.first().map_or(next, |span| span.0);
    let lost = subtract(&subtract(&[(lowest, next)], stored), &settled);
    let mut account = Account { next, lost, ..Account::default() };
    if is_end_lost {
        account.unknown = subtract(&[(1, lowest)], &settled);
        account.next = next + MARGIN;
        account.unknown.push((next, account.next));
        account.unknown = sorted(account.unknown);
    }
    account
}

/// In order, with those that touch or overlap joined, and without empty ones.
pub fn sorted(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| span.0 < span.1);
    spans.sort_unstable();
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if span.0 <= last.1 => last.1 = last.1.max(span.1),
            _ => out.push(span),
        }
    }
    out
}

/// What of `spans` is not in `others`; both in order.
pub fn subtract(spans: &[Span], others: &[Span]) -> Vec<Span> {
    let mut out = Vec::new();
    for (mut from, end) in spans.iter().copied() {
        let begin = others.partition_point(|other| other.1 <= from);
        for other in others[begin..].iter().take_while(|other| other.0 < end) {
            if from < other.0 {
                out.push((from, other.0));
            }
            from = from.max(other.1);
        }
        if from < end {
            out.push((from, end));
        }
    }
    out
}

/// What is in both; both in order. Parts that touch are joined.
fn intersect(spans: &[Span], others: &[Span]) -> Vec<Span> {
    let mut out = Vec::new();
    for other in others {
        let begin = spans.partition_point(|span| span.1 <= other.0);
        for span in spans[begin..].iter().take_while(|span| span.0 < other.1) {
            out.push((span.0.max(other.0), span.1.min(other.1)));
        }
    }
    sorted(out)
}

/// Numbers that are left out when the highest one is in doubt: more than one database can hold items.
pub const MARGIN: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(first: u64, end: Option<u64>, is_frozen: bool) -> Waiting {
        Waiting { first, end, frozen_at: is_frozen.then_some(7.0), is_backlog: is_frozen }
    }

    fn known() -> Known {
        Known {
            stored: vec![(1, 21), (31, 41)],
            waiting: vec![
                waiting(5, Some(11), true),
                waiting(15, Some(25), true),
                waiting(27, Some(33), false),
                waiting(35, None, false),
            ],
            settled: vec![],
            is_queue_whole: true,
            is_ledger_whole: true,
            next: 41,
            is_end_lost: false,
        }
    }

    #[test]
    fn a_whole_batch_keeps_its_id_and_one_that_lost_a_part_does_not() {
        let found = account(&known());
        let expected = [
            waiting(5, Some(11), true),
            waiting(15, Some(21), false),
            waiting(31, Some(33), false),
            waiting(35, Some(41), false),
        ];
        assert_eq!(found.waiting, expected);
        assert_eq!(found.lost, [(21, 25), (27, 31)]);
        assert_eq!((found.unknown, found.next), (vec![], 41));
    }

    #[test]
    fn without_its_queue_a_lane_sends_again_all_that_is_stored_and_declares_the_rest_unknown() {
        let known = Known {
            waiting: vec![waiting(5, Some(11), true)],
            settled: vec![(13, 14), (22, 26)],
            is_queue_whole: false,
            ..known()
        };
        let found = account(&known);
        let expected = [
            waiting(1, Some(5), false),
            waiting(5, Some(11), true),
            waiting(11, Some(13), false),
            waiting(14, Some(21), false),
            waiting(31, Some(41), false),
        ];
        assert_eq!(found.waiting, expected);
        assert_eq!((found.lost, found.unknown), (vec![], vec![(21, 22), (26, 31)]));
    }

    #[test]
    fn a_lost_end_is_declared_and_its_numbers_are_not_given_out_again() {
        let found = account(&Known { is_end_lost: true, ..known() });
        assert_eq!((found.next, found.unknown), (41 + MARGIN, vec![(41, 41 + MARGIN)]));
        let local = account_local(&[(5, 8), (11, 13)], &[(9, 10)], 13, true);
        assert_eq!(local.lost, [(8, 9), (10, 11)]);
        assert_eq!(local.unknown, [(1, 5), (13, 13 + MARGIN)]);
    }
}
