//! The agent itself: whether it runs, what its health page says, and what it wrote down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;
use super::facts::Facts;

/// Whether it runs, and how it is by its own word.
pub fn runs(facts: &Facts) -> Check {
    const NAME: &str = "agent";
    let agent = &facts.agent;
    let health = match (&agent.health, agent.pid) {
        (Some(Ok(health)), _) => health,
        (Some(Err(error)), Some(pid)) => {
            return Check::warning(NAME, format!("pid {pid} runs, and its health page does not answer: {error}"))
                .means("whoever watches the page takes it for dead; the socket unit or another program may have its port")
                .mend("see which address it says it listens on: journalctl -u pyvorin-edge | grep 'health server'");
        }
        (None, Some(pid)) => return Check::ok(NAME, format!("pid {pid} runs, without a health page")),
        (_, None) if facts.settings().is_none() => {
            return Check::unknown(NAME, "the configuration does not load");
        }
        (_, None) if facts.store.is_hidden => {
            return Check::unknown(NAME, "no health page answers, and this user cannot see whether it runs")
                .mend("run it as root");
        }
        (_, None) if facts.service.file.is_some() && facts.service.is_enabled(&facts.root) => {
            return Check::error(NAME, "it does not run, although the unit is enabled")
                .means("nothing is taken in")
                .mend(format!(
                    "sudo systemctl start {0}; journalctl -u {0} -n 50 says why it ended",
                    facts.service.name
                ));
        }
        (_, None) => return Check::not_applicable(NAME, "it does not run"),
    };
    let version = text(health, "/agent/version");
    let reasons = health.get("reasons").and_then(Value::as_array).into_iter().flatten();
    let reasons: Vec<_> = reasons.filter_map(Value::as_str).collect();
    let found = match reasons.as_slice() {
        [] => format!("version {version} runs, {}", text(health, "/status")),
        reasons => format!("version {version} runs, {}: {}", text(health, "/status"), reasons.join("; ")),
    };
    let see = "see Troubleshooting in the README";
    match text(health, "/status") {
        "healthy" if version != env!("CARGO_PKG_VERSION") => {
            Check::warning(NAME, format!("{found}; installed is {}", env!("CARGO_PKG_VERSION")))
                .means("it was not restarted after the upgrade")
                .mend(format!("sudo systemctl restart {}", facts.service.name))
        }
        "healthy" => Check::ok(NAME, found),
        "degraded" => {
            Check::warning(NAME, found).means("it works on, and something wants attention").mend(see)
        }
        _ => Check::error(NAME, found).means("it cannot do its work").mend(see),
    }
}

/// Whether another client pushes this one off its broker.
pub fn client_id(facts: &Facts) -> Check {
    const NAME: &str = "client_id";
    let Some(Ok(health)) = &facts.agent.health else {
        return Check::unknown(NAME, "only a running agent knows whether another one uses its client id");
    };
    let is_told = mqtt(health).any(|(_, error)| error.contains("SessionTakenOver"));
    let is_let_in = !facts.network.brokers.is_empty()
        && facts.network.brokers.iter().all(|broker| broker.probed.failure.is_none());
    if is_told || facts.agent.is_pushed_off && is_let_in {
        let found = match is_told {
            true => "the broker gave this agent's session to another client with the same client id",
            // mosquitto 2.0.11 closes the connection without a word.
            false => {
                "the broker closes this agent's connection again and again, and lets others in: another client seems to have the same client id"
            }
        };
        return Check::error(NAME, found)
            .means("two agents push each other off the broker, and messages go to either")
            .mend("give each device a client_id of its own in [ingest.mqtt]; a state directory that was copied holds the same device id");
    }
    match facts.mqtt().count() {
        0 => Check::not_applicable(NAME, "no mqtt device is configured"),
        _ => Check::ok(NAME, "no other client took this agent's session"),
    }
}

/// State and last error of the sources that have a broker.
fn mqtt(health: &Value) -> impl Iterator<Item = (&str, &str)> {
    let sources = health.pointer("/ingest/sources").and_then(Value::as_array).into_iter().flatten();
    let of_kind = sources.filter(|source| text(source, "/kind") == "mqtt");
    of_kind.map(|source| (text(source, "/state"), text(source, "/last_error")))
}

/// Whether a broker ever ended the connection, as a broker does for another client of the same id.
pub fn was_closed(health: &Value) -> bool {
    mqtt(health).any(|(_, error)| error.contains("closed by peer"))
}

pub fn is_at_its_broker(health: &Value) -> bool {
    mqtt(health).any(|(state, _)| state == "connected")
}

pub fn is_reconnecting(health: &Value) -> bool {
    mqtt(health).any(|(state, error)| state == "reconnecting" && error.contains("closed by peer"))
}

/// Whether it can say after a power cut what happened.
pub fn black_box(facts: &Facts) -> Check {
    const NAME: &str = "black_box";
    match &facts.store.black_box {
        _ if facts.store.is_hidden => {
            Check::unknown(NAME, "this user cannot look into the state directory").mend("run it as root")
        }
        None => Check::not_applicable(NAME, "none yet; the first start makes it"),
        Some(Ok(records)) => Check::ok(NAME, format!("{records} records")),
        Some(Err(error)) => Check::warning(NAME, format!("it cannot be read: {error}"))
            .means("why the agent ended is known only while the journal has it")
            .mend("remove what lies at its place in the state directory, and restart the agent"),
    }
}

/// The body of `/health` of the agent at `bind`.
///
/// # Errors
///
/// Nothing answers there within `limit`, or something that is not this agent.
pub async fn health(bind: IpAddr, port: u16, limit: Duration) -> Result<Value, String> {
    let address = SocketAddr::new(reachable(bind), port);
    let page = timeout(limit, page(address)).await.map_err(|_| format!("{address}: no answer in time"))?;
    let page = page.map_err(|error| format!("{address}: {error}"))?;
    let body = page.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| &page[at + 4..]);
    let health = body.and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let is_ours = |health: &Value| health.pointer("/agent/version").is_some_and(Value::is_string);
    health.filter(is_ours).ok_or_else(|| format!("{address}: another program answers there"))
}

async fn page(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut page).await?;
    Ok(page)
}

/// Who listens everywhere listens on loopback.
fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// The text at `pointer`.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        let asked = |bind: &str| reachable(bind.parse().unwrap()).to_string();
        let found = ["0.0.0.0", "::", "192.0.2.7"].map(asked);
        assert_eq!(found, ["127.0.0.1", "::1", "192.0.2.7"]);
    }
}
