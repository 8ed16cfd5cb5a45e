//! The concept catalogue: what every concept of a checkpoint is called, and whether it may be steered.
//!
//! MODEL.md section 10. The labels come from `concept_labels.parquet`; a checkpoint without that file, or a concept
//! without a row, gets a generated name (`known #12`, `unknown #7`).

mod columns;
mod index;
mod labels;
mod reference;
mod search;
mod table;

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::{Error, ModelDir, Result};
use index::Index;

pub use reference::{ConceptRef, MAX_CANDIDATES};
pub use search::{Hit, MAX_QUERY_TERMS};
use table::Table;

/// Name of the label file in a model directory.
pub const LABELS_FILE: &str = "concept_labels.parquet";

/// The concept head that a concept belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Concepts with names, ids `0..C`.
    Known,
    /// Discovered concepts, ids `C..C + U`.
    Unknown,
}

impl Head {
    /// `known` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Unknown => "unknown",
        }
    }
}

/// What the label file says of a concept beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Flags {
    /// May be steered without force.
    pub steerable: bool,
    /// A tone of voice.
    pub tone: bool,
    /// Relevant to alignment.
    pub alignment: bool,
    /// Describes people.
    pub demographic: bool,
}

/// One of the [`Flags`] that a listing may be restricted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// [`Flags::steerable`].
    Steerable,
    /// [`Flags::tone`].
    Tone,
    /// [`Flags::alignment`].
    Alignment,
    /// [`Flags::demographic`].
    Demographic,
}

impl Flags {
    /// Whether `flag` is set.
    pub fn has(self, flag: Flag) -> bool {
        match flag {
            Flag::Steerable => self.steerable,
            Flag::Tone => self.tone,
            Flag::Alignment => self.alignment,
            Flag::Demographic => self.demographic,
        }
    }
}

/// A group of concepts that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Group<'a> {
    /// `public_group_id` of the label file.
    pub id: i64,
    /// Its name, or `group #id` where the file has none.
    pub name: &'a str,
}

/// One concept, as every answer shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Concept<'a> {
    /// Global id: known concepts `0..C`, unknown concepts `C + index`.
    pub id: u32,
    /// Index within its head.
    pub index: u32,
    /// The head it belongs to.
    pub head: Head,
    /// Its name; about one known name in twenty of the released model is shared by several concepts.
    pub name: &'a str,
    /// What it stands for; empty without a label.
    pub description: &'a str,
    /// The group it belongs to.
    pub group: Option<Group<'a>>,
    /// What else the label file says.
    pub flags: Flags,
}

/// Which concepts a listing or a search shows. The default shows all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only this head.
    pub head: Option<Head>,
    /// Only concepts that may be steered, or only those that may not.
    pub steerable: Option<bool>,
    /// Only concepts with this flag.
    pub flag: Option<Flag>,
}

impl Filter {
    /// What the reference package searches: known and steerable concepts.
    pub const REFERENCE: Self = Self { head: Some(Head::Known), steerable: Some(true), flag: None };

    fn admits(&self, head: Head, flags: Flags) -> bool {
        self.head.is_none_or(|wanted| wanted == head)
            && self.steerable.is_none_or(|wanted| wanted == flags.steerable)
            && self.flag.is_none_or(|flag| flags.has(flag))
    }
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Entries of the whole listing.
    pub total: usize,
    /// The entries from the offset on, at most as many as the limit.
    pub items: Vec<T>,
}

impl<T> Page<T> {
    /// Skips `offset` entries and keeps at most `limit`; all of them count.
    fn of(entries: impl Iterator<Item = T>, offset: usize, limit: usize) -> Self {
        let mut page = Self { total: 0, items: Vec::new() };
        for entry in entries {
            if page.total >= offset && page.items.len() < limit {
                page.items.push(entry);
            }
            page.total += 1;
        }
        page
    }
}

/// All concepts of a checkpoint: `C + U` of them, none for a plain backbone.
///
/// The texts lie in one buffer and a concept is a view into it, so that 134,928 concepts take little more than their texts.
#[derive(Debug, Clone)]
pub struct Catalog(Table, OnceLock<Index>);

