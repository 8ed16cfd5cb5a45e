//! `steerling inspect`: what a checkpoint directory holds, and everything that keeps it from being used.

mod facts;
mod problems;

use std::path::PathBuf;

use anyhow::{Result, bail};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::output::{emit, table};
use facts::Facts;

/// Tell what a checkpoint directory holds.
///
/// Lists everything for which the directory would be refused, and then ends with status 1.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Checkpoint directory
    dir: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Also list every tensor
    #[arg(long)]
    tensors: bool,
}

/// Inspects and prints.
///
/// # Errors
/// If there is anything for which the directory would be refused.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    if !args.dir.is_dir() {
        let what = if args.dir.exists() { "not a directory" } else { "no such directory" };
        bail!("{}: {what}", args.dir.display());
    }
    let found = problems::inspect(&args.dir);
    let facts = match (&found.checkpoint, &found.layout) {
        (Some(checkpoint), Some(layout)) => Some(Facts::of(checkpoint, found.tokenizer.as_ref(), layout)?),
        _ => None,
    };
    let text =
        if args.json { json_text(args, &found, facts.as_ref()) } else { plain_text(args, &found, facts.as_ref()) };
    emit(&text)?;
    match found.problems.len() {
        0 => Ok(()),
        1 => bail!("{} would be refused: 1 problem", args.dir.display()),
        n => bail!("{} would be refused: {n} problems", args.dir.display()),
    }
}

fn json_text(args: &InspectArgs, found: &problems::Found, facts: Option<&Facts>) -> String {
    let mut json = facts.map_or_else(|| json!({}), Facts::json);
    json["directory"] = args.dir.display().to_string().into();
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
    format!("{json:#}\n")
}

fn plain_text(args: &InspectArgs, found: &problems::Found, facts: Option<&Facts>) -> String {
    let mut text = format!("{}\n", args.dir.display());
    if let Some(facts) = facts {
        text.push_str(&table(&facts.rows()));
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
        text.push_str("\nno problems: this directory can be used\n");
    }
    text
}
