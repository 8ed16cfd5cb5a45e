//! Query strings, refused by name as fields of bodies are.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::error::ApiError;

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
    /// The text of a parameter, if it is given and not empty.
    ///
    /// # Errors
    /// If it is given twice.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut found = self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() {
            return Err(ApiError::invalid(name, "given more than once"));
        }
        Ok(value.filter(|value| !value.is_empty()))
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

    /// One of a few words.
    ///
    /// # Errors
    /// If it is given twice or is none of `words`.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            ApiError::invalid(name, format!("`{text}` is none of {}", names.join(", ")))
        })
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
