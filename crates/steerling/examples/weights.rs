//! Seconds a step of the same model in several forms, taken in turns:
//! `cargo run --release -p steerling --example weights -- [--batch 1,8] [--steps 20] PATH[:DTYPE]...`
#![expect(clippy::print_stdout, reason = "a report for the terminal")]

use std::time::Instant;

use steerling::{Canvas, Denoiser, DeviceChoice, DtypeChoice, GenerateParams, ModelSource, Runtime, RuntimeOptions};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let (mut batches, mut steps, mut runtimes) = (vec![1, 8], 20, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--batch" => {
                let list = args.next().ok_or("--batch needs a list")?;
                batches = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--steps" => steps = args.next().ok_or("--steps needs a number")?.parse()?,
            model => runtimes.push((model.to_owned(), load(model)?)),
        }
    }
    for batch in batches {
        let mut forms = Vec::new();
        for (_, runtime) in &mut runtimes {
            forms.push((canvases(runtime, batch)?, Vec::new()));
        }
        for step in 0..=steps {
            for ((_, runtime), (canvases, times)) in runtimes.iter_mut().zip(&mut forms) {
                let start = Instant::now();
                runtime.step(&mut canvases.iter_mut().collect::<Vec<_>>())?;
                // The first step computes the prompts.
                if step > 0 {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        println!("{batch} sequences, median of {steps} steps:");
        let mut first = None;
        for ((name, runtime), (canvases, times)) in runtimes.iter_mut().zip(&mut forms) {
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            let ratio = median / *first.get_or_insert(median);
            println!("  {name:40} {:5} {:8.1} ms, {ratio:.2} of the first", runtime.info().weights, 1e3 * median);
            canvases.iter().for_each(|canvas| runtime.release(canvas.id()));
        }
    }
    Ok(())
}

fn load(model: &str) -> Result<Runtime, Failure> {
    let (path, dtype) = model.split_once(':').unwrap_or((model, "auto"));
    let dtype = dtype.parse::<DtypeChoice>()?;
    let options = RuntimeOptions { device: DeviceChoice::Cpu, dtype, kv_bytes: 1 << 30, ..RuntimeOptions::default() };
    Ok(Runtime::load(&ModelSource::Directory(path.into()), &options, &mut |_, _| ())?)
}

/// Admitted sequences of 32 + 64 positions.
fn canvases(runtime: &mut Runtime, batch: usize) -> Result<Vec<Canvas>, Failure> {
    let spec = runtime.limits().canvas;
    (0..batch)
        .map(|n| {
            let prompt: Vec<u32> = (0..32).map(|i| ((n * 7919 + i * 104_729 + 1) % 1000) as u32).collect();
            let params = GenerateParams { max_new_tokens: 64, seed: n as u64, ..GenerateParams::default() };
            let mut canvas = Canvas::new(&prompt, params, &spec)?;
            if !runtime.admit(&mut canvas)? {
                return Err("a batch that does not fit the pages".into());
            }
            Ok(canvas)
        })
        .collect()
}
