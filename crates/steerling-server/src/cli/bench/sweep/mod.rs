//! The whole table of a model on a device: steps for numbers of sequences and lengths of contexts, held against what
//! the device can do at best, and everything else that requests ask for.

mod cell;
mod floors;
mod print;
mod prompts;

use anyhow::Result;
use serde::Serialize;
use steerling::device::Speeds;
use steerling::{Denoiser, Runtime};

use crate::cli::output::Reader;

use super::batch::Shape;
use super::explain::{self, Explained};
use cell::{Cell, Outcome};
use floors::Bounds;
use prompts::{Embeddings, Prefill};

pub(super) use print::rest;

/// What is measured.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) sequences: Vec<usize>,
    pub(super) contexts: Vec<usize>,
    /// Steps of each cell, at most.
    pub(super) forwards: usize,
}

impl Plan {
    /// Pages that hold the largest cell of a model with so long a context and so large a block.
    pub(super) fn pages(&self, context: usize, block_size: usize) -> usize {
        let longest = self.contexts.iter().filter(|c| **c <= context).max().copied().unwrap_or(0);
        let most = self.sequences.iter().max().copied().unwrap_or(0);
        (most * longest.div_ceil(block_size)).max(context.div_ceil(block_size))
    }
}

/// What was found. What is absent failed, and stands among the failures.
#[derive(Debug, Serialize)]
pub(super) struct Sweep {
    bounds: Bounds,
    cells: Vec<Cell>,
    prefill: Vec<Prefill>,
    embeddings: Option<Embeddings>,
    /// Concept attribution beside plain steps, and integrated gradients.
    explained: Option<Explained>,
    /// What went wrong; everything else was measured nevertheless.
    pub(super) failures: Vec<String>,
}

/// Measures everything in turn. What fails, such as a device out of memory, does not keep the rest from being measured.
/// `show` is given what there is after each part, so that nothing is lost if the program is stopped, and the lines of the
/// table that tell of it. The measurement ends when the reader of the table has left.
pub(super) fn measure(
    runtime: &mut Runtime,
    plan: &Plan,
    speeds: &Speeds,
    show: &dyn Fn(&Runtime, &Sweep, &str) -> Result<Reader>,
) -> Result<Sweep> {
    let mut sweep = Sweep {
        bounds: Bounds::new(runtime.info(), speeds),
        cells: Vec::new(),
        prefill: Vec::new(),
        embeddings: None,
        explained: None,
        failures: Vec::new(),
    };
    if show(runtime, &sweep, &print::head(&sweep))? == Reader::Gone {
        return Ok(sweep);
    }
    for context in &plan.contexts {
        for sequences in &plan.sequences {
            let cell = cell::measure(runtime, &sweep.bounds, (*sequences, *context), plan.forwards);
            let row = print::row(&cell);
            if let Outcome::Failed(error) = &cell.outcome {
                sweep.failures.push(format!("{sequences} sequences at a context of {context}: {error}"));
            }
            sweep.cells.push(cell);
            if show(runtime, &sweep, &row)? == Reader::Gone {
                return Ok(sweep);
            }
        }
    }
    let limits = runtime.limits();
    let contexts: Vec<usize> = plan.contexts.iter().copied().filter(|c| *c <= limits.canvas.context).collect();
    for context in &contexts {
        let found = prompts::prefill(runtime, *context);
        sweep.prefill.extend(or_note(&mut sweep.failures, "prefill", found));
    }
    // What has no column of its own is measured at the shortest context.
    if let Some(context) = contexts.iter().min() {
        let found = prompts::embeddings(runtime, *context);
        sweep.embeddings = or_note(&mut sweep.failures, "embeddings", found);
        show(runtime, &sweep, "")?;
        let shape = Shape::of_context(*context, &limits);
        let found = explain::measure(runtime, &shape, Some(plan.forwards), &[explain::INTEGRATED_GRADIENTS]);
        sweep.explained = or_note(&mut sweep.failures, "explanations", found);
        show(runtime, &sweep, "")?;
    }
    Ok(sweep)
}

fn or_note<T>(failures: &mut Vec<String>, what: &str, found: Result<T>) -> Option<T> {
    found.map_err(|error| failures.push(format!("{what}: {}", crate::cli::one_line(&error)))).ok()
}
