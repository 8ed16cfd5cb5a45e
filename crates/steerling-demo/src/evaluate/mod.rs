//! Measures whether a checkpoint does what a concept model promises, through the library as the server uses it.
//!
//! Everything is drawn from the corpus's grammar with seeds that the trainer never uses, so that the truth of every
//! text is known. Equal options give equal numbers, whatever the number of threads. What is measured and what passes
//! stands in [`checks`]; `docs/demo-evaluation.md` explains it.

mod amplify;
mod bench;
pub mod checks;
mod decoding;
mod generate;
mod held_out;
mod measures;
mod notices;
mod report;
mod rows;
mod suppress;
mod workers;

use std::path::PathBuf;

use indicatif::ProgressBar;
use serde::Serialize;
use steerling::{Error, Result};

pub use decoding::{
    DecodingOptions, DecodingReport, DecodingRow, DraftsRow, Quality, Setting, Share, measure_decoding,
};
pub use report::{ConceptRow, FactorRow, Report, Row};

use bench::Bench;
use workers::Workers;

/// How much is drawn; at least one of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Held-out documents for the AUCs.
    pub documents: usize,
    /// Of those, documents whose likelihood is computed.
    pub scored: usize,
    /// Neutral prompts, each continued unsteered.
    pub neutral: usize,
    /// Of those, prompts on which every concept is amplified.
    pub amplified: usize,
    /// Of those again, prompts on which it is amplified with aligned blocks.
    pub aligned: usize,
    /// Prompts that begin with a concept, of each concept.
    pub primed: usize,
    /// Generations with two topics amplified.
    pub pairs: usize,
    /// Generations from the verse's first words.
    pub verses: usize,
    /// Generations from each notice's opening.
    pub notices: usize,
}

impl Size {
    /// Minutes.
    pub const FULL: Self = Self {
        documents: 2000,
        scored: 200,
        neutral: 120,
        amplified: 40,
        aligned: 10,
        primed: 25,
        pairs: 198,
        verses: 60,
        notices: 10,
    };
    /// Half a minute: the same checks, less sure.
    pub const QUICK: Self = Self {
        documents: 400,
        scored: 16,
        neutral: 24,
        amplified: 4,
        aligned: 1,
        primed: 4,
        pairs: 99,
        verses: 10,
        notices: 2,
    };

    /// Refuses parts that are larger than what they are parts of.
    fn check(&self) -> Result<()> {
        let any = usize::MAX;
        let limits = [
            ("documents", self.documents, any),
            ("scored", self.scored, self.documents),
            ("neutral", self.neutral, any),
            ("amplified", self.amplified, self.neutral),
            ("aligned", self.aligned, self.amplified),
            ("primed", self.primed, any),
            ("pairs", self.pairs, any),
            ("verses", self.verses, any),
            ("notices", self.notices, any),
        ];
        match limits.iter().find(|(_, n, limit)| !(1..=*limit).contains(n)) {
            Some((field, n, limit)) => Err(Error::invalid(*field, format!("{n} is outside 1..={limit}"))),
            None => Ok(()),
        }
    }
}

/// What to evaluate, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// A checkpoint directory of the demo model.
    pub model: PathBuf,
    /// How much is drawn.
    pub size: Size,
    /// Other seeds draw other documents, prompts and tokens.
    pub seed: u32,
    /// Runtimes that work side by side.
    pub threads: usize,
}

/// Evaluates a checkpoint.
///
/// # Errors
/// [`Error::Invalid`] for a size that contradicts itself, [`Error::Checkpoint`] for a model that does not have the
/// demo's known concepts; those of loading and computing.
pub fn evaluate(options: &Options, progress: ProgressBar) -> Result<Report> {
    options.size.check()?;
    let workers = Workers::load(&options.model, options.threads, progress)?;
    let mut bench = Bench { workers, size: options.size, seed: options.seed };
    let mut report = Report::new(options);
    report.measure(&mut bench)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_contradicts_itself_is_refused_by_name() {
        assert!(Size::FULL.check().is_ok() && Size::QUICK.check().is_ok());
        let error = Size { amplified: 25, ..Size::QUICK }.check().unwrap_err().to_string();
        assert_eq!(error, "`amplified`: 25 is outside 1..=24");
        assert!(Size { verses: 0, ..Size::QUICK }.check().is_err());
    }
}