impl Catalog {
    /// The catalogue of a model directory: its `concept_labels.parquet` if it has one, else generated names.
    /// A checkpoint without concept heads has an empty catalogue, whatever lies in the directory.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file, the column and the row that cannot be used; [`Error::Io`] if the file
    /// cannot be read; [`Error::Config`] for more concepts than ids.
    pub fn open(dir: impl Into<ModelDir>, config: &Config) -> Result<Self> {
        let dir = dir.into();
        let (known, unknown) = counts(config)?;
        if known + unknown == 0 || !dir.contains(LABELS_FILE) {
            return Self::generated(config);
        }
        labels::read(&dir, known, unknown).map(Self::of)
    }

    /// Generated names for every concept. Nothing says that one may not be steered, so all may.
    ///
    /// # Errors
    /// [`Error::Config`] for more concepts than ids.
    pub fn generated(config: &Config) -> Result<Self> {
        let (known, unknown) = counts(config)?;
        let mut table = Table::new(known, unknown);
        if !table.generate_missing(Flags { steerable: true, ..Flags::default() }) {
            return Err(Error::config("n_concepts", format!("names of {} concepts pass 4 GiB", table.len())));
        }
        Ok(Self::of(table))
    }

    fn of(table: Table) -> Self {
        Self(table, OnceLock::new())
    }

    fn index(&self) -> &Index {
        self.1.get_or_init(|| Index::new(&self.0))
    }

    /// Number of concepts, known and unknown: global ids lie below.
    pub fn len(&self) -> usize {
        self.0.len() as usize
    }

    /// Whether the checkpoint has no concepts at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Known concepts `C`.
    pub fn known_len(&self) -> usize {
        self.0.known() as usize
    }

    /// Unknown concepts `U`.
    pub fn unknown_len(&self) -> usize {
        self.len() - self.known_len()
    }

    /// Concepts that the label file names.
    pub fn labelled(&self) -> usize {
        self.0.labelled()
    }

    /// The concept with a global id.
    pub fn get(&self, id: u32) -> Option<Concept<'_>> {
        (id < self.0.len()).then(|| self.0.concept(id))
    }

    /// The unknown concept with a head-local index.
    pub fn unknown(&self, index: u32) -> Option<Concept<'_>> {
        self.get(self.0.known().checked_add(index)?)
    }

    /// All concepts with exactly this name, by id.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Concept<'_>> {
        self.index().named(&self.0, name).iter().map(|id| self.0.concept(*id))
    }

    /// The ids that share a concept's group, the concept itself first, then by id. A concept without a group is alone;
    /// an id past the last concept gives nothing.
    pub fn group(&self, id: u32) -> Vec<u32> {
        let Some(focal) = self.get(id) else { return Vec::new() };
        let mut members = vec![id];
        if let Some(group) = focal.group {
            let all = self.index().members(&self.0, group.id).iter().copied();
            members.extend(all.filter(|other| *other != id));
        }
        members
    }

    /// All concepts, by id.
    pub fn iter(&self) -> impl Iterator<Item = Concept<'_>> {
        (0..self.0.len()).map(|id| self.0.concept(id))
    }

    /// The concepts that a filter admits, by id.
    pub fn list(&self, filter: Filter, offset: usize, limit: usize) -> Page<Concept<'_>> {
        Page::of(self.iter().filter(|concept| filter.admits(concept.head, concept.flags)), offset, limit)
    }
}

/// Known and unknown concepts of a config; both and their sum fit ids.
fn counts(config: &Config) -> Result<(u32, u32)> {
    let Some(concept) = &config.concept else { return Ok((0, 0)) };
    let unknown = concept.unknown.as_ref().map_or(0, |head| head.n_concepts);
    match (u32::try_from(concept.n_concepts), u32::try_from(unknown)) {
        (Ok(known), Ok(unknown)) if known.checked_add(unknown).is_some() => Ok((known, unknown)),
        _ => Err(Error::config(
            "n_concepts",
            format!(
                "found {} known and {unknown} unknown concepts, at most {} ids exist",
                concept.n_concepts,
                u32::MAX
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
