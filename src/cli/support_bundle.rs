//! `support-bundle`: writes one archive that may be handed to whoever helps.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use time::OffsetDateTime;
use time::macros::format_description;

use super::by_hand::{Service, options};
use super::store::table;
use super::{EXIT_OK, blackbox, on_runtime};
use crate::clock;
use crate::config::{load, written};
use crate::doctor::examine;
use crate::doctor::facts::{Facts, gather, output};
use crate::doctor::status::{Remembered, status};
use crate::lifecycle;
use crate::support::{Material, Part, journal, parts, tar, versions};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to write it; must not be there yet [default: ./pyvorin-edge-support-<time>.tar.gz]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: Service,
}

/// Writes the archive and says what is in it; returns the exit code.
pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<u8> {
    let now = clock::unix_seconds();
    let folder = format!("pyvorin-edge-support-{}", stamp(now));
    let path = arguments.output.clone().unwrap_or_else(|| format!("{folder}.tar.gz").into());
    let parts = collect(config, &arguments.service)?;
    let contents = contents(&parts);
    let files = parts.iter().map(|part| (part.name, part.text.as_bytes()));
    let files = files.chain(std::iter::once(("contents.txt", contents.as_bytes())));
    let archive = tar::archive(&folder, files, now as u64).map_err(anyhow::Error::msg)?;
    write(&path, &archive).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{contents}");
    println!("\nwritten to {}; have a look before you hand it on: tar -xzf", path.display());
    Ok(EXIT_OK)
}

fn collect(config: Option<PathBuf>, service: &Service) -> anyhow::Result<Vec<Part>> {
    let (root, units) = (service.root(), service.units());
    let (options, _credentials) = options(&units.0, &root, config);
    let (files, loaded) = (written(&options).unwrap_or_default(), load(&options));
    let unit = units.0.name.clone();
    let asked = ["--version".into()];
    let (facts, journal, systemd) = on_runtime(async {
        tokio::join!(
            gather(root.clone(), loaded, units),
            async { if root.is_machine() { journal::read(&unit).await } else { None } },
            output("systemctl", &asked, VERSION_MAX),
        )
    })?;
    let state_dir = facts.settings().map(|settings| root.path(&settings.store.state_dir));
    let records = state_dir
        .as_ref()
        .and_then(|dir| lifecycle::blackbox::read(&dir.join(lifecycle::blackbox::FILE_NAME)).ok());
    let Facts { config, agent, store, machine, .. } = &facts;
    let material = Material {
        report: examine(&facts),
        service_user: facts.service.value("User").unwrap_or("root"),
        refusal: config.as_ref().err(),
        files,
        status: config.as_ref().ok().zip(state_dir.as_ref()).map(|(loaded, dir)| {
            status(loaded, agent, store, Remembered::read(dir), machine.service.as_ref())
        }),
        stats: store.stats.as_ref().and_then(|stats| stats.as_ref().ok()),
        black_box: records.map(|records| blackbox::text(&records)),
        journal,
        versions: versions(&root, systemd.as_deref().and_then(|text| text.lines().next())),
    };
    Ok(parts(material))
}

fn contents(parts: &[Part]) -> String {
    let row = |part: &Part| [part.name.to_owned(), part.text.len().to_string(), part.what.to_owned()];
    let rows: Vec<_> = parts.iter().map(row).collect();
    table::format(["file", "bytes", "what"], &rows)
}

/// For its owner alone, and never in the place of another file.
fn write(path: &Path, archive: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = (|| {
        let mut encoder = GzEncoder::new(file, Compression::default());
        encoder.write_all(archive)?;
        encoder.finish()?.sync_all()
    })();
    if written.is_err() {
        // Half an archive is of no use to anybody.
        std::fs::remove_file(path).ok();
    }
    written
}

fn stamp(unix_seconds: f64) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = OffsetDateTime::from_unix_timestamp(unix_seconds as i64).ok();
    time.and_then(|time| time.format(format).ok()).unwrap_or_default()
}

const VERSION_MAX: Duration = Duration::from_secs(2);
