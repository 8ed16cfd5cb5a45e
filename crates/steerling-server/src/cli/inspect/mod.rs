//! `steerling inspect`: what a checkpoint holds, and everything that keeps it from being used.

mod against;
mod facts;
pub(super) mod problems;

use std::path::PathBuf;

use anyhow::{Result, bail};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;
use steerling::ModelDir;
use steerling_server::config::model_dir;

use super::output::{emit, table};
use against::{AgainstArgs, Compared};
use facts::Facts;

/// Tell what a checkpoint holds.
///
/// Lists everything for which it would be refused, and then ends with status 1.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Checkpoint directory or GGUF file; without it, the demo model inside the program
    dir: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Also list every tensor
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    against: AgainstArgs,
}

/// Inspects and prints.
///
/// # Errors
/// If there is anything for which the directory would be refused.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let dir = model_dir(args.dir.as_deref());
    if let ModelDir::Disk(path) = &dir
        && !path.exists()
    {
        dir.check()?;
    }
    let found = problems::inspect(&dir);
    let facts = match (&found.checkpoint, &found.layout) {
        (Some(checkpoint), Some(layout)) => Some(Facts::of(checkpoint, found.tokenizer.as_ref(), layout)?),
        _ => None,
    };
    let compared = if found.problems.is_empty() { args.against.compare(&dir)? } else { None };
    let text = if args.json { json_text } else { plain_text };
    emit(&text(args, &dir, &found, (facts.as_ref(), compared.as_ref())))?;
    match found.problems.len() {
        0 => Ok(()),
        1 => bail!("{dir} would be refused: 1 problem"),
        n => bail!("{dir} would be refused: {n} problems"),
    }
}

/// What is told of a checkpoint, and of its answers.
type Told<'a> = (Option<&'a Facts<'a>>, Option<&'a Compared>);

fn json_text(args: &InspectArgs, dir: &ModelDir, found: &problems::Found, (facts, compared): Told) -> String {
    let mut json = facts.map_or_else(|| json!({}), Facts::json);
    json["directory"] = dir.to_string().into();
    json["usable"] = found.problems.is_empty().into();
    json["problems"] = found.problems.clone().into();
    json["notes"] = found.notes.clone().into();
    if let (true, Some(checkpoint)) = (args.tensors, &found.checkpoint) {
        let tensor = |t: steerling::checkpoint::TensorInfo<'_>| {
            let file = t.file.file_name().map(|name| name.to_string_lossy().into_owned());
            json!({"name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes, "file": file})
        };
        json["tensors"] = checkpoint.tensors().map(tensor).collect();
    }
    if let Some(compared) = compared {
        json["fidelity"] = compared.json();
    }
    format!("{json:#}\n")
}

fn plain_text(args: &InspectArgs, dir: &ModelDir, found: &problems::Found, (facts, compared): Told) -> String {
    let mut text = format!("{dir}\n");
    if let Some(facts) = facts {
        text.push_str(&table(&facts.rows()));
    }
    if let Some(compared) = compared {
        text.push_str("\nfidelity\n");
        text.push_str(&table(&compared.rows()));
    }
    if let (true, Some(checkpoint)) = (args.tensors, &found.checkpoint) {
        text.push_str("\ntensors\n");
        let width = checkpoint.tensors().map(|t| t.name.len()).max().unwrap_or(0);
        for t in checkpoint.tensors() {
            let (shape, bytes) = (format!("{:?}", t.shape), BinaryBytes(t.bytes).to_string());
            text.push_str(&format!("  {:<width$}  {:<4}  {shape:<16}  {bytes:>10}\n", t.name, t.dtype));
        }
    }
    for (title, lines) in [("notes", &found.notes), ("problems", &found.problems)] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title} ({})\n", HumanCount(lines.len() as u64)));
            text.extend(lines.iter().map(|line| format!("  - {line}\n")));
        }
    }
    if found.problems.is_empty() {
        text.push_str("\nno problems: this checkpoint can be used\n");
    }
    text
}
