//! Setting the weights of concepts.

use candle_core::{D, Tensor};

use super::ConceptHeads;
use super::head::{ConceptHead, sigmoid};
use crate::Result;
use crate::steer::{ConceptKey, EpsilonMode, WeightEdit};

/// Heads with at most this many concepts are edited with all their weights at hand, as in the reference.
const DENSE_LIMIT: usize = 50_000;

impl ConceptHead {
    /// Features with the weights of `edits` (`(index, value)`) overwritten, `[N, D]`.
    ///
    /// A head of at most 50,000 concepts forms all weights, keeps the top-k, then overwrites; a larger one adds
    /// `(value - sigmoid(z)) e` to its features, whether or not the concept is in its top-k.
    ///
    /// # Errors
    /// If the device fails.
    pub fn edited_features(&self, hidden: &Tensor, edits: &[(u32, f32)]) -> Result<Tensor> {
        if edits.is_empty() || self.len() > DENSE_LIMIT {
            let (features, _) = self.features(hidden)?;
            return self.add_edits(&features, &self.logits(hidden)?, edits);
        }
        let z = self.logits(hidden)?.to_vec2::<f32>()?;
        let width = self.len();
        let mut weights = Vec::with_capacity(z.len() * width);
        for z in &z {
            let mut row = self.dense_weights(z);
            for (index, value) in edits {
                row[*index as usize] = *value;
            }
            weights.extend(row);
        }
        let weights = Tensor::from_vec(weights, (z.len(), width), hidden.device())?.to_dtype(hidden.dtype())?;
        self.mix(&weights)
    }

    /// `features + sum (value - sigmoid(z)) e`.
    fn add_edits(&self, features: &Tensor, z: &Tensor, edits: &[(u32, f32)]) -> Result<Tensor> {
        let mut features = features.clone();
        for (index, value) in edits {
            let weight = candle_nn::ops::sigmoid(&z.narrow(D::Minus1, *index as usize, 1)?)?; // [N, 1]
            let delta = weight.affine(-1.0, f64::from(*value))?.to_dtype(features.dtype())?;
            features = (features + delta.matmul(&self.embeddings(&[*index])?)?)?;
        }
        Ok(features)
    }

    /// Every concept's weight from its score, in the form of the reference's dense path.
    fn dense_weights(&self, z: &[f32]) -> Vec<f32> {
        let Some(k) = self.topk() else {
            return z.iter().map(|z| sigmoid(*z)).collect();
        };
        if self.topk_on_logits() {
            // Selected scores keep their value and the others become 0, of which the weight is one half.
            let mut weights = vec![0.5; z.len()];
            for (index, z) in crate::kernels::topk::top_k(z, k.min(z.len())) {
                weights[index as usize] = sigmoid(z);
            }
            return weights;
        }
        let all: Vec<f32> = z.iter().map(|z| sigmoid(*z)).collect();
        let mut weights = vec![0.0; z.len()];
        for (index, weight) in crate::kernels::topk::top_k(&all, k.min(z.len())) {
            weights[index as usize] = weight;
        }
        weights
    }
}

impl ConceptHeads {
    /// What the output head reads after `edits`, `[N, D]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn edited(&self, hidden: &Tensor, edits: &[WeightEdit]) -> Result<Tensor> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for edit in edits {
            match edit.concept {
                ConceptKey::Known(index) => known.push((index, edit.weight)),
                ConceptKey::Unknown(index) => unknown.push((index, edit.weight)),
            }
        }
        if edits.iter().any(|edit| edit.epsilon == EpsilonMode::Drop) {
            return self.recomposed(hidden, &known, &unknown);
        }
        let mut composed = self.composed(hidden)?;
        composed = self.known.keep_edits(&composed, hidden, &known)?;
        if let Some(head) = &self.unknown {
            composed = head.keep_edits(&composed, hidden, &unknown)?;
        }
        Ok(composed)
    }

    /// The sum of edited known and unknown features alone. Without an unknown head, what the unedited known features
    /// leave takes its place; the reference takes what the edited ones leave, so that no edit acts.
    ///
    /// # Errors
    /// If the device fails.
    pub fn recomposed(&self, hidden: &Tensor, known: &[(u32, f32)], unknown: &[(u32, f32)]) -> Result<Tensor> {
        let known_features = self.known.edited_features(hidden, known)?;
        let unk = match &self.unknown {
            Some(head) => head.edited_features(hidden, unknown)?,
            None => (hidden - self.known.features(hidden)?.0)?,
        };
        Ok((known_features + unk)?)
    }
}

impl ConceptHead {
    /// `composed + sum (value - weight) e`, where the weight of a concept outside the top-k is 0.
    fn keep_edits(&self, composed: &Tensor, hidden: &Tensor, edits: &[(u32, f32)]) -> Result<Tensor> {
        if edits.is_empty() {
            return Ok(composed.clone());
        }
        let z = self.logits(hidden)?;
        let top = self.selected(&z)?;
        let z = z.to_vec2::<f32>()?;
        let mut composed = composed.clone();
        for (index, value) in edits {
            let delta: Vec<f32> = (0..z.len())
                .map(|row| {
                    let active = top.as_ref().is_none_or(|top| top.row(row).any(|(i, _)| i == *index));
                    value - if active { sigmoid(z[row][*index as usize]) } else { 0.0 }
                })
                .collect();
            let delta = Tensor::from_vec(delta, (z.len(), 1), hidden.device())?.to_dtype(composed.dtype())?;
            composed = (composed + delta.matmul(&self.embeddings(&[*index])?)?)?;
        }
        Ok(composed)
    }
}
