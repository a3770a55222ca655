//! Reads `[[actions]]`, as a list or as named tables.

use std::collections::HashSet;
use std::path::PathBuf;

use super::cloud::check_url;
use super::problem::Problems;
use super::rules::{limit, named_tables, unique_name};
use super::section::{Secret, Section};
use super::tree::Node;
use crate::action::settings::{ATTEMPTS_MAX, Command, Mqtt, Webhook};
use crate::action::{Kind, Settings, header};
use crate::adapter::mqtt::{self, Source as Broker};
use crate::tls;
use crate::upload::Proxy;
use rumqttc::mqttbytes::{QoS, valid_topic};

/// What several actions share with other parts.
pub struct Shared {
    /// The broker of the devices.
    broker: Broker,
    /// The way of delivery out of this network.
    proxy: Proxy,
}

impl Shared {
    /// From the whole tree, in which what is wrong is reported by those whose it is.
    pub fn of(root: &Node, proxy: Proxy) -> Self {
        let unheard = Problems::default();
        let mut root = Section::new(String::new(), Some(root), &unheard);
        Self { broker: Broker::read_connection(&mut root.section("ingest").section("mqtt")), proxy }
    }
}

/// Reads every `[[actions]]` or `[actions.<name>]`; a warning about an unencrypted webhook goes to `notes`.
pub fn actions(root: &mut Section<'_>, shared: &Shared, notes: &mut Vec<String>) -> Vec<Settings> {
    let mut tables = named_tables(root, "actions");
    limit(root, "actions", &mut tables, ACTIONS_MAX);
    let mut names = HashSet::new();
    let mut read = |(name, mut table): (Option<String>, Section<'_>)| {
        let name = unique_name(&mut table, name, &mut names, "the action's name");
        action(name, &mut table, shared, notes)
    };
    tables.drain(..).filter_map(&mut read).collect()
}

fn action(
    name: String,
    table: &mut Section<'_>,
    shared: &Shared,
    notes: &mut Vec<String>,
) -> Option<Settings> {
    const TYPE: &str = "type";
    const ATTEMPTS: &str = "attempts";
    let types =
        [("command", Some(Type::Command)), ("webhook", Some(Type::Webhook)), ("mqtt", Some(Type::Mqtt))];
    if !table.has(TYPE) {
        table.missing(TYPE, "command, webhook or mqtt");
    }
    let Some(kind) = table.choice(TYPE, None, &types) else {
        // Its other keys cannot be judged.
        table.ignore_rest();
        return None;
    };
    let timeout = table.seconds("timeout_seconds", 10.0, 0.1..=60.0);
    let attempts = match kind {
        // What a program did before it failed, nobody knows.
        Type::Command => 1,
        Type::Webhook | Type::Mqtt => table.count(ATTEMPTS, 3, 1..=ATTEMPTS_MAX),
    };
    let with_delivery_only = match kind {
        Type::Command => false,
        Type::Webhook | Type::Mqtt => table.bool("with_delivery_only", true),
    };
    let kind = match kind {
        Type::Command => Kind::Command(command(table)),
        Type::Webhook => Kind::Webhook(webhook(table, shared, notes)),
        Type::Mqtt => Kind::Mqtt(mqtt(&name, table, shared)),
    };
    Some(Settings { name, kind, timeout, attempts, with_delivery_only })
}

#[derive(Clone, Copy)]
enum Type {
    Command,
    Webhook,
    Mqtt,
}

fn command(table: &mut Section<'_>) -> Command {
    const KEY: &str = "command";
    const ENVIRONMENT: &str = "environment";
    let present = table.has(KEY);
    let mut command = table.strings(KEY).into_iter();
    let program = command.next().map(PathBuf::from).unwrap_or_default();
    if !present {
        table.missing(
            KEY,
            "the program and its arguments as a list of strings, such as ['/usr/bin/relay', 'off']",
        );
    } else if !program.is_absolute() {
        let program = program.display();
        table.refuse(
            KEY,
            format_args!("'{program}' is no absolute path; nothing is searched for, and no shell reads it"),
        );
    }
    let environment = table.string_table(ENVIRONMENT);
    for (name, _) in environment.iter().filter(|(name, _)| name.is_empty() || name.contains(['=', '\0'])) {
        table.refuse(ENVIRONMENT, format_args!("'{name}' is no name of a variable; give one without '='"));
    }
    Command {
        program,
        arguments: command.collect(),
        working_dir: table.path("working_dir"),
        environment: environment.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
    }
}

/// No message shows the URL or a header's value: they may hold a token.
fn webhook(table: &mut Section<'_>, shared: &Shared, notes: &mut Vec<String>) -> Webhook {
    const URL: &str = "url";
    const HEADERS: &str = "headers";
    let url = table.secret(URL).unwrap_or_else(|| Secret::new(String::new()));
    if url.reveal().is_empty() {
        table.missing(URL, "where events are posted to");
    } else {
        check_url(table, URL, url.reveal(), notes, "events");
    }
    let headers = table.string_table(HEADERS);
    let headers: Vec<_> = headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
    if headers.len() > HEADERS_MAX {
        table.refuse(HEADERS, format_args!("{} headers; give at most {HEADERS_MAX}", headers.len()));
    }
    for (name, value) in &headers {
        if let Err(fault) = header(name, value) {
            table.refuse(HEADERS, format_args!("{name} {fault}"));
        }
    }
    Webhook { url, headers, tls: tls::Files::read(table), proxy: shared.proxy.clone() }
}

fn mqtt(name: &str, table: &mut Section<'_>, shared: &Shared) -> Mqtt {
    const TOPIC: &str = "topic";
    let topic = table.required_string(TOPIC, "a topic such as alarms/{rule}/{sensor}");
    if !topic.is_empty() && (!valid_topic(&topic) || topic.len() > TOPIC_BYTES_MAX) {
        let fault = "is not a topic to publish to; give one without + and #, of 256 bytes at most";
        table.refuse(TOPIC, fault);
    }
    let rest = topic.replace("{rule}", "").replace("{sensor}", "");
    if rest.contains(['{', '}']) {
        table.refuse(
            TOPIC,
            "has braces with something else than rule or sensor in them; give {rule} or {sensor}",
        );
    }
    let qos = match table.integer("qos", 1, 0..=2) {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let retain = table.bool("retain", false);
    let (broker, section) = if table.has("host") {
        (Broker::read_connection(table), format!("actions.{name}"))
    } else {
        (shared.broker.clone(), mqtt::SECTION.to_owned())
    };
    Mqtt { broker, section, topic, qos, retain }
}

/// Each has a queue and may run at the same time as all others.
const ACTIONS_MAX: usize = 16;
const HEADERS_MAX: usize = 32;
const TOPIC_BYTES_MAX: usize = 256;
