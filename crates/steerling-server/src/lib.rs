//! The server: batches generations on one worker thread and streams their blocks over HTTP.
#![forbid(unsafe_code)]

mod api;
pub mod config;
pub mod demo;
pub mod engine;
mod error;
pub mod explain;
mod extract;
#[cfg(feature = "fault-injection")]
pub mod faults;
mod files;
pub mod metrics;
mod observe;
pub mod openapi;
mod server;
mod stream;
pub mod telemetry;

pub use server::{Listeners, ServeError, run};
