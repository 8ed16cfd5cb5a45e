//! From logits to commits: guidance, penalties, bans, confidence, choice of positions, choice of tokens.
//!
//! MODEL.md section 4, steps 2 to 7, for the masked rows of one canvas.

mod logits;
mod method;
mod rng;
mod sampler;

pub use logits::RowEdits;
pub use method::{Decoding, MAX_DRAFTS};
pub use rng::uniform;
pub use sampler::{Sampler, Sampling};

use crate::{Error, Result};

use crate::canvas::{Canvas, Choice};
use crate::kernels::softmax::{RowStats, entropies, row_stats};

/// Chooses the tokens that `canvas` commits in this step.
///
/// `logits` is `[positions.len(), V]`, row by row the model's logits of the masked `positions`; it is used as scratch
/// space. `unconditional`, of the same shape, is the second sequence of classifier-free guidance.
///
/// # Errors
/// Those of [`Predictions::read`].
pub fn choose(
    canvas: &Canvas,
    positions: &[usize],
    logits: &mut [f32],
    unconditional: Option<&[f32]>,
) -> Result<Vec<Choice>> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Predictions::read(canvas, positions, logits, unconditional)?.choices())
}

/// What the model says about the masked positions of a canvas, after guidance, suppression, penalty and bans.
pub struct Predictions<'a> {
    canvas: &'a Canvas,
    positions: &'a [usize],
    /// `[positions, V]`.
    logits: &'a [f32],
    stats: Vec<RowStats>,
    edits: RowEdits,
    /// Rows, most confident first, earlier positions first among equals.
    ranked: Vec<usize>,
}

impl<'a> Predictions<'a> {
    /// Edits the logits; the arguments are those of [`choose`], with at least one position.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a logit is NaN or infinite (`-inf` alone is a ban), so that no token is chosen by accident
    /// and never a banned one.
    pub fn read(
        canvas: &'a Canvas,
        positions: &'a [usize],
        logits: &'a mut [f32],
        unconditional: Option<&[f32]>,
    ) -> Result<Self> {
        let vocab = logits.len() / positions.len();
        if let Some(unconditional) = unconditional {
            logits::guide(logits, unconditional, canvas.params().cfg_scale);
        }
        if let Some(suppression) = suppression(canvas) {
            logits::suppress(logits, suppression);
        }
        let edits = RowEdits::apply(canvas, logits, vocab);
        let stats = row_stats(logits, vocab);
        let finite = |stats: &RowStats| stats.max.is_finite() && stats.sum_exp.is_finite();
        if let Some(row) = stats.iter().position(|stats| !finite(stats)) {
            return Err(Error::NonFinite { canvas: canvas.id(), position: positions[row] });
        }
        let mut ranked: Vec<usize> = (0..stats.len()).collect();
        // The largest probability is 1 / sum_exp.
        ranked.sort_by(|a, b| stats[*a].sum_exp.total_cmp(&stats[*b].sum_exp).then(a.cmp(b)));
        Ok(Self { canvas, positions, logits, stats, edits, ranked })
    }

    /// What the method of the canvas commits in this step, in order.
    pub fn choices(&self) -> Vec<Choice> {
        let confidences: Vec<f32> = (0..self.stats.len()).map(|row| self.confidence(row)).collect();
        let rows = self
            .canvas
            .params()
            .decoding
            .rows(self.canvas.quota(), &self.ranked, &confidences, || entropies(self.logits, &self.stats));
        rows.into_iter().map(|row| self.choice(row)).collect()
    }

    /// What the following `steps` steps would commit if the predictions stayed as they are, in the order of
    /// [`Decoding::Confidence`]; fewer at the end of the block.
    pub fn guesses(&self, steps: usize) -> Vec<Vec<Choice>> {
        let mut rest = self.ranked.get(self.canvas.quota()..).unwrap_or_default();
        let quotas = (1..=steps).map(|after| self.canvas.quota_after(after));
        let guess = quotas.map_while(|quota| {
            let (rows, left) = rest.split_at(quota.min(rest.len()));
            rest = left;
            (!rows.is_empty()).then(|| rows.iter().map(|row| self.choice(*row)).collect())
        });
        guess.collect()
    }

    fn confidence(&self, row: usize) -> f32 {
        1.0 / self.stats[row].sum_exp
    }

    /// The token that is drawn for a row.
    fn choice(&self, row: usize) -> Choice {
        let params = self.canvas.params();
        let position = self.positions[row];
        let vocab = self.logits.len() / self.positions.len();
        let edited = &self.logits[row * vocab..][..vocab];
        let id = Sampler::new(params).draw(edited, &self.stats[row], uniform(params.seed, position));
        let decision_logit = edited[id as usize];
        let suppressed = suppression(self.canvas).map_or(0.0, |suppression| suppression[id as usize]);
        let target_logit = self.edits.original(row, id).unwrap_or(decision_logit) + suppressed;
        Choice { position, id, confidence: self.confidence(row), target_logit, decision_logit }
    }
}

/// What is subtracted from the logits of a canvas, `[V]`.
fn suppression(canvas: &Canvas) -> Option<&[f32]> {
    canvas.steering().and_then(|steering| steering.suppression.as_deref())
}
