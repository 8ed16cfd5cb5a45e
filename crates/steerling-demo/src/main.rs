//! `steerling-demo`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Parser;
use steerling_demo::train::{TrainOptions, train};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "/tmp/demo")]
    out: PathBuf,
    #[arg(long, default_value_t = 4000)]
    steps: usize,
    #[arg(long, default_value_t = 48)]
    batch: usize,
    #[arg(long, default_value_t = 128)]
    length: usize,
    #[arg(long, default_value_t = 2.5e-3)]
    learning_rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value = "/tmp/losses.jsonl")]
    losses: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = TrainOptions {
        out: args.out,
        steps: args.steps,
        batch: args.batch,
        length: args.length,
        learning_rate: args.learning_rate,
        seed: args.seed,
        threads: args.threads,
    };
    let mut log = BufWriter::new(File::create(args.losses)?);
    train(&options, &candle_core::Device::Cpu, &mut |step, losses| {
        let line: serde_json::Map<_, _> =
            losses.iter().map(|(name, loss)| (name.to_string(), (*loss).into())).collect();
        writeln!(log, "{}", serde_json::json!({"step": step, "losses": line}))?;
        if step % 20 == 0 {
            log.flush()?;
        }
        Ok(())
    })
}
