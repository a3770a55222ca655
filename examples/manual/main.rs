//! Writes what is made of the command line for packages: manual pages and the completions of shells.
//!
//! An example and not a part of the agent or of its build, so that neither depends on what writes them.

mod pages;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Parser;
use clap_complete::Shell;
use pyvorin_edge::cli;

/// Writes manual pages to FOLDER/man and completions to FOLDER/completions.
#[derive(Parser)]
struct Arguments {
    /// Made when it is not there.
    folder: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { folder } = Arguments::parse();
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder)?;
    }
    let mut command = cli::command();
    pages::write(&command, &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, cli::NAME, &completions)?;
    }
    Ok(())
}
