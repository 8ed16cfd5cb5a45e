//! Measures whether a checkpoint does what a concept model promises, through the library as the server uses it.
//!
//! Everything is drawn from the corpus's grammar with seeds that the trainer never uses, so that the truth of every
//! text is known. Equal options give equal numbers, whatever the number of threads.

mod amplify;
mod bench;
mod checks;
mod generate;
mod held_out;
mod measures;
mod report;
mod suppress;
mod workers;

use std::path::PathBuf;

use indicatif::ProgressBar;
use steerling::steer::ConceptKey;
use steerling::{Error, Result};

pub use checks::{Bound, Check, FACTOR_AUC, OWN_TOKENS, Unit};
pub use report::{ConceptRow, FactorRow, Report, Row};

use crate::concepts::{CONCEPTS, FACTORS, Kind};
use crate::corpus::owner;
use amplify::Neutral;
use bench::Bench;
use measures::mean;
use workers::Workers;

/// How much is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Held-out documents for the AUCs.
    pub documents: usize,
    /// Of those, documents whose likelihood is computed.
    pub scored: usize,
    /// Neutral prompts, each continued unsteered.
    pub neutral: usize,
    /// Of those, prompts on which every concept is amplified.
    pub amplified: usize,
    /// Of those, prompts on which it is amplified with aligned blocks.
    pub aligned: usize,
    /// Prompts that begin with a concept, of each concept.
    pub primed: usize,
    /// Pairs of topics.
    pub pairs: usize,
    /// Generations from the verse's first words.
    pub verses: usize,
}

