//! What the endpoint and the brokers answered.

use url::Url;

use super::Check;
use super::facts::{Broker, Facts};
use crate::upload::probe::{Answered, Probed, Step};

/// The name of the endpoint, or of the proxy before it.
pub fn name_resolution(facts: &Facts) -> Check {
    const NAME: &str = "name_resolution";
    let Some(probed) = &facts.network.endpoint else { return off(facts, NAME) };
    match &probed.failure {
        Some((Step::Prepare, _)) => not_reached(NAME),
        Some((Step::Name, text)) => Check::error(NAME, format!("{} is not resolved: {text}", probed.host))
            .means("nothing is delivered; it stays in the store")
            .mend(format!("getent hosts {}; see /etc/resolv.conf", probed.host)),
        _ => {
            let addresses: Vec<_> = probed.addresses.iter().map(ToString::to_string).collect();
            Check::ok(NAME, format!("{}: {}", probed.host, addresses.join(", ")))
        }
    }
}

/// The connection, and the chain that the server shows.
pub fn tls(facts: &Facts) -> Check {
    const NAME: &str = "connection";
    let Some(probed) = &facts.network.endpoint else { return off(facts, NAME) };
    let through = probed.via.as_ref().map_or_else(String::new, |via| format!(" through the proxy {via}"));
    match &probed.failure {
        Some((Step::Prepare | Step::Name, _)) => not_reached(NAME),
        Some((Step::Connect, text)) => Check::error(NAME, format!("no connection{through}: {text}"))
            .means("nothing is delivered; it stays in the store")
            .mend(connection_cure(facts, probed, text)),
        _ if !probed.is_encrypted => Check::ok(NAME, format!("open{through}, not encrypted")),
        _ => validity(NAME, "the server's certificate", probed.server_expires_at, facts.machine.now)
            .unwrap_or_else(|| Check::ok(NAME, format!("encrypted{through}"))),
    }
}

/// What this device shows of itself.
pub fn client_certificate(facts: &Facts) -> Check {
    const NAME: &str = "client_certificate";
    let settings = facts.settings().map(|settings| &settings.cloud).filter(|cloud| cloud.enabled);
    let Some(files) = settings.map(|cloud| &cloud.tls).filter(|tls| tls.client_certificate_file.is_some())
    else {
        return Check::not_applicable(NAME, "none is configured for delivery");
    };
    if let Some((Step::Prepare, text)) =
        facts.network.endpoint.as_ref().and_then(|probed| probed.failure.as_ref())
    {
        return Check::error(NAME, text.clone())
            .means("nothing is delivered; it stays in the store")
            .mend("put the file that is named right; it is read again by itself");
    }
    validity(NAME, "this device's certificate", files.expiry().client, facts.machine.now)
        .unwrap_or_else(|| Check::unknown(NAME, "its end cannot be read"))
}

/// Whether a delivery would be taken, as far as that can be asked without one.
pub fn endpoint(facts: &Facts) -> Check {
    const NAME: &str = "endpoint";
    let Some(probed) = &facts.network.endpoint else { return off(facts, NAME) };
    let answered = match (&probed.answer, &probed.failure) {
        (Some(answered), _) => answered,
        (None, Some((Step::Prepare, text))) => {
            return Check::error(NAME, text.clone())
                .means("nothing is delivered; it stays in the store")
                .mend("correct the key that is named; see pyv-edge-agent check");
        }
        (None, Some((Step::Exchange, text))) => {
            return Check::warning(NAME, format!("it does not answer a request: {text}"))
                .means("deliveries may fare the same")
                .mend("look at the endpoint, or at what stands before it");
        }
        (None, _) => return not_reached(NAME),
    };
    judged(answered, delivered(facts))
}

/// What an answer to OPTIONS tells of deliveries; `delivered` is what the running agent says of them.
fn judged(answered: &Answered, delivered: Option<String>) -> Check {
    const NAME: &str = "endpoint";
    let found = format!("it answers OPTIONS with {}", answered.code);
    let takes_post = answered
        .allow
        .as_ref()
        .map(|allow| allow.split(',').any(|method| method.trim().eq_ignore_ascii_case("POST")));
    match answered.code {
        401 | 403 if delivered.is_some() => Check::warning(
            NAME,
            format!("{found}, and {}", delivered.unwrap_or_default()),
        )
        .means("it may know no OPTIONS; or the key in the file is another than the one that runs, and wrong")
        .mend("if you changed cloud.api_key, compare it with what your provider gave you before you reload"),
        401 | 403 => Check::error(NAME, format!("{found}: the credentials are refused"))
            .means("deliveries are refused too, unless it knows no OPTIONS; everything is kept")
            .mend("put the right key into cloud.api_key, then: sudo systemctl reload pyvorin-edge"),
        300..=399 => {
            Check::error(NAME, format!("{found}: it sends elsewhere, and redirects are not followed"))
                .means("nothing is delivered; it stays in the store")
                .mend("give the final address as cloud.endpoint")
        }
        // A running agent knows better than any question.
        _ if delivered.is_some() => Check::ok(NAME, delivered.unwrap_or_default()),
        407 => Check::error(NAME, format!("{found}: the proxy wants a user and a password"))
            .means("nothing is delivered; it stays in the store")
            .mend("give them in cloud.proxy: http://USER:PASSWORD@HOST:PORT"),
        404 | 410 => Check::warning(
            NAME,
            format!("{found}: the address may be wrong, or it answers so to a method it does not know"),
        )
        .means("if deliveries are answered so too, they are held and everything is kept")
        .mend("compare cloud.endpoint with what your provider gave you"),
        _ if takes_post == Some(false) => {
            Check::warning(NAME, format!("{found} and does not name POST among its methods"))
                .means("deliveries are POST requests")
                .mend("compare cloud.endpoint with what your provider gave you")
        }
        429 => Check::warning(NAME, format!("{found}: too many requests"))
            .means("deliveries wait; nothing is lost")
            .mend("none is needed; the agent slows down by itself"),
        500..=599 => Check::warning(NAME, format!("{found}: it is in trouble itself"))
            .means("deliveries are tried again until it takes them")
            .mend("look at the endpoint"),
        _ => Check::ok(NAME, format!("{found}; whether it takes the key shows with the first delivery")),
    }
}

