//! The server over real sockets: with a fake denoiser, or with a small recorded model.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod admission;
mod attribute;
mod bodies;
mod connections;
mod decoding;
mod docs;
mod ends;
mod engine;
mod examples;
mod fields;
mod generate;
mod guard;
mod hosts;
mod http2;
mod openai;
mod operate;
mod playground;
mod policy;
mod refusals;
mod requests;
mod steer;
mod support;
mod texts;
