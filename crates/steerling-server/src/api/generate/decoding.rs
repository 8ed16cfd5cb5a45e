//! The `decoding` and `align` fields of a request.

use serde::{Deserialize, Serialize};
use steerling::params::{Align, Decoding};
use utoipa::ToSchema;

use crate::extract::written_objects_only;

written_objects_only!(DecodingRequest);

/// Which positions a step commits. All methods but `confidence` and `lossless` take as many steps as the predictions
/// allow, and refuse `steps`.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DecodingRequest {
    /// A fixed number a step, most confident first.
    Confidence {},
    /// All positions of the block that are confident enough, at least one.
    Threshold {
        /// Largest probability of a position from which on it is committed. 1 commits one position a step.
        #[schema(minimum = 0, maximum = 1, example = 0.9)]
        threshold: f32,
        /// Most positions of a step. Null: no limit.
        #[schema(minimum = 1)]
        max_per_step: Option<usize>,
    },
    /// The `n` most confident positions, for the largest `n` whose least confident one has at least
    /// `1 - factor / (n + 1)`. At least one.
    Factor {
        /// 0 commits one position a step.
        #[schema(minimum = 0, maximum = 1000, example = 0.5)]
        factor: f32,
    },
    /// Positions from the least entropy up, while the entropies of all but the last add up to at most `gamma`. At least
    /// one; a step of one position commits the most confident one.
    EntropyBound {
        /// In nats. 0 commits one position a step.
        #[schema(minimum = 0, maximum = 1000, example = 0.15)]
        gamma: f32,
    },
    /// The text of `confidence`, token for token, in fewer forwards: guessed continuations ride in each of them.
    Lossless {
        /// Steps that are guessed in each forward, as far as the server has rows and pages left. Null: as many as measured
        /// step times say make it faster, often none on a CPU.
        #[schema(minimum = 1, maximum = 8)]
        drafts: Option<usize>,
    },
}

impl From<DecodingRequest> for Decoding {
    fn from(request: DecodingRequest) -> Self {
        match request {
            DecodingRequest::Confidence {} => Self::Confidence,
            DecodingRequest::Threshold { threshold, max_per_step } => Self::Threshold { threshold, max_per_step },
            DecodingRequest::Factor { factor } => Self::Factor { factor },
            DecodingRequest::EntropyBound { gamma } => Self::EntropyBound { gamma },
            DecodingRequest::Lossless { drafts } => Self::Lossless { drafts },
        }
    }
}

/// Where generation blocks are cut.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Align)]
pub(crate) enum AlignRequest {
    /// From the end of the prompt, as the reference package does.
    Reference,
    /// At the boundaries of attention blocks: about half the work of a step, unless the prompt ends at one.
    Block,
}

impl From<AlignRequest> for Align {
    fn from(request: AlignRequest) -> Self {
        match request {
            AlignRequest::Reference => Self::Reference,
            AlignRequest::Block => Self::Block,
        }
    }
}
