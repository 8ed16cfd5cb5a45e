//! The page at `/docs`: the document for people, from files inside the program.

use axum::extract::Path;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use utoipa::ToSchema;

use super::{Internal, UnknownFile};
use crate::error::ApiError;

/// Nothing but the program's own files, and nobody may frame them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";

/// The files beside the page.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum File {
    #[serde(rename = "docs.css")]
    Style,
    #[serde(rename = "docs.js")]
    Script,
}

/// Name, type and content.
const FILES: [(&str, &str, &str); 2] = [
    ("docs.css", "text/css; charset=utf-8", include_str!("docs.css")),
    ("docs.js", "text/javascript; charset=utf-8", include_str!("docs.js")),
];

/// The description as a page.
///
/// Operations, fields, examples, and a form to send them. Everything comes from the program itself.
#[utoipa::path(get, path = "/docs", tag = "state",
    responses((status = 200, description = "the page", body = String, content_type = "text/html"), Internal))]
pub(crate) async fn docs() -> impl IntoResponse {
    file(HTML, include_str!("docs.html"))
}

/// A file of that page.
///
/// Its style and its script.
#[utoipa::path(get, path = "/docs/{file}", tag = "state",
    params(("file" = inline(File), Path, description = "its name")),
    responses(
        (status = 200, description = "the file", content((String = "text/css"), (String = "text/javascript"))),
        UnknownFile, Internal,
    ))]
pub(crate) async fn docs_asset(Path(name): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let found = FILES.iter().find(|(file, ..)| *file == name);
    let (_, kind, content) = found.ok_or_else(|| ApiError::from_status(axum::http::StatusCode::NOT_FOUND))?;
    Ok(file(kind, content))
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    const NOSNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        NOSNIFF,
    ];
    (headers, content)
}
