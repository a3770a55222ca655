//! Reads the rows of a replayed file, one line each.

use std::io::{self, BufRead, Cursor, SeekFrom};

use csv::{Position, StringRecord, Trim};

use super::super::json::{self, Defaults};
use super::super::lines::{self, LineBuffer};
use crate::clock;
use crate::reading::{BATCH_READINGS_MAX, Batch, Reading, Refusal};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    JsonLines,
    Csv,
}

/// The rows that are still to be read.
pub(super) struct Rows<R> {
    reader: R,
    line: LineBuffer,
    sensor_name: String,
    unit: String,
    table: Option<Table>,
}

impl<R: BufRead> Rows<R> {
    /// Reads the header when there is one; the name and unit are for rows without their own.
    ///
    /// # Errors
    ///
    /// The header cannot be read or has no `value`.
    pub(super) fn new(mut reader: R, format: Format, sensor_name: String, unit: String) -> io::Result<Self> {
        let mut line = LineBuffer::new(LINE_BYTES_MAX);
        let table = match format {
            Format::JsonLines => None,
            Format::Csv => {
                lines::read(&mut reader, &mut line)?;
                Some(Table::new(line.text().unwrap_or_default())?)
            }
        };
        Ok(Self { reader, line, sensor_name, unit, table })
    }

    /// Adds rows until the batch is full; false at the end of the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn fill(&mut self, batch: &mut Batch) -> io::Result<bool> {
        let defaults = Defaults {
            sensor_name: Some(&self.sensor_name),
            unit: &self.unit,
            units: None,
            timestamp: clock::boot_seconds(),
            origin: &self.sensor_name,
        };
        for _ in 0..LINES_PER_STEP_MAX {
            if batch.is_full() {
                break;
            }
            if !lines::read(&mut self.reader, &mut self.line)? {
                return Ok(false);
            }
            match (self.line.text(), &mut self.table) {
                (None, _) => batch.refuse(Refusal::Malformed, &self.sensor_name),
                (Some(line), _) if line.trim().is_empty() => {}
                (Some(line), Some(table)) => table.push_row(batch, line, &defaults),
                (Some(line), None) => json::push_reading(batch, line, &defaults),
            }
        }
        Ok(true)
    }
}

/// A CSV table, whose rows are lines: a quote left open spoils its own row and no other.
struct Table {
    parser: csv::Reader<Cursor<Vec<u8>>>,
    record: StringRecord,
    columns: Columns,
}

#[derive(Default)]
struct Columns {
    sensor_name: Option<usize>,
    timestamp: Option<usize>,
    value: Option<usize>,
    unit: Option<usize>,
    metadata: Option<usize>,
}

