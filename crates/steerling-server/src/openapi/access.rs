//! Which key each operation wants, and the refusals that follow. Servers without keys want none.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, path::Operation};

use super::refusals::{Family, NATIVE, Refusal};
use crate::api::openai::error::{OPENAI, is_openai};
use crate::auth::{Access, Scope, access, to_generate};
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
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        operations.into_iter().flatten().for_each(|operation| of(operation, path, family));
    }
}

fn of(operation: &mut Operation, path: &str, family: &Family) {
    let unauthorized = ("the server has API keys, and the request none of them", ApiError::unauthorized());
    let (security, refusals): (_, Vec<Refusal>) = match access(path) {
        Access::Open => (Vec::new(), Vec::new()),
        Access::AnyKey => (vec![SecurityRequirement::new(KEY, [""; 0])], vec![unauthorized]),
        Access::Needs(scope) => {
            let also = to_generate(path);
            let when = match also {
                None => "the key does not have the scope",
                Some(_) => "the key does not have the scope, or lacks `generate` and the request generates",
            };
            let scopes = std::iter::once(scope).chain(also).map(Scope::as_str);
            (vec![SecurityRequirement::new(KEY, scopes)], vec![unauthorized, (when, forbidden(scope))])
        }
    };
    operation.security = Some(security);
    operation.responses.responses.extend(family.responses(refusals));
}

fn forbidden(scope: Scope) -> ApiError {
    ApiError::forbidden("dashboard", scope)
}
