//! What each path answers. Never waits; the body of a request is not read.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::metrics;
use super::report::Report;
use super::view::{Status, View};
use crate::clock;
use crate::lifecycle::watchdog::Verdict;

/// The answer to `request`.
pub(super) fn answer(view: &View, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = route(view, request.method(), request.uri().path());
    if !request.body().is_end_stream() {
        // To read on behind a body that nobody reads would mean to read the body.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn route(view: &View, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let page = match path {
        "/health" => health,
        "/metrics" => metrics_page,
        "/livez" => livez,
        "/readyz" => readyz,
        _ => {
            return plain(
                StatusCode::NOT_FOUND,
                "not found; there are /health, /metrics, /livez and /readyz\n",
            );
        }
    };
    if method == Method::GET || method == Method::HEAD {
        return page(view);
    }
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// 503 while unhealthy, for probes that do not read the body.
fn health(view: &View) -> Response<Full<Bytes>> {
    let since_boot = clock::since_boot();
    let host = view.host.sample(since_boot);
    let found = view.assess(&host);
    let code = match found.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    let report = Report::new(view, found, &host, since_boot, clock::unix_seconds());
    let body = serde_json::to_vec(&report).expect("a report has only text keys");
    respond(code, "application/json", body.into())
}

fn metrics_page(view: &View) -> Response<Full<Bytes>> {
    let since_boot = clock::since_boot();
    let host = view.host.sample(since_boot);
    let status = view.assess(&host).status;
    let body = metrics::page(view, status, &host, since_boot);
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body.into())
}

/// Is a restart the cure?
fn livez(view: &View) -> Response<Full<Bytes>> {
    match *view.verdict.borrow() {
        Verdict::Alive => plain(StatusCode::OK, "ok\n"),
        stuck @ Verdict::Stuck { .. } => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n")),
    }
}

fn readyz(view: &View) -> Response<Full<Bytes>> {
    match view.unready() {
        None => plain(StatusCode::OK, "ok\n"),
        Some(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn plain(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(code, "text/plain; charset=utf-8", body.into())
}

fn respond(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
