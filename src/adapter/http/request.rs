//! One HTTP request: who may ask what, how large it may be, and what the answer looks like.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::Server;
use super::ingest::{self, Failure, Tally};
use crate::reading::Refusal;

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers `request`, within the source's timeout.
pub(super) async fn answer(server: &Server, request: Request<Incoming>) -> Answer {
    let deadline = Instant::now() + server.source.timeout;
    match take(server, request, deadline).await {
        Ok(tally) => counts(&tally),
        Err(refused) => refused.answer(),
    }
}

/// Why a request is not answered with counts.
enum Refused {
    NotFound,
    Method,
    Token,
    Encoding,
    TooLarge { bytes_max: usize },
    BodyTimeout,
    BodyBroken,
    Gzip,
    Text { byte: usize },
    Ingest(Failure),
    Busy,
}

async fn take(server: &Server, request: Request<Incoming>, deadline: Instant) -> Result<Tally, Refused> {
    let source = &server.source;
    if request.uri().path() != "/ingest" {
        return Err(Refused::NotFound);
    }
    if request.method() != Method::POST {
        return Err(Refused::Method);
    }
    if source.token.as_ref().is_some_and(|token| !has_token(request.headers(), token.reveal())) {
        return Err(Refused::Token);
    }
    let gzip = is_gzip(request.headers())?;
    // A body and the readings in it have to fit into what all bodies may take.
    let bytes_max = source.body_bytes_max.min(server.intake.memory.bodies.bytes_max() / 2);
    if request.body().size_hint().lower() > bytes_max as u64 {
        return Err(Refused::TooLarge { bytes_max });
    }
    let declared = request.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let held = if gzip { 3 * bytes_max } else { 2 * declared.unwrap_or(bytes_max) };
    let room = async { (server.bodies.acquire().await, server.intake.memory.bodies.take(held).await) };
    let (permit, _room) = timeout_at(deadline, room).await.map_err(|_| Refused::Busy)?;
    let _permit = permit.expect("it is never closed");
    let body = read(request.into_body(), declared.unwrap_or(0), bytes_max);
    let mut body = timeout_at(deadline, body).await.map_err(|_| Refused::BodyTimeout)??;
    if gzip {
        body = unzip(&body, bytes_max)?;
    }
    let text = str::from_utf8(&body).map_err(|error| Refused::Text { byte: error.valid_up_to() })?;
    let committed = timeout_at(deadline, ingest::ingest(text, &source.units, &server.intake)).await;
    committed.map_err(|_| Refused::Busy)?.map_err(Refused::Ingest)
}

/// All of it, in one piece from the start: gathered and put together it would be held twice.
async fn read(body: Incoming, declared: usize, bytes_max: usize) -> Result<Vec<u8>, Refused> {
    let mut body = Limited::new(body, bytes_max);
    let mut whole = Vec::with_capacity(declared.min(bytes_max));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() { Refused::TooLarge { bytes_max } } else { Refused::BodyBroken }
        })?;
        // Trailers are of no use here.
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let Some(given) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, given)) = given.split_at_checked(SCHEME.len()) else { return false };
    // Digests are compared, whole, so that the time taken tells nothing about the token.
    let (given, token) = (digest(&SHA256, given), digest(&SHA256, token.as_bytes()));
    let differences = given.as_ref().iter().zip(token.as_ref()).fold(0, |sum, (a, b)| sum | (a ^ b));
    scheme.eq_ignore_ascii_case(SCHEME) && differences == 0
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refused> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"identity") => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") => Ok(true),
        Some(_) => Err(Refused::Encoding),
    }
}

fn unzip(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Refused> {
    let mut plain = Vec::new();
    let mut decoder = MultiGzDecoder::new(body).take(bytes_max as u64 + 1);
    decoder.read_to_end(&mut plain).map_err(|_| Refused::Gzip)?;
    if plain.len() > bytes_max {
        return Err(Refused::TooLarge { bytes_max });
    }
    Ok(plain)
}

/// 422 when every reading was refused, as sending them again is in vain.
fn counts(tally: &Tally) -> Answer {
    let in_vain = tally.accepted == 0 && tally.refused() > 0;
    let status = if in_vain { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let unreadable = Refusal::ALL.map(|reason| (reason.name(), tally.unreadable[reason as usize]));
    let later = ("limits_or_policy", tally.refused_later());
    let reasons = unreadable.into_iter().chain([later]).filter(|(_, count)| *count > 0).collect();
    respond(status, None, &Counts { accepted: tally.accepted, refused: tally.refused(), reasons })
}

#[derive(Serialize)]
struct Counts {
    accepted: u32,
    refused: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    reasons: BTreeMap<&'static str, u32>,
}

impl Refused {
    fn answer(self) -> Answer {
        use StatusCode as S;
        let retry = (RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        let (status, header, message) = match self {
            Self::NotFound => (S::NOT_FOUND, None, "readings are taken at /ingest".to_owned()),
            Self::Method => {
                let header = (ALLOW, HeaderValue::from_static("POST"));
                (S::METHOD_NOT_ALLOWED, Some(header), "readings are sent with POST".to_owned())
            }
            Self::Token => {
                let header = (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                (S::UNAUTHORIZED, Some(header), "the bearer token is missing or wrong".to_owned())
            }
            Self::Encoding => {
                (S::UNSUPPORTED_MEDIA_TYPE, None, "Content-Encoding may be gzip or identity".to_owned())
            }
            Self::TooLarge { bytes_max } => {
                (S::PAYLOAD_TOO_LARGE, None, format!("the body is longer than {bytes_max} bytes; send less at a time"))
            }
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, None, "the body did not come in time".to_owned()),
            Self::BodyBroken => (S::BAD_REQUEST, None, "the body broke off".to_owned()),
            Self::Gzip => (S::BAD_REQUEST, None, "the body is not gzip".to_owned()),
            Self::Text { byte } => (S::BAD_REQUEST, None, format!("the body is not UTF-8 from byte {byte} on")),
            Self::Ingest(Failure::Syntax(error)) => (S::BAD_REQUEST, None, error.to_string()),
            Self::Ingest(Failure::NotStored) => {
                (S::SERVICE_UNAVAILABLE, Some(retry), "the readings could not be stored; send them again".to_owned())
            }
            Self::Busy => {
                (S::SERVICE_UNAVAILABLE, Some(retry), "the readings were not stored in time; send them again".to_owned())
            }
        };
        respond(status, header, &serde_json::json!({"error": message}))
    }
}

fn respond(status: StatusCode, header: Option<(HeaderName, HeaderValue)>, body: &impl Serialize) -> Answer {
    let body = serde_json::to_string(body).expect("counts and messages are plain data");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().extend(header);
    response
}

const SCHEME: &[u8] = b"Bearer ";
const RETRY_AFTER_SECONDS: u16 = 5;
