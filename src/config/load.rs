//! Loads a configuration: files, syntax, substitution, merge, checks; every problem at once.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::files::{ReadError, drop_ins, read_bounded};
use super::lines::Lines;
use super::problem::{Problem, Problems};
use super::substitute::{Environment, Substituter};
use super::tree::{Node, Value};
use super::{Config, json_file, stages, toml_file};

/// Where to load from. Everything of the process's surroundings comes in here.
pub struct LoadOptions {
    /// The main file, JSON when its name ends in `.json`; `None` looks at [`DEFAULT_PATHS`] in turn.
    pub path: Option<PathBuf>,
    pub environment: Environment,
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials_dir: Option<PathBuf>,
    /// `$STATE_DIRECTORY`: one path, or several with colons between, of which the first counts.
    pub state_dir_env: Option<OsString>,
}

impl LoadOptions {
    /// With the surroundings of this process.
    pub fn of_process(path: Option<PathBuf>) -> Self {
        Self {
            path,
            environment: Box::new(|name| std::env::var_os(name)),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            state_dir_env: std::env::var_os("STATE_DIRECTORY"),
        }
    }
}

/// A configuration and where it came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order in which they were merged.
    pub files: Vec<PathBuf>,
    /// What is allowed but worth a warning, each with its place. For the log, once that is set up.
    pub notes: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no configuration file: {} not exist; give one with --config", list(looked_at))]
    NotFound { looked_at: Vec<PathBuf> },
    /// The file is there; no other is tried in its place.
    #[error("{}: {error}; nothing was loaded", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: ReadError,
    },
    #[error("{0}")]
    Invalid(Refused),
}

/// Everything that is wrong, one line each.
#[derive(Debug)]
pub struct Refused {
    /// `path:line:column: key: message`, in the order of the places.
    pub lines: Vec<String>,
    /// Of all problems; more than there are lines when there were very many.
    pub count: usize,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        if self.count > self.lines.len() {
            writeln!(f, "... and {} more", self.count - self.lines.len())?;
        }
        let problems = if self.count == 1 { "problem" } else { "problems" };
        write!(f, "the configuration is refused: {} {problems}", self.count)
    }
}

/// Loads the main file and the `conf.d/*.toml` beside it, of which later keys win: tables merge, and
/// everything else is replaced. Reads files and blocks while it does.
///
/// # Errors
///
/// There is nothing to load, it cannot be read, or something in it is wrong; nothing was changed.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (main, bytes) = find(options.path.as_deref())?;
    let problems = Problems::default();
    let files = read_all(main, bytes, &problems);
    understand(files, options, problems)
}

/// What the contents of `files` come to, merged in their order. There is at least one, unless there is a
/// problem already.
///
/// # Errors
///
/// [`LoadError::Invalid`] only.
pub(crate) fn understand(
    files: Vec<(PathBuf, Vec<u8>)>,
    options: &LoadOptions,
    problems: Problems,
) -> Result<Loaded, LoadError> {
    let mut paths = Vec::with_capacity(files.len());
    let mut trees = Vec::with_capacity(files.len());
    for (path, bytes) in files {
        trees.extend(parse(&path, bytes, &problems));
        paths.push(path);
    }
    // A file that cannot be parsed leaves gaps, and whatever is found missing then would mislead.
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let mut substituter =
        Substituter::new(&options.environment, options.credentials_dir.as_deref(), &problems);
    trees.iter_mut().for_each(|tree| substituter.substitute(tree));
    let mut trees = trees.into_iter();
    let mut root = trees.next().expect("the main file was parsed");
    trees.for_each(|tree| merge(&mut root, tree));

    let mut notes = Vec::new();
    let state_dir = default_state_dir(options.state_dir_env.as_ref());
    let config = stages::read(&root, state_dir, &problems, &mut notes);
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    Ok(Loaded { config, files: paths, notes })
}

/// A file as it is written, with its `${...}` replaced as far as that can be done; `None` when it cannot be read
/// or understood as a file of its kind.
pub struct Written {
    pub path: PathBuf,
    pub tree: Option<Node>,
}

/// The files that [`load`] would take, whatever is wrong with what they say. Reads files and blocks while it does.
///
/// # Errors
///
/// There is nothing to load, or the main file cannot be read.
pub fn written(options: &LoadOptions) -> Result<Vec<Written>, LoadError> {
    let (main, bytes) = find(options.path.as_deref())?;
    let problems = Problems::default();
    let files = read_all(main, bytes, &problems);
    let mut substituter =
        Substituter::new(&options.environment, options.credentials_dir.as_deref(), &problems);
    let written = files.into_iter().map(|(path, bytes)| {
        let mut tree = parse(&path, bytes, &problems);
        tree.iter_mut().for_each(|tree| substituter.substitute(tree));
        Written { path, tree }
    });
    Ok(written.collect())
}

