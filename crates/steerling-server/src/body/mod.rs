//! Request bodies: from the connection to bytes, from bytes to JSON, from JSON to values that the request types can read.
//!
//! Every body is checked against the schema of its operation in the OpenAPI document before serde reads it. So the
//! document and the server cannot disagree, an error names the field and the value in JSON's words, and a misspelt
//! field is answered with the nearest one of *all* fields of the object, whatever types it is split over.

mod check;
mod parse;
mod receive;
mod shape;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use utoipa::ToSchema;

use crate::error::ApiError;
use shape::Shape;

pub(crate) use check::integer;
pub(crate) use parse::parse;
pub(crate) use receive::read;

/// The shapes of all schemas, by name.
static SHAPES: LazyLock<HashMap<String, Shape>> = LazyLock::new(|| shape::schemas(crate::openapi::value()));

/// Checks a body, or a part of one, against the schema of `T`, and writes integers such as `8.0` as integers.
///
/// # Errors
/// 422 naming the field: of another type, outside its range, unknown, or missing.
pub(crate) fn check<T: ToSchema>(body: &mut Value) -> Result<(), ApiError> {
    let shape = SHAPES.get(&*T::name()).expect("the types of requests are schemas of the document");
    shape.check(body).map_err(ApiError::from)
}
