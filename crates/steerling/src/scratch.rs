//! Work in bounded pieces: how many rows a piece has, and how much memory it takes beside weights, KV-cache pages and
//! results.
//!
//! Rows are independent of each other, so on the CPU the pieces give the same bits as the whole.

use std::ops::Range;

use candle_core::Tensor;

use crate::Result;
use crate::config::{ConceptConfig, Config, MlpKind};

/// Bytes of scratch memory that a slice of concept attribution, composed features, occlusion, fidelity, embeddings or
/// likelihood takes at most, at any model size whose single row fits.
pub const SLICE_BYTES: u64 = 512 << 20;
/// Of these, bytes of a chunk of rows of the concept heads or of the output head.
pub const CHUNK_BYTES: u64 = SLICE_BYTES / 2;
/// Rows of a chunk at most: as many as one product multiplies with a panel of weights that it has widened.
pub const CHUNK_ROWS: usize = 256;
/// Token positions of a forward pass of work that is not a generation, at most.
const FORWARD_ROWS: usize = 1024;
/// Bytes of a number. bfloat16 and float16 take half of what is counted here.
const NUMBER: u64 = 4;

/// Rows of a chunk whose rows take `row_bytes` each: as many as [`CHUNK_BYTES`] hold, 1 to [`CHUNK_ROWS`].
pub fn chunk_rows(row_bytes: u64) -> usize {
    usize::try_from(CHUNK_BYTES / row_bytes.max(1)).unwrap_or(usize::MAX).clamp(1, CHUNK_ROWS)
}

/// `0..rows` in chunks of `size`.
pub fn chunks(rows: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(size.max(1)).map(move |start| start..rows.min(start.saturating_add(size)))
}

/// What `of` makes of each chunk of `size` rows of `x` `[N, ..]`, and of the range of these rows.
///
/// # Errors
/// Those of `of`, [`crate::Error::Device`].
pub fn in_chunks<T>(x: &Tensor, size: usize, mut of: impl FnMut(&Tensor, Range<usize>) -> Result<T>) -> Result<Vec<T>> {
    chunks(x.dim(0)?, size).map(|rows| of(&x.narrow(0, rows.start, rows.len())?, rows)).collect()
}

/// The same for parts that are tensors `[rows, ..]`, put together again.
///
/// # Errors
/// Those of `of`, [`crate::Error::Device`].
pub fn map_chunks(x: &Tensor, size: usize, mut of: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.dim(0)? <= size {
        return of(x);
    }
    Ok(Tensor::cat(&in_chunks(x, size, |x, _| of(x))?, 0)?)
}

/// A part of an [`Estimate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// What takes the memory.
    pub name: &'static str,
    /// How much.
    pub bytes: u64,
}

/// What is in memory at once, beside weights, KV-cache pages and results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate(pub Vec<Term>);

impl Estimate {
    /// All terms together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|term| term.bytes).sum()
    }
}

/// Work that is computed in slices, as far as the memory of a slice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlicedWork {
    /// Hidden states or parts of them for a text of so many tokens.
    Embedding {
        /// Tokens of the longest text.
        tokens: usize,
    },
    /// What the output head reads, after so many edits of concept weights.
    ComposedFeatures {
        /// Edits of concept weights.
        edits: usize,
    },
    /// Logits of tokens taken apart, after so many edits of concept weights.
    ConceptAttribution {
        /// Edits of concept weights.
        edits: usize,
    },
    /// Logits of the targets of a snapshot with each of its positions masked in turn.
    Occlusion {
        /// Edits of concept weights.
        edits: usize,
    },
    /// Predictions and concepts of a model, to be compared with those of another.
    Fidelity,
    /// Cross-entropies of tokens.
    Likelihood {
        /// Under classifier-free guidance.
        guided: bool,
    },
}

impl SlicedWork {
    /// What the largest slice of it takes on a model of this configuration: a forward pass, or what is made of its
    /// hidden states, whichever is more.
    pub fn estimate(self, config: &Config) -> Estimate {
        let forward = vec![term("activations of a forward pass", forward_rows(config), forward_row(config))];
        let hidden = term("hidden states of a forward pass", forward_rows(config), NUMBER * config.n_embd as u64);
        let heads = |edits: usize| {
            let row = head_row(config, edits);
            term("scores and embeddings of concepts of a chunk", chunk_rows(row), row)
        };
        let logits = |rows_of_each: u64| {
            let row = logit_row(config) * rows_of_each;
            term("logits of a chunk", chunk_rows(row), row)
        };
        let targets = term("output rows of the targets of a chunk", CHUNK_ROWS, 3 * NUMBER * config.n_embd as u64);
        let after: Vec<Vec<Term>> = match self {
            Self::Embedding { tokens } => {
                let states = term("hidden states and vectors of a text", tokens, 2 * NUMBER * config.n_embd as u64);
                vec![vec![states, heads(0)]]
            }
            Self::ComposedFeatures { edits } => vec![vec![hidden, heads(edits)]],
            Self::ConceptAttribution { edits } => vec![vec![hidden, targets, heads(edits)]],
            Self::Occlusion { edits } => vec![vec![hidden, targets, heads(edits)]],
            Self::Fidelity => vec![vec![hidden, targets, heads(0)], vec![hidden, logits(1)]],
            Self::Likelihood { guided } => {
                vec![vec![hidden, heads(0)], vec![hidden, logits(if guided { 2 } else { 1 })]]
            }
        };
        let slices = after.into_iter().chain([forward]).map(Estimate);
        slices.max_by_key(Estimate::bytes).unwrap_or(Estimate(Vec::new()))
    }
}