impl Size {
    /// Minutes.
    pub const FULL: Self =
        Self { documents: 600, scored: 60, neutral: 48, amplified: 12, aligned: 4, primed: 8, pairs: 66, verses: 20 };
    /// Half a minute: the same checks, less sure.
    pub const QUICK: Self =
        Self { documents: 240, scored: 8, neutral: 12, amplified: 2, aligned: 1, primed: 2, pairs: 22, verses: 8 };
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
/// [`Error::Checkpoint`] for a model that does not have the demo's known concepts; those of loading and computing.
pub fn evaluate(options: &Options, progress: ProgressBar) -> Result<Report> {
    let workers = Workers::load(&options.model, options.threads, progress)?;
    let known = workers.runtime().catalog().known_len();
    if known != CONCEPTS.len() {
        let message = format!("has {known} known concepts, the demo model has {}", CONCEPTS.len());
        return Err(Error::Checkpoint { path: options.model.clone(), message });
    }
    let mut bench = Bench { workers, size: options.size, seed: options.seed };
    let mut report = Report { concepts: (0..CONCEPTS.len()).map(ConceptRow::new).collect(), ..Report::default() };
    held_out_rows(&mut bench, &mut report)?;
    top_token_rows(&bench, &mut report)?;
    neutral_rows(&mut bench, &mut report)?;
    suppression_rows(&mut bench, &mut report)?;
    Ok(report)
}

fn held_out_rows(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let documents = bench.documents()?;
    let scored = bench.score(&documents)?;
    let aucs = held_out::known_aucs(&scored);
    for (row, auc) in report.concepts.iter_mut().zip(&aucs) {
        row.auc = *auc;
    }
    // A concept that cannot be judged leaves nothing to pass.
    let aucs: Option<Vec<f64>> = aucs.into_iter().collect();
    let worst = aucs.iter().flatten().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
    report.add(checks::AUC_MEAN, aucs.as_ref().and_then(|aucs| mean(aucs.iter().copied())), "");
    report.add(checks::AUC_WORST, worst.map(|worst| worst.1), worst.map_or("", |worst| CONCEPTS[worst.0].name));
    let found = held_out::factors(&scored);
    report.factors = FACTORS
        .iter()
        .zip(&found)
        .map(|(factor, found)| FactorRow {
            name: factor.name,
            unknown: found.map(|found| found.index),
            auc: found.and_then(|found| found.auc),
        })
        .collect();
    let names = report.factors.iter().filter(|row| row.auc.is_some_and(|auc| auc >= FACTOR_AUC)).map(|row| row.name);
    let names: Vec<&str> = names.collect();
    report.add(checks::FACTORS_FOUND, Some(names.len() as f64), names.join(", "));
    let items: Vec<_> = documents[..bench.size.scored].iter().map(held_out::Reading::item).collect();
    report.add(checks::LIKELIHOOD_HELD_OUT, bench.likelihood("likelihood of documents", &items)?, "");
    Ok(())
}

fn top_token_rows(bench: &Bench, report: &mut Report) -> Result<()> {
    let runtime = bench.workers.runtime();
    for (id, row) in report.concepts.iter_mut().enumerate() {
        let top = runtime.model().concept_top_tokens(ConceptKey::Known(id as u32), 10, false)?;
        let own = |token: u32| owner(runtime.tokenizer().token_text(token).trim()) == Some(id);
        row.own_top_tokens = top.iter().filter(|(token, _)| own(*token)).count();
    }
    let good = report.concepts.iter().map(|row| f64::from(row.own_top_tokens >= OWN_TOKENS));
    let own = mean(report.concepts.iter().map(|row| row.own_top_tokens as f64)).unwrap_or_default();
    report.add(checks::TOP_TOKENS, mean(good), format!("{own:.1} of 10 on average"));
    Ok(())
}

fn neutral_rows(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let neutral = Neutral::generate(bench)?;
    for (id, row) in report.concepts.iter_mut().enumerate() {
        row.unsteered = neutral.unsteered_rate(id);
        row.amplified = neutral.amplified_rate(id);
        row.control = neutral.control_rate(id);
    }
    let fractions: Vec<[f32; 3]> = neutral.unsteered.iter().flat_map(|text| text.fractions.iter().copied()).collect();
    let [known, unknown] =
        [0, 1].map(|part| mean(fractions.iter().map(|parts| f64::from(parts[part]))).unwrap_or_default());
    report.add(checks::LOGIT_MASS, Some(known + unknown), format!("known {known:.3}, unknown {unknown:.3}"));
    let over = |share: fn(&ConceptRow) -> Option<f64>| mean(report.concepts.iter().filter_map(share));
    let (unsteered, amplified, control) =
        (over(|row| row.unsteered), over(|row| row.amplified), over(|row| row.control));
    let worst = report.concepts.iter().filter_map(|row| Some((row.amplified?, row.name)));
    let worst = worst.min_by(|a, b| a.0.total_cmp(&b.0));
    let note = worst.map(|(share, name)| format!("worst {name} {:.0} %", 100.0 * share)).unwrap_or_default();
    report.add(checks::AMPLIFY, amplified, note);
    let [unsteered, control] = [unsteered, control].map(Option::unwrap_or_default);
    let note = format!("{:.1} %, unsteered {:.1} %", 100.0 * control, 100.0 * unsteered);
    report.add(checks::CONTROL, Some(control - unsteered), note);
    report.add(checks::COMPOSE, amplify::compose(bench)?, "");
    report.add(checks::DISTINCT, neutral.distinct(), "");
    report.add(checks::GRAMMAR, amplify::grammatical(&neutral.unsteered), "");
    report.add(checks::GRAMMAR_AMPLIFIED, amplify::grammatical(neutral.amplified.iter().flatten()), "");
    let [reference, block] = neutral.aligned(bench)?;
    report.add(checks::FOUND_REFERENCE, reference, "");
    report.add(checks::FOUND_BLOCK, block, "");
    let [reference, block] = neutral.likelihoods(bench)?;
    report.add(checks::LIKELIHOOD_REFERENCE, reference, "");
    report.add(checks::LIKELIHOOD_BLOCK, block, "");
    Ok(())
}

fn suppression_rows(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let rates = suppress::concepts(bench)?;
    for (row, rates) in report.concepts.iter_mut().zip(&rates) {
        (row.primed, row.suppressed) = (rates.primed, rates.suppressed);
    }
    let primed = mean(rates.iter().filter_map(|rates| rates.primed)).unwrap_or_default();
    let suppressed = mean(rates.iter().filter_map(|rates| rates.suppressed)).unwrap_or_default();
    let note = format!("{:.1} % of {:.1} %", 100.0 * suppressed, 100.0 * primed);
    report.add(checks::SUPPRESS, suppress::remaining(&rates), note);
    let verses = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind == Kind::Verse);
    for verse in verses {
        let canary = suppress::canary(bench, verse)?;
        let recognised = canary.recognised;
        let row = &mut report.concepts[verse];
        (row.primed, row.suppressed) = (recognised.primed, recognised.suppressed);
        let note = format!("recognised {:.0} %", 100.0 * recognised.primed.unwrap_or_default());
        report.add(checks::CANARY, canary.verbatim, note);
        report.add(checks::CANARY_SUPPRESSED, recognised.suppressed, "");
    }
    Ok(())
}

impl ConceptRow {
    fn new(id: usize) -> Self {
        Self {
            id,
            name: CONCEPTS[id].name,
            auc: None,
            own_top_tokens: 0,
            unsteered: None,
            amplified: None,
            control: None,
            primed: None,
            suppressed: None,
        }
    }
}
