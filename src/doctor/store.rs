//! The database: whether it can be read, by this agent, and what it went through.

use serde_json::Value;

use super::Check;
use super::configuration::count;
use super::facts::Facts;
use crate::store::schema::VERSION;

pub fn readable(facts: &Facts) -> Check {
    const NAME: &str = "store";
    if facts.settings().is_none() {
        return Check::unknown(NAME, "the configuration does not load");
    }
    if facts.store.is_hidden {
        return Check::unknown(NAME, "this user cannot look into the state directory").mend("run it as root");
    }
    let health = facts.agent.health.as_ref().and_then(|health| health.as_ref().ok());
    if let Some(trouble) = health.and_then(|health| health.pointer("/store/trouble")).and_then(Value::as_str)
    {
        return Check::error(NAME, format!("commits wait for the disk: {trouble}"))
            .means("nothing is acknowledged meanwhile; devices and brokers wait")
            .mend("look at dmesg; with room, or after a remount, the agent goes on by itself");
    }
    let stats = match &facts.store.stats {
        None => return Check::not_applicable(NAME, "no database yet; the first start makes it"),
        Some(Err(error)) => {
            return Check::error(NAME, format!("it cannot be read: {error}"))
                .means("the next start salvages what is readable, and declares the rest as gaps")
                .mend("pyv-edge-agent store check says more");
        }
        Some(Ok(stats)) => stats,
    };
    if stats.schema_version > VERSION {
        return Check::error(
            NAME,
            format!("schema version {}; this agent knows up to {VERSION}", stats.schema_version),
        )
        .means("the agent does not start with it")
        .mend("install the newer agent again");
    }
    let waiting: u64 = stats.lanes.iter().map(|lane| lane.undelivered).sum();
    let found = format!(
        "{:.1} MB, {} to deliver",
        (stats.database_bytes + stats.wal_bytes) as f64 / 1e6,
        count(waiting as usize, "item", "items")
    );
    if stats.dead_letters > 0 {
        return Check::warning(
            NAME,
            format!("{found}; {} set aside", count(stats.dead_letters as usize, "item was", "items were")),
        )
        .means("the endpoint refused them for good; they are not sent again")
        .mend("pyv-edge-agent store stats; the reasons are in the table dead_letter");
    }
    Check::ok(NAME, found)
}

pub fn quarantine(facts: &Facts) -> Check {
    const NAME: &str = "quarantine";
    if facts.settings().is_none() {
        return Check::unknown(NAME, "the configuration does not load");
    }
    if facts.store.is_hidden {
        return Check::unknown(NAME, "this user cannot look into the state directory").mend("run it as root");
    }
    match facts.store.quarantined {
        0 => Check::ok(NAME, "empty"),
        number => Check::warning(NAME, format!("{} moved aside", count(number, "damaged database was", "damaged databases were")))
            .means("what could be read was salvaged, the rest is declared as gaps; the disk or the power may be bad")
            .mend("pyv-edge-agent blackbox tells when; delete the folder quarantine in the state directory when nobody needs it"),
    }
}
