//! A policy as the configuration file has it.

use serde::{Deserialize, Serialize};
use steerling::catalog::ConceptRef;

use crate::api::steering::SteeringRequest;

/// `[policies.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyEntry {
    /// As in a request to `/steer`.
    pub(super) steering: Option<SteeringRequest>,
    /// Prompts that are refused.
    #[serde(default)]
    pub(super) refuse: Vec<RefuseEntry>,
}

/// A concept that a prompt may not have much of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefuseEntry {
    pub(super) concept: ConceptRef,
    /// The weight from which on it is refused, above 0 and up to 1.
    pub(super) threshold: f32,
    #[serde(default)]
    pub(super) over: Over,
}

/// Which weight of a prompt's tokens counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Over {
    /// Their mean; tokens without the concept among their top ones count 0.
    #[default]
    Mean,
    /// The largest.
    Max,
}

impl Over {
    /// Of the concept's weight in each of `n` tokens that has it.
    pub(super) fn of(self, weights: impl Iterator<Item = f32>, n: usize) -> f32 {
        match self {
            Self::Mean => weights.sum::<f32>() / n.max(1) as f32,
            Self::Max => weights.fold(0.0, f32::max),
        }
    }
}
