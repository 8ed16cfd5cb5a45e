//! The page at `/docs`: the document for people, from files inside the program.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{Internal, UnknownFile};
use crate::error::ApiError;
use crate::files::{self, File, file};

/// Nothing but the program's own files, and nobody may frame them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
/// The page itself.
const INDEX: File = file!(".", "docs.html");
/// The files beside it.
const FILES: &[File] = &[file!(".", "docs.css"), file!(".", "docs.js")];

/// The name of one of them.
struct FileName;

impl PartialSchema for FileName {
    fn schema() -> RefOr<Schema> {
        files::names(FILES)
    }
}

impl ToSchema for FileName {}

/// The description as a page.
///
/// Operations, fields, examples, and a form to send them. Everything comes from the program itself.
#[utoipa::path(get, path = "/docs", tag = "pages",
    responses(
        (status = 200, description = "the page", body = String, content_type = "text/html"),
        (status = 304, description = "the page is the one that `if-none-match` names"),
        Internal,
    ))]
pub(crate) async fn docs(headers: HeaderMap) -> Response {
    files::respond(&INDEX, POLICY, &headers)
}

/// A file of that page.
///
/// Its style and its script.
#[utoipa::path(get, path = "/docs/{file}", tag = "pages",
    params(("file" = inline(FileName), Path, description = "its name")),
    responses(
        (status = 200, description = "the file", content((String = "text/css"), (String = "text/javascript"))),
        (status = 304, description = "the file is the one that `if-none-match` names"),
        UnknownFile, Internal,
    ))]
pub(crate) async fn docs_asset(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    Ok(files::respond(files::find(FILES, &name)?, POLICY, &headers))
}
