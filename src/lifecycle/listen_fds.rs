//! Sockets that systemd opened for us. One of the files with `unsafe`: a number that arrived in the
//! environment becomes an owned descriptor, which no safe call can do.
#![allow(unsafe_code, reason = "FromRawFd is the only way from LISTEN_FDS to a socket")]

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// A listening TCP socket and the name that its socket unit gave it (`FileDescriptorName=`).
#[derive(Debug)]
pub struct NamedListener {
    pub name: String,
    /// Non-blocking and closed on exec.
    pub listener: TcpListener,
}

/// Why the passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `LISTEN_FDS`, `LISTEN_PID` or `LISTEN_FDNAMES` say what cannot be.
    #[error("LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES do not fit together: {0}")]
    Environment(io::Error),
    /// A socket unit that is not ours is tied to this service.
    #[error(
        "the service manager passed a socket named '{0}'; only 'health' (or its unit's name, \
         'pyvorin-edge.socket') is known: remove the other socket unit or its Service= line"
    )]
    Unexpected(String),
    /// More than one socket for the health page.
    #[error("the service manager passed the socket '{0}' more than once; give its unit one ListenStream=")]
    Repeated(String),
    /// Not something that accepts TCP connections.
    #[error("the socket '{name}' is {found}; its unit needs ListenStream= with a port, and Accept=no")]
    NotListening { name: String, found: &'static str },
    #[error("the socket '{name}' cannot be examined: {source}")]
    Socket { name: String, source: io::Error },
}

/// Takes the sockets that the service manager passed (first descriptor 3): none, or the health
/// page's. A second call gets none. Call it first in `main`: a descriptor that this
/// process opens itself may otherwise get a number that a wrong `LISTEN_FDS` claims.
///
/// # Errors
///
/// What was passed is not what this agent serves; a person must correct the socket unit.
pub fn take_listeners() -> Result<Vec<NamedListener>, Error> {
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names().map_err(Error::Environment)?;
    if passed.len() > PASSED_MAX {
        let found = io::Error::other(format!("{} sockets where at most {PASSED_MAX} fit", passed.len()));
        return Err(Error::Environment(found));
    }
    let mut listeners: Vec<NamedListener> = Vec::with_capacity(passed.len());
    for (fd, name) in passed {
        // SAFETY: systemd passed this descriptor to this process (LISTEN_PID is ours), so nobody
        // else in it owns it; listen_fds_with_names has just set its FD_CLOEXEC, so it is open; TAKEN
        // keeps a second call from making a second owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if !NAMES.contains(&name.as_str()) {
            return Err(Error::Unexpected(name));
        }
        if !listeners.is_empty() {
            return Err(Error::Repeated(name));
        }
        listeners.push(examine(name, fd)?);
    }
    Ok(listeners)
}

fn examine(name: String, fd: OwnedFd) -> Result<NamedListener, Error> {
    match not_listening(&fd) {
        Ok(None) => {}
        Ok(Some(found)) => return Err(Error::NotListening { name, found }),
        Err(source) => return Err(Error::Socket { name, source }),
    }
    let listener = TcpListener::from(fd);
    match listener.set_nonblocking(true) {
        Ok(()) => Ok(NamedListener { name, listener }),
        Err(source) => Err(Error::Socket { name, source }),
    }
}

/// What `fd` is instead of a listening TCP socket.
fn not_listening(fd: &OwnedFd) -> io::Result<Option<&'static str>> {
    let family = match sockopt::socket_domain(fd) {
        Err(rustix::io::Errno::NOTSOCK) => return Ok(Some("no socket")),
        family => family?,
    };
    Ok(if family != AddressFamily::INET && family != AddressFamily::INET6 {
        Some("not a TCP socket")
    } else if sockopt::socket_type(fd)? != SocketType::STREAM {
        Some("a UDP socket")
    } else if !sockopt::socket_acceptconn(fd)? {
        Some("a connection")
    } else {
        None
    })
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// systemd names a socket after its unit unless `FileDescriptorName=` says otherwise.
/// `unknown` is what sd_listen_fds_with_names(3) calls a socket that comes without LISTEN_FDNAMES, as from
/// systemd-socket-activate: there is only one socket that it can be.
const NAMES: [&str; 3] = ["health", "pyvorin-edge.socket", "unknown"];

/// Bounds what a wrong environment can make us close.
const PASSED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refusal(fd: impl Into<OwnedFd>) -> String {
        examine("health".to_owned(), fd.into()).unwrap_err().to_string()
    }

    #[test]
    fn a_listening_tcp_socket_is_taken_and_made_non_blocking() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = examine("health".to_owned(), listener.into()).unwrap();
        assert_eq!(taken.listener.local_addr().unwrap(), address);
        assert_eq!(taken.listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn anything_else_is_refused_and_called_by_its_kind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(refusal(connection).contains("is a connection"));
        assert!(refusal(UdpSocket::bind("127.0.0.1:0").unwrap()).contains("is a UDP socket"));
        assert!(refusal(tempfile::tempfile().unwrap()).contains("is no socket"));
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(refusal(unix).contains("is not a TCP socket"));
    }
}