impl Table {
    fn new(header: &str) -> io::Result<Self> {
        let mut builder = csv::ReaderBuilder::new();
        let mut parser =
            builder.has_headers(false).flexible(true).trim(Trim::All).from_reader(Cursor::default());
        // It would take the first row for them when it is told to seek.
        parser.set_headers(StringRecord::new());
        let mut table = Self { parser, record: StringRecord::new(), columns: Columns::default() };
        table.parse(header.strip_prefix('\u{feff}').unwrap_or(header))?;
        let column = |name| table.record.iter().position(|title| title == name);
        table.columns = Columns {
            sensor_name: column("sensor_name"),
            timestamp: column("timestamp"),
            value: column("value"),
            unit: column("unit"),
            metadata: column("metadata"),
        };
        if table.columns.value.is_none() {
            let message = "its first line has no column 'value'; give sensor_name,timestamp,value";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(table)
    }

    fn parse(&mut self, line: &str) -> csv::Result<()> {
        let text = self.parser.get_mut().get_mut();
        text.clear();
        text.extend_from_slice(line.as_bytes());
        // One parser for all lines: building one costs more than a line does.
        self.parser.seek_raw(SeekFrom::Start(0), Position::new())?;
        self.parser.read_record(&mut self.record)?;
        Ok(())
    }

    fn push_row(&mut self, batch: &mut Batch, line: &str, defaults: &Defaults<'_>) {
        if let Err((reason, sensor)) = self.try_push_row(batch, line, defaults) {
            batch.refuse(reason, sensor.as_deref().unwrap_or(defaults.origin));
        }
    }

    fn try_push_row(
        &mut self,
        batch: &mut Batch,
        line: &str,
        defaults: &Defaults<'_>,
    ) -> Result<(), (Refusal, Option<String>)> {
        self.parse(line).map_err(|_| (Refusal::Malformed, None))?;
        let field = |column: Option<usize>| column.and_then(|at| self.record.get(at)).unwrap_or_default();
        let name = field(self.columns.sensor_name);
        let sensor_name = if name.is_empty() { defaults.sensor_name.unwrap_or_default() } else { name };
        let refused = |reason| (reason, Some(sensor_name.to_owned()));
        let value = json::parse_scalar(field(self.columns.value)).map_err(refused)?;
        let timestamp = match field(self.columns.timestamp) {
            "" => None,
            text => Some(json::parse_timestamp(text).ok_or_else(|| refused(Refusal::Malformed))?),
        };
        let timestamp = timestamp.filter(|seconds| *seconds != 0.0);
        let metadata = match field(self.columns.metadata) {
            "" => "{}".into(),
            text => json::parse_metadata(text).ok_or_else(|| refused(Refusal::Malformed))?,
        };
        let unit = field(self.columns.unit);
        let unit = if unit.is_empty() { defaults.unit } else { unit };
        let reading = Reading { sensor_name, timestamp: 0.0, value, unit, metadata: &metadata };
        defaults.push(batch, reading, timestamp);
        Ok(())
    }
}

/// Longer lines are refused and skipped.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Empty lines fill no batch, so they are counted.
const LINES_PER_STEP_MAX: usize = 4 * BATCH_READINGS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(format: Format, text: &str) -> Batch {
        let mut batch = Batch::default();
        let mut rows = Rows::new(text.as_bytes(), format, "file".to_owned(), "V".to_owned()).unwrap();
        while rows.fill(&mut batch).unwrap() {}
        batch
    }

    fn shown(batch: &Batch) -> Vec<String> {
        let show = |r: Reading<'_>| format!("{} {} {} {} {}", r.sensor_name, r.timestamp, r.value, r.unit, r.metadata);
        batch.readings().map(show).collect()
    }

    #[test]
    fn csv_columns_come_in_any_order_and_fields_may_be_quoted() {
        let text = "\u{feff}value, timestamp ,note,sensor_name,unit,metadata\r\n\
            21.5,2024-05-31T12:00:00Z,x,a,C,\"{\"\"k\"\": \"\"a,b\"\"}\"\r\n\
            \r\n\
            1,1717156800000,\"x,y\",,,\n";
        let expected =
            ["a 1717156800 21.5 C {\"k\":\"a,b\"}", "file 1717156800 1 V {}"];
        assert_eq!(shown(&rows(Format::Csv, text)), expected);
    }

    #[test]
    fn a_bad_row_is_refused_and_the_next_one_read() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let text = format!(
            "sensor_name,timestamp,value\na,1717156800,\na,1717156800,x\n\"a,1717156800,1\na,noon,1\na,1,inf\n{long}\na,1717156800,7"
        );
        let batch = rows(Format::Csv, &text);
        assert_eq!(shown(&batch), ["a 1717156800 7 V {}"]);
        use Refusal::{Incomplete, Malformed, NotFinite};
        let reasons: Vec<_> = batch.refusals().map(|(reason, _)| reason).collect();
        assert_eq!(reasons, [Incomplete, Malformed, Incomplete, Malformed, NotFinite, Malformed]);
    }

    #[test]
    fn a_table_without_values_is_an_error() {
        let rows = Rows::new(&b"sensor_name,timestamp\n"[..], Format::Csv, String::new(), String::new());
        assert!(rows.err().unwrap().to_string().contains("no column 'value'"));
        assert!(Rows::new(&b""[..], Format::Csv, String::new(), String::new()).is_err());
    }

    #[test]
    fn json_lines_are_readings() {
        let text = "{\"sensor_name\":\"a\",\"timestamp\":1717156800,\"value\":1}\n\n7\n{\"timestamp\":1717156801,\"value\":2}";
        let batch = rows(Format::JsonLines, text);
        assert_eq!(shown(&batch), ["a 1717156800 1 V {}", "file 1717156801 2 V {}"]);
        assert_eq!(batch.refusals().collect::<Vec<_>>(), [(Refusal::Malformed, "file")]);
    }
}
