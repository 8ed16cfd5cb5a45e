//! Which key each operation wants, and the refusals that follow. Servers without keys want none.

use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

use super::refusals::{NATIVE, Refusal};
use crate::api::openai::error::{OPENAI, is_openai};
use crate::auth::{Access, Scope, access, is_probe, to_generate};
use crate::error::ApiError;

/// The name of the security scheme.
const KEY: &str = "api_key";

/// Says of each operation which key it wants.
pub(super) fn describe(document: &mut OpenApi) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key of the server, where it has any. An operation names the scope that its key needs.",
        ))
        .build();
    document.components.get_or_insert_default().add_security_scheme(KEY, SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let family = if is_openai(path) { &OPENAI } else { &NATIVE };
        let (security, refusals) = of(path);
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation.security = Some(security.clone());
            operation.responses.responses.extend(family.responses(refusals.clone()));
        }
    }
}

/// The key that the operations of a path need, and how they reject a request without it.
fn of(path: &str) -> (Vec<SecurityRequirement>, Vec<Refusal>) {
    let foreign =
        ("the server has no API keys, and the request is for a host that it does not answer to", foreign_host());
    let unauthorized = ("the server has API keys, and the request none of them", ApiError::unauthorized());
    match access(path) {
        Access::Open if is_probe(path) => (Vec::new(), Vec::new()),
        Access::Open => (Vec::new(), vec![foreign]),
        Access::AnyKey => (vec![SecurityRequirement::new(KEY, [""; 0])], vec![unauthorized, foreign]),
        Access::Needs(scope) => {
            let also = to_generate(path);
            let when = match also {
                None => "the key does not have the scope",
                Some(_) => "the key does not have the scope, or lacks `generate` and the request generates",
            };
            let scopes = std::iter::once(scope).chain(also).map(Scope::as_str);
            (vec![SecurityRequirement::new(KEY, scopes)], vec![unauthorized, foreign, (when, forbidden(scope))])
        }
    }
}

fn foreign_host() -> ApiError {
    ApiError::foreign_host("steer.example.org")
}

fn forbidden(scope: Scope) -> ApiError {
    ApiError::forbidden("dashboard", scope)
}
