//! What a request says, and what is read of its answer.

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT,
};
use url::Url;

use super::decide::Answer;
use super::encode::Encoded;
use super::proxy::Via;
use super::{Settings, http_date};
use crate::clock;
use crate::config::section::Secret;
use crate::reading::clip;
use crate::store::FrozenBatch;

/// The target of a request (RFC 9112, section 3.2): the whole URL for a proxy, else the path.
pub fn uri(url: &Url, is_forwarded: bool) -> Option<hyper::Uri> {
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    let path = format!("{}{query}", url.path());
    let text = if is_forwarded { format!("{}{path}", url.origin().ascii_serialization()) } else { path };
    text.parse().ok()
}

pub fn headers(
    batch: &FrozenBatch,
    encoded: &Encoded,
    api_key: Option<&Secret>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let key = HeaderValue::from_str(&batch.batch_id)
        .map_err(|_| "the batch id has a character that no header can carry".to_owned())?;
    headers.insert(IDEMPOTENCY_KEY, key);
    if let Some(encoding) = encoded.content_encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if let Some(api_key) = api_key {
        headers.insert(AUTHORIZATION, authorization(api_key)?);
    }
    Ok(headers)
}

/// What tells the endpoint who delivers.
pub fn authorization(api_key: &Secret) -> Result<HeaderValue, String> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", api_key.reveal()))
        .map_err(|_| "cloud.api_key: has a character that no header can carry".to_owned())?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// Adds what says whom a request to `url` is for: the endpoint, and to a proxy that forwards it who asks. In a tunnel
/// the proxy sees nothing of it.
pub fn address(headers: &mut HeaderMap, url: &Url, via: Option<&Via>) -> Result<(), String> {
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|error| error.to_string())?);
    if let Some(Via { authorization: Some(text), .. }) = via
        && url.scheme() == "http"
    {
        let mut value = HeaderValue::from_str(text.reveal()).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        headers.insert(PROXY_AUTHORIZATION, value);
    }
    Ok(())
}

/// Read to its end, the connection can be used again. An answer that breaks off after its head changes
/// nothing about what the endpoint did.
pub async fn read_start(mut body: Incoming) -> (Vec<u8>, bool) {
    let mut start = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (start, false) };
        let Ok(chunk) = frame.into_data() else { continue };
        start.extend_from_slice(&chunk[..chunk.len().min(EXCERPT_BYTES_MAX - start.len())]);
        seen += chunk.len();
        if seen > ANSWER_BYTES_MAX {
            return (start, false);
        }
    }
    (start, true)
}

/// The answer, with what it asks for.
pub fn read(response: &Response<()>, start: &[u8], settings: &Settings) -> Answer {
    let code = response.status().as_u16();
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // Counted from the endpoint's own clock where it tells it, because ours may not be set yet.
    let now = text(DATE).and_then(http_date::unix_seconds).unwrap_or_else(clock::unix_seconds);
    let retry_after = text(RETRY_AFTER).and_then(|text| http_date::retry_after(text, now));
    Answer::Status { code, retry_after, excerpt: excerpt(start, settings) }
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

pub const AGENT: &str = concat!("Pyvorin-Edge/", env!("CARGO_PKG_VERSION"));
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Of an answer's body; an endpoint that sends more is cut off.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Of an answer's body, kept beside a dead letter.
const EXCERPT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::encode::encode;
    use crate::upload::{Compression, test_settings};

    #[test]
    fn an_excerpt_is_one_short_line_and_never_the_key() {
        assert_eq!(excerpt(b" bad\r\nitem\x1b[31m \xff", &test_settings()), "bad  item [31m \u{fffd}");
        assert_eq!(excerpt(&[0xff; 1000], &test_settings()).len(), EXCERPT_BYTES_MAX / 3 * 3);
        assert_eq!(excerpt(b"no such key: Bearer k-123", &test_settings()), "");
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
        let reason = headers(&batch, &encoded, Some(&Secret::new("k\n123".to_owned()))).unwrap_err();
        assert_eq!(reason, "cloud.api_key: has a character that no header can carry");
    }
}
