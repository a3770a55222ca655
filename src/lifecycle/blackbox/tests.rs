use std::io::Write;

use super::*;

fn open(dir: &Path) -> (Blackbox, Option<Previous>) {
    let blackbox = Blackbox::default();
    let previous = blackbox.open(dir).unwrap();
    (blackbox, previous)
}

fn details(dir: &Path) -> Vec<String> {
    read(&dir.join(FILE_NAME)).unwrap().into_iter().map(|record| record.detail).collect()
}

#[test]
fn records_come_back_in_order_and_continue_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (blackbox, previous) = open(dir.path());
    assert_eq!(previous, None);
    blackbox.record(What::Start, "1");
    blackbox.record(What::Ready, "2");
    drop(blackbox);
    let (blackbox, previous) = open(dir.path());
    assert_eq!(previous.unwrap().end, End::Killed);
    blackbox.record(What::Start, "3");
    blackbox.record(What::Stopped, "4");
    drop(blackbox);
    assert_eq!(open(dir.path()).1.unwrap().end, End::Stopped);
    assert_eq!(details(dir.path()), ["1", "2", "3", "4"]);
}

#[test]
fn a_ring_that_wrapped_holds_the_newest_and_goes_on_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut blackbox, _) = open(dir.path());
    let ring = RECORDS - ALIVE_SLOTS;
    for number in 0..3 * ring + 7 {
        if number % 50 == 0 {
            blackbox = open(dir.path()).0;
        }
        blackbox.record(What::Begins, &number.to_string());
        let newest = (number.saturating_sub(ring - 1)..=number).map(|number| number.to_string());
        assert!(details(dir.path()).into_iter().eq(newest), "after {number}");
    }
    assert_eq!(std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len(), 64 * 1024);
}

#[test]
fn signs_of_life_push_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let (blackbox, _) = open(dir.path());
    blackbox.record(What::Start, "start");
    (0..1000).for_each(|number| blackbox.record(What::Alive, &number.to_string()));
    assert_eq!(details(dir.path()), ["start", "998", "999"]);
    let (blackbox, previous) = open(dir.path());
    assert!(previous.unwrap().detail.ends_with("last: alive: 999"));
    blackbox.record(What::Alive, "1000");
    assert_eq!(details(dir.path()), ["start", "999", "1000"]);
}

#[test]
fn whatever_byte_is_damaged_only_its_record_is_gone_and_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (blackbox, _) = open(dir.path());
    (0..RECORDS).for_each(|number| blackbox.record(What::Ends, &number.to_string()));
    blackbox.record(What::Alive, "a");
    let whole = std::fs::read(&path).unwrap();
    let before = record::read_all(&whole);
    for at in 0..whole.len() {
        let slot = at / RECORD_BYTES;
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        assert_eq!(Record::decode(&damaged[slot * RECORD_BYTES..][..RECORD_BYTES]), None, "byte {at}");
        // The rest once for each part of every record: the file is opened and written for it.
        if at % 97 == 0 {
            let mut expected = before.clone();
            expected.retain(|(other, _)| *other != slot);
            assert_eq!(record::read_all(&damaged), expected, "byte {at}");
            File::create(&path).unwrap().write_all(&damaged).unwrap();
            open(dir.path()).0.record(What::Ready, "written");
            assert_eq!(details(dir.path()).last().unwrap(), "written", "byte {at}");
        }
    }
}

#[test]
fn a_file_of_any_other_size_keeps_its_whole_records_and_becomes_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let (blackbox, _) = open(dir.path());
    (0..5).for_each(|number| blackbox.record(What::Ends, &number.to_string()));
    let whole = std::fs::read(&path).unwrap();
    for bytes in [0, 1, 511, 2048 - 1, 2048, 65_535, 65_537, 200_000] {
        let mut other = whole.clone();
        other.resize(bytes, 0xff);
        File::create(&path).unwrap().write_all(&other).unwrap();
        let (blackbox, _) = open(dir.path());
        blackbox.record(What::Ready, "new");
        let kept = (bytes / RECORD_BYTES).saturating_sub(ALIVE_SLOTS).min(5);
        let expected: Vec<_> = (0..kept).map(|n| n.to_string()).chain(["new".to_owned()]).collect();
        assert_eq!(details(dir.path()), expected, "{bytes} bytes");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 * 1024);
    }
}

#[test]
fn what_cannot_be_opened_or_written_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
    let blackbox = Blackbox::default();
    blackbox.open(dir.path()).unwrap_err();
    blackbox.record(What::Start, "nowhere");
    // A device that is always full.
    let full = Writer {
        file: File::options().read(true).write(true).open("/dev/full").unwrap(),
        path: "/dev/full".into(),
        boot_id: BootId::default(),
        next_sequence: 1,
        next_slot: ALIVE_SLOTS,
        next_alive: 0,
        failing: false,
    };
    let blackbox = Blackbox(Arc::new(Mutex::new(Some(full))));
    (0..300).for_each(|_| blackbox.record(What::Start, "nowhere"));
}

#[test]
fn who_reads_while_it_is_written_sees_whole_records_only() {
    let dir = tempfile::tempdir().unwrap();
    let (blackbox, _) = open(dir.path());
    let path = dir.path().join(FILE_NAME);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..3000).for_each(|number| blackbox.record(What::Begins, &"x".repeat(number % 400)));
            blackbox.record(What::Stopped, "");
        });
        loop {
            let records = read(&path).unwrap();
            assert!(records.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
            assert!(records.iter().all(|record| record.detail.bytes().all(|byte| byte == b'x')));
            if records.last().is_some_and(|record| record.what == What::Stopped) {
                break;
            }
        }
    });
}

#[test]
fn a_panic_is_recorded_with_its_place_and_without_what_it_may_quote() {
    let dir = tempfile::tempdir().unwrap();
    let (blackbox, _) = open(dir.path());
    blackbox.record_panics();
    let secret = "4711";
    std::panic::catch_unwind(|| panic!("a value of {secret} came")).unwrap_err();
    std::panic::catch_unwind(|| panic!("plain words")).unwrap_err();
    drop(std::panic::take_hook());
    let ours = |detail: &String| detail.contains("blackbox/tests.rs:");
    let details: Vec<_> = details(dir.path()).into_iter().filter(ours).collect();
    assert!(details[0].ends_with(": see the log") && details[1].ends_with(": plain words"), "{details:?}");
}
