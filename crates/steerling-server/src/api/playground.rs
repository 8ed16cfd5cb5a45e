//! The playground: a page and its files, compiled into the program. No other address is ever asked for anything.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use crate::error::ApiError;
use crate::openapi::Internal;

/// Only what comes from this server, and no script or style inside the page: a text that reaches the page cannot act.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Name and content of a file of the page.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../web/", $name)))
    };
}

/// The page itself.
const INDEX: (&str, &[u8]) = file!("index.html");
/// What it is made of.
const FILES: &[(&str, &[u8])] = &[
    file!("api.js"),
    file!("chips.js"),
    file!("dom.js"),
    file!("form.js"),
    file!("heat.js"),
    file!("icon.svg"),
    file!("inspector.js"),
    file!("lane.js"),
    file!("main.js"),
    file!("request.js"),
    file!("results.js"),
    file!("share.js"),
    file!("style.css"),
];

/// The page and its files; they are compressed for whoever takes that.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(page)).routes(routes!(asset)).layer(CompressionLayer::new())
}

/// The playground: a page to try the model in a browser.
#[utoipa::path(get, path = "/", tag = "playground",
    responses(
        (status = 200, description = "the page", body = String, content_type = "text/html"),
        (status = 304, description = "the page is the one that `if-none-match` names"),
        Internal,
    ))]
async fn page(headers: HeaderMap) -> Response {
    respond(INDEX, &headers)
}

/// A file of the playground.
#[utoipa::path(get, path = "/assets/{file}", tag = "playground",
    params(("file" = String, Path, description = "its name, as the page has it", example = "style.css")),
    responses(
        (status = 200, description = "the file", content(
            (String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"),
        )),
        (status = 304, description = "the file is the one that `if-none-match` names"),
        (status = 404, description = "`not_found`: the page has no such file", body = crate::error::ErrorBody),
        Internal,
    ))]
async fn asset(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, ApiError> {
    // A name that is no text is as unknown as any other.
    let file = name.ok().and_then(|Path(name)| FILES.iter().find(|(file, _)| *file == name));
    Ok(respond(*file.ok_or_else(|| ApiError::from_status(StatusCode::NOT_FOUND))?, &headers))
}

fn respond((name, content): (&'static str, &'static [u8]), request: &HeaderMap) -> Response {
    let tag = tag(content);
    let common = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another build has other files under the same names: ask each time, which costs a header.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes")),
    ];
    if names(request, &tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, content_type(name))], content).into_response()
}

/// Weak, because the compressed answer has the same.
fn tag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("W/\"{:016x}\"", hasher.finish())
}

/// Whether `if-none-match` has the tag, compared as RFC 9110 says: weakly.
fn names(request: &HeaderMap, tag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let sent = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    sent.flat_map(|value| value.split(',')).any(|sent| sent.trim() == "*" || strong(sent) == strong(tag))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
