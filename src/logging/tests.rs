//! Each test has a subscriber of its own, which writes to memory.

use std::io::Write;
use std::sync::Mutex;

use super::*;

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const TEXT: Settings = Settings { level: Level::Info, format: Format::Text };
const JSON: Settings = Settings { level: Level::Info, format: Format::Json };
const JOURNAL: Output = Output { to: To::JournalByLine, colour: false, identifier: String::new() };
const PLAIN: Output = Output { to: To::Elsewhere, colour: false, identifier: String::new() };

/// The lines that `act` logs.
fn log(settings: Settings, output: Output, act: impl FnOnce(&Handle)) -> Vec<String> {
    let capture = Capture::default();
    let writer = capture.clone();
    let (subscriber, handle) = subscriber(settings, output, move || writer.clone());
    tracing::subscriber::with_default(subscriber, || act(&handle));
    let bytes = capture.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_text_line_has_time_level_message_and_fields() {
    let lines = log(TEXT, PLAIN, |_| {
        tracing::info!(count = 3, source = "kitchen", reason = "no route to host", "connected");
    });
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(rest, r#" INFO connected count=3 source=kitchen reason="no route to host""#);
    assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000Z".len(), "{time}");
}

#[test]
fn under_the_journal_a_line_begins_with_its_priority_and_has_no_time() {
    let trace = Settings { level: Level::Trace, ..TEXT };
    let lines = log(trace, JOURNAL, |_| {
        tracing::error!("e");
        tracing::warn!("w");
        tracing::info!("i");
        tracing::debug!("d");
        tracing::trace!("t");
    });
    assert_eq!(lines, ["<3>e", "<4>w", "<6>i", "<7>d", "<7>t"]);
}

#[test]
fn a_line_break_cannot_escape_the_priority_nor_a_sequence_reach_the_terminal() {
    let lines = log(TEXT, JOURNAL, |_| {
        tracing::info!(sensor = "a\n<0>forged", "bad\n<0>forged \x1b[2J\u{2028}");
    });
    assert_eq!(lines, [r#"<6>bad\n<0>forged \u{1b}[2J\u{2028} sensor="a\n<0>forged""#]);
    let lines = log(JSON, JOURNAL, |_| tracing::info!("bad\n<0>forged"));
    assert_eq!(
        lines,
        [r#"<6>{"level":"INFO","target":"pyvorin_edge::logging::tests","message":"bad\n<0>forged"}"#]
    );
}

#[test]
fn a_json_line_is_an_object_with_fields_and_spans() {
    let lines = log(JSON, PLAIN, |_| {
        let span = tracing::info_span!("source", name = "broker", topic = tracing::field::Empty);
        let _entered = span.enter();
        span.record("topic", "a/b");
        tracing::warn!(ratio = f64::NAN, count = 2, up = true, "slow");
    });
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "slow");
    assert_eq!(line["fields"], serde_json::json!({"ratio": "NaN", "count": 2, "up": true}));
    assert_eq!(line["spans"][0]["topic"], "a/b");
    assert!(line["timestamp"].is_string());
}

#[test]
fn a_span_that_outlives_a_change_of_format_is_shown_in_both() {
    let lines = log(TEXT, JOURNAL, |handle| {
        let span = tracing::info_span!("source", kind = "mqtt");
        let _entered = span.enter();
        tracing::info!("before");
        handle.reload(JSON);
        tracing::info!("after");
    });
    assert_eq!(lines[0], "<6>source kind=mqtt: before");
    assert!(lines[1].contains(r#""spans":[{"name":"source","kind":"mqtt"}]"#), "{}", lines[1]);
}

#[test]
fn the_level_changes_while_the_agent_runs() {
    let lines = log(TEXT, JOURNAL, |handle| {
        // One call site, so that tracing's cache would show.
        for level in [Level::Info, Level::Debug, Level::Error] {
            handle.reload(Settings { level, ..TEXT });
            tracing::debug!(level = ?level, "detail");
        }
    });
    assert_eq!(lines, ["<7>detail level=Debug"]);
}

#[test]
fn libraries_are_heard_from_warning_on_unless_everything_is_wanted() {
    let act = |_: &Handle| {
        tracing::debug!(target: "hyper::proto", "chatter");
        tracing::info!(target: "rumqttc", "chatter");
        tracing::warn!(target: "rustls", "certificate expires");
    };
    assert_eq!(log(Settings { level: Level::Debug, ..TEXT }, JOURNAL, act), ["<4>certificate expires"]);
    assert_eq!(log(Settings { level: Level::Trace, ..TEXT }, JOURNAL, act).len(), 3);
    assert!(log(Settings { level: Level::Error, ..TEXT }, JOURNAL, act).is_empty());
}

#[test]
fn a_writer_that_fails_is_no_panic() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let (subscriber, _) = subscriber(TEXT, PLAIN, || Broken);
    tracing::subscriber::with_default(subscriber, || tracing::error!("lost"));
}

#[test]
fn a_long_text_is_cut() {
    let lines = log(TEXT, JOURNAL, |_| tracing::info!(payload = "x".repeat(1 << 20), "big"));
    assert!(lines[0].len() < 4096);
}

#[test]
fn the_journal_is_known_by_device_and_inode_of_our_own_stream() {
    assert!(is_journal(Some("8:1234"), 8, 1234));
    for stream in [None, Some(""), Some("8"), Some("8:1235"), Some("9:1234"), Some("x:y")] {
        assert!(!is_journal(stream, 8, 1234), "{stream:?}");
    }
}

#[test]
fn colour_is_for_terminals() {
    let lines = log(TEXT, Output { colour: true, ..PLAIN }, |_| tracing::error!("hot"));
    assert!(lines[0].contains("\x1b[31mERROR\x1b[0m hot"), "{}", lines[0]);
}

#[test]
fn an_entry_for_journald_has_its_fields_apart_and_the_whole_line_as_its_message() {
    let native = Output { to: To::Journal, colour: false, identifier: "pyvorin-edge@press".to_owned() };
    let lines = log(TEXT, native, |_| {
        tracing::warn!(batch_id = "b-1", error_kind = "end\npoint", attempts = 3, "delivery is in trouble");
    });
    let expected = [
        r#"MESSAGE=delivery is in trouble batch_id=b-1 error_kind="end\npoint" attempts=3"#,
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=pyvorin-edge@press",
        "CODE_MODULE=pyvorin_edge::logging::tests",
        "PYVORIN_STAGE=logging",
        "PYVORIN_BATCH_ID=b-1",
        r"PYVORIN_ERROR_KIND=end\npoint",
        "PYVORIN_ATTEMPTS=3",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_place_that_floods_the_log_is_cut_short_and_others_are_not() {
    let lines = log(TEXT, PLAIN, |_| {
        for _ in 0..1000 {
            tracing::warn!("a flood");
        }
        tracing::warn!("another");
    });
    assert!(lines.len() < 210 && lines.last().unwrap().ends_with("another"), "{}", lines.len());
}
