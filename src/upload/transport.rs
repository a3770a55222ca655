//! One request at a time over one kept-alive HTTP/1.1 connection.
//!
//! The client is built at the first attempt, and anew when the settings or the certificate files
//! have changed. A client that cannot be built is an answer like any other, so it is retried.

use std::error::Error as _;
use std::io;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    USER_AGENT,
};
use reqwest::{Client, Response, Url, redirect};
use rustls::CertificateError;

use super::decide::Answer;
use super::encode::{Encoded, encode};
use super::{Settings, http_date};
use crate::reading::clip;
use crate::store::FrozenBatch;
use crate::{clock, tls};

/// The connection to the endpoint.
#[derive(Debug, Default)]
pub struct Transport {
    built: Option<Built>,
}

/// How a post ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Posted {
    pub answer: Answer,
    /// Bytes of the body that went out; 0 when there was no connection.
    pub body_bytes: u64,
}

impl Transport {
    /// Posts `batch` once. Takes `settings.timeout` at the longest for the request itself, after
    /// reading certificate files when they are new.
    ///
    /// When the call is dropped the endpoint may or may not have the batch.
    pub async fn post(&mut self, settings: &Settings, batch: &FrozenBatch) -> Posted {
        let prepared = async {
            let client = self.client(settings).await?;
            let url = Url::parse(&settings.endpoint)
                .map_err(|error| format!("cloud.endpoint: is not a URL: {error}"))?;
            let encoded = encode(batch, settings.compression)
                .map_err(|error| format!("cannot compress a batch: {error}"))?;
            Ok((client, url, headers(settings, batch, &encoded)?, encoded.body))
        };
        let (client, url, headers, body) = match prepared.await {
            Ok(prepared) => prepared,
            Err(reason) => return Posted { answer: Answer::Failed { reason }, body_bytes: 0 },
        };
        let origin = url.origin().ascii_serialization();
        let body_bytes = body.len() as u64;
        // `headers` replaces what a user name in the URL put there.
        match client.post(url).headers(headers).body(body).send().await {
            Ok(response) => Posted { answer: read(response, settings).await, body_bytes },
            Err(error) => {
                let reason = format!("cannot deliver to {origin}: {}", explain(&error, settings));
                if certificate_error(&error).is_some() {
                    // The system's authorities may be replaced meanwhile: read them again.
                    self.built = None;
                }
                let body_bytes = if error.is_connect() { 0 } else { body_bytes };
                Posted { answer: Answer::Failed { reason }, body_bytes }
            }
        }
    }

    async fn client(&mut self, settings: &Settings) -> Result<Client, String> {
        let files = files(settings);
        if let Some(built) = &self.built
            && built.files == files
            && built.settings == *settings
        {
            return Ok(built.client.clone());
        }
        self.built = None;
        let (for_tls, is_https) = (settings.tls.clone(), settings.endpoint.starts_with("https:"));
        // It reads the disk and parses some 140 certificates: not on the thread that runs all else.
        let tls = tokio::task::spawn_blocking(move || tls::client_config(&for_tls, is_https)).await;
        let mut tls = tls.map_err(|error| error.to_string())?.map_err(|error| error.in_section("cloud"))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE_MAX)
            .tcp_nodelay(true)
            .tcp_keepalive(TCP_KEEPALIVE)
            .connect_timeout(connect_timeout(settings))
            .timeout(settings.timeout)
            .build()
            .map_err(|error| format!("the HTTP client cannot be built: {}", chain(&error)))?;
        self.built = Some(Built { client: client.clone(), settings: settings.clone(), files });
        Ok(client)
    }
}

#[derive(Debug)]
struct Built {
    client: Client,
    settings: Settings,
    files: [Stamp; 3],
}

/// When a file was last written, and its size; `None` when there is none.
type Stamp = Option<(SystemTime, u64)>;

fn files(settings: &Settings) -> [Stamp; 3] {
    [&settings.tls.ca_file, &settings.tls.client_certificate_file, &settings.tls.client_key_file].map(
        |path| {
            let metadata = path.as_ref()?.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        },
    )
}

fn connect_timeout(settings: &Settings) -> Duration {
    settings.timeout.min(CONNECT_MAX)
}

fn headers(settings: &Settings, batch: &FrozenBatch, encoded: &Encoded) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let key = HeaderValue::from_str(&batch.batch_id)
        .map_err(|_| "the batch id has a character that no header can carry".to_owned())?;
    headers.insert(IDEMPOTENCY_KEY, key);
    if let Some(encoding) = encoded.content_encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if let Some(api_key) = &settings.api_key {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", api_key.reveal()))
            .map_err(|_| "cloud.api_key: has a character that no header can carry".to_owned())?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}

