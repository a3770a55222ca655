//! Reads `[cloud]`.

use url::{ParseError, Url};

use super::section::{Secret, Section};
use crate::action::settings::is_loopback;
use crate::tls;
use crate::upload::{Budget, Compression, Proxy, Settings, proxy};

/// Reads the section; a warning about an unencrypted endpoint goes to `notes`.
pub fn cloud(root: &mut Section<'_>, notes: &mut Vec<String>) -> Settings {
    let mut section = root.section("cloud");
    let enabled = section.bool("enabled", false);
    let compressions =
        [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let settings = Settings {
        enabled,
        endpoint: endpoint(&mut section, enabled, notes),
        api_key: api_key(&mut section),
        batch_size: section.count("batch_size", 500, 1..=10_000),
        batch_bytes_max: section.count("batch_bytes_max", 512 * 1024, 1024..=16 * 1024 * 1024),
        timeout: section.seconds("timeout", 30.0, 0.1..=3600.0),
        flush_interval: section.seconds("flush_interval_seconds", 5.0, 0.05..=86_400.0),
        compression: section.choice("compression", Compression::default(), &compressions),
        tls: tls::Files::read(&mut section),
        backoff_min: section.seconds("backoff_min_seconds", 1.0, 0.1..=3600.0),
        backoff_max: section.seconds("backoff_max_seconds", 300.0, 0.1..=86_400.0),
        proxy: read_proxy(&mut section),
        budget: budget(&mut section),
    };
    if settings.backoff_min > settings.backoff_max {
        section.refuse(
            "backoff_min_seconds",
            format_args!(
                "{} is more than backoff_max_seconds, {}; the wait grows from the first to the second",
                settings.backoff_min.as_secs_f64(),
                settings.backoff_max.as_secs_f64()
            ),
        );
    }
    settings
}

/// No message shows the value: what is not understood as a URL may hold a token.
fn endpoint(section: &mut Section<'_>, enabled: bool, notes: &mut Vec<String>) -> String {
    let Some(endpoint) = section.string(KEY) else { return ENDPOINT.to_owned() };
    if endpoint.is_empty() {
        if enabled {
            section.refuse(
                KEY,
                format_args!("is empty while cloud.enabled is true; give a URL such as {ENDPOINT}"),
            );
        }
        return endpoint;
    }
    check_url(section, KEY, &endpoint, notes, "readings and the api_key");
    endpoint
}

/// Whether `text` is a URL that something can be posted to; `what` goes over it.
pub fn check_url(section: &Section<'_>, key: &str, text: &str, notes: &mut Vec<String>, what: &str) {
    match Url::parse(text) {
        // What it takes to write such a name in ASCII is left out of the program, see Cargo.toml.
        Err(ParseError::IdnaError) => section.refuse(
            key,
            "has letters in its host name that are not ASCII, or a wrong xn-- label; give the name as it stands in DNS",
        ),
        Err(error) => {
            section.refuse(key, format_args!("is not a URL ({error}); give one such as {ENDPOINT}"));
        }
        // Without the scheme that was found: a parser lower-cases it, and then no value is recognised in it.
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            section
                .refuse(key, format_args!("is not an https:// or http:// URL; give one such as {ENDPOINT}"));
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            let instead = if key == KEY { "api_key" } else { "a header" };
            section
                .refuse(key, format_args!("holds a user name or password; give the credential as {instead}"));
        }
        Ok(url) if url.scheme() == "http" && !is_loopback(&url) => {
            let place = section.place_of(key).map_or_else(String::new, |place| format!("{place}: "));
            notes.push(format!(
                "{place}{}: http:// sends {what} unencrypted; use https://",
                section.path_of(key)
            ));
        }
        Ok(_) => {}
    }
}

/// It becomes a header line, in which anything else than visible ASCII would change the request.
fn api_key(section: &mut Section<'_>) -> Option<Secret> {
    let key = section.secret("api_key").filter(|key| !key.reveal().is_empty())?;
    if !key.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
        section.refuse("api_key", "holds a character other than visible ASCII; give the bare key");
    }
    Some(key)
}

/// No message shows the value: it may hold a password.
fn read_proxy(section: &mut Section<'_>) -> Proxy {
    const KEY: &str = "proxy";
    let Some(text) = section.secret(KEY).filter(|text| !text.reveal().is_empty()) else {
        return Proxy::System;
    };
    match text.reveal() {
        word if word.eq_ignore_ascii_case("system") => return Proxy::System,
        word if word.eq_ignore_ascii_case("none") => return Proxy::None,
        url if !url.contains("://") => {
            section.refuse(KEY, "is not known; give system, none, or a URL such as http://proxy:3128");
        }
        url => {
            if let Err(fault) = proxy::parse(url) {
                section.refuse(KEY, fault);
            }
        }
    }
    Proxy::Url(text)
}

fn budget(section: &mut Section<'_>) -> Budget {
    let default = Budget::default();
    let mut share = |key, default| section.float(key, default, 0.0..=1.0);
    let shares = [
        share("monthly_anomaly_share", default.shares[0]),
        share("monthly_telemetry_share", default.shares[1]),
        share("monthly_logs_share", default.shares[2]),
    ];
    let megabytes = section.optional_float("monthly_mb_max", 0.1..=1_000_000_000.0);
    Budget {
        bytes_max: megabytes.map(|megabytes| (megabytes * 1e6) as u64),
        first_day: section.count("monthly_first_day", 1, 1..=28),
        shares,
    }
}

const KEY: &str = "endpoint";
const ENDPOINT: &str = "https://api.pyvorin.com/v1/ingest";
