//! Embeddings of texts: pooled hidden states or parts of their decomposition. MODEL.md section 7.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::concepts::sigmoid;
use crate::runtime::{Evaluation, Probe};
use crate::{Error, Model, Result, Runtime, scratch};

/// Which vector a text is embedded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingType {
    /// The hidden state after the final norm.
    Hidden,
    /// What the output head reads.
    Composed,
    /// The known concepts' part, `known_features`.
    Known,
    /// The unknown concepts' part, `unk_hat`; without an unknown head what the known concepts leave.
    Unknown,
    /// What all concepts leave.
    Epsilon,
}

/// How the vectors of a text's positions become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the last position.
    Last,
    /// That of the first position.
    First,
    /// They do not: one vector a position.
    None,
}

impl Pooling {
    fn positions(self, len: usize) -> Vec<usize> {
        match self {
            Self::Mean | Self::None => (0..len).collect(),
            Self::Last => vec![len - 1],
            Self::First => vec![0],
        }
    }
}

/// The concepts of a text with their weights, largest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConceptWeights {
    /// Known concepts: index and weight.
    pub known: Vec<(u32, f32)>,
    /// Unknown concepts: index and weight.
    pub unknown: Vec<(u32, f32)>,
}

/// Texts on their way to vectors, a forward at a time.
pub struct EmbedJob {
    evaluation: Evaluation,
    hidden: Vec<Tensor>,
    lengths: Vec<usize>,
    pooling: Pooling,
}

impl EmbedJob {
    /// For texts given as ids, none of them empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty text.
    pub fn new(texts: Vec<Vec<u32>>, pooling: Pooling) -> Result<Self> {
        if let Some(i) = texts.iter().position(Vec::is_empty) {
            return Err(Error::invalid(format!("inputs[{i}]"), "a text without tokens has no embedding"));
        }
        let lengths = texts.iter().map(|ids| pooling.positions(ids.len()).len()).collect();
        let probes = texts.into_iter().map(|ids| {
            let positions = pooling.positions(ids.len());
            Probe::new(ids, positions)
        });
        Ok(Self { evaluation: Evaluation::new(probes.collect()), hidden: Vec::new(), lengths, pooling })
    }

    /// One forward; the hidden states of all texts once they are complete.
    ///
    /// # Errors
    /// Those of [`Evaluation::advance`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<TextStates>> {
        if let Some(hidden) = self.evaluation.advance(runtime)? {
            self.hidden.push(hidden);
            return Ok(None);
        }
        let hidden = Tensor::cat(&std::mem::take(&mut self.hidden), 0)?;
        Ok(Some(TextStates { hidden, lengths: self.lengths.clone(), pooling: self.pooling }))
    }
}

/// The hidden states of several texts, `[sum of lengths, D]`.
pub struct TextStates {
    hidden: Tensor,
    lengths: Vec<usize>,
    pooling: Pooling,
}

impl TextStates {
    /// The vectors of each text in float32: one, or one a position without pooling.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a part that the checkpoint does not have, [`Error::Device`].
    pub fn embeddings(&self, model: &Model, kind: EmbeddingType) -> Result<Vec<Vec<Vec<f32>>>> {
        let chunk = scratch::chunk_rows(scratch::head_row(&model.info().config, 0));
        let vectors = scratch::map_chunks(&self.hidden, chunk, |hidden| part(model, hidden, kind))?;
        let vectors = vectors.to_dtype(DType::F32)?;
        self.texts()
            .map(|rows| {
                let own = vectors.narrow(0, rows.start, rows.len())?;
                let own = if self.pooling == Pooling::Mean { own.mean_keepdim(0)? } else { own };
                Ok(own.to_vec2()?)
            })
            .collect()
    }

    /// The active concepts of each text: one list, or one a position without pooling. Pooled by mean, a concept's
    /// weight is the mean over positions, 0 where it is not in the top-k.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without concept heads, [`Error::Device`].
    pub fn concepts(&self, model: &Model) -> Result<Vec<Vec<ConceptWeights>>> {
        let heads = model.heads().ok_or_else(no_heads)?;
        let known = heads.known.active(&self.hidden)?;
        let unknown = match &heads.unknown {
            Some(head) => head.active(&self.hidden)?,
            None => vec![Vec::new(); known.len()],
        };
        let rows = known.into_iter().zip(unknown);
        let rows: Vec<ConceptWeights> =
            rows.map(|(known, unknown)| ConceptWeights { known: weights(known), unknown: weights(unknown) }).collect();
        let texts = self.texts().map(|range| &rows[range]);
        Ok(match self.pooling {
            Pooling::Mean => texts.map(|rows| vec![mean(rows)]).collect(),
            _ => texts.map(<[_]>::to_vec).collect(),
        })
    }

    fn texts(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.lengths.iter().scan(0, |start, len| {
            *start += len;
            Some(*start - len..*start)
        })
    }
}

fn part(model: &Model, hidden: &Tensor, kind: EmbeddingType) -> Result<Tensor> {
    if kind == EmbeddingType::Hidden {
        return Ok(hidden.clone());
    }
    let Some(heads) = model.heads() else {
        // A plain backbone's output head reads the hidden state.
        return if kind == EmbeddingType::Composed { Ok(hidden.clone()) } else { Err(no_heads()) };
    };
    let parts = heads.decompose(hidden)?;
    match kind {
        EmbeddingType::Hidden | EmbeddingType::Composed => Ok(parts.composed),
        EmbeddingType::Known => Ok(parts.known_features),
        EmbeddingType::Unknown => match &parts.unk_hat {
            Some(unk_hat) => Ok(unk_hat.clone()),
            None => parts.unk(),
        },
        EmbeddingType::Epsilon => match parts.epsilon_true()? {
            Some(epsilon) => Ok(epsilon),
            None => parts.unk(),
        },
    }
}

fn no_heads() -> Error {
    Error::Unsupported("this checkpoint has no concept heads".into())
}

fn weights(scores: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    scores.into_iter().map(|(index, z)| (index, sigmoid(z))).collect()
}

fn mean(rows: &[ConceptWeights]) -> ConceptWeights {
    let pool = |part: fn(&ConceptWeights) -> &Vec<(u32, f32)>| {
        let mut sums: std::collections::BTreeMap<u32, f32> = std::collections::BTreeMap::new();
        for (index, weight) in rows.iter().flat_map(part) {
            *sums.entry(*index).or_default() += weight;
        }
        let mut means: Vec<_> = sums.into_iter().map(|(index, sum)| (index, sum / rows.len() as f32)).collect();
        means.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        means
    };
    ConceptWeights { known: pool(|row| &row.known), unknown: pool(|row| &row.unknown) }
}
