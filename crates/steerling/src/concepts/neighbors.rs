//! Concepts that look alike.

use crate::kernels::topk::top_k;
use crate::steer::ConceptKey;
use crate::{Model, Result};

impl Model {
    /// The `k` other concepts, of both heads, whose embeddings have the largest cosine with a concept's.
    ///
    /// # Errors
    /// Those of [`Self::head_of`], [`crate::Error::Device`].
    pub fn concept_neighbors(&self, concept: ConceptKey, k: usize) -> Result<Vec<(ConceptKey, f32)>> {
        let vector = self.concept_embedding(concept)?;
        let Some(heads) = self.heads() else { return Ok(Vec::new()) };
        let mut cosines = heads.known.cosines(&vector)?;
        let known = cosines.len();
        if let Some(unknown) = &heads.unknown {
            cosines.extend(unknown.cosines(&vector)?);
        }
        let key = |id: u32| match (id as usize).checked_sub(known) {
            None => ConceptKey::Known(id),
            Some(index) => ConceptKey::Unknown(index as u32),
        };
        // One more, as the concept itself is among them.
        let top = top_k(&cosines, k.saturating_add(1).min(cosines.len()));
        Ok(top.into_iter().map(|(id, cosine)| (key(id), cosine)).filter(|(key, _)| *key != concept).take(k).collect())
    }
}
