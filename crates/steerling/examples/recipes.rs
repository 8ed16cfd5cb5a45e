//! What each part of a model loses by fewer bits: `cargo run --release -p steerling --example recipes -- DIR`.
//!
//! Predictions of a fixed set of random sequences, every second position masked, against those in float32.
#![expect(clippy::print_stdout, reason = "a report for the terminal")]

use std::path::Path;

use steerling::checkpoint::{Checkpoint, Kind, Recipe, Weights};
use steerling::fidelity::Readings;
use steerling::{DeviceChoice, DtypeChoice, ModelSource, Runtime, RuntimeOptions};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let dir = std::env::args().nth(1).ok_or("name a checkpoint directory")?;
    let mut full = load(Path::new(&dir))?;
    let config = full.info().config.clone();
    let ordinary = config.special.mask.min(config.special.eos).min(config.vocab_size as u32) as usize;
    let sequence = |n: usize| -> Vec<u32> {
        let id = |i: usize| ((n * 7919 + i * 104_729 + i * i * 31) % ordinary) as u32;
        (0..64).map(|i| if i % 2 == 1 { config.special.mask } else { id(i) }).collect()
    };
    let sequences: Vec<Vec<u32>> = (0..8).map(sequence).collect();
    let expected = Readings::of(&mut full, &sequences, None)?;
    drop(full);
    let file = std::env::temp_dir().join(format!("recipes-{}.gguf", std::process::id()));
    let (q8, q4) = (Kind::Q8_0, Kind::Q4K);
    println!("linear vocabulary heads      MiB  same token  divergence  same known  same unknown  contributions");
    for (linear, vocabulary, heads) in
        [(q8, q8, None), (q8, q8, Some(q8)), (q4, q8, None), (q4, q4, None), (q4, q8, Some(q8)), (q4, q4, Some(q4))]
    {
        Weights::open(&dir)?.quantize_to(&file, "recipe", Recipe { linear, vocabulary, heads }, &mut |_, _| ())?;
        let size = Checkpoint::open(&file)?.total_bytes() as f64 / f64::from(1 << 20);
        let found = expected.against(&Readings::of(&mut load(&file)?, &sequences, Some(&expected))?);
        std::fs::remove_file(&file)?;
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        println!(
            "{linear:<6} {vocabulary:<10} {:<6} {size:8.1} {:>11} {:>11} {:>11} {:>13} {:>14}",
            heads.map_or("16".to_owned(), |kind| kind.to_string()),
            percent(Some(found.argmax_agreement)),
            format!("{:.1e}", found.kl),
            percent(found.known_overlap),
            percent(found.unknown_overlap),
            percent(found.attribution_error),
        );
    }
    Ok(())
}

fn load(path: &Path) -> Result<Runtime, Failure> {
    let (device, dtype) = (DeviceChoice::Cpu, DtypeChoice::F32);
    let options = RuntimeOptions { device, dtype, kv_bytes: 256 << 20, ..RuntimeOptions::default() };
    Ok(Runtime::load(&ModelSource::Directory(path.to_owned()), &options, &mut |_, _| ())?)
}
