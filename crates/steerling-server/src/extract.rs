//! JSON bodies, refused in the shape of [`crate::error`] and naming the field.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::AppState;
use crate::body;
use crate::error::{ApiError, Code};

/// A JSON body of type `T`, checked against its schema.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema> FromRequest<AppState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let mut body = json(request, state).await?;
        body::check::<T>(&mut body)?;
        read(body).map(Self)
    }
}

/// A JSON object that its handler checks.
pub(crate) struct Object(Map<String, Value>);

impl FromRequest<AppState> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        match json(request, state).await? {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(ApiError::new(Code::InvalidRequest, "the body must be a JSON object")),
        }
    }
}

impl Object {
    /// The fields, before they are checked.
    pub(crate) fn fields(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    /// The fields, checked against the schema of `T`.
    ///
    /// # Errors
    /// As [`body::check`].
    pub(crate) fn checked<T: ToSchema>(self) -> Result<Map<String, Value>, ApiError> {
        let mut body = Value::Object(self.0);
        body::check::<T>(&mut body)?;
        match body {
            Value::Object(object) => Ok(object),
            _ => Err(ApiError::internal()),
        }
    }
}

/// The JSON of a body.
async fn json(request: Request, state: &AppState) -> Result<Value, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::from_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let (head, body) = request.into_parts();
    let bytes = body::read(&head.headers, body, state.options.max_body_bytes).await?;
    body::parse(&bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mime = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    mime == "application/json" || (mime.starts_with("application/") && mime.ends_with("+json"))
}

/// Takes the fields that an operation adds to those of a common body out of it, and reads both.
///
/// # Errors
/// As for a body of one type, unknown fields included.
pub(crate) fn split<E: DeserializeOwned, B: DeserializeOwned>(
    mut body: Map<String, Value>,
    own: &[&str],
) -> Result<(E, B), ApiError> {
    let own: Map<String, Value> = own.iter().filter_map(|name| body.remove_entry(*name)).collect();
    Ok((read(Value::Object(own))?, read(Value::Object(body))?))
}

/// Reads types from JSON objects only. What serde derives would also take a list of the fields' values. The types derive
/// with `#[serde(remote = "Self")]`, which makes that an inherent function.
macro_rules! objects_only {
    ($($name:ty),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        <$name>::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    )+};
}

/// The same for types that are written as well, because the document shows their defaults.
macro_rules! written_objects_only {
    ($($name:ty),+ $(,)?) => {
        $crate::extract::objects_only!($($name),+);
        $(impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$name>::serialize(self, serializer)
            }
        })+
    };
}

pub(crate) use {objects_only, written_objects_only};

/// A value of type `T`. What is wrong with it was found by [`body::check`]; this is the second line.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error: serde_path_to_error::Error<serde_json::Error>| {
        let path = error.path().to_string();
        ApiError::invalid(path, error.into_inner().to_string())
    })
}
