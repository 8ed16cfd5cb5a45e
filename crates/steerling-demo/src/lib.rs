//! The demo model: a small Steerling trained on text that we generate, so that every concept's truth is known.
//!
//! [`corpus`] writes labelled documents, tags texts and parses sentences; [`evaluate`] measures whether a checkpoint
//! does what a concept model promises.

pub mod concepts;
pub mod corpus;
pub mod evaluate;
pub mod train;
