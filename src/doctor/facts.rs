//! What the checks judge, gathered from this machine. Everything that may hang has a limit, and what may hang is
//! asked all at once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::access::{Account, Accounts};
use super::root::Root;
use super::unit::Unit;
use crate::adapter::{self, Source, mqtt};
use crate::clock;
use crate::config::{Config, LoadError, Loaded};
use crate::lifecycle::{blackbox, lock};
use crate::store::DiskRoom;
use crate::store::stats::{Stats, stats};
use crate::upload::{probe, proxy};

/// Everything that is known before it is judged.
pub struct Facts {
    pub root: Root,
    pub machine: Machine,
    /// `pyvorin-edge.service` and `.socket`, or an instance's.
    pub service: Unit,
    pub socket: Unit,
    pub accounts: Accounts,
    pub config: Result<Loaded, LoadError>,
    pub store: Store,
    pub network: Network,
    pub agent: Agent,
}

impl Facts {
    /// The settings, when they can be loaded.
    pub fn settings(&self) -> Option<&Config> {
        self.config.as_ref().ok().map(|loaded| &loaded.config)
    }

    /// The brokers of the configuration.
    pub fn mqtt(&self) -> impl Iterator<Item = &mqtt::Source> {
        let sources = self.settings().map_or(&[][..], |settings| &settings.sources);
        sources.iter().filter_map(|source| match source {
            adapter::Source::Mqtt(source) => Some(source),
            _ => None,
        })
    }
}

/// What only system calls and the service manager tell.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// As whom this runs.
    pub user: Account,
    /// Unix seconds.
    pub now: f64,
    /// By the kernel's word, where it may be asked.
    pub clock_is_synchronised: Option<bool>,
    /// The file system of the state directory.
    pub disk: Option<DiskRoom>,
    /// musl's resolver has limits of its own.
    pub is_musl: bool,
    /// What systemctl says of the service, where there is one.
    pub service: Option<ServiceState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// `active`, `failed` and so on.
    pub active: String,
    /// Why, when it failed.
    pub result: String,
    /// Its files changed since systemd read them.
    pub needs_daemon_reload: bool,
}

/// The database and what lies beside it.
#[derive(Debug, Default)]
pub struct Store {
    /// `None` when there is no database yet.
    pub stats: Option<Result<Stats, String>>,
    /// This user may not look into the state directory.
    pub is_hidden: bool,
    /// Damaged databases that were moved aside.
    pub quarantined: usize,
    /// How many records the black box has; the error is why it cannot be read.
    pub black_box: Option<Result<usize, String>>,
}

#[derive(Clone, Debug, Default)]
pub struct Network {
    /// `None` while delivery is off.
    pub endpoint: Option<probe::Probed>,
    pub brokers: Vec<Broker>,
}

#[derive(Clone, Debug)]
pub struct Broker {
    pub probed: mqtt::probe::Probed,
    /// Unix seconds when its certificate expires.
    pub expires_at: Option<f64>,
}

/// The agent itself, as it is asked.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// What holds the state lock.
    pub pid: Option<u32>,
    /// Its health page; the error is why there is none.
    pub health: Option<Result<serde_json::Value, String>>,
    /// Its connection to a broker that lets others in ends again and again.
    pub is_pushed_off: bool,
}

/// Gathers all of it. Takes no longer than [`LIMIT`] and what the disk takes.
pub async fn gather(root: Root, config: Result<Loaded, LoadError>, units: (Unit, Unit)) -> Facts {
    let (service, socket) = units;
    let accounts = Accounts::read(&root);
    let state_dir = config.as_ref().ok().map(|loaded| root.path(&loaded.config.store.state_dir));
    let settings = config.as_ref().ok().map(|loaded| &loaded.config);
    let (network, store, agent, state) = tokio::join!(
        async {
            match settings {
                Some(settings) => network(settings).await,
                None => Network::default(),
            }
        },
        async {
            match state_dir.clone() {
                Some(state_dir) => Store::look_aside(state_dir).await,
                None => Store::default(),
            }
        },
        async {
            match settings {
                Some(settings) => Agent::ask(&root, settings).await.watched(settings).await,
                None => Agent::default(),
            }
        },
        service_state(&root, &service),
    );
    let uid = rustix::process::getuid().as_raw();
    let machine = Machine {
        user: accounts.by_uid(uid),
        now: clock::unix_seconds(),
        clock_is_synchronised: Some(clock::is_synchronised()),
        disk: state_dir.as_deref().and_then(disk),
        is_musl: cfg!(target_env = "musl"),
        service: state,
    };
    Facts { root, machine, service, socket, accounts, config, store, network, agent }
}

impl Agent {
    /// Whether one runs on the state directory, and what its health page says.
    pub async fn ask(root: &Root, settings: &Config) -> Self {
        let health = &settings.health;
        Self {
            pid: lock::holder(&root.path(&settings.store.state_dir)).ok().flatten(),
            health: match health.enabled && health.port != 0 {
                true => Some(super::agent::health(health.bind, health.port, HEALTH_MAX).await),
                false => None,
            },
            is_pushed_off: false,
        }
    }

