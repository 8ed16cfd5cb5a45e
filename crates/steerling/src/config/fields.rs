//! Typed access to the keys of one JSON object, remembering which were asked for: the rest is refused.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest count accepted anywhere: far above any real model, and small enough that products fit 64 bits.
pub(super) const MAX_COUNT: usize = 1 << 24;

/// The keys of one JSON object. A key that is absent reads as its default; one of the wrong type is an error.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Printed before the key in errors: `concept.` for the nested section.
    section: &'static str,
    known: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, section: &'static str) -> Self {
        Self { map, section, known: BTreeSet::new() }
    }

    /// The raw value, `None` when the key is absent.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.map.get(key)
    }

    /// Marks keys as accepted without reading them.
    pub(super) fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.refuse(key, other, "true or false")),
        }
    }

    /// A count of at least 1.
    pub(super) fn count(&mut self, key: &'static str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => self.read_count(key, value, "an integer"),
        }
    }

    /// A count of at least 1, or null.
    pub(super) fn count_or_null(&mut self, key: &'static str, default: Option<usize>) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => self.read_count(key, value, "null or an integer").map(Some),
        }
    }

    fn read_count(&self, key: &str, value: &Value, what: &str) -> Result<usize> {
        // Some writers print whole numbers as 4.0.
        let whole =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match whole.and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=MAX_COUNT).contains(&n) => Ok(n),
            _ => Err(self.refuse(key, value, &format!("{what} from 1 to {MAX_COUNT}"))),
        }
    }

    /// A finite number above 0.
    pub(super) fn positive(&mut self, key: &'static str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => self.read_positive(key, value, "a number above 0"),
        }
    }

    /// A finite number above 0, or null.
    pub(super) fn positive_or_null(&mut self, key: &'static str, default: Option<f64>) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => self.read_positive(key, value, "null or a number above 0").map(Some),
        }
    }

    fn read_positive(&self, key: &str, value: &Value, what: &str) -> Result<f64> {
        value.as_f64().filter(|f| f.is_finite() && *f > 0.0).ok_or_else(|| self.refuse(key, value, what))
    }

    /// One of a few words; `choices[0]` when absent.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.get(key) else { return Ok(choices[0].1) };
        let found = value.as_str().and_then(|s| choices.iter().find(|(word, _)| *word == s));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.refuse(key, value, &words.join(" or "))
        })
    }

    /// A token id; null reads as absent.
    pub(super) fn token_id(&mut self, key: &'static str) -> Result<Option<u32>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(id) => Ok(Some(id)),
                None => Err(self.refuse(key, value, "null or a token id")),
            },
        }
    }

    /// Refuses every key nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        for (key, value) in self.map {
            if !self.known.contains(key.as_str()) {
                return Err(self.error(key, &format!("unknown key with value {}, not implemented here", short(value))));
            }
        }
        Ok(())
    }

    /// "found this, expected that".
    pub(super) fn refuse(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.error(key, &format!("found {}, expected {expected}", short(found)))
    }

    pub(super) fn error(&self, key: &str, message: &str) -> Error {
        Error::config(self.full_key(key), message)
    }

    /// The key as errors name it, with its section.
    pub(super) fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.section)
    }
}

/// A value as it stands in the file, cut to a readable length.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
