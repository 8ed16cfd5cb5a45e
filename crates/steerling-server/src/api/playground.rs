//! The playground at `/`.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::ApiError;
use crate::files::{self, File, file};
use crate::openapi::{Internal, UnknownFile};

/// Only what comes from this server, and no script or style inside the page: a text that reaches the page cannot act.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page itself.
const INDEX: File = file!("../web", "index.html");
/// What it is made of.
const FILES: &[File] = &[
    file!("../web", "api.js"),
    file!("../web", "characters.js"),
    file!("../web", "chips.js"),
    file!("../web", "consent.js"),
    file!("../web", "dom.js"),
    file!("../web", "effect.js"),
    file!("../web", "form.js"),
    file!("../web", "heat.js"),
    file!("../web", "icon.svg"),
    file!("../web", "inspector.js"),
    file!("../web", "lane.js"),
    file!("../web", "main.js"),
    file!("../web", "request.js"),
    file!("../web", "results.js"),
    file!("../web", "run.js"),
    file!("../web", "share.js"),
    file!("../web", "style.css"),
];

/// The name of one of them.
struct AssetName;

impl PartialSchema for AssetName {
    fn schema() -> RefOr<Schema> {
        files::names(FILES)
    }
}

impl ToSchema for AssetName {}

/// The playground.
///
/// A page to try the model in a browser: watch it write, steer it, ask why. Everything comes from the program itself.
#[utoipa::path(get, path = "/", operation_id = "playground", tag = "pages",
    responses(
        (status = 200, description = "the page", body = String, content_type = "text/html"),
        (status = 304, description = "the page is the one that `if-none-match` names"),
        Internal,
    ))]
pub(crate) async fn page(headers: HeaderMap) -> Response {
    files::respond(&INDEX, POLICY, &headers)
}

/// A file of the playground.
///
/// Its styles, its scripts, its icon.
#[utoipa::path(get, path = "/assets/{file}", operation_id = "playground_asset", tag = "pages",
    params(("file" = inline(AssetName), Path, description = "its name")),
    responses(
        (status = 200, description = "the file", content(
            (String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"),
        )),
        (status = 304, description = "the file is the one that `if-none-match` names"),
        UnknownFile, Internal,
    ))]
pub(crate) async fn asset(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, ApiError> {
    // A name that is no text is as unknown as any other.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    Ok(files::respond(files::find(FILES, &name)?, POLICY, &headers))
}
