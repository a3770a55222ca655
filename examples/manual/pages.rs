//! The manual pages: of the program and its subcommands from the command line itself, with what no command line
//! knows, and of the configuration from the sample that shows every key.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

const MANUAL: &str = "Pyvorin Edge Agent";
const SOURCE: &str = concat!("pyvorin-edge ", env!("CARGO_PKG_VERSION"));
const CONFIGURATION_PAGE: &str = "pyvorin-edge-config";
const SAMPLE: &str = include_str!("../edge_config.toml");

/// Writes all pages into `folder`: section 1 for commands, section 5 for the configuration.
pub fn write(command: &Command, folder: &Path) -> io::Result<()> {
    // Named in each page instead: a page of `help` says nothing.
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    write_agent(&command, folder)?;
    for subcommand in command.get_subcommands() {
        write_subcommand(subcommand, folder)?;
    }
    let mut page = Roff::new();
    configuration(&mut page);
    page.to_writer(&mut File::create(folder.join(format!("{CONFIGURATION_PAGE}.5")))?)
}

fn man(command: &Command) -> Man {
    Man::new(command.clone()).source(SOURCE).manual(MANUAL)
}

fn write_agent(command: &Command, folder: &Path) -> io::Result<()> {
    let man = man(command);
    let file = &mut File::create(folder.join(man.get_filename()))?;
    man.render_title(file)?;
    man.render_name_section(file)?;
    man.render_synopsis_section(file)?;
    man.render_description_section(file)?;
    man.render_options_section(file)?;
    man.render_subcommands_section(file)?;
    let mut page = Roff::new();
    examples(&mut page, command);
    exit_status(&mut page);
    signals(&mut page);
    environment(&mut page);
    files(&mut page);
    see_also(&mut page, &[(CONFIGURATION_PAGE, "5"), ("systemctl", "1"), ("journalctl", "1")]);
    page.to_writer(file)?;
    file.flush()
}

fn write_subcommand(command: &Command, folder: &Path) -> io::Result<()> {
    man(command).generate_to(folder)?;
    command.get_subcommands().try_for_each(|subcommand| write_subcommand(subcommand, folder))
}

/// The examples of `--help`, without the exit codes, which have a section of their own.
fn examples(page: &mut Roff, command: &Command) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = help.split("\n\n").next().unwrap_or_default();
    page.control("SH", ["EXAMPLES"]);
    literal(page, examples.lines().skip(1));
}

fn exit_status(page: &mut Roff) {
    page.control("SH", ["EXIT STATUS"]);
    item(page, "0", "Stopped on request, or everything was done.");
    item(
        page,
        "1",
        "Failed while starting or running, or something is damaged; the reason is on standard error.",
    );
    item(page, "2", "Wrong usage.");
    item(page, "78", "The configuration is missing or wrong.");
    item(
        page,
        "143, 130",
        "Asked to stop a second time, by SIGTERM or SIGINT, before everything was committed.",
    );
}

fn signals(page: &mut Roff) {
    page.control("SH", ["SIGNALS"]);
    item(
        page,
        "SIGTERM, SIGINT",
        "Stop: intake ends, what was accepted is committed, within 10 seconds. A second one ends at once.",
    );
    item(
        page,
        "SIGHUP",
        "Load the configuration anew. What is wrong is refused and logged, and the old configuration runs on. \
         A start that waits for the disk also tries again at once.",
    );
}

fn environment(page: &mut Roff) {
    page.control("SH", ["ENVIRONMENT"]);
    item(page, "STATE_DIRECTORY", "The state directory, unless agent.state_dir is set. Of systemd.");
    item(page, "CREDENTIALS_DIRECTORY", "Where ${credential:NAME} is looked up. Of systemd.");
    item(page, "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "Readiness, status and watchdog. Of systemd.");
    item(page, "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID", "The socket of the health page. Of systemd.");
    item(page, "JOURNAL_STREAM, NO_COLOR", "How the log is written: with priorities, or without colours.");
    item(page, "HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "The proxy, while cloud.proxy is system.");
    item(page, "any other", "Has a value where the configuration says ${NAME}.");
}

fn files(page: &mut Roff) {
    page.control("SH", ["FILES"]);
    item(
        page,
        "/etc/pyvorin-edge/config.toml",
        "The administrator's configuration, which no upgrade overwrites.",
    );
    item(
        page,
        "/etc/pyvorin-edge/conf.d/*.toml",
        "Merged over it in the order of their names; for provisioning.",
    );
    item(
        page,
        "/etc/credstore/pyvorin-edge.NAME",
        "Secrets, which systemd hands to the agent as ${credential:NAME}.",
    );
    item(
        page,
        "/var/lib/pyvorin-edge/",
        "The state: edge_store.db with its -wal and -shm, privacy.key, lock and blackbox; quarantine after a damage.",
    );
    item(
        page,
        "/usr/share/pyvorin-edge/drop-ins/",
        "Drop-ins for the service, each of which says what it is for.",
    );
    item(page, "/usr/share/doc/pyvorin-edge/examples/edge_config.toml", "Every key of the configuration.");
}

fn configuration(page: &mut Roff) {
    page.control("TH", [CONFIGURATION_PAGE, "5", "", SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{CONFIGURATION_PAGE} - configuration of the Pyvorin Edge Agent"))]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/pyvorin-edge/config.toml")]);
    page.control("br", []);
    page.text([italic("/etc/pyvorin-edge/conf.d/*.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    paragraph(
        page,
        "The file is TOML, or JSON when its name ends in .json. Every conf.d/*.toml beside it is merged over it in the \
         order of names: tables merge, lists and values are replaced. Unknown keys are errors.",
    );
    paragraph(
        page,
        "After a change, systemctl reload pyvorin-edge has it checked and applied as a whole, or refused. Some keys \
         need a restart; a reload names them.",
    );
    page.control("SH", ["KEYS"]);
    literal(page, SAMPLE.lines());
    see_also(page, &[("pyv-edge-agent", "1"), ("pyv-edge-agent-check", "1"), ("systemd.exec", "5")]);
}

fn see_also(page: &mut Roff, pages: &[(&str, &str)]) {
    page.control("SH", ["SEE ALSO"]);
    let mut line: Vec<Inline> = Vec::new();
    for (name, section) in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(*name), roman(format!("({section})"))]);
    }
    page.text(line);
}

fn item(page: &mut Roff, name: &str, text: &str) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text([roman(text)]);
}

fn paragraph(page: &mut Roff, text: &str) {
    page.control("PP", []);
    page.text([roman(text)]);
}

/// Lines as they are.
fn literal<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    page.control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}
