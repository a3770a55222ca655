//! What the service manager is told: readiness, reloads, stopping, a status line, the watchdog.
//!
//! Without `NOTIFY_SOCKET` every call does nothing. The environment is read and never changed: to
//! change it is unsafe once threads run. Children that should not notify get it removed for them.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use sd_notify::NotifyState;

/// Sends notifications. Clones share the socket's address.
#[derive(Clone, Debug)]
pub struct Notifier(Option<Arc<Target>>);

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    /// The last notification did not arrive, which has been logged.
    failing: AtomicBool,
}

impl Notifier {
    /// To the address in `NOTIFY_SOCKET`: a path, or an abstract name that begins with `@`.
    pub fn from_env() -> Self {
        match env::var_os("NOTIFY_SOCKET") {
            None => Self(None),
            Some(name) => Self::to(&name).unwrap_or_else(|error| {
                tracing::warn!(%error, socket = %name.display(),
                    "NOTIFY_SOCKET is not usable; the service manager is told nothing");
                Self(None)
            }),
        }
    }

    /// To the socket of this name.
    ///
    /// # Errors
    ///
    /// The name is no path of a Unix socket and no abstract name.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        // sd-notify 0.5.0 does not know abstract names, which containers use.
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok(Self(Some(Arc::new(Target { address, failing: AtomicBool::new(false) }))))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self(None)
    }

    /// Start is complete.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// A reload begins; it ends with [`Self::ready`], whether it succeeded or not.
    pub fn reloading(&self) {
        // systemd 253 and later drop a RELOADING=1 without the time (sd_notify(3)).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read; RELOADING is not sent"),
        }
    }

    /// The drain begins.
    pub fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
    }

    /// The line that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(&one_line(status))]);
    }

    /// The agent is alive.
    pub fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Start, or stop, takes up to `more` from now on.
    pub fn extend_timeout(&self, more: Duration) {
        let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(target) = &self.0 else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        match send(&target.address, &message) {
            Ok(()) => {
                if target.failing.swap(false, Relaxed) {
                    tracing::info!("the service manager takes notifications again");
                }
            }
            Err(error) => {
                if !target.failing.swap(true, Relaxed) {
                    tracing::warn!(%error, "a notification did not reach the service manager");
                }
            }
        }
    }
}

/// How often systemd wants to hear from this process, at the least; `None` when it does not.
pub fn watchdog_interval() -> Option<Duration> {
    let read = |name| env::var(name).ok();
    parse_watchdog(read("WATCHDOG_USEC").as_deref(), read("WATCHDOG_PID").as_deref(), std::process::id())
}

fn parse_watchdog(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    // A pid that is not ours, or not a pid, is meant for another process.
    match pid.map(str::parse::<u32>) {
        None => Some(Duration::from_micros(usec)),
        Some(Ok(pid)) if pid == own_pid => Some(Duration::from_micros(usec)),
        Some(_) => None,
    }
}

fn send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Blocks while the manager's queue is full; a busy manager must not hold up the pipeline.
    socket.set_write_timeout(Some(SEND_TIME_MAX))?;
    socket.send_to_addr(message.as_bytes(), address).map(drop)
}

/// A line break in a status would begin another assignment.
fn one_line(status: &str) -> String {
    let status = crate::reading::clip(status, STATUS_BYTES_MAX);
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How long one notification may block the agent.
const SEND_TIME_MAX: Duration = Duration::from_millis(500);

/// `systemctl status` shows one line.
const STATUS_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    struct Manager(UnixDatagram);

    impl Manager {
        fn new() -> (Self, Notifier, tempfile::TempDir) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            (Self(socket), Notifier::to(path.as_os_str()).unwrap(), dir)
        }

        fn receive(&self) -> String {
            let mut buffer = [0; 1024];
            self.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let length = self.0.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn the_service_manager_hears_each_state_in_one_datagram() {
        let (manager, notifier, _dir) = Manager::new();
        notifier.ready("3 sources");
        assert_eq!(manager.receive(), "READY=1\nSTATUS=3 sources\n");
        notifier.stopping("draining");
        assert_eq!(manager.receive(), "STOPPING=1\nSTATUS=draining\n");
        notifier.watchdog();
        assert_eq!(manager.receive(), "WATCHDOG=1\n");
        notifier.extend_timeout(Duration::from_secs(10));
        assert_eq!(manager.receive(), "EXTEND_TIMEOUT_USEC=10000000\n");
    }

    #[test]
    fn a_reload_carries_the_monotonic_time_that_systemd_demands() {
        let (manager, notifier, _dir) = Manager::new();
        notifier.reloading();
        let message = manager.receive();
        let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(usec.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn a_line_break_in_a_status_cannot_add_an_assignment() {
        let (manager, notifier, _dir) = Manager::new();
        notifier.status("stuck\nWATCHDOG=trigger");
        assert_eq!(manager.receive(), "STATUS=stuck WATCHDOG=trigger\n");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("pyvorin-edge-test-{}-{}", std::process::id(), fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = Manager(UnixDatagram::bind_addr(&address).unwrap());
        Notifier::to(OsStr::new(&format!("@{name}"))).unwrap().watchdog();
        assert_eq!(manager.receive(), "WATCHDOG=1\n");
    }

    #[test]
    fn a_manager_that_is_gone_or_absent_is_no_failure_of_ours() {
        Notifier::silent().ready("up");
        let (manager, notifier, dir) = Manager::new();
        drop((manager, dir));
        notifier.ready("up");
        notifier.watchdog();
    }

    #[test]
    fn a_watchdog_is_ours_only_when_the_pid_says_so() {
        let thirty = Some(Duration::from_secs(30));
        assert_eq!(parse_watchdog(Some("30000000"), Some("7"), 7), thirty);
        assert_eq!(parse_watchdog(Some("30000000"), None, 7), thirty);
        for (usec, pid) in [
            (None, None),
            (Some("0"), None),
            (Some("-1"), None),
            (Some("30s"), None),
            (Some("30000000"), Some("8")),
            (Some("30000000"), Some("x")),
        ] {
            assert_eq!(parse_watchdog(usec, pid, 7), None, "{usec:?} {pid:?}");
        }
    }
}
