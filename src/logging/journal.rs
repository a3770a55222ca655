//! The log as journald takes it natively: a datagram of fields for each event, so that `journalctl` finds what stands
//! in them (systemd.io/JOURNAL_NATIVE_PROTOCOL).

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::format::write_escaped;

/// journald's socket. It stays when journald is restarted.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A journal that hangs must not hang the agent: a line is left out instead.
const SEND_TIME_MAX: Duration = Duration::from_millis(200);
/// In front of the names of fields, which share one space with everybody's.
const PREFIX: &str = "PYVORIN_";

/// Sends each write as one datagram.
#[derive(Clone, Debug)]
pub(super) struct Journal(Arc<UnixDatagram>);

impl Journal {
    /// To journald on this machine.
    ///
    /// # Errors
    ///
    /// It does not listen, or the sandbox forbids it; standard error reaches it as well.
    pub(super) fn connect() -> io::Result<Self> {
        Self::to(Path::new(SOCKET))
    }

    fn to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIME_MAX))?;
        socket.connect(path)?;
        Ok(Self(Arc::new(socket)))
    }
}

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let sent = match self.0.send(entry) {
            // journald was started anew and has another socket under the old name.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.0.connect(SOCKET).and_then(|()| self.0.send(entry))
            }
            sent => sent,
        };
        match sent {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Its standard error leads there too, by another way.
            Err(_) => io::stderr().write_all(&line(entry))?,
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an entry comes to as a line for a service's standard error.
fn line(entry: &[u8]) -> Vec<u8> {
    let field = |name: &[u8]| {
        let found = entry.split(|byte| *byte == b'\n').find_map(|field| field.strip_prefix(name));
        found.unwrap_or_default()
    };
    [b"<", field(b"PRIORITY="), b">", field(b"MESSAGE="), b"\n"].concat()
}

/// Writes the fields of an entry one after the other. No value holds a line break, which would need another form.
pub(super) struct Entry<'w, W>(pub(super) &'w mut W);

impl<W: fmt::Write> Entry<'_, W> {
    /// A field of journald's own.
    pub(super) fn own(&mut self, name: &str, value: &str) -> fmt::Result {
        write!(self.0, "{name}=")?;
        write_escaped(self.0, value)?;
        self.0.write_char('\n')
    }

    /// A field of the agent's.
    pub(super) fn member(&mut self, name: &str, value: &Value) -> fmt::Result {
        self.0.write_str(PREFIX)?;
        for c in name.chars() {
            let c = c.to_ascii_uppercase();
            self.0.write_char(if c.is_ascii_alphanumeric() { c } else { '_' })?;
        }
        self.0.write_char('=')?;
        match value {
            Value::String(text) => write_escaped(self.0, text)?,
            other => write!(self.0, "{other}")?,
        }
        self.0.write_char('\n')
    }
}

/// What journald calls the agent: the name of its unit, so that instances keep apart, else the package's.
pub(super) fn identifier(cgroup: &str) -> String {
    let parts = cgroup.lines().flat_map(|line| line.split('/'));
    let unit =
        parts.filter_map(|part| part.strip_suffix(".service")).rfind(|unit| unit.starts_with(IDENTIFIER));
    unit.unwrap_or(IDENTIFIER).to_owned()
}

const IDENTIFIER: &str = "pyvorin-edge";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_called_by_its_unit() {
        let of = |unit: &str| identifier(&format!("1:name=systemd:/\n0::/system.slice/{unit}\n"));
        assert_eq!(of("pyvorin-edge.service"), "pyvorin-edge");
        let slice = "system-pyvorin\\x2dedge.slice/pyvorin-edge@press.service";
        assert_eq!(of(slice), "pyvorin-edge@press");
        assert_eq!(of("user@1000.service/app.slice"), "pyvorin-edge");
        assert_eq!(identifier(""), "pyvorin-edge");
    }

    #[test]
    fn an_entry_is_one_datagram_and_outlives_a_journal_that_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::to(&path).unwrap();
        journal.write_all(b"PRIORITY=4\nMESSAGE=hot\n").unwrap();
        let mut buffer = [0; 256];
        let bytes = journald.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"PRIORITY=4\nMESSAGE=hot\n");
        // Nobody reads: the queue fills, and writing goes on all the same.
        for _ in 0..5000 {
            if journal.0.set_nonblocking(true).and_then(|()| journal.0.send(b"x").map(drop)).is_err() {
                break;
            }
        }
        journal.0.set_nonblocking(false).unwrap();
        journal.write_all(b"PRIORITY=4\nMESSAGE=lost\n").unwrap();
    }

    #[test]
    fn an_entry_that_cannot_be_sent_is_a_line_with_its_priority() {
        assert_eq!(line(b"MESSAGE=no route\nPRIORITY=3\nPYVORIN_STAGE=upload\n"), b"<3>no route\n");
    }
}