/// Takes the answer in. The status counts once it is there: an answer that breaks off after it
/// changes nothing about what the endpoint did.
async fn read(mut response: Response, settings: &Settings) -> Answer {
    let code = response.status().as_u16();
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // Counted from the endpoint's own clock where it tells it, because ours may not be set yet.
    let now = text(DATE).and_then(http_date::unix_seconds).unwrap_or_else(clock::unix_seconds);
    let retry_after = text(RETRY_AFTER).and_then(|text| http_date::retry_after(text, now));

    let mut start = Vec::new();
    let mut seen = 0;
    // Read to its end, the connection can be used again; one that sends more than that is dropped.
    while let Ok(Some(chunk)) = response.chunk().await {
        start.extend_from_slice(&chunk[..chunk.len().min(EXCERPT_BYTES_MAX - start.len())]);
        seen += chunk.len();
        if seen > ANSWER_BYTES_MAX {
            break;
        }
    }
    Answer::Status { code, retry_after, excerpt: excerpt(&start, settings) }
}

/// One line of what the endpoint said, without anything secret that it sent back.
fn excerpt(bytes: &[u8], settings: &Settings) -> String {
    let text = String::from_utf8_lossy(bytes);
    if settings.api_key.as_ref().is_some_and(|key| text.contains(key.reveal())) {
        return String::new();
    }
    let line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    clip(line.trim(), EXCERPT_BYTES_MAX).to_owned()
}

/// What went wrong, on one line and without the URL: it may carry a secret.
fn explain(error: &reqwest::Error, settings: &Settings) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            format!("no connection within {:?}", connect_timeout(settings))
        } else {
            format!("no complete answer within {:?} (cloud.timeout)", settings.timeout)
        };
    }
    let cause = chain(error);
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            // An authority that was made anew under its old name shows as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "{cause}: the server's certificate is signed by no authority that is trusted here; check {}",
                if settings.tls.ca_file.is_some() {
                    "cloud.ca_file"
                } else {
                    "the system's authorities or set cloud.ca_file"
                }
            ),
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                format!("{cause}; check the server's certificate and the clock of this device")
            }
            _ => cause,
        },
        Some(rustls::Error::AlertReceived(_)) if settings.tls.client_certificate_file.is_none() => {
            format!("{cause}; it may want a client certificate: see cloud.client_certificate_file")
        }
        _ => cause,
    }
}

/// The error and its causes, each once. reqwest's own text has the URL in it, so it is replaced.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some repeat their cause in their own text.
        if !text.contains(&next) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&next);
        }
        cause = error.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text }
}

fn certificate_error(error: &reqwest::Error) -> Option<&CertificateError> {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(problem)) => Some(problem),
        _ => None,
    }
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // `source` of an io::Error skips the error that it wraps, and here they are wrapped twice.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

const AGENT: &str = concat!("Pyvorin-Edge/", env!("CARGO_PKG_VERSION"));
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A board that is offline should not wait for the whole timeout to notice.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// An unused connection is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// Mobile networks forget a silent connection within minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Of an answer's body; an endpoint that sends more is cut off.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Of an answer's body, kept beside a dead letter.
const EXCERPT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::Secret;
    use crate::upload::Compression;

    fn settings() -> Settings {
        Settings {
            enabled: true,
            endpoint: "https://localhost/".to_owned(),
            api_key: Some(Secret::new("k-123".to_owned())),
            batch_size: 10,
            batch_bytes_max: 1024,
            timeout: Duration::from_secs(30),
            flush_interval: Duration::from_secs(30),
            compression: Compression::None,
            tls: tls::Files::default(),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line_and_never_the_key() {
        assert_eq!(excerpt(b" bad\r\nitem\x1b[31m \xff", &settings()), "bad  item [31m \u{fffd}");
        assert_eq!(excerpt(&[0xff; 1000], &settings()).len(), EXCERPT_BYTES_MAX / 3 * 3);
        assert_eq!(excerpt(b"no such key: Bearer k-123", &settings()), "");
    }

    #[test]
    fn connecting_takes_no_longer_than_the_whole() {
        assert_eq!(connect_timeout(&settings()), CONNECT_MAX);
        let hasty = Settings { timeout: Duration::from_secs(3), ..settings() };
        assert_eq!(connect_timeout(&hasty), hasty.timeout);
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_named_but_not_shown() {
        let batch = FrozenBatch {
            key: crate::store::BatchKey { lane: crate::store::Lane::Logs, first: 1, last: 1 },
            batch_id: "b".to_owned(),
            timestamp: 0.0,
            items: Vec::new(),
            backlog: false,
        };
        let encoded = encode(&batch, Compression::None).unwrap();
        let settings = Settings { api_key: Some(Secret::new("k\n123".to_owned())), ..settings() };
        let reason = headers(&settings, &batch, &encoded).unwrap_err();
        assert_eq!(reason, "cloud.api_key: has a character that no header can carry");
    }
}