fn term(name: &'static str, rows: usize, row_bytes: u64) -> Term {
    Term { name, bytes: rows as u64 * row_bytes }
}

/// Token positions of a forward pass of work that is not a generation: whole attention blocks, one at least.
pub(crate) fn forward_rows(config: &Config) -> usize {
    let rows = usize::try_from(SLICE_BYTES / forward_row(config)).unwrap_or(usize::MAX).min(FORWARD_ROWS);
    (rows / config.diff_block_size * config.diff_block_size).max(config.diff_block_size)
}

/// Bytes of the activations of a token position: residual stream, what is injected, queries, keys and values twice, the
/// output of attention and its projection, and the MLP block's inner rows.
fn forward_row(config: &Config) -> u64 {
    let (d, kv, inner) = (config.n_embd, config.kv_dim(), config.intermediate_size);
    let fc = if config.mlp == MlpKind::SwiGlu { 2 * inner } else { inner };
    NUMBER * (8 * d + 4 * kv + fc + inner) as u64
}

/// Bytes of a row of logits: what the output head gives, and a copy of it.
pub(crate) fn logit_row(config: &Config) -> u64 {
    2 * NUMBER * config.vocab_size as u64
}

/// Bytes of a row of the concept heads, `edits` of whose weights are set: the scores of all concepts of the larger head,
/// or the embeddings of the active ones, gathered.
pub(crate) fn head_row(config: &Config, edits: usize) -> u64 {
    let Some(concept) = &config.concept else { return 0 };
    let d = config.n_embd;
    let row = |padded: usize, topk: Option<usize>, width: usize| {
        let gathered = gathered_row(topk.unwrap_or(padded) + edits, width).min(CHUNK_BYTES);
        score_row(padded, topk.filter(|_| edits == 0)).max(gathered) + 6 * NUMBER * d as u64
    };
    let ConceptConfig { topk_known, topk_known_features, unknown, .. } = concept;
    let known = row(concept.padded(), topk_known.and(topk_known_features.or(*topk_known)), d);
    let unknown = unknown.as_ref().map_or(0, |head| {
        let topk = head.topk.filter(|_| head.apply_topk);
        row(concept.padded_unknown(), topk, head.factorize_rank.unwrap_or(d))
    });
    known.max(unknown)
}

/// Bytes of the scores of a row of a head of so many concepts.
pub(crate) fn score_row(padded: usize, topk: Option<usize>) -> u64 {
    /// Copies where a top-k is selected: raw, scaled, clamped, on the host.
    const SELECTED: u64 = 4;
    /// And where all concepts take part or are edited: as weights, and with padding, too.
    const ALL: u64 = 6;
    let copies = if topk.is_some() { SELECTED } else { ALL };
    copies * NUMBER * padded as u64
}

/// Bytes of the embeddings of `active` concepts of a row: as they are gathered, and a copy.
pub(crate) fn gathered_row(active: usize, width: usize) -> u64 {
    2 * NUMBER * (active * width) as u64
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn chunks_cover_all_rows_in_order() {
        assert_eq!(chunks(7, 3).collect::<Vec<_>>(), [0..3, 3..6, 6..7]);
        assert_eq!(chunks(0, 3).count(), 0);
        assert_eq!(chunks(2, usize::MAX).collect::<Vec<_>>(), std::slice::from_ref(&(0..2)));
        assert_eq!([0, 1 << 20, CHUNK_BYTES, u64::MAX].map(chunk_rows), [CHUNK_ROWS, 256, 1, 1]);
        let x = Tensor::arange(0f32, 10.0, &Device::Cpu).unwrap().reshape((5, 2)).unwrap();
        for size in [1, 2, 5, 9] {
            let same = map_chunks(&x, size, |rows| Ok(rows.to_dtype(DType::F64)?)).unwrap();
            assert_eq!(same.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        }
    }
}
