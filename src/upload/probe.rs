//! Asks the endpoint whether it would take a delivery, without delivering anything.
//!
//! The request is OPTIONS with the credentials of a delivery: a safe method (RFC 9110, section 9.3.7), which asks
//! what a resource allows and changes nothing. A POST, even of no items, would be a delivery. What an endpoint
//! answers to OPTIONS proves little about POST, so the caller reads it with care: 401 and 403 mean the key, 405 that
//! there is somebody who knows methods, and 404 may be the answer to the method as well as to the address.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{ALLOW, AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::Settings;
use super::connect::{self, Opened};
use super::message::{AGENT, address, authorization, uri};
use super::proxy::{Environment, Via};
use super::trouble::explain;
use super::wire::Wire;
use crate::tls;

/// How far it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probed {
    /// Whose address was asked for: the endpoint's, or the proxy's.
    pub host: String,
    /// `host:port` of the proxy between.
    pub via: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub is_encrypted: bool,
    /// Unix seconds when the server's certificate expires.
    pub server_expires_at: Option<f64>,
    pub answer: Option<Answered>,
    /// What it did not get past, in words without a secret.
    pub failure: Option<(Step, String)>,
}

/// The endpoint's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    pub code: u16,
    /// The methods it says it takes.
    pub allow: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The settings or their files cannot be used.
    Prepare,
    Name,
    Connect,
    Exchange,
}

/// Asks the endpoint of `settings`; done within `limit`, but for what the disk takes.
pub async fn probe(settings: &Settings, environment: &Environment, limit: Duration) -> Probed {
    let mut probed = Probed::default();
    let deadline = Instant::now() + limit;
    probed.failure = ask(settings, environment, deadline, &mut probed).await.err();
    probed
}

/// When the certificate of an encrypted service at `host` expires, in Unix seconds.
///
/// # Errors
///
/// No connection, or its certificate is not accepted.
pub async fn certificate_of(
    host: &str,
    port: u16,
    files: &tls::Files,
    limit: Duration,
) -> Result<Option<f64>, String> {
    let deadline = Instant::now() + limit;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let url = Url::parse(&format!("https://{host}:{port}/")).map_err(|error| error.to_string())?;
    let config = tls::client_config(files, true).map_err(|error| error.to_string())?;
    let wire = Arc::new(Wire::default());
    let opening = connect::open(&url, None, Some(Arc::new(config)), &wire, deadline);
    let opened = timeout_at(deadline, opening).await.map_err(|_| "no connection in time".to_owned())?;
    opened.map(|opened| opened.server_expires_at).map_err(|error| error.to_string())
}

type Failure = (Step, String);

async fn ask(
    settings: &Settings,
    environment: &Environment,
    deadline: Instant,
    probed: &mut Probed,
) -> Result<(), Failure> {
    let prepared = Prepared::new(settings, environment).map_err(|text| (Step::Prepare, text))?;
    let Prepared { url, via, tls, .. } = &prepared;
    probed.via = via.as_ref().map(|via| format!("{}:{}", via.host, via.port));
    probed.is_encrypted = tls.is_some();
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let (host, port) = match via {
        Some(via) => (via.host.trim_matches(['[', ']']), via.port),
        None => (host, url.port_or_known_default().unwrap_or(443)),
    };
    probed.host = host.to_owned();
    probed.addresses = addresses(host, port, deadline).await.map_err(|text| (Step::Name, text))?;

    let wire = Arc::new(Wire::default());
    let opening = connect::open(url, via.as_ref(), tls.clone(), &wire, deadline);
    let opened = timeout_at(deadline, opening)
        .await
        .map_err(|_| (Step::Connect, "no connection in time; a firewall may swallow it".to_owned()))?
        .map_err(|error| (Step::Connect, explain(&error, settings)))?;
    probed.server_expires_at = opened.server_expires_at;

    let answered = timeout_at(deadline, exchange(opened, prepared)).await;
    let answered = answered.map_err(|_| (Step::Exchange, "no answer in time".to_owned()))?;
    probed.answer = Some(answered.map_err(|error| (Step::Exchange, explain(&error, settings)))?);
    Ok(())
}

async fn addresses(host: &str, port: u16, deadline: Instant) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let found = timeout_at(deadline, lookup_host((host, port))).await;
    let found = found.map_err(|_| "no name server answers in time".to_owned())?;
    let mut found: Vec<_> = found.map_err(|error| error.to_string())?.map(|address| address.ip()).collect();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Err("the name has no address".to_owned()) } else { Ok(found) }
}

/// What a request is made of.
struct Prepared {
    url: Url,
    via: Option<Via>,
    tls: Option<Arc<ClientConfig>>,
    request: Request<Empty<Bytes>>,
}

impl Prepared {
    fn new(settings: &Settings, environment: &Environment) -> Result<Self, String> {
        let url = Url::parse(&settings.endpoint).map_err(|error| format!("is not a URL: {error}"))?;
        let via = settings.proxy.read_again()?.via(&url, environment)?;
        let is_https = url.scheme() == "https";
        let tls = is_https.then(|| connect::client_config(&settings.tls)).transpose();
        let tls = tls.map_err(|error| error.in_section("cloud"))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = uri(&url, via.is_some() && !is_https).ok_or("its path cannot be asked for")?;
        let headers = request.headers_mut();
        address(headers, &url, via.as_ref())?;
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(key) = &settings.api_key {
            let key = key.read_again().map_err(|fault| format!("cloud.api_key: {fault}"))?;
            headers.insert(AUTHORIZATION, authorization(&key)?);
        }
        Ok(Self { url, via, tls: tls.map(Arc::new), request })
    }
}

async fn exchange(opened: Opened, prepared: Prepared) -> Result<Answered, hyper::Error> {
    let Opened { stream, metered: _metered, .. } = opened;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = pin!(driver);
    let mut answer = pin!(async { sender.send_request(prepared.request).await });
    let response = tokio::select! {
        biased;
        response = &mut answer => response?,
        ended = &mut driver => match (answer.await, ended) {
            // The connection knows better why it ended than the request that it took along.
            (Err(error), Err(cause)) if error.is_canceled() => return Err(cause),
            (response, _) => response?,
        },
    };
    let allow = response.headers().get(ALLOW).and_then(|value| value.to_str().ok());
    Ok(Answered { code: response.status().as_u16(), allow: allow.map(str::to_owned) })
}

const ADDRESSES_MAX: usize = 8;
