//! From concepts to vectors.

use candle_core::{DType, Tensor};

use super::{ConceptKey, Injection, InjectionSpec, Steering, SteeringSpec};
use crate::concepts::ConceptHead;
use crate::{Error, Model, Result};

impl Model {
    /// Resolves what is wanted against the weights.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without concept heads, [`Error::Invalid`] for concepts, layers or strengths out of
    /// range, [`Error::Device`].
    pub fn steering(&self, spec: &SteeringSpec) -> Result<Steering> {
        let edits = &spec.set_weights;
        for (i, edit) in edits.iter().enumerate() {
            self.head_of(edit.concept)?;
            if edits[..i].iter().any(|other| other.concept == edit.concept) {
                return Err(Error::invalid(
                    format!("set_weights[{i}].concept"),
                    format!("the weight of {:?} is set twice", edit.concept),
                ));
            }
            finite(&format!("set_weights[{i}].weight"), edit.weight)?;
        }
        Ok(Steering {
            injections: spec.injections.iter().map(|injection| self.injection(injection)).collect::<Result<_>>()?,
            suppression: self.suppression(&spec.suppress_logits)?,
            set_weights: edits.clone(),
        })
    }

    /// The head of a concept, and its index there.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the checkpoint has no such head, [`Error::Invalid`] if the index is out of range.
    pub fn head_of(&self, concept: ConceptKey) -> Result<(&ConceptHead, u32)> {
        let none = |what: &str| Error::Unsupported(format!("this checkpoint has no {what} concept head"));
        let heads = self.heads().ok_or_else(|| none("known"))?;
        let (head, index) = match concept {
            ConceptKey::Known(index) => (&heads.known, index),
            ConceptKey::Unknown(index) => (heads.unknown.as_ref().ok_or_else(|| none("unknown"))?, index),
        };
        if index as usize >= head.len() {
            return Err(Error::invalid("concept", format!("{concept:?} is not below {}", head.len())));
        }
        Ok((head, index))
    }

    /// The embedding of a concept in float32, `[D]`.
    ///
    /// # Errors
    /// Those of [`Self::head_of`], [`Error::Device`].
    pub fn concept_embedding(&self, concept: ConceptKey) -> Result<Vec<f32>> {
        let (head, index) = self.head_of(concept)?;
        Ok(head.embeddings(&[index])?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// `lm_head . v` of every token for a vector `[D]`, `[V]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn alignment(&self, vector: &[f32]) -> Result<Vec<f32>> {
        let compute = self.backbone().compute();
        let vector = Tensor::from_slice(vector, (1, vector.len()), &compute.device)?.to_dtype(compute.activations())?;
        let mut alignment = Vec::new();
        self.backbone().lm_head().forward_to_host(&vector, &mut alignment)?;
        Ok(alignment)
    }

    fn injection(&self, spec: &InjectionSpec) -> Result<Injection> {
        finite("target", spec.target)?;
        let n_layers = self.info().config.n_layers;
        let inject_layer = spec.inject_layer.unwrap_or(n_layers / 2);
        if inject_layer > n_layers {
            return Err(Error::invalid(
                "inject_layer",
                format!("{inject_layer} is above the number of layers {n_layers}: nothing would be injected"),
            ));
        }
        if spec.concepts.is_empty() {
            return Err(Error::invalid("concepts", "an injection names at least one concept"));
        }
        let mut sum = vec![0f32; self.info().config.n_embd];
        for concept in &spec.concepts {
            for (sum, e) in sum.iter_mut().zip(self.concept_embedding(*concept)?) {
                *sum += e;
            }
        }
        let direction = unit(&sum);
        let peak = self.alignment(&direction)?.into_iter().fold(1e-6, f32::max);
        let alpha = if spec.normalize { spec.target / peak } else { spec.target };
        Ok(Injection { direction, alpha, peak, inject_layer, schedule: spec.schedule })
    }

    fn suppression(&self, concepts: &[(ConceptKey, f32)]) -> Result<Option<Vec<f32>>> {
        let mut sum: Option<Vec<f32>> = None;
        for (concept, strength) in concepts {
            finite("strength", *strength)?;
            let alignment = self.alignment(&self.concept_embedding(*concept)?)?;
            let sum = sum.get_or_insert_with(|| vec![0.0; alignment.len()]);
            for (sum, a) in sum.iter_mut().zip(alignment) {
                *sum += strength * a.max(0.0);
            }
        }
        Ok(sum)
    }

    /// The `k` tokens that a concept promotes most (or least, if `negative`), with `lm_head . (e / |e|)`.
    ///
    /// # Errors
    /// Those of [`Self::head_of`], [`Error::Device`].
    pub fn concept_top_tokens(&self, concept: ConceptKey, k: usize, negative: bool) -> Result<Vec<(u32, f32)>> {
        self.top_tokens(&unit(&self.concept_embedding(concept)?), k, negative)
    }

    /// The `k` tokens best (or worst, if `negative`) aligned with a vector `[D]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn top_tokens(&self, vector: &[f32], k: usize, negative: bool) -> Result<Vec<(u32, f32)>> {
        let sign = if negative { -1.0 } else { 1.0 };
        let alignment: Vec<f32> = self.alignment(vector)?.into_iter().map(|a| sign * a).collect();
        let top = crate::kernels::topk::top_k(&alignment, k.min(alignment.len()));
        Ok(top.into_iter().map(|(id, a)| (id, sign * a)).collect())
    }
}

/// The vector at length 1.
fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-12;
    vector.iter().map(|x| x / norm).collect()
}

fn finite(field: &str, value: f32) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::invalid(field, format!("{value} is not a finite number"))) }
}
