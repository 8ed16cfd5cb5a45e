//! Query strings, refused by name as fields of bodies are.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};

use crate::error::{ApiError, Code};

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

/// The parameters of a query string that nobody has asked for yet.
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|rejection| ApiError::invalid("query", rejection.body_text()))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// The text of a parameter.
    ///
    /// # Errors
    /// If it is given twice.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut found = self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() {
            return Err(ApiError::invalid(name, "given more than once"));
        }
        Ok(value)
    }

    /// A parameter that is a number, a truth value or one of `kind`.
    ///
    /// # Errors
    /// If it is given twice or is no `kind`.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, kind: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let wrong = |_| ApiError::invalid(name, format!("`{text}` is not {kind}"));
        text.parse().map(Some).map_err(wrong)
    }

    /// One of the names of an enumeration.
    ///
    /// # Errors
    /// If it is given twice or is none of them.
    pub(super) fn word<T: for<'a> Deserialize<'a>>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let word = T::deserialize(StrDeserializer::<Error>::new(&text));
        word.map(Some).map_err(|error| ApiError::invalid(name, error.to_string()))
    }

    /// How many entries are wanted, `usual` if that is not said.
    ///
    /// # Errors
    /// If it is given twice or is outside `1..=most`.
    pub(super) fn count(&mut self, name: &str, usual: usize, most: usize) -> Result<usize, ApiError> {
        let n = self.parsed(name, "a whole number")?.unwrap_or(usual);
        if (1..=most).contains(&n) {
            return Ok(n);
        }
        Err(ApiError::invalid(name, format!("{n} is outside 1..={most}")))
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// Naming the first parameter that nobody knows.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(ApiError::invalid(name, "there is no such parameter")),
            None => Ok(()),
        }
    }
}