/// Whether each broker lets this agent in.
pub fn broker(facts: &Facts) -> Check {
    const NAME: &str = "broker";
    let brokers = &facts.network.brokers;
    let place = |Broker { probed, .. }: &Broker| {
        format!("{}:{}{}", probed.host, probed.port, if probed.is_encrypted { ", TLS" } else { "" })
    };
    let places: Vec<_> = brokers.iter().map(place).collect();
    let refused = brokers.iter().find_map(|broker| Some((broker, broker.probed.failure.as_ref()?)));
    let Some((broker, text)) = refused else {
        return match places.as_slice() {
            [] => Check::not_applicable(NAME, "no mqtt device is configured"),
            places => Check::ok(NAME, format!("{}: it lets this agent in", places.join("; "))),
        };
    };
    let page = facts.agent.health.as_ref().and_then(|page| page.as_ref().ok());
    if page.is_some_and(super::agent::is_at_its_broker) && !facts.agent.is_pushed_off {
        return Check::ok(
            NAME,
            format!("{}: the agent is connected; a client of another name is refused: {text}", place(broker)),
        );
    }
    let (host, port) = (&broker.probed.host, broker.probed.port);
    let refuses = ["NotAuthorized", "BadUserNamePassword", "Refused", "refused, return code"];
    let is_refusal = !text.contains("os error") && refuses.iter().any(|word| text.contains(word));
    let mend = if is_refusal {
        "check ingest.mqtt.username and .password, and what the broker allows that user".to_owned()
    } else if matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1") {
        "sudo systemctl enable --now mosquitto".to_owned()
    } else {
        format!("check ingest.mqtt.host and .port, and the way there: nc -vz {host} {port}")
    };
    Check::error(NAME, format!("{}: {text}", place(broker)))
        .means("no readings come from it; the agent tries again by itself")
        .mend(mend)
}

/// The certificates of encrypted brokers.
pub fn broker_certificate(facts: &Facts) -> Check {
    const NAME: &str = "broker_certificate";
    let first = facts.network.brokers.iter().filter_map(|broker| broker.expires_at).min_by(f64::total_cmp);
    validity(NAME, "the broker's certificate", first, facts.machine.now)
        .unwrap_or_else(|| Check::not_applicable(NAME, "no broker shows one"))
}

/// By how many days a certificate lasts.
fn validity(name: &'static str, whose: &str, expires_at: Option<f64>, now: f64) -> Option<Check> {
    let days = (expires_at? - now) / SECONDS_PER_DAY;
    let found = format!("{whose} is valid for {days:.0} more days");
    Some(if days < 0.0 {
        Check::error(name, format!("{whose} expired {:.0} days ago", -days))
            .means("connections with it are refused")
            .mend("have it renewed; a file that changes is read again by itself")
    } else if days < DAYS_LEFT_MIN {
        Check::warning(name, found)
            .means("after that, connections with it are refused")
            .mend("have it renewed; a file that changes is read again by itself")
    } else {
        Check::ok(name, found)
    })
}

fn connection_cure(facts: &Facts, probed: &Probed, text: &str) -> String {
    if text.contains("certificate") {
        let is_own = facts.settings().is_some_and(|settings| settings.cloud.tls.ca_file.is_some());
        // Said of one that is not valid at this device's time.
        let is_of_time = text.contains("the clock of this device");
        return match (is_of_time && facts.machine.clock_is_synchronised == Some(false), is_own) {
            (true, _) => "set the clock first: sudo timedatectl set-ntp true",
            (_, true) => "check that cloud.ca_file holds the authority that signed the server's certificate",
            (_, false) => {
                "sudo apt-get install --reinstall ca-certificates, or give the authority as cloud.ca_file"
            }
        }
        .to_owned();
    }
    match &probed.via {
        Some(via) => {
            format!("check cloud.proxy and HTTPS_PROXY; curl -v -x http://{via} https://example.com/")
        }
        None => {
            let endpoint = facts.settings().and_then(|settings| Url::parse(&settings.cloud.endpoint).ok());
            let origin = endpoint.map_or_else(String::new, |url| url.origin().ascii_serialization());
            format!("check the network and the firewall: curl -v {origin}/")
        }
    }
}

/// When the running agent last delivered, when it does.
fn delivered(facts: &Facts) -> Option<String> {
    let health = facts.agent.health.as_ref()?.as_ref().ok()?;
    let cloud = health.get("cloud")?;
    if cloud.get("enabled")?.as_bool() != Some(true) || !cloud.get("trouble")?.is_null() {
        return None;
    }
    let last = cloud.get("last_flush_time")?.as_f64().filter(|last| *last > 0.0)?;
    Some(format!("the agent delivered {:.0} s ago", (facts.machine.now - last).max(0.0)))
}

fn off(facts: &Facts, name: &'static str) -> Check {
    match facts.settings() {
        Some(_) => Check::not_applicable(name, "cloud.enabled is false"),
        None => Check::unknown(name, "the configuration does not load"),
    }
}

fn not_reached(name: &'static str) -> Check {
    Check::unknown(name, "it was not come to, see above")
}

const SECONDS_PER_DAY: f64 = 86_400.0;
/// As on the health page.
const DAYS_LEFT_MIN: f64 = 14.0;
