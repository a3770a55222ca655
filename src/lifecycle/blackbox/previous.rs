//! How the run before this one ended, from what it left in the black box.

use serde::Serialize;

use super::record::{BootId, OomKills, Record, What};

/// The end of the run before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Previous {
    pub end: End,
    /// In words.
    pub detail: String,
    /// Unix seconds UTC of the last that is known of it, by its own clock.
    pub last_seen: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// As asked.
    Stopped,
    /// By itself, with a reason.
    Failed,
    /// Without a word, in this same boot: something killed it.
    Killed,
    /// With the boot: a power cut, a reset, or a reboot that did not wait.
    BootEnded,
}

impl Previous {
    pub fn is_clean(&self) -> bool {
        self.end == End::Stopped
    }
}

/// Judges the newest run in `records`, which are in order. `None` when there is none. `boot_id` and
/// `oom_kills` are those of now.
pub fn judge<'r>(
    records: impl DoubleEndedIterator<Item = &'r Record>,
    boot_id: BootId,
    oom_kills: OomKills,
) -> Option<Previous> {
    let (mut newest, mut started, mut told) = (None, false, None);
    for record in records.rev() {
        if newest.is_none() && record.what == What::Killed {
            // Written after the end, by the service manager's word.
            told.get_or_insert(record);
            continue;
        }
        newest.get_or_insert(record);
        if record.what == What::Start {
            started = true;
            break;
        }
    }
    // A ring that wrapped has lost the start, but knows the end.
    let last = newest?;
    let (end, detail) = match last.what {
        What::Stopped => (End::Stopped, with("stopped", &last.detail)),
        What::Failed => (End::Failed, with("failed", &last.detail)),
        _ if told.is_none() && last.boot_id != boot_id => {
            (End::BootEnded, with("ended with the boot: power cut, reset or reboot; last", &describe(last)))
        }
        What::Panicked => (End::Failed, with("panicked", &last.detail)),
        _ => {
            let by = killer(last.oom_kills, oom_kills, told);
            let boot = if last.boot_id == boot_id { "this boot" } else { "an earlier boot" };
            (End::Killed, format!("ended without a word in {boot}: {by}; last: {}", describe(last)))
        }
    };
    let detail = if started { detail } else { format!("{detail} (its start is not recorded any more)") };
    Some(Previous { end, detail, last_seen: last.unix_ms as f64 / 1000.0 })
}

/// Whether a process of a control group was ended by the OOM killer between two looks at its count.
pub fn struck(then: OomKills, now: OomKills) -> bool {
    now.cgroup > then.cgroup
}

/// `then` is of the last that the agent wrote, `now` of the start behind it, in a control group that may be a new one.
fn killer(then: OomKills, now: OomKills, told: Option<&Record>) -> String {
    if let Some(told) = told {
        return told.detail.clone();
    }
    let above = then.above.zip(now.above);
    let by = if struck(then, now) {
        "killed by the OOM killer, as its control group says"
    } else if above.is_some_and(|(then, now)| now > then) {
        "killed, and the OOM killer ended a process of the control group above meanwhile"
    } else if now.board > then.board {
        "killed, and the OOM killer ended a process on this board meanwhile"
    } else {
        "killed"
    };
    by.to_owned()
}

fn describe(record: &Record) -> String {
    with(&record.what.to_string(), &record.detail)
}

fn with(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    const NONE: OomKills = OomKills { board: 3, cgroup: 1, above: Some(2) };

    fn end(whats: &[What], boot_id: BootId, oom_kills: OomKills) -> Option<(End, String)> {
        let records: Vec<_> = (1..).zip(whats).map(|(sequence, what)| record(sequence, *what, "x")).collect();
        judge(records.iter(), boot_id, oom_kills).map(|previous| (previous.end, previous.detail))
    }

    #[test]
    fn each_end_is_told_from_the_others() {
        let same = record(1, What::Start, "").boot_id;
        let other = BootId([9; 16]);
        let of = |whats: &[What], boot_id| end(whats, boot_id, NONE).unwrap();
        assert_eq!(end(&[], same, NONE), None);
        assert_eq!(of(&[What::Start, What::Stopped], same), (End::Stopped, "stopped: x".to_owned()));
        assert_eq!(of(&[What::Start, What::Failed], other), (End::Failed, "failed: x".to_owned()));
        let killed = "ended without a word in this boot: killed; last: ready: x";
        assert_eq!(of(&[What::Start, What::Ready], same), (End::Killed, killed.to_owned()));
        assert_eq!(of(&[What::Start, What::Ready], other).0, End::BootEnded);
        assert_eq!(of(&[What::Start, What::Panicked], same).0, End::Failed);
        // A source that panicked alone did not end the run.
        assert_eq!(of(&[What::Start, What::Panicked, What::Ready], same).0, End::Killed);
        assert_eq!(of(&[What::Start, What::Stopped, What::Start], same).0, End::Killed);
        assert!(of(&[What::Ready, What::Stopped], same).1.ends_with("(its start is not recorded any more)"));
    }

    #[test]
    fn the_oom_killer_is_named_when_the_kernel_counted_more_of_its_kills() {
        let same = record(1, What::Start, "").boot_id;
        let detail = |oom_kills| end(&[What::Start], same, oom_kills).unwrap().1;
        assert!(
            detail(OomKills { board: 4, cgroup: 2, above: Some(3) }).contains("killed by the OOM killer")
        );
        // Its group was made anew, so only the one above knows.
        assert!(detail(OomKills { board: 4, cgroup: 0, above: Some(3) }).contains("control group above"));
        assert!(detail(OomKills { board: 4, cgroup: 0, above: None }).contains("on this board meanwhile"));
        assert!(!detail(NONE).contains("OOM"));
    }

    #[test]
    fn the_word_of_the_service_manager_counts_also_after_a_reboot() {
        let (start, same) = (record(1, What::Start, "x"), record(1, What::Start, "").boot_id);
        let killed = record(3, What::Killed, "killed by the OOM killer (KILL)");
        let judge = |records: &[Record], boot_id| judge(records.iter(), boot_id, NONE).unwrap();
        for (boot_id, boot) in [(same, "this boot"), (BootId([9; 16]), "an earlier boot")] {
            let found = judge(&[start.clone(), record(2, What::Alive, "x"), killed.clone()], boot_id);
            assert_eq!(found.end, End::Killed);
            let expected =
                format!("ended without a word in {boot}: killed by the OOM killer (KILL); last: alive: x");
            assert_eq!(found.detail, expected);
        }
        // What the agent said itself says more.
        let found = judge(&[start, record(2, What::Failed, "no disk"), killed], same);
        assert_eq!((found.end, found.detail.as_str()), (End::Failed, "failed: no disk"));
    }
}
