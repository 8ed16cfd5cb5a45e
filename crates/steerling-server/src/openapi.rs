//! The description of the service, generated from its routes.

use std::collections::BTreeMap;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    Response, ResponseBuilder, Schema, schema::Type,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::auth::{Access, access};
use crate::error::ErrorBody;

/// The name of the security scheme.
const KEY: &str = "api_key";

/// The OpenAPI 3.1 document as indented JSON with a newline at its end, as kept in `openapi/openapi.json`.
pub fn document() -> String {
    let (_, mut document) = crate::api::routes().split_for_parts();
    describe_access(&mut document);
    document.to_pretty_json().expect("the document holds nothing that JSON cannot express") + "\n"
}

/// Everything but the routes.
pub(crate) fn base() -> OpenApi {
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Steerling")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Inference for Steerling, the interpretable causal diffusion language model.\n\n\
             Unknown request fields are refused. Every answer has the header `x-request-id` (the caller's, if sent). \
             Every status from 400 on has an `ErrorBody`. Closing the connection cancels the work. \
             Times are in milliseconds; `position` is the absolute index in the sequence, from 0.",
        ))
        .license(Some(licence))
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    let mut schemas = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    document.components.get_or_insert_default().schemas.extend(schemas);
    document
}

/// Says of each operation which key it wants, and adds the refusals that follow. Servers without keys want none.
fn describe_access(document: &mut OpenApi) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key of the server, where it has any. Each opens what its scopes say."))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let (security, needs) = match access(path) {
            Access::Open => (Vec::new(), None),
            Access::AnyKey => (vec![SecurityRequirement::new(KEY, [""; 0])], Some("any key".to_owned())),
            Access::Needs(scope) => {
                (vec![SecurityRequirement::new(KEY, [""; 0])], Some(format!("the scope `{}`", scope.as_str())))
            }
        };
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation.security = Some(security.clone());
            let Some(needs) = &needs else { continue };
            let refusals = errors(&[
                (
                    "401",
                    &format!(
                        "`unauthorized`: the server has API keys, and the request none of them; {needs} opens this"
                    ),
                ),
                ("403", &format!("`forbidden`: the key does not have {needs}")),
            ]);
            operation
                .responses
                .responses
                .extend(refusals.into_iter().filter(|(status, _)| status != "403" || needs != "any key"));
        }
    }
}

/// The object schema `base` with the properties of `more`; `required` become required.
pub(crate) fn extended(base: RefOr<Schema>, more: RefOr<Schema>, required: &[&str]) -> RefOr<Schema> {
    match (base, more) {
        (RefOr::T(Schema::Object(mut base)), RefOr::T(Schema::Object(more))) => {
            base.properties.extend(more.properties);
            base.required.extend(required.iter().map(|name| (*name).to_owned()));
            base.example = more.example;
            RefOr::T(Schema::Object(base))
        }
        (base, _) => base,
    }
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "state",
    responses((status = 200, description = "the OpenAPI document", body = Object), Internal))]
pub(crate) async fn openapi_json() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}

/// Refusals of any operation.
pub(crate) struct Internal;
/// Refusals of an operation with a body.
pub(crate) struct Body;
/// Refusals of an operation that needs the model.
pub(crate) struct NotReady;
/// Refusals of an operation that computes.
pub(crate) struct Compute;

/// Refusals of a query string.
pub(crate) struct InvalidQuery;
/// Refusals of an operation on a concept that the path names.
pub(crate) struct UnknownConcept;

impl IntoResponses for InvalidQuery {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("422", "`invalid_request`: `param` names the parameter")])
    }
}

impl IntoResponses for UnknownConcept {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            ("404", "`unknown_concept`: there is no concept with this id or name"),
            (
                "422",
                "`ambiguous_concept`: several concepts have this name, see `details.candidates`; `invalid_request`: \
                 `param` names the parameter",
            ),
            ("501", "`unsupported`: this checkpoint has no concepts"),
        ])
    }
}

impl IntoResponses for Internal {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("500", "`internal`: the server failed; its log says why")])
    }
}

impl IntoResponses for Body {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            ("400", "`invalid_json`: the body is no JSON"),
            ("413", "`payload_too_large`: the body has too many bytes"),
            ("415", "`unsupported_media_type`: the body is not `application/json`"),
            ("422", "`invalid_request`, `context_length_exceeded`: `param` names the field"),
        ])
    }
}

impl IntoResponses for NotReady {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[("503", "`not_ready`, `shutting_down`: see the header `retry-after`")])
    }
}

impl IntoResponses for Compute {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            ("429", "`overloaded`: all places are taken; see the header `retry-after`"),
            ("501", "`unsupported`: this checkpoint or build cannot do it"),
            ("504", "`deadline_exceeded`: it took longer than the server allows"),
        ])
    }
}

fn errors(table: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let header = |schema_type: Type, text: &str| {
        HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(schema_type)))
            .description(Some(text.to_owned()))
            .build()
    };
    let response = |status: &str, description: &str| {
        let schema = Ref::from_schema_name(ErrorBody::name());
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/json", ContentBuilder::new().schema(Some(schema)).build())
            .header("x-request-id", header(Type::String, "names the request, also in the body"));
        match status {
            "429" | "503" => response.header("retry-after", header(Type::Integer, "seconds until a retry makes sense")),
            _ => response,
        }
        .build()
    };
    table.iter().map(|(status, text)| ((*status).to_owned(), RefOr::T(response(status, text)))).collect()
}
