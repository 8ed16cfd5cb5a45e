//! One concept head: scores, selection, features.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::backbone::{Compute, Matrix};
use crate::checkpoint::Reader;
use crate::config::{ConceptConfig, Config, UnknownConfig};
use crate::gpu;
use crate::kernels::topk::top_k;
use crate::scratch::{self, CHUNK_BYTES};

/// Scores are clamped to `[-CLAMP, CLAMP]`.
const CLAMP: f64 = 15.0;

/// The kept concepts of every row, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Concepts a row.
    pub k: usize,
    /// Head-local indices, `[N, k]`.
    pub indices: Vec<u32>,
    /// Clamped scores `z`, `[N, k]`; the weight is `sigmoid(z)`.
    pub logits: Vec<f32>,
}

impl TopK {
    /// Index and score of the concepts of one row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = row * self.k..(row + 1) * self.k;
        self.indices[range.clone()].iter().copied().zip(self.logits[range].iter().copied())
    }

    /// The best `k` of each row.
    fn truncated(&self, k: usize) -> Self {
        let cut = |values: &[f32]| values.chunks(self.k).flat_map(|row| &row[..k]).copied().collect();
        let indices = self.indices.chunks(self.k).flat_map(|row| &row[..k]).copied().collect();
        Self { k, indices, logits: cut(&self.logits) }
    }
}

/// `1 / (1 + e^-z)` in float32.
pub(crate) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

/// How scores are made.
enum Scores {
    /// `z = W h`.
    Predictor(Matrix),
    /// `z = up (down h)`.
    Factorized { down: Matrix, up: Matrix },
    /// `z = e . (Q h) / sqrt(D)`.
    Attention { query: Matrix },
}

/// What the concepts look like.
enum Embedding {
    /// `[Cpad, D]`.
    Dense(Matrix),
    /// `e_j = basis coef_j`: `coef [Upad, r]`, `basis [D, r]`.
    Factorized { coef: Matrix, basis: Matrix },
}

/// A head over `n` concepts.
pub struct ConceptHead {
    n: usize,
    width: usize,
    scores: Scores,
    embedding: Embedding,
    /// Concepts that enter the features; `None` is all.
    topk_features: Option<usize>,
    /// Concepts reported; `None` when none are selected.
    topk: Option<usize>,
    /// Rank by `z` rather than by `sigmoid(z)`, which in float32 ties from about 8 upward.
    topk_on_logits: bool,
    /// Whether selections are made by the GPU kernel.
    on_gpu: bool,
    /// Lengths of the embeddings, computed when first asked for.
    norms: OnceLock<Vec<f32>>,
}

impl ConceptHead {
    /// The known head.
    pub(super) fn known(reader: &Reader, config: &Config, concept: &ConceptConfig, compute: &Compute) -> Result<Self> {
        let (rows, d) = (concept.padded(), config.n_embd);
        let matrix = |name: &str, rows| reader.matrix(&format!("known_head.{name}.weight"), (rows, d), compute);
        let scores = match concept.use_attention_known {
            true => Scores::Attention { query: matrix("concept_query_projection", d)? },
            false => Scores::Predictor(matrix("concept_predictor", rows)?),
        };
        let features = concept.topk_known_features.or(concept.topk_known);
        Ok(Self {
            n: concept.n_concepts,
            width: d,
            scores,
            embedding: Embedding::Dense(matrix("concept_embedding", rows)?),
            // Features are selected only where a selection is reported.
            topk_features: concept.topk_known.and(features),
            topk: concept.topk_known,
            topk_on_logits: concept.topk_on_logits,
            on_gpu: compute.has_gpu_kernels(),
            norms: OnceLock::new(),
        })
    }

    /// The unknown head.
    pub(super) fn unknown(
        reader: &Reader,
        config: &Config,
        concept: &ConceptConfig,
        unknown: &UnknownConfig,
        compute: &Compute,
    ) -> Result<Self> {
        let (rows, d) = (concept.padded_unknown(), config.n_embd);
        let matrix = |name: &str, dims| reader.matrix(&format!("unknown_head.{name}.weight"), dims, compute);
        let embedding = match unknown.factorize_rank {
            Some(r) => Embedding::Factorized {
                coef: matrix("embedding_coef", (rows, r))?,
                basis: matrix("embedding_basis", (d, r))?,
            },
            None => Embedding::Dense(matrix("concept_embedding", (rows, d))?),
        };
        let scores = match unknown.factorize_rank {
            _ if unknown.use_attention => Scores::Attention { query: matrix("concept_query_projection", (d, d))? },
            Some(r) => {
                Scores::Factorized { down: matrix("predictor_down", (r, d))?, up: matrix("predictor_up", (rows, r))? }
            }
            None => Scores::Predictor(matrix("concept_predictor", (rows, d))?),
        };
        let topk = unknown.topk.filter(|_| unknown.apply_topk);
        Ok(Self {
            n: unknown.n_concepts,
            width: d,
            scores,
            topk_on_logits: concept.topk_on_logits,
            embedding,
            topk_features: topk,
            topk,
            on_gpu: compute.has_gpu_kernels(),
            norms: OnceLock::new(),
        })
    }

