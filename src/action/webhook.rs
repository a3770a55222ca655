//! A webhook as an action: one POST on a connection of its own, over the TLS and the proxy of delivery.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::Failure;
use super::settings::{Webhook, is_loopback};
use crate::config::section::Secret;
use crate::upload::connect::{self, Opened};
use crate::upload::message::{AGENT, IDEMPOTENCY_KEY, address, read_start, uri};
use crate::upload::proxy::{Environment, Proxy, Via};
use crate::upload::stamp::{Stamp, file_stamps};
use crate::upload::trouble::{chain, is_certificate_error};
use crate::upload::wire::Wire;

/// What is kept between two requests.
#[derive(Default)]
pub struct Client {
    /// With the stamps of its files.
    tls: Option<(Vec<Stamp>, Arc<ClientConfig>)>,
    /// The proxy that the log was told of.
    told: Option<(String, u16)>,
}

impl Client {
    /// Posts an event once, under `key`; done by `deadline`.
    ///
    /// # Errors
    ///
    /// The webhook did not take it. A redirect is one too: the event goes where it is configured to go.
    pub(super) async fn post(
        &mut self,
        settings: &Webhook,
        environment: &Environment,
        (event, key): (&[u8], &str),
        deadline: Instant,
    ) -> Result<(), Failure> {
        let posted = self.exchange(settings, environment, (event, key), deadline);
        let status = timeout_at(deadline, posted).await.unwrap_or(Err(Failure::TimedOut))?;
        match status.as_u16() {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(Failure::passing(format!("the webhook answered {status}"))),
            300..=399 => {
                Err(Failure::lasting(format!("the webhook answered {status}; redirects are not followed")))
            }
            _ => Err(Failure::lasting(format!("the webhook answered {status}"))),
        }
    }

    async fn exchange(
        &mut self,
        settings: &Webhook,
        environment: &Environment,
        (event, key): (&[u8], &str),
        deadline: Instant,
    ) -> Result<StatusCode, Failure> {
        let url = settings.url.read_again().map_err(|fault| Failure::passing(format!("url: {fault}")))?;
        let url = Url::parse(url.reveal()).map_err(|_| Failure::lasting("url: is not a URL"))?;
        let via = if is_loopback(&url) { None } else { via(settings, &url, environment)? };
        self.tell(settings, &url, via.as_ref());
        let tls = if url.scheme() == "https" { Some(self.tls(settings).await?) } else { None };
        let is_forwarded = via.is_some() && tls.is_none();
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(event)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            uri(&url, is_forwarded).ok_or_else(|| Failure::lasting("url: its path cannot be asked for"))?;
        *request.headers_mut() = headers(settings, key)?;
        address(request.headers_mut(), &url, via.as_ref()).map_err(Failure::lasting)?;
        // Not in the month's budget of delivery.
        let wire = Arc::new(Wire::default());
        let opened = match connect::open(&url, via.as_ref(), tls, &wire, deadline).await {
            Ok(opened) => opened,
            Err(error) => {
                if is_certificate_error(&error) {
                    // The system's authorities may be replaced meanwhile: read them again.
                    self.tls = None;
                }
                return Err(Failure::passing(format!("no connection to the webhook: {}", chain(&error))));
            }
        };
        let answered = send(opened, request).await;
        answered.map_err(|error| Failure::passing(format!("no answer of the webhook: {}", chain(&error))))
    }

    /// Says which way the events of a webhook go when that is not the straight one, once for each way.
    fn tell(&mut self, settings: &Webhook, url: &Url, via: Option<&Via>) {
        let way = via.map(|via| (via.host.clone(), via.port));
        if way == self.told {
            return;
        }
        if let Some((host, port)) = &way {
            let set_by = if settings.proxy == Proxy::System { "the environment" } else { "cloud.proxy" };
            let webhook = url.host_str().unwrap_or_default();
            tracing::info!(
                webhook,
                proxy = format!("{host}:{port}"),
                set_by,
                "a webhook goes through a proxy"
            );
        }
        self.told = way;
    }

    /// As the files are now.
    async fn tls(&mut self, settings: &Webhook) -> Result<Arc<ClientConfig>, Failure> {
        let stamps = file_stamps(&settings.tls);
        if let Some((known, config)) = &self.tls
            && *known == stamps
        {
            return Ok(config.clone());
        }
        let files = settings.tls.clone();
        // It reads the disk and parses some 140 certificates: not on the thread that runs all else.
        let read = tokio::task::spawn_blocking(move || connect::client_config(&files)).await;
        let config = read.map_err(|error| Failure::passing(error.to_string()))?;
        let config = Arc::new(config.map_err(|error| Failure::passing(error.to_string()))?);
        self.tls = Some((stamps, config.clone()));
        Ok(config)
    }
}

fn via(settings: &Webhook, url: &Url, environment: &Environment) -> Result<Option<Via>, Failure> {
    let proxy = settings.proxy.read_again().map_err(Failure::passing)?;
    proxy.via(url, environment).map_err(Failure::lasting)
}

fn headers(settings: &Webhook, key: &str) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::with_capacity(settings.headers.len() + 4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let key = HeaderValue::from_str(key).map_err(|error| Failure::lasting(error.to_string()))?;
    headers.insert(IDEMPOTENCY_KEY, key);
    for (name, value) in &settings.headers {
        let (header, value) =
            header(name, value).map_err(|fault| Failure::lasting(format!("headers: {name} {fault}")))?;
        headers.insert(header, value);
    }
    Ok(headers)
}

/// A configured header, or what is wrong with it, without its value.
pub fn header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue), &'static str> {
    let header: HeaderName = name.parse().map_err(|_| "is no name of a header")?;
    if RESERVED.contains(&header.as_str()) {
        return Err("is set by the agent");
    }
    let mut value =
        HeaderValue::from_str(value.reveal()).map_err(|_| "has a character that no header can carry")?;
    value.set_sensitive(true);
    Ok((header, value))
}

async fn send(opened: Opened, request: Request<Full<Bytes>>) -> Result<StatusCode, hyper::Error> {
    let Opened { stream, metered: _metered, .. } = opened;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = pin!(driver);
    let mut answer = pin!(async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        // Only so that the other side can finish; it is cut off where it says too much.
        read_start(body).await;
        Ok::<_, hyper::Error>(head.status)
    });
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut driver => match (answer.await, ended) {
            // The connection knows better why it ended than the request that it took along.
            (Err(error), Err(cause)) if error.is_canceled() => Err(cause),
            (answer, _) => answer,
        },
    }
}

const RESERVED: [&str; 6] =
    ["host", "content-length", "transfer-encoding", "connection", "idempotency-key", "proxy-authorization"];
