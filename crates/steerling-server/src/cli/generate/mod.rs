//! `steerling generate`: one prompt, its text shown while it is unmasked.

mod args;
mod interrupt;
mod live;
pub(super) mod result;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use steerling::{Canvas, Denoiser, Generation, Outcome, Runtime, StepUpdate};

use super::output::{Reader, emit, note};
use super::progress;
pub(crate) use args::GenerateArgs;
use interrupt::Interrupt;
use live::Live;

/// Where the text goes.
enum Screen {
    /// A terminal, redrawn at every step.
    Live(Box<Live>),
    /// A file or another program: nothing but text, as it becomes final.
    Plain,
    /// Nowhere: the whole result is printed at the end.
    Silent,
}

/// How long the parts took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timings {
    /// Steps that only computed the prompt.
    pub(super) prefill: Duration,
    /// All others.
    pub(super) decode: Duration,
}

/// Generates and prints.
///
/// # Errors
/// If the model cannot be loaded, the prompt or a parameter is refused, or the device fails.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    args.check()?;
    let prompt = args.prompt()?;
    let mut runtime = progress::load(&args.model.source(), &args.model.runtime())?;
    let ids = args.encode(runtime.tokenizer(), &prompt)?;
    let (params, warnings) = args.params(&ids, &runtime)?;
    let canvas = Canvas::new(&ids, params, &runtime.limits().canvas)?;
    for warning in &warnings {
        note(format_args!("warning: {warning}"));
    }
    let mut generation = Generation::new(canvas, runtime.tokenizer());
    let interrupt = Interrupt::watch()?;
    let mut screen = Screen::choose(args.json, &generation, &runtime);
    let end = drive(&mut runtime, &mut generation, &mut screen, &interrupt);
    // Whatever happened, the terminal is as it was before anything else is said.
    if let Screen::Live(live) = &mut screen {
        live.finish(end.as_ref().ok().and_then(|(_, outcome)| outcome.as_ref()))?;
    }
    let (timings, outcome) = end?;
    let Some(outcome) = outcome else {
        if interrupt.seen() {
            let (done, all) = (generation.canvas.commits().len(), generation.canvas.params().max_new_tokens);
            note(format_args!("interrupted after {done} of {all} tokens"));
            std::process::exit(interrupt::EXIT_CODE);
        }
        return Ok(());
    };
    if args.json {
        let result = result::json(args, &runtime, &generation.canvas, &outcome, timings, &warnings);
        emit(&format!("{result:#}\n"))?;
    } else {
        note(result::summary(&generation.canvas, &outcome, timings));
    }
    Ok(())
}

/// Steps until the end; no outcome if it was interrupted or nobody reads any more.
fn drive(
    runtime: &mut Runtime,
    generation: &mut Generation,
    screen: &mut Screen,
    interrupt: &Interrupt,
) -> Result<(Timings, Option<Outcome>)> {
    let admitted = runtime.admit(&mut generation.canvas)?;
    anyhow::ensure!(admitted, "the prompt and its guidance do not fit --kv-cache-mib; raise it");
    let mut timings = Timings::default();
    screen.begin()?;
    while generation.canvas.finish_reason().is_none() {
        if interrupt.seen() {
            return Ok((timings, None));
        }
        let start = Instant::now();
        runtime.step(&mut [&mut generation.canvas]).context("a denoising step failed")?;
        match generation.update() {
            None => timings.prefill += start.elapsed(),
            Some(update) => {
                timings.decode += start.elapsed();
                if screen.show(&update, &generation.canvas, timings)? == Reader::Gone {
                    return Ok((timings, None));
                }
            }
        }
    }
    runtime.release(generation.canvas.id());
    let outcome = generation.outcome().context("a finished canvas has an outcome")?;
    if let Screen::Plain = screen {
        emit(&outcome.delta)?;
    }
    Ok((timings, Some(outcome)))
}

impl Screen {
    fn choose(json: bool, generation: &Generation, runtime: &Runtime) -> Self {
        if json {
            Self::Silent
        } else if std::io::stdout().is_terminal() && !console::is_dumb() {
            Self::Live(Box::new(Live::new(&generation.canvas, runtime.tokenizer().clone())))
        } else {
            Self::Plain
        }
    }

    fn begin(&mut self) -> Result<()> {
        match self {
            Self::Live(live) => live.begin(),
            Self::Plain | Self::Silent => Ok(()),
        }
    }

    fn show(&mut self, update: &StepUpdate, canvas: &Canvas, timings: Timings) -> Result<Reader> {
        match self {
            Self::Live(live) => live.show(update, canvas, timings.decode).map(|()| Reader::Listening),
            Self::Plain => emit(&update.delta),
            Self::Silent => Ok(Reader::Listening),
        }
    }
}
