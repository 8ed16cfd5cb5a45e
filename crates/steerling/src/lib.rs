//! Steerling: a causal diffusion language model whose predictions decompose into concepts.
//!
//! The crate loads checkpoints, computes forward passes and denoising steps, and knows nothing of HTTP or of other
//! threads: a [`Denoiser`] lives where its device lives.

// Tests inside the crate share code with those outside, which know it by its name.
#[cfg(test)]
extern crate self as steerling;

pub mod attribute;
pub mod backbone;
pub mod cache;
pub mod canvas;
pub mod catalog;
pub mod checkpoint;
pub mod concepts;
pub mod config;
pub mod decode;
mod denoiser;
pub mod device;
mod dir;
pub mod embed;
mod error;
pub mod fidelity;
mod generation;
pub mod gpu;
pub mod kernels;
pub mod params;
pub mod profile;
mod runtime;
pub mod score;
pub mod scratch;
pub mod steer;
pub mod tokenizer;

pub use canvas::{Canvas, CanvasSpec, FinishReason};
pub use catalog::{Catalog, ConceptRef};
pub use config::Config;
pub use denoiser::{Denoiser, Limits, pages_needed, rows_needed};
pub use dir::{EmbeddedDir, ModelDir};
pub use error::{Error, Result};
pub use generation::{Generation, Outcome, StepUpdate};
pub use params::GenerateParams;
pub use runtime::{
    DeviceChoice, DtypeChoice, Evaluation, Model, ModelInfo, ModelSource, Probe, RowCost, Runtime, RuntimeOptions,
    StepTime,
};
pub use tokenizer::Tokenizer;
