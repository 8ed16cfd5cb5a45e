//! Decomposition of hidden states into known concepts, unknown (discovered) concepts and a remainder.
//!
//! MODEL.md section 3.

mod edit;
mod head;
mod neighbors;

pub(crate) use head::sigmoid;
pub use head::{ConceptHead, TopK};

use candle_core::Tensor;

use crate::Result;
use crate::backbone::Compute;
use crate::checkpoint::Reader;
use crate::config::{ConceptConfig, Config};
use crate::steer::WeightEdit;

/// The known head, and the unknown head if the checkpoint has one.
pub struct ConceptHeads {
    /// Concepts with names.
    pub known: ConceptHead,
    /// Discovered concepts.
    pub unknown: Option<ConceptHead>,
    config: ConceptConfig,
}

/// Hidden states taken apart; all tensors `[N, D]`.
pub struct Decomposition {
    /// What was taken apart.
    pub hidden: Tensor,
    /// Sum of the kept known concepts, `sum w_i e_i`.
    pub known_features: Tensor,
    /// The kept known concepts, if a top-k is configured.
    pub known: Option<TopK>,
    /// Sum of the kept unknown concepts; `None` without an unknown head.
    pub unk_hat: Option<Tensor>,
    /// The kept unknown concepts, if a top-k is configured.
    pub unknown: Option<TopK>,
    /// What `composed` adds to the concepts; `None` when the checkpoint does not correct.
    pub epsilon: Option<Tensor>,
    /// What the output head reads.
    pub composed: Tensor,
}

impl Decomposition {
    /// `hidden - known_features`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn unk(&self) -> Result<Tensor> {
        Ok((&self.hidden - &self.known_features)?)
    }

    /// `hidden - (known_features + unk_hat)`: what the concepts leave unexplained, whether or not the checkpoint
    /// corrects for it. `None` without an unknown head.
    ///
    /// # Errors
    /// If the device fails.
    pub fn epsilon_true(&self) -> Result<Option<Tensor>> {
        let Some(unk_hat) = &self.unk_hat else { return Ok(None) };
        Ok(Some((&self.hidden - (&self.known_features + unk_hat)?)?))
    }
}

impl ConceptHeads {
    /// Reads the heads of a checkpoint; `None` if it is a plain backbone.
    ///
    /// # Errors
    /// If a tensor cannot be read or the device fails.
    pub fn load(reader: &Reader, config: &Config, compute: &Compute) -> Result<Option<Self>> {
        let Some(concept) = &config.concept else { return Ok(None) };
        let known = ConceptHead::known(reader, config, concept, compute)?;
        let unknown = match &concept.unknown {
            Some(unknown) => Some(ConceptHead::unknown(reader, config, concept, unknown, compute)?),
            None => None,
        };
        Ok(Some(Self { known, unknown, config: concept.clone() }))
    }

    /// Whether what the output head reads after `edits` is the hidden state itself: the correction restores it.
    pub(crate) fn restores(&self, edits: &[WeightEdit]) -> bool {
        edits.is_empty() && self.config.use_epsilon_correction
    }

    /// What the output head reads without edits, `[N, D]`: `hidden` itself where the correction restores it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn composed(&self, hidden: &Tensor) -> Result<Tensor> {
        match self.config.use_epsilon_correction {
            true => Ok(hidden.clone()),
            false => Ok(self.decompose(hidden)?.composed),
        }
    }

    /// Takes hidden states `[N, D]` apart.
    ///
    /// # Errors
    /// If the device fails.
    pub fn decompose(&self, hidden: &Tensor) -> Result<Decomposition> {
        let (known_features, known) = self.known.features(hidden)?;
        let (unk_hat, unknown) = match &self.unknown {
            Some(head) => {
                let (features, top) = head.features(hidden)?;
                (Some(features), top)
            }
            None => (None, None),
        };
        // Without an unknown head the reference puts the whole residual in its place.
        let unk = match &unk_hat {
            Some(unk_hat) => unk_hat.clone(),
            None => (hidden - &known_features)?,
        };
        let (epsilon, for_lm) = match self.config.use_epsilon_correction {
            true => {
                let epsilon = (hidden - (&unk + &known_features)?)?;
                let corrected = (&unk + &epsilon)?;
                (Some(epsilon), corrected)
            }
            false => (None, unk),
        };
        let composed = (for_lm + &known_features)?;
        Ok(Decomposition { hidden: hidden.clone(), known_features, known, unk_hat, unknown, epsilon, composed })
    }
}
