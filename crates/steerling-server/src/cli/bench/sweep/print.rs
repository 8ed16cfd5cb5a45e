//! The table for people. Cells are shown as they come.

use super::Sweep;
use super::cell::{Cell, Measured, Outcome};
use crate::cli::bench::explain;

/// What the device can do, and the head of the table.
pub(super) fn head(sweep: &Sweep) -> String {
    let bounds = &sweep.bounds;
    format!(
        "measured here: {:.1} GB/s copied within the device, {:.2} TFLOP/s of a large product\n\
         every step reads {:.2} GB of weights: the memory floor is {:.3} ms; floors are followed by their share of the median step\n\n\
         {:>7} {:>9} {:>9} {:>10} {:>10} {:>10} {:>12} {:>18}\n",
        bounds.bytes_per_second / 1e9,
        bounds.operations_per_second / 1e12,
        bounds.weight_bytes as f64 / 1e9,
        bounds.memory_seconds() * 1e3,
        "context",
        "sequences",
        "rows/step",
        "median ms",
        "p90 ms",
        "tokens/s",
        "memory floor",
        "compute floor"
    )
}

/// A row of the table.
pub(super) fn row(Cell { sequences, context, outcome }: &Cell) -> String {
    let found = match outcome {
        Outcome::Measured(found) => format!(
            "{:>9.0} {:>10.2} {:>10.2} {:>10.2} {:>10.0} % {:>9.2} {:>4.0} %",
            found.rows_per_forward,
            found.seconds_per_step.median * 1e3,
            found.seconds_per_step.p90 * 1e3,
            found.tokens_per_second,
            found.floors.memory_share * 100.0,
            found.floors.compute_seconds * 1e3,
            found.floors.compute_share * 100.0
        ),
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
        Outcome::Failed(error) => format!("FAILED: {error}"),
    };
    format!("{context:>7} {sequences:>9} {found}\n")
}

/// Everything behind the table.
pub(in crate::cli::bench) fn rest(sweep: &Sweep) -> String {
    let mut text: String = sweep.cells.chunk_by(|a, b| a.context == b.context).map(parts).collect();
    if !sweep.prefill.is_empty() {
        text += &format!("\n{:>14} {:>8} {:>9} {:>10}\n", "prompt, alone", "rows", "s", "rows/s");
    }
    for prompt in &sweep.prefill {
        let (context, rows, speed) = (prompt.context, prompt.rows, prompt.rows_per_second);
        text += &format!("{context:>14} {rows:>8} {:>9.3} {speed:>10.0}\n", prompt.seconds);
    }
    if let Some(found) = &sweep.embeddings {
        text += &format!(
            "\nembeddings: {:.2} texts/s of {} tokens, {:.0} tokens/s\n",
            found.texts_per_second, found.tokens_per_text, found.tokens_per_second
        );
    }
    if let Some(explained) = &sweep.explained {
        text += &explain::table(explained);
    }
    text.extend(sweep.failures.iter().map(|failure| format!("\nFAILED: {failure}\n")));
    text
}

/// The parts of the steps at one context.
fn parts(cells: &[Cell]) -> String {
    let found: Vec<(usize, &Measured)> = cells
        .iter()
        .filter_map(|cell| match &cell.outcome {
            Outcome::Measured(found) => Some((cell.sequences, found)),
            Outcome::Skipped(_) | Outcome::Failed(_) => None,
        })
        .collect();
    let Some((_, first)) = found.first() else { return String::new() };
    let mut text = format!("\n{:>28}", format!("ms a step, context {}", cells[0].context));
    text.extend(found.iter().map(|(sequences, _)| format!(" {sequences:>9}")));
    text += "  sequences (steps that wait for the device at each part)\n";
    for (i, (name, _)) in first.parts.iter().enumerate() {
        text += &format!("{name:>28}");
        text.extend(found.iter().map(|(_, cell)| format!(" {:>9.3}", cell.parts[i].1 * 1e3)));
        text += "\n";
    }
    text
}
