//! How a line looks: text or JSON, always one line whatever a message holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::journal::Entry;
use super::{Output, Shared, To};
use crate::clock;
use crate::reading::clip;

/// Formats events; the format may change between two lines.
pub(super) struct Lines {
    pub(super) shared: Arc<Shared>,
    pub(super) output: Output,
}

impl<S> FormatEvent<S, Fields> for Lines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Fields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let left_out = match self.admit(event) {
            Some(left_out) => left_out,
            None => return Ok(()),
        };
        let mut found = Found::default();
        event.record(&mut found);
        if left_out > 0 {
            found.fields.push(("left_out", left_out.into()));
        }
        let line = Line {
            timestamp: (self.output.to == To::Elsewhere).then(|| timestamp(clock::unix_seconds())),
            level: level.as_str(),
            target: event.metadata().target(),
            message: found.message,
            fields: Members(found.fields),
            spans: spans(context),
        };
        if self.output.to == To::Journal {
            return self.write_entry(&mut writer, &line, level);
        }
        if self.output.to == To::JournalByLine {
            write!(writer, "<{}>", priority(level))?;
        }
        self.write_line(&mut writer, &line, level)?;
        writer.write_char('\n')
    }
}

impl Lines {
    /// Whether the event's place may write: with how many it left out before. Who looks for a fault wants everything.
    fn admit(&self, event: &Event<'_>) -> Option<u64> {
        if *event.metadata().level() > Level::INFO {
            return Some(0);
        }
        self.shared.paces.admit(event.metadata().callsite(), clock::since_boot())
    }

    fn write_line(&self, writer: &mut Writer<'_>, line: &Line<'_>, level: Level) -> fmt::Result {
        if self.shared.json.load(Relaxed) {
            writer.write_str(&serde_json::to_string(line).map_err(|_| fmt::Error)?)
        } else {
            line.write_text(writer, level, &self.output)
        }
    }

    fn write_entry(&self, writer: &mut Writer<'_>, line: &Line<'_>, level: Level) -> fmt::Result {
        let mut message = String::new();
        self.write_line(&mut Writer::new(&mut message), line, level)?;
        let mut entry = Entry(writer);
        entry.own("MESSAGE", &message)?;
        entry.own("PRIORITY", &priority(level).to_string())?;
        entry.own("SYSLOG_IDENTIFIER", &self.output.identifier)?;
        entry.own("CODE_MODULE", line.target)?;
        if !line.fields.0.iter().any(|(name, _)| *name == "stage") {
            entry.member("stage", &stage(line.target).into())?;
        }
        for span in &line.spans {
            span.fields.iter().try_for_each(|(name, value)| entry.member(name, value))?;
        }
        line.fields.0.iter().try_for_each(|(name, value)| entry.member(name, value))
    }
}

/// The room that speaks: the second part of its module's path.
fn stage(target: &str) -> &str {
    target.split("::").nth(1).unwrap_or("app")
}

/// Keeps the fields of a span as JSON objects, so that either format can show them later.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut found = Found::default();
        fields.record(&mut found);
        let object = serde_json::to_string(&Members(found.fields)).map_err(|_| fmt::Error)?;
        writer.write_str(&object)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    level: &'static str,
    target: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Members::is_empty")]
    fields: Members,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Span>,
}

#[derive(Serialize)]
struct Span {
    name: &'static str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Fields in the order in which they were written.
#[derive(Default)]
struct Members(Vec<(&'static str, Value)>);

impl Members {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Members {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Line<'_> {
    fn write_text(&self, writer: &mut Writer<'_>, level: Level, output: &Output) -> fmt::Result {
        if let Some(timestamp) = &self.timestamp {
            write!(writer, "{timestamp} ")?;
        }
        // journald keeps the level as the priority, and people read it with `-p` and in colour.
        if output.colour {
            write!(writer, "\x1b[{}m{:>5}\x1b[0m ", colour(level), self.level)?;
        } else if output.to == To::Elsewhere {
            write!(writer, "{:>5} ", self.level)?;
        }
        for span in &self.spans {
            write!(writer, "{}", span.name)?;
            for (name, value) in &span.fields {
                write_member(writer, name, value)?;
            }
            writer.write_str(": ")?;
        }
        write_escaped(writer, &self.message)?;
        self.fields.0.iter().try_for_each(|(name, value)| write_member(writer, name, value))
    }
}

fn write_member(writer: &mut Writer<'_>, name: &str, value: &Value) -> fmt::Result {
    match value {
        Value::String(text) if is_bare(text) => write!(writer, " {name}={text}"),
        Value::String(text) => write!(writer, " {name}={text:?}"),
        other => write!(writer, " {name}={other}"),
    }
}

/// Whether a value can stand without quotes.
fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// A line break must not begin a line without priority, and no escape sequence reaches a terminal.
pub(super) fn write_escaped(writer: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            write!(writer, "{}", c.escape_default())?;
        } else {
            writer.write_char(c)?;
        }
    }
    Ok(())
}

fn spans<S>(context: &FmtContext<'_, S, Fields>) -> Vec<Span>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    let Some(scope) = context.event_scope() else { return Vec::new() };
    let span = |span: tracing_subscriber::registry::SpanRef<'_, S>| {
        let extensions = span.extensions();
        let text = extensions.get::<FormattedFields<Fields>>().map_or("", |fields| fields.fields.as_str());
        // One object when the span was made, and one more each time something was recorded later.
        let objects = serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>();
        Span { name: span.name(), fields: objects.map_while(Result::ok).flatten().collect() }
    };
    scope.from_root().map(span).collect()
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(unix_seconds: f64) -> String {
    let millis = (unix_seconds * 1e3) as i128;
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let moment = OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000);
    moment.ok().and_then(|moment| moment.format(format).ok()).unwrap_or_default()
}

/// The priorities of syslog(3), as journald reads them in front of a line (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// What an event or a span carries.
#[derive(Default)]
struct Found {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Found {
    fn keep(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }

    fn keep_text(&mut self, field: &Field, text: &str) {
        let text = clip(text, TEXT_BYTES_MAX).to_owned();
        if field.name() == "message" {
            self.message = text;
        } else {
            self.keep(field, Value::String(text));
        }
    }
}

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        for _ in 0..CAUSES_MAX {
            let Some(error) = cause else { break };
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.keep_text(field, &text);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        let value = if value.is_finite() { value.into() } else { value.to_string().into() };
        self.keep(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, value.into());
    }
}

/// Longest message or value in bytes; what a device sent may be quoted in one.
const TEXT_BYTES_MAX: usize = 2048;

/// How far a chain of causes is followed.
const CAUSES_MAX: usize = 8;
