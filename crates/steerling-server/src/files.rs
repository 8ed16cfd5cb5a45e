//! Files of pages, compiled into the program. No other address is ever asked for anything.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, schema::Type};

use crate::error::ApiError;

/// A file of a page.
pub(crate) struct File {
    /// As the page names it.
    pub(crate) name: &'static str,
    pub(crate) content: &'static [u8],
}

/// The file `$name` of the folder `$folder` beside the source.
macro_rules! file {
    ($folder:literal, $name:literal) => {
        $crate::files::File { name: $name, content: include_bytes!(concat!($folder, "/", $name)) }
    };
}
pub(crate) use file;

/// The one of this name.
///
/// # Errors
/// If there is none.
pub(crate) fn find(files: &'static [File], name: &str) -> Result<&'static File, ApiError> {
    files.iter().find(|file| file.name == name).ok_or_else(|| ApiError::from_status(StatusCode::NOT_FOUND))
}

/// The names, as the schema of a parameter.
pub(crate) fn names(files: &'static [File]) -> RefOr<Schema> {
    let names = files.iter().map(|file| file.name);
    RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build()))
}

/// The file under a Content-Security-Policy, or that it is the one which `if-none-match` names.
pub(crate) fn respond(file: &File, policy: &'static str, request: &HeaderMap) -> Response {
    let tag = tag(file.content);
    let common = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        // Another build has other files under the same names: ask each time, which costs a header.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes")),
    ];
    if is_named(request, &tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, content_type(file.name))], file.content).into_response()
}

/// Weak, because the compressed answer has the same.
fn tag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("W/\"{:016x}\"", hasher.finish())
}

/// Whether `if-none-match` has the tag, compared as RFC 9110 says: weakly.
fn is_named(request: &HeaderMap, tag: &str) -> bool {
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