    /// Concepts of the head, padding excluded.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether the head has no concepts.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The clamped scores `z` of all concepts, `[N, D] -> [N, n]` in float32.
    ///
    /// # Errors
    /// If the device fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let z = self.raw_scores(hidden)?;
        Ok(z.narrow(D::Minus1, 0, self.n)?.to_dtype(DType::F32)?.clamp(-CLAMP, CLAMP)?)
    }

    /// Scores before clamping, padding included, `[N, D] -> [N, Cpad]`.
    fn raw_scores(&self, hidden: &Tensor) -> Result<Tensor> {
        match &self.scores {
            Scores::Predictor(predictor) => predictor.forward(hidden),
            Scores::Factorized { down, up } => up.forward(&down.forward(hidden)?),
            Scores::Attention { query } => {
                let query = query.forward(hidden)?;
                let scores = match &self.embedding {
                    Embedding::Dense(embedding) => embedding.forward(&query)?,
                    Embedding::Factorized { coef, basis } => coef.forward(&basis.forward_transposed(&query)?)?,
                };
                Ok((scores.to_dtype(DType::F32)? / (self.width as f64).sqrt())?)
            }
        }
    }

    /// The summed features of the selected concepts, `[N, D]`, and the selection.
    ///
    /// # Errors
    /// If the device fails.
    pub fn features(&self, hidden: &Tensor) -> Result<(Tensor, Option<TopK>)> {
        let Some(k) = self.topk_features else {
            let weights = candle_nn::ops::sigmoid(&self.logits(hidden)?)?.to_dtype(hidden.dtype())?;
            return Ok((self.mix(&weights)?, None));
        };
        let top = self.best(hidden, k.min(self.n))?;
        let features = self.mix_selected(&top, hidden)?;
        let reported = self.topk.map_or(top.k, |k| k.min(top.k));
        Ok((features, Some(if reported < top.k { top.truncated(reported) } else { top })))
    }

    /// The concepts that enter the features, of which the reported ones are the best; `None` if all do.
    pub(super) fn selected(&self, z: &Tensor) -> Result<Option<TopK>> {
        self.topk_features.map(|k| self.select(z, k.min(self.n))).transpose()
    }

    /// The `k` best concepts of every hidden state.
    fn best(&self, hidden: &Tensor, k: usize) -> Result<TopK> {
        match self.on_gpu {
            true => self.select_on_gpu(&self.raw_scores(hidden)?, k),
            false => self.select(&self.logits(hidden)?, k),
        }
    }

    /// The same from scores `[N, n ..]`: nothing but the selection leaves the device.
    fn select_on_gpu(&self, scores: &Tensor, k: usize) -> Result<TopK> {
        let rows = gpu::top_k(scores, self.n, k, !self.ranks_by_logits(), CLAMP as f32)?;
        let (indices, logits) = rows.into_iter().flatten().unzip();
        Ok(TopK { k, indices, logits })
    }

    /// The `k` best concepts of every row of `z` `[N, n]`.
    fn select(&self, z: &Tensor, k: usize) -> Result<TopK> {
        if self.on_gpu {
            return self.select_on_gpu(&z.contiguous()?, k);
        }
        let rows: Vec<Vec<(u32, f32)>> = z
            .to_vec2::<f32>()?
            .par_iter()
            .map(|row| match self.ranks_by_logits() {
                true => top_k(row, k),
                false => {
                    let weights: Vec<f32> = row.iter().map(|z| sigmoid(*z)).collect();
                    let mut top: Vec<_> = top_k(&weights, k).into_iter().map(|(i, _)| (i, row[i as usize])).collect();
                    // Weights tie where scores do not: report by score.
                    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    top
                }
            })
            .collect();
        let (indices, logits) = rows.into_iter().flatten().unzip();
        Ok(TopK { k, indices, logits })
    }

    /// Concepts reported, if any selection is made.
    pub(super) fn topk(&self) -> Option<usize> {
        self.topk
    }

    /// Whether the checkpoint asks for selection by `z`.
    pub(super) fn topk_on_logits(&self) -> bool {
        self.topk_on_logits
    }

    /// The reference ranks factorised heads by `z` always, dense ones as configured.
    fn ranks_by_logits(&self) -> bool {
        self.topk_on_logits || matches!(self.embedding, Embedding::Factorized { .. })
    }

    /// `weights E` for `[N, n]` weights.
    pub(super) fn mix(&self, weights: &Tensor) -> Result<Tensor> {
        let padding = match &self.embedding {
            Embedding::Dense(embedding) => embedding.dims().1,
            Embedding::Factorized { coef, .. } => coef.dims().1,
        } - self.n;
        let weights = weights.pad_with_zeros(D::Minus1, 0, padding)?;
        match &self.embedding {
            Embedding::Dense(embedding) => embedding.forward_transposed(&weights),
            Embedding::Factorized { coef, basis } => basis.forward(&coef.forward_transposed(&weights)?),
        }
    }

    /// `sum w_i e_i` over the selected concepts of every row.
    fn mix_selected(&self, top: &TopK, hidden: &Tensor) -> Result<Tensor> {
        let rows = top.indices.chunks(top.k).zip(top.logits.chunks(top.k));
        let weights: Vec<Vec<(u32, f32)>> = rows
            .map(|(indices, logits)| indices.iter().zip(logits).map(|(index, z)| (*index, sigmoid(*z))).collect())
            .collect();
        self.mix_rows(&weights, hidden)
    }

    /// The concepts that take part in each row, with their scores, largest score first: the reported top-k, or all. A
    /// chunk of rows at a time.
    ///
    /// # Errors
    /// If the device fails.
    pub fn active(&self, hidden: &Tensor) -> Result<Vec<Vec<(u32, f32)>>> {
        let k = self.topk_features.unwrap_or(self.n).min(self.n);
        let reported = self.topk.unwrap_or(k).min(k);
        let rows = scratch::chunk_rows(scratch::score_row(self.table().dims().1, self.topk_features));
        let found = scratch::in_chunks(hidden, rows, |hidden, chunk| {
            let top = self.best(hidden, k)?;
            Ok((0..chunk.len()).map(move |row| top.row(row).take(reported).collect::<Vec<_>>()).collect::<Vec<_>>())
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// `sum w_i e_i` for `(index, weight)` lists, one a row, `[N, D]` in the type of `like`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn mix_rows(&self, weights: &[Vec<(u32, f32)>], like: &Tensor) -> Result<Tensor> {
        let (indices, values) = padded(weights);
        let (n, k) = (weights.len(), indices.len() / weights.len().max(1));
        let values = Tensor::from_vec(values, (n, 1, k), like.device())?.to_dtype(like.dtype())?;
        let mut mixed: Option<Tensor> = None;
        for piece in self.pieces(n, k) {
            let rows = self.gather(&indices, (n, k), &piece)?; // [N, piece, width]
            let part = values.narrow(2, piece.start, piece.len())?.contiguous()?.matmul(&rows)?;
            mixed = Some(match mixed {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let Some(mixed) = mixed else { return Ok(Tensor::zeros((n, self.width), like.dtype(), like.device())?) };
        let mixed = mixed.squeeze(1)?; // [N, D] or [N, r]
        match &self.embedding {
            Embedding::Dense(_) => Ok(mixed),
            Embedding::Factorized { basis, .. } => basis.forward(&mixed),
        }
    }

    /// `e_i . v` for the concepts listed in each row, where `v` is that row of `vectors` `[N, D]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn alignments(&self, concepts: &[Vec<(u32, f32)>], vectors: &Tensor) -> Result<Vec<Vec<f32>>> {
        let (indices, _) = padded(concepts);
        let (n, k) = (concepts.len(), indices.len() / concepts.len().max(1));
        if k == 0 {
            return Ok(vec![Vec::new(); n]);
        }
        let vectors = match &self.embedding {
            Embedding::Dense(_) => vectors.clone(),
            Embedding::Factorized { basis, .. } => basis.forward_transposed(vectors)?, // [N, r]
        };
        let vectors = vectors.to_dtype(DType::F32)?.unsqueeze(2)?;
        let mut found: Vec<Vec<f32>> = vec![Vec::with_capacity(k); n];
        for piece in self.pieces(n, k) {
            let rows = self.gather(&indices, (n, k), &piece)?.to_dtype(DType::F32)?;
            let dots = rows.matmul(&vectors)?.squeeze(2)?.to_vec2::<f32>()?;
            found.iter_mut().zip(dots).for_each(|(found, dots)| found.extend(dots));
        }
        found.iter_mut().zip(concepts).for_each(|(found, concepts)| found.truncate(concepts.len()));
        Ok(found)
    }

    /// The columns of `[n, k]` concepts whose embeddings are gathered at a time: most often all of them.
    fn pieces(&self, n: usize, k: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let column = scratch::gathered_row(n, self.table().dims().0);
        scratch::chunks(k, usize::try_from(CHUNK_BYTES / column.max(1)).unwrap_or(usize::MAX).max(1))
    }

    /// Rows of the table for these columns of `[n, k]` concepts, `[n, piece, width]`.
    fn gather(&self, indices: &[u32], (n, k): (usize, usize), piece: &Range<usize>) -> Result<Tensor> {
        let rows = match piece.len() == k {
            true => self.table().rows(indices)?,
            false => {
                let columns: Vec<u32> = indices.chunks(k).flat_map(|row| &row[piece.clone()]).copied().collect();
                self.table().rows(&columns)?
            }
        };
        let width = rows.dim(1)?;
        Ok(rows.reshape((n, piece.len(), width))?)
    }

    /// `[Cpad, D]`, or the coefficients `[Upad, r]`.
    fn table(&self) -> &Matrix {
        match &self.embedding {
            Embedding::Dense(embedding) => embedding,
            Embedding::Factorized { coef, .. } => coef,
        }
    }

    /// The embeddings `e_i` of chosen concepts, `[indices.len(), D]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embeddings(&self, indices: &[u32]) -> Result<Tensor> {
        match &self.embedding {
            Embedding::Dense(embedding) => embedding.rows(indices),
            Embedding::Factorized { coef, basis } => basis.forward(&coef.rows(indices)?),
        }
    }

    /// The cosine of every concept's embedding with a vector `[D]`, `[n]`; 0 where one of them has no length.
    ///
    /// # Errors
    /// If the device fails.
    pub fn cosines(&self, vector: &[f32]) -> Result<Vec<f32>> {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let table = self.table();
        let like = table.rows(&[0])?;
        let vector = Tensor::from_slice(vector, (1, vector.len()), like.device())?.to_dtype(like.dtype())?;
        let dots = match &self.embedding {
            Embedding::Dense(embedding) => embedding.forward(&vector)?,
            Embedding::Factorized { coef, basis } => coef.forward(&basis.forward_transposed(&vector)?)?,
        };
        let dots = dots.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let norms = match self.norms.get() {
            Some(norms) => norms,
            None => {
                let norms = self.lengths()?;
                self.norms.get_or_init(|| norms)
            }
        };
        let cosine = |(dot, norm): (&f32, &f32)| {
            let product = norm * length;
            if product > 0.0 { (dot / product).clamp(-1.0, 1.0) } else { 0.0 }
        };
        Ok(dots.iter().zip(norms).map(cosine).collect())
    }

    /// `|e_i|` of all concepts. Factorised embeddings are not made: `|e_i|^2 = coef_i (basis^T basis) coef_i`.
    fn lengths(&self) -> Result<Vec<f32>> {
        let gram = match &self.embedding {
            Embedding::Dense(_) => None,
            Embedding::Factorized { coef, basis } => {
                let like = coef.rows(&[0])?;
                let basis_rows = basis.forward(&Tensor::eye(basis.dims().0, like.dtype(), like.device())?)?; // [r, D]
                Some(basis.forward_transposed(&basis_rows)?.to_dtype(DType::F32)?)
            }
        };
        let mut lengths = Vec::with_capacity(self.n);
        for rows in scratch::chunks(self.n, scratch::CHUNK_ROWS) {
            let indices: Vec<u32> = rows.map(|i| i as u32).collect();
            let rows = self.table().rows(&indices)?.to_dtype(DType::F32)?;
            let squares = match &gram {
                None => rows.sqr()?.sum(1)?,
                Some(gram) => (rows.matmul(gram)? * &rows)?.sum(1)?,
            };
            lengths.extend(squares.to_vec1::<f32>()?.into_iter().map(|square| square.max(0.0).sqrt()));
        }
        Ok(lengths)
    }
}

/// Lists made equally long, with weight 0 where they were shorter.
fn padded(rows: &[Vec<(u32, f32)>]) -> (Vec<u32>, Vec<f32>) {
    let k = rows.iter().map(Vec::len).max().unwrap_or(0);
    rows.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat_n((0, 0.0), k - row.len()))).unzip()
}
