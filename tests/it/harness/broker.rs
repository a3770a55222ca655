//! A real mosquitto of the test's own: its own folder, its own port, its own log.

use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;

use super::endpoint::Pki;
use super::endpoint::receiver::certificates::Usage;
use super::process::{Process, free_port};
use super::write;

/// How clients have to come to [`Broker::port`].
#[derive(Clone, Copy)]
pub enum Access<'p> {
    Plain,
    /// With a certificate of this authority.
    Tls(&'p Pki),
    /// And only clients with a certificate of the same authority.
    MutualTls(&'p Pki),
    /// With this password for the user `edge`.
    Password(&'p str),
}

/// What survives the broker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: after a restart it knows no session.
    Off,
    /// Everything, when it is stopped in order.
    AtStop,
    /// Nearly everything, even when it is killed: it saves after each change.
    EachChange,
}

#[derive(Clone, Copy)]
pub struct Options<'p> {
    pub access: Access<'p>,
    pub persistence: Persistence,
    /// Messages on their way to one client that it has not acknowledged.
    pub max_inflight_messages: u32,
    /// Messages kept for one client, connected or not.
    pub max_queued_messages: u32,
    /// Log every packet, which a test may wait for, and a test with very many does not want.
    pub logs_packets: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            access: Access::Plain,
            persistence: Persistence::AtStop,
            max_inflight_messages: 1000,
            max_queued_messages: 100_000,
            logs_packets: true,
        }
    }
}

/// A broker that may be stopped and started again on the same ports.
pub struct Broker {
    folder: TempDir,
    /// For the client under test.
    pub port: u16,
    /// Without TLS, for what the test publishes; the same port when that is without TLS anyway.
    pub publish_port: u16,
    /// What publishers have to log in with.
    pub login: Option<(String, String)>,
    settings: String,
    process: Option<Process>,
}

impl Broker {
    /// Starts a broker; it takes connections when this returns.
    pub async fn start(options: Options<'_>) -> Self {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let mut broker = Self::prepare(&options);
            if broker.try_start().await {
                return broker;
            }
        }
        panic!("mosquitto found its port taken {PORT_ATTEMPTS_MAX} times in a row");
    }

    /// Ends it with SIGTERM; it saves its state when persistence is on.
    pub async fn stop(&mut self) {
        self.end(Signal::TERM).await;
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], on the same ports.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        assert!(self.try_start().await, "the broker's port was taken meanwhile");
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Gives the user `edge` another password; connected clients stay.
    pub async fn set_password(&mut self, password: &str) {
        write_password(&self.folder.path().join("passwords"), password);
        let process = self.process.as_mut().expect("it runs");
        let lines = process.lines_so_far();
        process.signal(Signal::HUP);
        process.says_after(lines, "Reloading config").await;
        self.login = Some(login(password));
    }

    /// The broker's log since it was last started.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its log as it grows, until it is stopped.
    pub fn lines(&self) -> watch::Receiver<Vec<String>> {
        self.process.as_ref().expect("it runs").lines()
    }

    /// Waits for a line of the broker's log that contains `text`.
    pub async fn says(&self, text: &str) -> String {
        self.process.as_ref().expect("it runs").says(text).await
    }

    fn prepare(options: &Options<'_>) -> Self {
        let folder = TempDir::new().unwrap();
        let place = folder.path().display().to_string();
        let port = free_port();
        let mut publish_port = port;
        let mut login_needed = None;
        let mut settings = format!("listener {port} 127.0.0.1\n");
        match options.access {
            Access::Plain => {}
            Access::Tls(pki) | Access::MutualTls(pki) => {
                let (certificate, key) = pki.server_files(Usage::Server);
                let (ca, certificate, key) = (pki.ca_file(), certificate.display(), key.display());
                settings += &format!("cafile {}\ncertfile {certificate}\nkeyfile {key}\n", ca.display());
                if matches!(options.access, Access::MutualTls(_)) {
                    settings += "require_certificate true\n";
                }
                publish_port = free_port();
                settings += &format!("listener {publish_port} 127.0.0.1\n");
            }
            Access::Password(password) => {
                let file = folder.path().join("passwords");
                write_password(&file, password);
                settings += &format!("password_file {}\n", file.display());
                login_needed = Some(login(password));
            }
        }
        settings += &format!("allow_anonymous {}\n", login_needed.is_none());
        settings += match options.persistence {
            Persistence::Off => "persistence false\n",
            Persistence::AtStop => "persistence true\n",
            Persistence::EachChange => "persistence true\nautosave_interval 1\nautosave_on_changes true\n",
        };
        // As root it would become another user, who may not write here.
        settings += &format!("persistence_location {place}/\nuser root\nlog_dest stderr\n");
        settings += if options.logs_packets { "log_type all\n" } else { LOG_WITHOUT_PACKETS };
        let Options { max_inflight_messages, max_queued_messages, .. } = options;
        settings += &format!("max_inflight_messages {max_inflight_messages}\n");
        settings += &format!("max_queued_messages {max_queued_messages}\n");
        Self { folder, port, publish_port, login: login_needed, settings, process: None }
    }

    /// Whether it took its ports.
    async fn try_start(&mut self) -> bool {
        let file = self.folder.path().join("mosquitto.conf");
        write(&file, &self.settings);
        let process = Process::start(Command::new(program()).arg("-c").arg(file), INSTALL);
        if process.says_or_ends(" running").await.is_none() {
            let log = process.log();
            assert!(log.contains("Address already in use"), "mosquitto did not start:\n{log}");
            return false;
        }
        // A SIGTERM between that line and its main loop would be lost (mosquitto 2.0.11).
        let connection = TcpStream::connect(("127.0.0.1", self.publish_port)).await.unwrap();
        process.says("New connection from").await;
        drop(connection);
        self.process = Some(process);
        true
    }

    async fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("it runs");
        process.signal(signal);
        process.wait_exit().await;
    }
}

/// It stands where only root's PATH looks.
fn program() -> PathBuf {
    let system = PathBuf::from("/usr/sbin/mosquitto");
    if system.exists() { system } else { "mosquitto".into() }
}

fn login(password: &str) -> (String, String) {
    ("edge".to_owned(), password.to_owned())
}

fn write_password(file: &std::path::Path, password: &str) {
    let mut command = std::process::Command::new("mosquitto_passwd");
    let status = command.args(["-b", "-c"]).arg(file).args(["edge", password]).status();
    assert!(status.unwrap_or_else(|error| panic!("mosquitto_passwd: {error}; {INSTALL}")).success());
}

const LOG_WITHOUT_PACKETS: &str =
    "log_type error\nlog_type warning\nlog_type notice\nlog_type information\nlog_type subscribe\n";
const INSTALL: &str = "apt-get install mosquitto";
const PORT_ATTEMPTS_MAX: usize = 5;
