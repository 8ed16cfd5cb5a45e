//! From logits to commits: guidance, penalties, bans, confidence, choice of positions, choice of tokens.
//!
//! MODEL.md section 4, steps 2 to 7, for the masked rows of one canvas.

mod logits;
mod rng;
mod sampler;

pub use logits::RowEdits;
pub use rng::uniform;
pub use sampler::{Sampler, Sampling};

use crate::{Error, Result};

use crate::canvas::{Canvas, Choice};
use crate::kernels::softmax::{RowStats, row_stats};

/// Chooses the tokens that `canvas` commits in this step.
///
/// `logits` is `[positions.len(), V]`, row by row the model's logits of the masked `positions`; it is used as scratch
/// space. `unconditional`, of the same shape, is the second sequence of classifier-free guidance.
///
/// # Errors
/// [`Error::NonFinite`] if a logit is NaN or infinite (`-inf` alone is a ban), so that no token is chosen by accident
/// and never a banned one.
pub fn choose(
    canvas: &Canvas,
    positions: &[usize],
    logits: &mut [f32],
    unconditional: Option<&[f32]>,
) -> Result<Vec<Choice>> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let params = canvas.params();
    let vocab = logits.len() / positions.len();
    if let Some(unconditional) = unconditional {
        logits::guide(logits, unconditional, params.cfg_scale);
    }
    let suppression = canvas.steering().and_then(|steering| steering.suppression.as_deref());
    if let Some(suppression) = suppression {
        logits::suppress(logits, suppression);
    }
    let edits = RowEdits::apply(canvas, logits, vocab);
    let stats = row_stats(logits, vocab);
    let finite = |stats: &RowStats| stats.max.is_finite() && stats.sum_exp.is_finite();
    if let Some(row) = stats.iter().position(|stats| !finite(stats)) {
        return Err(Error::NonFinite { canvas: canvas.id(), position: positions[row] });
    }
    let sampler = Sampler::new(params);
    let choices = most_confident(&stats, canvas.quota())
        .into_iter()
        .map(|row| {
            let position = positions[row];
            let edited = &logits[row * vocab..][..vocab];
            let id = sampler.draw(edited, &stats[row], uniform(params.seed, position));
            let decision_logit = edited[id as usize];
            let suppressed = suppression.map_or(0.0, |suppression| suppression[id as usize]);
            let target_logit = edits.original(row, id).unwrap_or(decision_logit) + suppressed;
            Choice { position, id, confidence: 1.0 / stats[row].sum_exp, target_logit, decision_logit }
        })
        .collect();
    Ok(choices)
}

/// The `quota` rows with the largest softmax probability, most confident first, earlier positions first among equals.
fn most_confident(stats: &[RowStats], quota: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..stats.len()).collect();
    // The largest probability is 1 / sum_exp.
    rows.sort_by(|a, b| stats[*a].sum_exp.total_cmp(&stats[*b].sum_exp).then(a.cmp(b)));
    rows.truncate(quota);
    rows
}
