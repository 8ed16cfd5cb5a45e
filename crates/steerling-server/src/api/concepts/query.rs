//! Query strings, refused by name as fields of bodies are.

use std::fmt;
use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize};
use serde_json::Number;

use crate::body;
use crate::error::{ApiError, Code};
use crate::nearest::{not_one_of, unknown};

/// The concept that a path names.
pub(crate) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let refuse = |_| ApiError::new(Code::UnknownConcept, "the path is no UTF-8").with_status(StatusCode::NOT_FOUND);
        path.map(|Path(name)| Self(name)).map_err(refuse)
    }
}

/// The parameters of a query string.
pub(crate) struct Params {
    /// Those that are still to be read.
    given: Vec<(String, String)>,
    /// The names that were asked for.
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|rejection| ApiError::invalid("query", rejection.body_text()))?;
        Ok(Self { given, known: Vec::new() })
    }
}

impl Params {
    /// The text of a parameter.
    ///
    /// # Errors
    /// If it is given twice.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.known.push(name);
        let mut found = self.given.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() {
            return Err(ApiError::invalid(name, "given more than once"));
        }
        Ok(value)
    }

    /// A parameter that is an integer within a range; `8.0` is one, as in bodies.
    ///
    /// # Errors
    /// If it is given twice, is no integer or outside the range.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number: Number =
            text.parse().map_err(|_| ApiError::invalid(name, format!("expected an integer, found `{text}`")))?;
        let (least, most) = (*range.start() as i128, *range.end() as i128);
        let number = body::integer(&number, least, most).map_err(|message| ApiError::invalid(name, message))?;
        Ok(number.as_u64().and_then(|number| usize::try_from(number).ok()))
    }

    /// One of the names of an enumeration.
    ///
    /// # Errors
    /// If it is given twice or is none of them.
    pub(super) fn word<T: for<'a> Deserialize<'a>>(&mut self, name: &'static str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let word = T::deserialize(StrDeserializer::<WordError>::new(&text));
        word.map(Some).map_err(|error| ApiError::invalid(name, error.0))
    }

    /// How many entries are wanted, `usual` if that is not said.
    ///
    /// # Errors
    /// If it is given twice or is outside `1..=most`.
    pub(super) fn count(&mut self, name: &'static str, usual: usize, most: usize) -> Result<usize, ApiError> {
        Ok(self.integer(name, 1..=most)?.unwrap_or(usual))
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// Naming the first parameter that no one has asked for, and the nearest one that was.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.given.into_iter().next() {
            Some((name, _)) => {
                let message = unknown("parameter", &name, &self.known);
                Err(ApiError::invalid(name, message))
            }
            None => Ok(()),
        }
    }
}

/// Why a text is no word of an enumeration.
#[derive(Debug)]
struct WordError(String);

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WordError {}

impl de::Error for WordError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(word: &str, words: &'static [&'static str]) -> Self {
        Self(not_one_of(word, words))
    }
}
