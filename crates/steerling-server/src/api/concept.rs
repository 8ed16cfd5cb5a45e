//! Concepts as requests name them and answers show them.

use serde::{Deserialize, Serialize};
use steerling::catalog::{Concept, Head};
use utoipa::ToSchema;

/// A concept as a request names it.
#[derive(ToSchema)]
#[schema(as = ConceptRef)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used: the model crate reads the value")]
pub(crate) enum ConceptName {
    /// Global id: known concepts come first, unknown ones behind them.
    Id(u32),
    /// The index within the unknown head.
    Unknown {
        /// From 0.
        unknown: u32,
    },
    /// The exact name; refused with the candidates if several concepts have it.
    Name {
        /// As the catalogue has it.
        #[schema(min_length = 1)]
        name: String,
    },
    /// The best match of a search among known, steerable concepts. At most 64 in one request.
    Search {
        /// Words, at least one.
        #[schema(min_length = 1)]
        search: String,
    },
}

/// Which head a concept belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConceptHead)]
pub(crate) enum HeadBody {
    /// Named in training.
    Known,
    /// Discovered.
    Unknown,
}

impl From<Head> for HeadBody {
    fn from(head: Head) -> Self {
        match head {
            Head::Known => Self::Known,
            Head::Unknown => Self::Unknown,
        }
    }
}

/// One concept of the catalogue.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Concept)]
pub(crate) struct ConceptBody {
    /// Global id: known concepts come first, unknown ones behind them.
    pub(crate) id: u32,
    /// Index within its head.
    index: u32,
    head: HeadBody,
    /// Its name; not always unique.
    name: String,
    /// What it stands for; empty without a label.
    description: String,
    /// The concepts it belongs with.
    #[schema(required = true)]
    group: Option<GroupBody>,
    flags: FlagsBody,
}

/// A group of concepts.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ConceptGroup)]
struct GroupBody {
    /// As in the label file.
    id: i64,
    /// Its name.
    name: String,
}

/// What else the label file says.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ConceptFlags)]
struct FlagsBody {
    /// May be steered without force.
    steerable: bool,
    /// A tone of voice.
    tone: bool,
    /// Relevant to alignment.
    alignment: bool,
    /// Describes people.
    demographic: bool,
}

impl From<Concept<'_>> for ConceptBody {
    fn from(concept: Concept<'_>) -> Self {
        let Concept { id, index, head, name, description, group, flags } = concept;
        Self {
            id,
            index,
            head: head.into(),
            name: name.to_owned(),
            description: description.to_owned(),
            group: group.map(|group| GroupBody { id: group.id, name: group.name.to_owned() }),
            flags: FlagsBody {
                steerable: flags.steerable,
                tone: flags.tone,
                alignment: flags.alignment,
                demographic: flags.demographic,
            },
        }
    }
}
