//! What OpenAI's clients speak, under `/v1`: translations into the same jobs as the native endpoints.

pub(crate) mod chat;
mod choices;
mod common;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod error;
mod logprobs;
mod messages;
pub(crate) mod models;
mod neutral;
mod stream;
