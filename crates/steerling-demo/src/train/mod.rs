//! Training the demo model.

mod batch;
mod data;
mod export;
mod labels;
mod lift;
mod loss;
mod mask;
mod model;
mod ops;
mod run;
mod tokenizer;

pub use model::demo_config;
pub use run::{Record, TrainOptions, train};
