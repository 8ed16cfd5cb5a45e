//! Everything that is wrong with a directory, not only the first of it.

use serde_json::Value;
use steerling::checkpoint::Checkpoint;
use steerling::{Config, Error, ModelDir, Tokenizer};

/// Keys that so much else is compared with that, once one of them is wrong, the rest cannot be judged.
const FUNDAMENTAL: &[&str] = &[
    "model_type",
    "interpretable",
    "n_layers",
    "n_head",
    "n_embd",
    "n_kv_heads",
    "block_size",
    "diff_block_size",
    "vocab_size",
];

/// What could be opened, and what is wrong.
#[derive(Default)]
pub(crate) struct Found {
    /// `flat` or `nested`.
    pub(crate) layout: Option<&'static str>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) problems: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Opens whatever can be opened.
pub(crate) fn inspect(dir: &ModelDir) -> Found {
    let mut found = Found::default();
    match Checkpoint::inspect(dir) {
        Ok(checkpoint) => {
            found.problems.extend(checkpoint.problems().iter().map(ToString::to_string));
            found.notes.extend_from_slice(checkpoint.notes());
            match Tokenizer::for_checkpoint(dir, checkpoint.config()) {
                Ok(tokenizer) => found.tokenizer = Some(tokenizer),
                Err(problem) => found.problems.push(problem.to_string()),
            }
            found.layout = Some(layout(dir));
            found.checkpoint = Some(checkpoint);
        }
        Err(Error::Config { key, message }) => {
            found.problems = config_problems(dir, Error::Config { key, message });
            found.notes.push("weights and tokenizer were not looked at: the configuration comes first".to_owned());
        }
        Err(problem) => {
            found.problems.push(problem.to_string());
            found.notes.push("nothing else was looked at: the configuration comes first".to_owned());
        }
    }
    found
}

/// The layout of a `config.json` that was read before.
fn layout(dir: &ModelDir) -> &'static str {
    match dir.read_json("config.json") {
        Ok(json) if json.get("concept").is_some() || json["model_type"] == "causal_diffusion" => "nested",
        _ => "flat",
    }
}

/// The first problem of a configuration and those behind it: each key found wrong is taken out, and what is left read
/// again.
fn config_problems(dir: &ModelDir, first: Error) -> Vec<String> {
    let Ok(mut config) = dir.read_json("config.json") else { return vec![first.to_string()] };
    let mut tokenizer = dir.read_json("tokenizer_config.json").ok();
    let mut problems = Vec::new();
    let mut next = Some(first);
    while let Some(problem) = next.take() {
        problems.push(problem.to_string());
        let Error::Config { key, .. } = problem else { break };
        if FUNDAMENTAL.contains(&key.as_str()) || !remove(&mut config, tokenizer.as_mut(), &key) {
            break;
        }
        next = Config::from_json(&config, tokenizer.as_ref()).err();
    }
    problems
}

/// Takes a key out; whether it was there.
fn remove(config: &mut Value, tokenizer: Option<&mut Value>, key: &str) -> bool {
    let (place, key) = match key.split_once('.') {
        Some(("tokenizer_config", key)) => (tokenizer, key),
        Some((section, key)) => (config.get_mut(section), key),
        None => (Some(config), key),
    };
    place.and_then(Value::as_object_mut).is_some_and(|map| map.remove(key).is_some())
}
