//! How a request names a concept.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Catalog, Concept, Filter};
use crate::{Error, Result};

/// Most candidates that an [`Error::AmbiguousConcept`] lists.
pub const MAX_CANDIDATES: usize = 100;

/// A concept as a request names it. In JSON an integer, or an object of exactly one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConceptRef {
    /// `20353`: the global id.
    Id(u32),
    /// `{"unknown": 17}`: the index within the unknown head.
    Unknown(u32),
    /// `{"name": "…"}`: the exact name, of a known or an unknown concept.
    Name(String),
    /// `{"search": "…"}`: the best match of a search among known and steerable concepts.
    Search(String),
}

impl From<u32> for ConceptRef {
    fn from(id: u32) -> Self {
        Self::Id(id)
    }
}

const KEYS: [&str; 3] = ["unknown", "name", "search"];

impl<'de> Deserialize<'de> for ConceptRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RefVisitor)
    }
}

struct RefVisitor;

impl<'de> Visitor<'de> for RefVisitor {
    type Value = ConceptRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a concept: an id, {"unknown": index}, {"name": "…"} or {"search": "…"}"#)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ConceptRef, E> {
        u32::try_from(value).map(ConceptRef::Id).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    // Other formats than JSON give every integer as signed.
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ConceptRef, E> {
        u32::try_from(value).map(ConceptRef::Id).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ConceptRef, A::Error> {
        let Some(key) = map.next_key::<String>()? else {
            return Err(de::Error::invalid_length(0, &self));
        };
        let concept = match key.as_str() {
            "unknown" => ConceptRef::Unknown(map.next_value()?),
            "name" => ConceptRef::Name(map.next_value()?),
            "search" => ConceptRef::Search(map.next_value()?),
            other => return Err(de::Error::unknown_field(other, &KEYS)),
        };
        match map.next_key::<String>()? {
            None => Ok(concept),
            Some(second) => {
                Err(de::Error::custom(format!("a concept is named one way: found `{key}` and `{second}` together")))
            }
        }
    }
}

impl Serialize for ConceptRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Self::Id(id) = self {
            return serializer.serialize_u32(*id);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Id(_) => {}
            Self::Unknown(index) => map.serialize_entry("unknown", index)?,
            Self::Name(name) => map.serialize_entry("name", name)?,
            Self::Search(query) => map.serialize_entry("search", query)?,
        }
        map.end()
    }
}

impl Catalog {
    /// The concept that `field` of a request names.
    ///
    /// # Errors
    /// [`Error::UnknownConcept`] if there is none, [`Error::AmbiguousConcept`] if several have the name,
    /// [`Error::Invalid`] for a search of no or too many words, [`Error::Unsupported`] for a checkpoint without concepts.
    pub fn resolve(&self, field: &str, concept: &ConceptRef) -> Result<Concept<'_>> {
        if self.is_empty() {
            return Err(Error::Unsupported("this checkpoint has no concepts".to_owned()));
        }
        let missing = |message: String| Error::UnknownConcept { field: field.to_owned(), message };
        match concept {
            ConceptRef::Id(id) => self.get(*id).ok_or_else(|| {
                let (known, unknown) = (self.known_len(), self.unknown_len());
                missing(format!("{id} is no concept; ids are below {} ({known} known, {unknown} unknown)", self.len()))
            }),
            ConceptRef::Unknown(index) => self.unknown(*index).ok_or_else(|| {
                missing(format!("{index} is no unknown concept; indices are below {}", self.unknown_len()))
            }),
            ConceptRef::Name(name) => self.resolve_name(field, name),
            ConceptRef::Search(query) => self.resolve_search(field, query),
        }
    }

    /// As [`Self::resolve`], and refuses what may not be steered unless `force` is set.
    ///
    /// # Errors
    /// As [`Self::resolve`], and [`Error::NotSteerable`].
    pub fn resolve_steerable(&self, field: &str, concept: &ConceptRef, force: bool) -> Result<Concept<'_>> {
        let concept = self.resolve(field, concept)?;
        if concept.flags.steerable || force {
            return Ok(concept);
        }
        Err(Error::NotSteerable { field: field.to_owned(), id: concept.id, name: concept.name.to_owned() })
    }

    fn resolve_name(&self, field: &str, name: &str) -> Result<Concept<'_>> {
        let ids: Vec<u32> = self.named(name).map(|concept| concept.id).collect();
        match ids[..] {
            [id] => Ok(self.0.concept(id)),
            [] => Err(Error::UnknownConcept {
                field: field.to_owned(),
                message: format!("no concept has the name `{name}`; `search` finds similar ones"),
            }),
            _ => Err(Error::AmbiguousConcept {
                field: field.to_owned(),
                message: format!("{} concepts have the name `{name}`; choose one by its id", ids.len()),
                candidates: ids.into_iter().take(MAX_CANDIDATES).collect(),
            }),
        }
    }

    fn resolve_search(&self, field: &str, query: &str) -> Result<Concept<'_>> {
        if query.trim().is_empty() {
            return Err(Error::invalid(field, "a search needs at least one word"));
        }
        let found = self.search(query, Filter::REFERENCE, 0, 1).map_err(|error| match error {
            Error::Invalid { message, .. } => Error::invalid(field, message),
            other => other,
        })?;
        found.items.first().map(|hit| hit.concept).ok_or_else(|| Error::UnknownConcept {
            field: field.to_owned(),
            message: format!("no known, steerable concept matches the search `{query}`"),
        })
    }
}
