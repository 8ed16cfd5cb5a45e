//! `steerling quantize`: a checkpoint in one file with fewer bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use indicatif::BinaryBytes;
use steerling::checkpoint::{Checkpoint, Kind, Recipe, Weights};
use steerling_server::config::model_dir;

use super::{output, progress};

/// Write a checkpoint to one GGUF file with fewer bits a weight.
///
/// The file holds all that the directory holds, tokenizer and concept labels included: give it to `--model` of any
/// command. Norms and concept heads keep their precision. `inspect FILE --against DIR` tells what was lost.
#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// Checkpoint directory; without it, the demo model inside the program
    dir: Option<PathBuf>,
    /// Type of the linear layers: q8_0 or q4_k
    #[arg(long = "type", value_name = "TYPE")]
    kind: Kind,
    /// File to write to
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
}

/// Quantizes and prints what was written.
///
/// # Errors
/// If the checkpoint is refused, or the file is there already or cannot be written.
pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    let dir = model_dir(args.dir.as_deref());
    let weights = Weights::open(&dir)?;
    let before = weights.total_bytes();
    let written = write(&weights, &dir.name(), args.kind, &args.out)?;
    let ratio = before as f64 / Checkpoint::open(&args.out)?.total_bytes() as f64;
    output::emit(&format!("{dir}: weights of {}, {ratio:.2} times what is written\n{written}", BinaryBytes(before)))?;
    Ok(())
}

/// Writes weights to a file, and tells what is in it.
///
/// # Errors
/// Those of [`Weights::quantize_to`].
pub(super) fn write(weights: &Weights, name: &str, kind: Kind, out: &Path) -> Result<String> {
    let start = Instant::now();
    {
        let mut progress = progress::bar("writing");
        weights.quantize_to(out, name, Recipe::of(kind), &mut progress)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let written = Checkpoint::open(out)?;
    let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for tensor in written.tensors() {
        let (count, bytes) = types.entry(tensor.dtype).or_default();
        *count += 1;
        *bytes += tensor.bytes;
    }
    let rows =
        types.iter().map(|(name, (count, bytes))| (name.clone(), format!("{}, {count} tensors", BinaryBytes(*bytes))));
    let rows: Vec<(String, String)> = rows.collect();
    Ok(format!("{}written to {} in {seconds:.1} s\n", output::table(&rows), out.display()))
}
