//! `steerling synthesize`: checkpoints with random weights, right in size and form, noise as text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use indicatif::{BinaryBytes, HumanCount};
use steerling::checkpoint::{Kind, Synthetic, Weights, expected};
use steerling::config::Preset;
use steerling::{Config, DeviceChoice, DtypeChoice, RuntimeOptions};

use super::{output, progress, quantize};

/// Write a checkpoint with random weights, or tell what would be written.
#[derive(Debug, clap::Args)]
pub(crate) struct SynthesizeArgs {
    /// Size: 8b, 1b, small or tiny
    #[arg(long)]
    preset: Preset,
    /// Same seed, same weights, on every machine
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Type of the weights in the files
    #[arg(long, value_enum, default_value_t = StoredType::Bf16)]
    dtype: StoredType,
    /// Write one GGUF file with linear layers of this type instead of a directory: q8_0 or q4_k
    #[arg(long = "type", value_name = "TYPE", requires = "out", conflicts_with = "shard_gb")]
    kind: Option<Kind>,
    /// Directory to write to, new or empty, or with --type a file; without it, only tell what would be written
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Largest size of one weight file, in GB (10^9 bytes)
    #[arg(long, value_name = "N", default_value = "5", value_parser = shard_bytes)]
    shard_gb: u64,
}

/// Type of the weights in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoredType {
    /// float32
    F32,
    /// bfloat16, as released
    Bf16,
    /// float16
    F16,
}

fn shard_bytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(gb) if gb > 0.0 && gb.is_finite() => Ok((gb * 1e9) as u64),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

/// Writes the checkpoint.
///
/// # Errors
/// If the directory holds anything already, or cannot be written.
pub(crate) fn run(args: &SynthesizeArgs) -> Result<()> {
    let dtype = match args.dtype {
        StoredType::F32 => DtypeChoice::F32,
        StoredType::Bf16 => DtypeChoice::Bf16,
        StoredType::F16 => DtypeChoice::F16,
    };
    let options = RuntimeOptions { device: DeviceChoice::Cpu, dtype, ..RuntimeOptions::default() };
    let config = Config::preset(args.preset);
    let tensors = expected(&config).len();
    let weights = Synthetic::new(config, args.seed, options.compute()?.dtype)?;
    let what = format!(
        "preset {}, seed {}: {} parameters in {tensors} tensors, {} in {dtype}",
        args.preset,
        args.seed,
        HumanCount(weights.config().param_count()),
        BinaryBytes(weights.total_bytes()),
    );
    let Some(out) = &args.out else {
        output::emit(&format!("{what}\nnothing written; name a directory with --out\n"))?;
        return Ok(());
    };
    if let Some(kind) = args.kind {
        let name = format!("synthetic-{}", args.preset);
        let written = quantize::write(&Weights::Random(weights), &name, kind, out)?;
        output::emit(&format!("{what}\n{written}"))?;
        return Ok(());
    }
    refuse_occupied(out)?;
    let start = Instant::now();
    {
        let mut progress = progress::bar("writing");
        weights.write_to(out, args.shard_gb, &mut progress)?;
    }
    output::emit(&format!("{what}\nwritten to {} in {:.1} s\n", out.display(), start.elapsed().as_secs_f64()))?;
    Ok(())
}

/// Nothing of anybody's is mixed with a checkpoint.
fn refuse_occupied(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let mut entries = std::fs::read_dir(out).with_context(|| format!("cannot write to {}", out.display()))?;
    if let Some(entry) = entries.next() {
        let name = entry?.file_name();
        bail!("{}: not empty, it holds {}; choose a new or empty directory", out.display(), name.display());
    }
    Ok(())
}
