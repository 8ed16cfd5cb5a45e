//! The seam between whoever schedules generations and whoever computes them.

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
    /// Rows of prompts that a step computes at most, beside those of sequences that are past their prompts.
    pub prefill_rows: usize,
    /// Bytes of a page over all layers.
    pub page_bytes: u64,
}

/// Computes denoising steps. Lives on one thread, together with its device.
pub trait Denoiser {
    /// What it can take.
    fn limits(&self) -> Limits;

    /// Sets aside what `canvas` can need at most, or says that it does not fit beside those already admitted.
    ///
    /// Whatever fits into an empty denoiser is admitted by an empty one.
    fn admit(&mut self, canvas: &mut Canvas) -> Result<bool>;

    /// One denoising step over admitted canvases, each at its own block and step: commits tokens to every canvas
    /// whose prompt is computed. A canvas with a long prompt may need several steps before its first commit.
    ///
    /// # Errors
    /// After [`crate::Error::NonFinite`] nothing has been committed, and the others may go on once the canvas that it
    /// names is released. After any other error the canvases are undefined and must be released.
    fn step(&mut self, batch: &mut [&mut Canvas]) -> Result<()>;

    /// The next steps may add at most so many rows, over all canvases, for guessed continuations
    /// ([`crate::params::Decoding::Lossless`]). Without a call there is no limit but that of pages.
    fn limit_draft_rows(&mut self, rows: usize) {
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
    let sequences = if canvas.params().cfg_scale > 0.0 { 2 } else { 1 };
    canvas.num_attention_blocks() * sequences
}