    /// Looks a while at a connection to a broker that was closed from the other side: does that go on?
    async fn watched(mut self, settings: &Config) -> Self {
        let Some(Ok(page)) = &self.health else { return self };
        if !super::agent::was_closed(page) {
            return self;
        }
        let mut lost = 0;
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let page = super::agent::health(settings.health.bind, settings.health.port, HEALTH_MAX).await;
            lost += usize::from(page.is_ok_and(|page| super::agent::is_reconnecting(&page)));
        }
        self.is_pushed_off = lost > 0;
        self
    }
}

async fn network(settings: &Config) -> Network {
    let endpoint = async {
        let environment = proxy::Environment::of_process();
        match settings.cloud.enabled {
            true => Some(probe::probe(&settings.cloud, &environment, NETWORK_MAX).await),
            false => None,
        }
    };
    let brokers = async {
        let mut found = Vec::new();
        for source in &settings.sources {
            if let Source::Mqtt(source) = source {
                found.push(broker(source).await);
            }
        }
        found
    };
    let (endpoint, brokers) = tokio::join!(endpoint, brokers);
    Network { endpoint, brokers }
}

async fn broker(source: &mqtt::Source) -> Broker {
    let (host, port) = source.broker();
    let certificate = async {
        match source.tls() {
            Some(files) => probe::certificate_of(host, port, files, NETWORK_MAX).await.ok().flatten(),
            None => None,
        }
    };
    let (probed, expires_at) = tokio::join!(mqtt::probe::probe(source, NETWORK_MAX), certificate);
    Broker { probed, expires_at }
}

impl Store {
    /// [`Self::look`] on a thread of its own: a disk that hangs must not hold up the rest.
    pub async fn look_aside(state_dir: PathBuf) -> Self {
        let look = tokio::task::spawn_blocking(move || Self::look(&state_dir));
        let failed = |error: String| Self { stats: Some(Err(error)), ..Self::default() };
        match timeout(STORE_MAX, look).await {
            Ok(Ok(store)) => store,
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => failed(format!("the disk did not give an answer within {STORE_MAX:?}")),
        }
    }

    /// Looks at what lies in `state_dir`. Waits for the disk.
    pub fn look(state_dir: &Path) -> Self {
        let listed = match std::fs::read_dir(state_dir) {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Self { is_hidden: true, ..Self::default() };
            }
            Err(_) => false,
        };
        let database = state_dir.join(crate::store::DATABASE_FILE);
        let black_box = state_dir.join(blackbox::FILE_NAME);
        let chain = |error: &dyn std::error::Error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let quarantine = std::fs::read_dir(state_dir.join(QUARANTINE));
        Self {
            stats: (listed && database.exists()).then(|| stats(&database).map_err(|error| chain(&error))),
            is_hidden: false,
            quarantined: quarantine.map_or(0, |folders| folders.take(QUARANTINED_MAX).count()),
            black_box: black_box.exists().then(|| {
                blackbox::read(&black_box).map(|records| records.len()).map_err(|error| error.to_string())
            }),
        }
    }
}

fn disk(state_dir: &Path) -> Option<DiskRoom> {
    // Before the first start it is not there, but that which it will be made in.
    state_dir
        .ancestors()
        .find_map(|folder| DiskRoom::of(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }))
}

/// What systemd says of the service on this machine; `None` where it does not run, or has no such unit.
pub async fn service_state(root: &Root, unit: &Unit) -> Option<ServiceState> {
    if !root.is_machine() || unit.file.is_none() || !root.has(RUNNING_SYSTEMD) {
        return None;
    }
    let properties = "--property=ActiveState,Result,NeedDaemonReload";
    let text =
        output("systemctl", &["show".into(), unit.name.clone().into(), properties.into()], COMMAND_MAX)
            .await?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(ServiceState {
        active: value("ActiveState")?.to_owned(),
        result: value("Result").unwrap_or_default().to_owned(),
        needs_daemon_reload: value("NeedDaemonReload") == Some("yes"),
    })
}

/// What a program prints; `None` when there is no such program, or it fails or does not end in time.
pub async fn output(program: &str, arguments: &[OsString], limit: Duration) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of all that is asked at once.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Name, connection and answer of one peer together.
const NETWORK_MAX: Duration = Duration::from_secs(8);
const HEALTH_MAX: Duration = Duration::from_secs(3);
/// An agent that is pushed off comes back after half a second or so, and pushes in turn.
const LOOKS: usize = 12;
const LOOK_INTERVAL: Duration = Duration::from_millis(150);
const STORE_MAX: Duration = Duration::from_secs(8);
const COMMAND_MAX: Duration = Duration::from_secs(3);
const QUARANTINE: &str = "quarantine";
const QUARANTINED_MAX: usize = 100;
/// systemd(1) makes it when it runs the system: sd_booted(3).
pub const RUNNING_SYSTEMD: &str = "/run/systemd/system";
