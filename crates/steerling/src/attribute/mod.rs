//! Why a token was committed: its logit as a sum over concepts, and over the tokens that the model saw. MODEL.md
//! section 6.

mod chunks;
mod concepts;
pub mod inputs;
mod normalize;
mod replay;
mod scores;
mod trace;

pub use chunks::{ChunkEnds, chunk_boundaries};
pub use concepts::{ConceptShare, Contributions, TokenAttribution};
pub use normalize::normalize_attributions;
pub use replay::ReplayJob;
pub use scores::ChunkScores;
pub use trace::{Snapshot, Snapshots, Trace, TraceCommit};
