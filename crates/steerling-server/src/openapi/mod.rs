//! The description of the service, generated from its routes.

mod access;
mod complete;
mod events;
mod examples;
pub(crate) mod page;
pub(crate) mod refusals;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::Value;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Schema, tag::TagBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::api::openai::error::OpenAiErrorBody;
use crate::error::ErrorBody;

pub(crate) use events::{AttributeEvent, GenerateEvent, SteerEvent};
pub(crate) use refusals::{
    Admitted, Body, Compute, Generation, Internal, InvalidQuery, NoConcepts, NotReady, UnknownConcept, UnknownFile,
};

/// Tags in the order of the document.
const TAGS: [(&str, &str); 8] = [
    ("generate", "Write text, steered by concepts or not."),
    ("explain", "Say which concepts and which inputs a token came from."),
    ("read", "Read texts: embeddings and likelihoods."),
    ("concepts", "Find concepts: by name, in a text, between two sets of texts, by what they promote."),
    ("openai", "The same model for tools that speak OpenAI's API: its shapes, its errors, final text only."),
    ("pages", "For people with a browser, from files inside the program."),
    ("text", "Text to token ids and back."),
    ("state", "What runs, how it is, and this description. Nothing here waits behind users."),
];

const DESCRIPTION: &str = "\
Inference for Steerling, the interpretable causal diffusion language model.

Unknown request fields are refused, and whatever can be refused is refused before the first byte of an answer. Every \
answer has the header `x-request-id` (the caller's, if sent). Every status from 400 on has an `ErrorBody`, under `/v1` an `OpenAiErrorBody`. Closing the \
connection cancels the work. Times are in milliseconds; contributions and targets in logits; `position` is the absolute \
index in the sequence, from 0. The examples are answers of the demo model inside the program.";

/// A string of at least one character.
#[derive(ToSchema)]
#[schema(min_length = 1)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct NonEmpty(String);

/// The OpenAPI 3.1 document as indented JSON with a newline at its end, as kept in `openapi/openapi.json`.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| serde_json::to_string_pretty(value()).expect("a JSON value can be written") + "\n");
    &DOCUMENT
}

/// The same as a value.
pub(crate) fn value() -> &'static Value {
    static VALUE: LazyLock<Value> = LazyLock::new(|| {
        let (_, mut document) = crate::api::routes().split_for_parts();
        access::describe(&mut document);
        let mut document = serde_json::to_value(document).expect("the document holds nothing that JSON cannot express");
        complete::complete(&mut document);
        document
    });
    &VALUE
}

/// Everything but the routes.
pub(crate) fn base() -> OpenApi {
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Steerling")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(licence))
        .build();
    let tags = TAGS.map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build());
    let mut document = OpenApiBuilder::new().info(info).tags(Some(tags)).build();
    let mut schemas = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    schemas.push((OpenAiErrorBody::name().into_owned(), OpenAiErrorBody::schema()));
    OpenAiErrorBody::schemas(&mut schemas);
    document.components.get_or_insert_default().schemas.extend(schemas);
    document
}

/// The object schema `base` with the properties of `more`; `required` become required.
pub(crate) fn extended(base: RefOr<Schema>, more: RefOr<Schema>, required: &[&str]) -> RefOr<Schema> {
    match (base, more) {
        (RefOr::T(Schema::Object(mut base)), RefOr::T(Schema::Object(more))) => {
            base.properties.extend(more.properties);
            base.required.extend(required.iter().map(|name| (*name).to_owned()));
            RefOr::T(Schema::Object(base))
        }
        (base, _) => base,
    }
}

/// This document.
///
/// OpenAPI 3.1, the same as `steerling openapi` prints. `/docs` shows it to people.
#[utoipa::path(get, path = "/openapi.json", tag = "state",
    responses((status = 200, description = "the OpenAPI document", body = Object), Internal))]
pub(crate) async fn openapi_json() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}
