//! The seam between whoever schedules generations and whoever computes them.

use crate::attribute::inputs::GradientBudget;
use crate::cache::PageUse;
use crate::canvas::{Canvas, CanvasId, CanvasSpec};
use crate::{Result, Runtime};

/// What a denoiser can take, fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What a canvas must know of the model.
    pub canvas: CanvasSpec,
    /// Pages of keys and values, each one attention block of one sequence.
    pub pages: usize,
    /// Bytes of a page over all layers.
    pub page_bytes: u64,
    /// What gradients may take.
    pub gradients: GradientBudget,
}

/// Computes denoising steps. Lives on one thread, together with its device.
pub trait Denoiser {
    /// What it can take.
    fn limits(&self) -> Limits;

    /// Sets aside what `canvas` can need at most, or says that it does not fit beside those already admitted.
    ///
    /// Whatever fits into an empty denoiser is admitted by an empty one.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if a step of `canvas` alone has more rows than [`Self::limit_rows`] allows.
    fn admit(&mut self, canvas: &mut Canvas) -> Result<bool>;

    /// One denoising step over admitted canvases, each at its own block and step: commits tokens to every canvas
    /// whose prompt is computed. A canvas with a long prompt may need several steps before its first commit, and a
    /// canvas for whose rows the step has no room waits for one of the next steps.
    ///
    /// # Errors
    /// After [`crate::Error::NonFinite`] nothing has been committed, and the others may go on once the canvas that it
    /// names is released. After any other error the canvases are undefined and must be released.
    fn step(&mut self, batch: &mut [&mut Canvas]) -> Result<()>;

    /// From now on a step computes at most `rows` token positions over all canvases, prompts, recomputed blocks and
    /// drafts ([`crate::params::Decoding::Lossless`]) included. Without a call there is no limit. Admitted canvases
    /// must fit it, see [`rows_needed`].
    fn limit_rows(&mut self, rows: usize) {
        _ = rows;
    }

    /// Frees what was set aside for a canvas.
    fn release(&mut self, id: CanvasId);

    /// How the pages are used.
    fn page_use(&self) -> PageUse;

    /// The model behind it, for work that is not a generation; `None` if there is none.
    fn runtime(&mut self) -> Option<&mut Runtime> {
        None
    }
}

/// Pages that a canvas needs at most.
pub fn pages_needed(canvas: &Canvas) -> usize {
    canvas.num_attention_blocks() * sequences_of(canvas)
}

/// Rows of the largest step of a canvas that cannot be divided: the attention blocks that a generation block touches, or
/// one block of the prompt, of each of its sequences. Every other step can be spread over several.
pub fn rows_needed(canvas: &Canvas) -> usize {
    let (s, len) = (canvas.block_size(), canvas.ids().len());
    let touched = canvas.blocks().iter().map(|block| block.end.next_multiple_of(s).min(len) - block.start / s * s);
    sequences_of(canvas) * touched.max().unwrap_or(0).max(s.min(len))
}

/// Sequences of a canvas: two under classifier-free guidance.
pub(crate) fn sequences_of(canvas: &Canvas) -> usize {
    if canvas.params().cfg_scale > 0.0 { 2 } else { 1 }
}
