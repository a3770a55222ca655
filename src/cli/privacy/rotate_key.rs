//! `privacy rotate-key`: another key for hashes.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::cli::by_hand::{Service, load_as};
use crate::cli::{EXIT_CONFIG, EXIT_OK};
use crate::privacy::HashKey;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    service: Service,
}

pub fn run(config: Option<PathBuf>, arguments: &Arguments) -> anyhow::Result<u8> {
    let root = arguments.service.root();
    let (service, _) = arguments.service.units();
    let (loaded, credentials) = load_as(&service, &root, config);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return Ok(EXIT_CONFIG);
        }
    };
    if let Some(path) =
        credentials.folder().map(|folder| folder.join(HashKey::CREDENTIAL)).filter(|path| path.exists())
    {
        bail!(
            "the key is the credential {}: replace that where the service has it from, then restart it",
            path.display()
        );
    }
    let state_dir = &loaded.config.store.state_dir;
    let before = HashKey::load(state_dir, None).context("the key that is there is left alone")?;
    let key = HashKey::rotate(state_dir)?;
    match before {
        Some(before) => println!("the key {} is replaced by {}", before.id(), key.id()),
        None => println!("there was no key; {} is made", key.id()),
    }
    println!("it holds from the next reload or start on: pyv-edge-agent reload");
    Ok(EXIT_OK)
}