/// The main file and what is in it.
fn find(path: Option<&Path>) -> Result<(PathBuf, Vec<u8>), LoadError> {
    let looked_at: Vec<PathBuf> = match path {
        Some(path) => vec![path.to_owned()],
        None => DEFAULT_PATHS.iter().map(PathBuf::from).collect(),
    };
    for path in &looked_at {
        match read_bounded(path, FILE_BYTES_MAX) {
            Ok(bytes) => return Ok((path.clone(), bytes)),
            Err(ReadError::NotFound) => {}
            Err(error) => return Err(LoadError::Unreadable { path: path.clone(), error }),
        }
    }
    Err(LoadError::NotFound { looked_at })
}

/// The main file and every drop-in beside it that can be read; what cannot is reported.
fn read_all(main: PathBuf, bytes: Vec<u8>, problems: &Problems) -> Vec<(PathBuf, Vec<u8>)> {
    let drop_ins = drop_ins(&main).unwrap_or_else(|(folder, error)| {
        problems.add(None, format!("{}: {error}", folder.display()));
        Vec::new()
    });
    if drop_ins.len() >= FILES_MAX {
        let folder = main.with_file_name("conf.d");
        let message =
            format!("{}: {} files; at most {} are read", folder.display(), drop_ins.len(), FILES_MAX - 1);
        problems.add(None, message);
        return Vec::new();
    }
    let mut bytes_left = TOTAL_BYTES_MAX - bytes.len() as u64;
    let mut files = vec![(main, bytes)];
    for path in drop_ins {
        match read_bounded(&path, FILE_BYTES_MAX.min(bytes_left)) {
            Ok(bytes) => {
                bytes_left -= bytes.len() as u64;
                files.push((path, bytes));
            }
            Err(error) => problems.add(None, format!("{}: {error}", path.display())),
        }
    }
    files
}

fn parse(path: &Path, bytes: Vec<u8>, problems: &Problems) -> Option<Node> {
    let file: Rc<str> = path.to_string_lossy().into();
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
            let place = Lines::new(file, &text).place(valid);
            problems.add(Some(&place), "is not UTF-8 text; save the file as UTF-8".to_owned());
            return None;
        }
    };
    // Editors elsewhere put a byte order mark there, and columns count without it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let parsed = if is_json { json_file::parse(file, text) } else { toml_file::parse(file, text) };
    let found = parsed.map_err(|found| {
        for Problem { place, message } in found {
            problems.add(place.as_ref(), message);
        }
    });
    found.ok()
}

/// Lays `over` on `base`. A table keeps the place where it was first opened.
fn merge(base: &mut Node, over: Node) {
    let Node { place, value } = over;
    match (&mut base.value, value) {
        (Value::Table(base), Value::Table(over)) => {
            for (key, entry) in over {
                match base.get_mut(&key) {
                    Some(existing) => merge(&mut existing.node, entry.node),
                    None => {
                        base.insert(key, entry);
                    }
                }
            }
        }
        (_, value) => *base = Node { place, value },
    }
}

fn refused(problems: Problems) -> LoadError {
    let count = problems.count();
    let lines = problems.into_sorted().iter().map(Problem::to_string).collect();
    LoadError::Invalid(Refused { lines, count })
}

fn default_state_dir(state_dir_env: Option<&OsString>) -> PathBuf {
    let first = state_dir_env.and_then(|paths| std::env::split_paths(paths).next());
    if let Some(path) = first.filter(|path| !path.as_os_str().is_empty()) {
        return path;
    }
    let installed = Path::new(INSTALLED_STATE_DIR);
    if installed.is_dir() { installed.to_owned() } else { PathBuf::from(LOCAL_STATE_DIR) }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let verb = if paths.len() == 1 { "does" } else { "do" };
    format!("{} {verb}", shown.join(" and "))
}

/// Where a configuration is looked for when none is named.
pub const DEFAULT_PATHS: [&str; 2] = ["./edge_config.toml", "/etc/pyvorin-edge/config.toml"];
/// Of one file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Of all files together; a tree takes a multiple of its text.
const TOTAL_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The main file included.
const FILES_MAX: usize = 64;
/// What the package creates.
pub const INSTALLED_STATE_DIR: &str = "/var/lib/pyvorin-edge";
/// For a trial without installation.
const LOCAL_STATE_DIR: &str = "./pyvorin-edge-data";
