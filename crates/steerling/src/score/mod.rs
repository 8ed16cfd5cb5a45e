//! Likelihood of a continuation: text normalisation, which positions are masked in which row, and the computation.
//! MODEL.md section 8.

mod job;
mod losses;
mod masks;
mod normalize;
mod plan;
mod texts;
mod tokens;
mod window;

pub use job::{MAX_SAMPLES, Score, ScoreJob, ScoreMethod, ScoreParams};
pub use masks::{
    MAX_EXACT_TOKENS, MaskedRow, batch_sizes, count_distribution, draw_k, exact_masks, mask_counts, masked_rows,
    uniform_counts,
};
pub use normalize::{ascii_punctuation, encode_pair};
pub use plan::ScoreItem;
pub use texts::{distinct_2, left_to_right};
pub use tokens::{TokenScore, TokenScoreJob};
