//! Every recorded number of the reference package that this crate reproduces, and every shortcut against the plain
//! computation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod chunks;
mod compute;
mod concept_attribution;
mod decoding;
mod edits;
mod embeddings;
mod forward;
mod generation;
mod goldens;
mod half;
mod inputs;
mod neighbors;
mod rows;
mod sampling;
mod score;
mod shortcuts;
mod steering;

/// Where these tests compute.
fn device() -> steerling::backbone::Compute {
    compute::by_environment()
}
