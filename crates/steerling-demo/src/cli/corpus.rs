//! `steerling-demo corpus`: the documents that a model learns from, with their labels.

use std::process::ExitCode;

use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use steerling_demo::concepts::{CONCEPTS, FACTORS};
use steerling_demo::corpus::{Sentence, document};

/// Write labelled documents as JSON, one a line.
#[derive(Debug, clap::Args)]
pub(crate) struct CorpusArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 10)]
    documents: usize,
    /// Same seed, same documents
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Writes them.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn run(args: &CorpusArgs) -> Result<ExitCode> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    for _ in 0..args.documents {
        let chunks = document(&mut rng).chunks;
        let chunks: Vec<Vec<_>> = chunks.iter().map(|chunk| chunk.sentences.iter().map(sentence).collect()).collect();
        if !super::emit(&format!("{}\n", json!({ "chunks": chunks })))? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(sentence: &Sentence) -> serde_json::Value {
    let concepts: Vec<&str> = sentence.concepts.iter().map(|id| CONCEPTS[id].name).collect();
    let factors: Vec<&str> = sentence.factors.iter().map(|index| FACTORS[index].name).collect();
    json!({ "text": sentence.text, "concepts": concepts, "factors": factors })
}
