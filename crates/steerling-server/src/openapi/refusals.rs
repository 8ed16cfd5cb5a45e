//! How operations refuse: statuses, codes and an example of each, made by the code that refuses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, schema::Type,
};
use utoipa::{IntoResponses, ToSchema};

use crate::engine::{self, Failure, SubmitError};
use crate::error::{ApiError, Code, ErrorBody};

/// In the examples.
const REQUEST_ID: &str = "5f0c2bb3a94e4a0e8a5d1f6d4f7b9c21";

/// Any operation.
pub(crate) struct Internal;
/// An operation with a body.
pub(crate) struct Body;
/// An operation whose body describes a generation.
pub(crate) struct Generation;
/// An operation that needs the model.
pub(crate) struct NotReady;
/// An operation that takes a slot.
pub(crate) struct Admitted;
/// An operation that computes.
pub(crate) struct Compute;
/// A query string.
pub(crate) struct InvalidQuery;
/// An operation that needs a checkpoint with concepts.
pub(crate) struct NoConcepts;
/// An operation on a concept that the path names.
pub(crate) struct UnknownConcept;
/// A file of the documentation.
pub(crate) struct UnknownFile;

/// When an operation refuses, and how.
pub(crate) type Refusal = (&'static str, ApiError);
/// One response a status.
pub(crate) type Responses = BTreeMap<String, RefOr<Response>>;

/// How a family of operations answers with an error.
pub(crate) struct Family {
    /// The name of the body's schema.
    pub(crate) schema: fn() -> Cow<'static, str>,
    pub(crate) status: fn(&ApiError) -> StatusCode,
    pub(crate) body: fn(&ApiError) -> Value,
}

/// Everything but `/v1`.
pub(crate) const NATIVE: Family =
    Family { schema: ErrorBody::name, status: ApiError::status, body: |error| json!(error.body(REQUEST_ID)) };

impl IntoResponses for Internal {
    fn responses() -> Responses {
        NATIVE.responses(of_any())
    }
}

impl IntoResponses for Body {
    fn responses() -> Responses {
        NATIVE.responses(of_bodies())
    }
}

impl IntoResponses for Generation {
    fn responses() -> Responses {
        NATIVE.responses(of_generations())
    }
}

impl IntoResponses for NotReady {
    fn responses() -> Responses {
        NATIVE.responses(without_model())
    }
}

impl IntoResponses for Admitted {
    fn responses() -> Responses {
        NATIVE.responses(of_admitted())
    }
}

impl IntoResponses for Compute {
    fn responses() -> Responses {
        NATIVE.responses(of_work())
    }
}

impl IntoResponses for InvalidQuery {
    fn responses() -> Responses {
        NATIVE.responses(of_queries())
    }
}

impl IntoResponses for NoConcepts {
    fn responses() -> Responses {
        NATIVE.responses(without_concepts())
    }
}

impl IntoResponses for UnknownConcept {
    fn responses() -> Responses {
        let missing = steerling::Error::UnknownConcept {
            field: "id".to_owned(),
            message: "no concept has the name `Sp ace`; `search` finds similar ones".to_owned(),
        };
        let mut refusals = of_queries();
        refusals.extend(without_concepts());
        refusals.extend([
            ("there is no concept with this id or name", ApiError::from(missing).with_status(StatusCode::NOT_FOUND)),
            ("several concepts have this name, see `details.candidates`", ambiguous("id")),
        ]);
        NATIVE.responses(refusals)
    }
}

impl IntoResponses for UnknownFile {
    fn responses() -> Responses {
        NATIVE.responses(vec![("there is no such file", ApiError::from_status(StatusCode::NOT_FOUND))])
    }
}

/// Whatever is asked.
pub(crate) fn of_any() -> Vec<Refusal> {
    vec![("the server failed; its log says why", ApiError::internal())]
}

/// What needs the model.
pub(crate) fn without_model() -> Vec<Refusal> {
    vec![
        ("the model is not there", ApiError::not_ready(engine::NotReady::Loading)),
        ("the server takes nothing new", ApiError::shutting_down()),
    ]
}

/// What needs a slot.
fn of_admitted() -> Vec<Refusal> {
    vec![
        ("all slots are held", SubmitError::Overloaded { retry_after: Duration::from_secs(2) }.into()),
        ("it took longer than it may", Failure::Deadline.into()),
    ]
}

/// What the worker does.
pub(crate) fn of_work() -> Vec<Refusal> {
    let mut refusals = of_admitted();
    refusals.push(("this checkpoint or build cannot do it", no_concepts()));
    refusals
}

/// What a body that describes a generation may have wrong.
pub(crate) fn of_generations() -> Vec<Refusal> {
    let field = "steering.amplify[0].concept";
    let unknown = steerling::Error::UnknownConcept {
        field: field.to_owned(),
        message: "no concept has the name `Sp ace`; `search` finds similar ones".to_owned(),
    };
    let fixed = steerling::Error::NotSteerable { field: field.to_owned(), id: 77, name: "unknown #41".to_owned() };
    let mut refusals = of_bodies();
    refusals.extend([
        ("there is no concept with this id, index or name, or a search finds none", unknown.into()),
        ("several concepts have this name, see `details.candidates`", ambiguous(field)),
        ("the catalogue marks the concept as not steerable, and `force` is not set", fixed.into()),
    ]);
    refusals
}

/// What any body may have wrong.
pub(crate) fn of_bodies() -> Vec<Refusal> {
    let late = "the body did not arrive within 60 s (`body_timeout_seconds`, --body-timeout-seconds)";
    let too_long = steerling::Error::ContextLength { prompt: 12, max_new_tokens: 4096, context: 4096 };
    vec![
        ("the body is no JSON", ApiError::new(Code::InvalidJson, "EOF while parsing a value at line 1 column 10")),
        ("the body does not arrive in time", ApiError::new(Code::RequestTimeout, late)),
        ("the body has too many bytes", ApiError::payload_too_large("the body has 4194304 bytes", 1 << 20)),
        (
            "the body is not `application/json`, or neither plain nor gzip",
            ApiError::from_status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ),
        (
            "`param` names the field that is wrong or unknown",
            ApiError::invalid("temprature", "unknown field `temprature`; did you mean `temperature`?"),
        ),
        ("the context has no room for it", too_long.into()),
    ]
}

fn ambiguous(field: &str) -> ApiError {
    let candidate = |id: u32, group: &str| {
        json!({
            "id": id, "index": id, "head": "known", "name": "Bank", "description": "",
            "group": {"id": id, "name": group},
            "flags": {"steerable": true, "tone": false, "alignment": false, "demographic": false}
        })
    };
    let error = steerling::Error::AmbiguousConcept {
        field: field.to_owned(),
        message: "2 concepts have the name `Bank`; choose one by its id".to_owned(),
        candidates: vec![4, 411],
    };
    ApiError::from(error).with_details(json!({"candidates": [candidate(4, "Money"), candidate(411, "Rivers")]}))
}

fn of_queries() -> Vec<Refusal> {
    vec![("`param` names the parameter", ApiError::invalid("limt", "unknown parameter `limt`; did you mean `limit`?"))]
}

fn without_concepts() -> Vec<Refusal> {
    vec![("this checkpoint has no concepts", no_concepts())]
}

fn no_concepts() -> ApiError {
    steerling::Error::Unsupported("this checkpoint has no concepts".to_owned()).into()
}

impl Family {
    /// One response a status.
    pub(crate) fn responses(&self, refusals: Vec<Refusal>) -> Responses {
        let mut by_status: BTreeMap<u16, Vec<Refusal>> = BTreeMap::new();
        for refusal in refusals {
            by_status.entry((self.status)(&refusal.1).as_u16()).or_default().push(refusal);
        }
        by_status
            .into_iter()
            .map(|(status, refusals)| (status.to_string(), RefOr::T(self.response(&refusals))))
            .collect()
    }

    fn response(&self, refusals: &[Refusal]) -> Response {
        let codes: Vec<String> = refusals.iter().map(|(_, error)| code(error)).collect();
        let description: Vec<String> =
            codes.iter().zip(refusals).map(|(code, (when, _))| format!("`{code}`: {when}")).collect();
        let example = |error| ExampleBuilder::new().value(Some((self.body)(error))).build();
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name((self.schema)())))
            .examples_from_iter(codes.into_iter().zip(refusals).map(|(code, (_, error))| (code, example(error))))
            .build();
        let header = |schema_type: Type, text: &str| {
            HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(schema_type)))
                .description(Some(text.to_owned()))
                .build()
        };
        let response = ResponseBuilder::new()
            .description(description.join("; "))
            .content("application/json", content)
            .header("x-request-id", header(Type::String, "names the request"));
        match refusals.iter().any(|(_, error)| error.is_temporary()) {
            true => response.header("retry-after", header(Type::Integer, "seconds until a retry makes sense")),
            false => response,
        }
        .build()
    }
}

/// As in the body.
fn code(error: &ApiError) -> String {
    json!(error.code).as_str().unwrap_or_default().to_owned()
}
