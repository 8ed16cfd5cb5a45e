//! The server: batches generations on one worker thread and streams their blocks over HTTP.
#![forbid(unsafe_code)]

mod api;
mod audit;
pub mod auth;
mod body;
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
mod nearest;
mod observe;
pub mod openapi;
pub mod policy;
mod server;
mod stream;
pub mod telemetry;
mod transport;

pub use server::{Listeners, ServeError, run};
