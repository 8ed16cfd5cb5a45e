//! Where the time of a step goes.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use candle_core::Device;

/// A part of a denoising step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Embedding of the rows and rotary tables.
    Embed,
    /// The products `c_attn` and `c_proj` of attention.
    AttentionProducts,
    /// Scores, softmax and weighted sum over the pages.
    Attention,
    /// Clamp, norms and rotation of q, k and v; writing of pages.
    AttentionRest,
    /// The products `c_fc` and `c_proj` of the feed-forward half.
    MlpProducts,
    /// The activation between them.
    MlpRest,
    /// Norms and residual additions.
    Norms,
    /// The product with the output head.
    LmHead,
    /// From logits to commits.
    Sampling,
    /// From commits to concepts, where asked for.
    Attribution,
}

impl Part {
    /// All parts, in the order of a step.
    pub const ALL: [Self; 10] = [
        Self::Embed,
        Self::AttentionProducts,
        Self::Attention,
        Self::AttentionRest,
        Self::MlpProducts,
        Self::MlpRest,
        Self::Norms,
        Self::LmHead,
        Self::Sampling,
        Self::Attribution,
    ];

    /// Whether the part is a matrix product or attention proper, which a step cannot do without.
    pub fn is_essential(self) -> bool {
        matches!(self, Self::AttentionProducts | Self::Attention | Self::MlpProducts | Self::LmHead)
    }

    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::AttentionProducts => "attention_products",
            Self::Attention => "attention",
            Self::AttentionRest => "attention_rest",
            Self::MlpProducts => "mlp_products",
            Self::MlpRest => "mlp_rest",
            Self::Norms => "norms",
            Self::LmHead => "lm_head",
            Self::Sampling => "sampling",
            Self::Attribution => "attribution",
        }
    }
}

/// Time spent in each part since the last [`Profile::take`]. On a GPU, where work is queued, it is the time to queue,
/// unless [`Profile::synchronise`] asks for more.
#[derive(Debug, Default)]
pub struct Profile {
    times: [Cell<Duration>; Part::ALL.len()],
    /// Waited for before and after each part.
    waits_for: RefCell<Option<Device>>,
}

impl Profile {
    /// From now on waits for `device` before and after each part, so that a part's time is what its work takes rather
    /// than what it takes to queue it. Steps become slower by that: their own times are to be measured without.
    /// `None` waits no more.
    pub fn synchronise(&self, device: Option<Device>) {
        *self.waits_for.borrow_mut() = device;
    }

    /// Runs `work` and counts its time to `part`.
    pub fn time<T>(&self, part: Part, work: impl FnOnce() -> T) -> T {
        self.wait();
        let start = Instant::now();
        let out = work();
        self.wait();
        let cell = &self.times[part as usize];
        cell.set(cell.get() + start.elapsed());
        out
    }

    fn wait(&self) {
        if let Some(device) = &*self.waits_for.borrow() {
            // A device that has failed says so again to whoever uses it next.
            _ = device.synchronize();
        }
    }

    /// The time of each part, and starts anew.
    pub fn take(&self) -> Vec<(Part, Duration)> {
        Part::ALL.into_iter().map(|part| (part, self.times[part as usize].take())).collect()
    }
}
