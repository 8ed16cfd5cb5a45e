//! The server over real sockets: with a fake denoiser, or with a small recorded model.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod attribute;
mod decoding;
mod docs;
mod engine;
mod examples;
mod fields;
mod generate;
mod guard;
mod openai;
mod operate;
mod playground;
mod policy;
mod refusals;
mod requests;
mod steer;
mod support;
mod texts;
