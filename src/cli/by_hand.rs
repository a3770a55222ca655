//! What a command that a person runs needs to see the configuration as the service does: the credentials and the
//! environment that only the service gets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::{LoadError, LoadOptions, Loaded, load};
use crate::doctor::root::Root;
use crate::doctor::unit::Unit;

/// Which service, and below which root.
#[derive(Debug, clap::Args)]
pub struct Service {
    /// The unit of the agent, such as pyvorin-edge@lab
    #[arg(long, value_name = "NAME", default_value = "pyvorin-edge")]
    unit: String,
    /// Look at the system below this folder instead of this machine's
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Service {
    pub fn root(&self) -> Root {
        Root::new(self.root.clone())
    }

    /// The service and its socket.
    pub fn units(&self) -> (Unit, Unit) {
        let name = self.unit.trim_end_matches(".service");
        let read = |kind: &str| Unit::read(&self.root(), &format!("{name}.{kind}"));
        (read("service"), read("socket"))
    }
}

/// Loads the configuration as the service would. What comes from credentials can be read again as long as the second
/// is kept.
pub fn load_as(
    service: &Unit,
    root: &Root,
    config: Option<PathBuf>,
) -> (Result<Loaded, LoadError>, Credentials) {
    let (options, credentials) = options(service, root, config);
    (load(&options), credentials)
}

/// With the surroundings of the service. The credentials can be read as long as the second is kept.
pub fn options(service: &Unit, root: &Root, config: Option<PathBuf>) -> (LoadOptions, Credentials) {
    let mut options = LoadOptions::of_process(config);
    let credentials = Credentials::of(service, root);
    if options.credentials_dir.is_none() {
        options.credentials_dir = credentials.folder();
    }
    let mut environment = service.environment(root);
    if let Some(folder) = options.credentials_dir.as_ref().and_then(|folder| folder.to_str()) {
        environment.insert("CREDENTIALS_DIRECTORY".to_owned(), folder.to_owned());
    }
    options.environment = with(environment);
    (options, credentials)
}

/// This process's environment, and what it does not have from `further`.
fn with(further: BTreeMap<String, String>) -> crate::config::Environment {
    Box::new(move |name| std::env::var_os(name).or_else(|| further.get(name).map(OsString::from)))
}

/// A folder in which each credential of the service is found by its name.
pub enum Credentials {
    None,
    /// That of the running service.
    OfService(PathBuf),
    /// Links to where the unit takes them from; removed when this is dropped.
    Links(PathBuf),
}

impl Credentials {
    fn of(service: &Unit, root: &Root) -> Self {
        let running = root.path(Path::new("/run/credentials").join(&service.name));
        if fs::read_dir(&running).is_ok() {
            return Self::OfService(running);
        }
        let sources = service.credentials(root);
        if sources.is_empty() {
            return Self::None;
        }
        let name = format!("pyv-edge-agent.{:016x}", fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        // Fails when it is there: nobody else's folder is used.
        if DirBuilder::new().mode(0o700).create(&folder).is_err() {
            return Self::None;
        }
        let links = Self::Links(folder.clone());
        for (name, source) in sources.iter().filter(|(name, _)| !name.contains('/')) {
            // One that cannot be made is a credential that is not found, which is said.
            std::os::unix::fs::symlink(root.path(source), folder.join(name)).ok();
        }
        links
    }

    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::OfService(folder) | Self::Links(folder) => Some(folder.clone()),
        }
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Self::Links(folder) = self {
            // What stays holds links and no secret.
            fs::remove_dir_all(folder).ok();
        }
    }
}
