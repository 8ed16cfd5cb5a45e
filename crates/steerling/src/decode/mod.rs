//! From logits to commits: guidance, penalties, bans, confidence, choice of positions, choice of tokens.
//!
//! MODEL.md section 4, steps 2 to 7, for the masked rows of one canvas.

mod logits;
mod method;
mod rng;
mod rows;
mod sampler;

pub use logits::RowEdits;
pub use method::{Decoding, MAX_DRAFTS};
pub use rng::uniform;
pub(crate) use rows::DevicePlan;
pub use sampler::{Sampler, Sampling};

use crate::{Error, Result};

use crate::canvas::{Canvas, Choice};
use crate::gpu::RowResult;
use crate::kernels::softmax::row_stats;
use rows::Rows;

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
    rows: Rows<'a>,
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
        Self::of(canvas, positions, Rows::Host { logits, stats, edits })
    }

    /// From what a device made of the rows that [`DevicePlan::push`] planned for the same arguments.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn from_device(canvas: &'a Canvas, positions: &'a [usize], results: &'a [RowResult]) -> Result<Self> {
        Self::of(canvas, positions, Rows::Device(results))
    }

    fn of(canvas: &'a Canvas, positions: &'a [usize], rows: Rows<'a>) -> Result<Self> {
        let stats: Vec<(f32, f32)> = (0..rows.len()).map(|row| rows.stats(row)).collect();
        if let Some(row) = stats.iter().position(|(max, sum_exp)| !max.is_finite() || !sum_exp.is_finite()) {
            return Err(Error::NonFinite { canvas: canvas.id(), position: positions[row] });
        }
        let mut ranked: Vec<usize> = (0..stats.len()).collect();
        // The largest probability is 1 / sum_exp.
        ranked.sort_by(|a, b| stats[*a].1.total_cmp(&stats[*b].1).then(a.cmp(b)));
        Ok(Self { canvas, positions, rows, ranked })
    }

    /// What the method of the canvas commits in this step, in order.
    pub fn choices(&self) -> Vec<Choice> {
        let confidences: Vec<f32> = (0..self.rows.len()).map(|row| 1.0 / self.rows.stats(row).1).collect();
        let decoding = self.canvas.params().decoding;
        let rows = decoding.rows(self.canvas.quota(), &self.ranked, &confidences, || self.rows.entropies());
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

    fn choice(&self, row: usize) -> Choice {
        self.rows.choice(self.canvas, row, self.positions[row])
    }
}

/// What is subtracted from the logits of a canvas, `[V]`.
fn suppression(canvas: &Canvas) -> Option<&[f32]> {
    canvas.steering().and_then(|steering| steering.suppression.as_deref())
}
