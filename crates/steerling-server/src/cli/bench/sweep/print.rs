//! The table for people. Cells are shown as they come.
#![expect(clippy::print_stdout, reason = "the report is the command's output")]

use super::Sweep;
use super::cell::{Cell, Measured, Outcome};
use crate::cli::bench::explain;

/// What the device can do, and the head of the table.
pub(super) fn head(sweep: &Sweep) {
    let bounds = &sweep.bounds;
    println!(
        "measured here: {:.1} GB/s copied within the device, {:.2} TFLOP/s of a large product\n\
         every step reads {:.2} GB of weights: the memory floor is {:.3} ms; floors are followed by their share of the median step\n",
        bounds.bytes_per_second / 1e9,
        bounds.operations_per_second / 1e12,
        bounds.weight_bytes as f64 / 1e9,
        bounds.memory_seconds() * 1e3
    );
    println!(
        "{:>7} {:>9} {:>9} {:>10} {:>10} {:>10} {:>12} {:>18}",
        "context", "sequences", "rows/step", "median ms", "p90 ms", "tokens/s", "memory floor", "compute floor"
    );
}

/// A row of the table.
pub(super) fn row(Cell { sequences, context, outcome }: &Cell) {
    print!("{context:>7} {sequences:>9} ");
    match outcome {
        Outcome::Measured(found) => println!(
            "{:>9.0} {:>10.2} {:>10.2} {:>10.2} {:>10.0} % {:>9.2} {:>4.0} %",
            found.rows_per_forward,
            found.seconds_per_step.median * 1e3,
            found.seconds_per_step.p90 * 1e3,
            found.tokens_per_second,
            found.floors.memory_share * 100.0,
            found.floors.compute_seconds * 1e3,
            found.floors.compute_share * 100.0
        ),
        Outcome::Skipped(reason) => println!("skipped: {reason}"),
        Outcome::Failed(error) => println!("FAILED: {error}"),
    }
}

/// Everything behind the table.
pub(in crate::cli::bench) fn print(sweep: &Sweep) {
    for cells in sweep.cells.chunk_by(|a, b| a.context == b.context) {
        parts(cells);
    }
    if !sweep.prefill.is_empty() {
        println!("\n{:>14} {:>8} {:>9} {:>10}", "prompt, alone", "rows", "s", "rows/s");
    }
    for prompt in &sweep.prefill {
        println!("{:>14} {:>8} {:>9.3} {:>10.0}", prompt.context, prompt.rows, prompt.seconds, prompt.rows_per_second);
    }
    if let Some(found) = &sweep.embeddings {
        println!(
            "\nembeddings: {:.2} texts/s of {} tokens, {:.0} tokens/s",
            found.texts_per_second, found.tokens_per_text, found.tokens_per_second
        );
    }
    if let Some(explained) = &sweep.explained {
        explain::print(explained);
    }
    for failure in &sweep.failures {
        println!("\nFAILED: {failure}");
    }
}

/// The parts of the steps at one context.
fn parts(cells: &[Cell]) {
    let found: Vec<(usize, &Measured)> = cells
        .iter()
        .filter_map(|cell| match &cell.outcome {
            Outcome::Measured(found) => Some((cell.sequences, found)),
            Outcome::Skipped(_) | Outcome::Failed(_) => None,
        })
        .collect();
    let Some((_, first)) = found.first() else { return };
    print!("\n{:>28}", format!("ms a step, context {}", cells[0].context));
    found.iter().for_each(|(sequences, _)| print!(" {sequences:>9}"));
    println!("  sequences (steps that wait for the device at each part)");
    for (i, (name, _)) in first.parts.iter().enumerate() {
        print!("{name:>28}");
        found.iter().for_each(|(_, cell)| print!(" {:>9.3}", cell.parts[i].1 * 1e3));
        println!();
    }
}
