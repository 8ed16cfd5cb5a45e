//! What decoding methods do to the text, beside the forwards they spare.

use std::fmt::Write;
use std::path::PathBuf;

use indicatif::ProgressBar;
use serde::Serialize;
use steerling::params::{Align, Decoding};
use steerling::{Error, Result};

use super::Size;
use super::amplify::{amplifying, grammatical, jobs};
use super::bench::{Bench, Draw};
use super::generate::{Generated, Job, NEW_TOKENS};
use super::measures::{distinct_2, mean};
use super::workers::Workers;
use crate::concepts::{CONCEPTS, Kind};
use crate::corpus::{neutral_prompts, primed_prompt};

/// How tokens are committed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// The method.
    pub decoding: Decoding,
    /// Where generation blocks are cut.
    pub align: Align,
    /// Tokens of a step, for methods with a number of steps.
    pub per_step: usize,
}

impl Setting {
    const fn new(decoding: Decoding) -> Self {
        Self { decoding, align: Align::Reference, per_step: 1 }
    }

    /// What everything is set against, then the curves of the methods, then aligned blocks.
    pub fn all() -> Vec<Self> {
        let confidence = |per_step| Self { per_step, ..Self::new(Decoding::Confidence) };
        let threshold = |threshold| Self::new(Decoding::Threshold { threshold, max_per_step: None });
        let factor = |factor| Self::new(Decoding::Factor { factor });
        let bound = |gamma| Self::new(Decoding::EntropyBound { gamma });
        let mut all = vec![confidence(1), confidence(2), confidence(4), confidence(8)];
        all.extend([0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3].map(threshold));
        all.extend([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0].map(factor));
        all.extend([0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0].map(bound));
        let aligned = [confidence(1), threshold(0.9), threshold(0.8), bound(0.1)];
        all.extend(aligned.map(|setting| Self { align: Align::Block, ..setting }));
        all
    }

    /// In words.
    pub fn name(&self) -> String {
        let mut name = self.decoding.to_string();
        if self.per_step > 1 {
            _ = write!(name, ", {} a step", self.per_step);
        }
        if self.align == Align::Block {
            name.push_str(", aligned");
        }
        name
    }

    fn of<'a>(&self, job: Job<'a>) -> Job<'a> {
        let steps = (self.per_step > 1).then(|| NEW_TOKENS.div_ceil(self.per_step));
        Job { decoding: self.decoding, align: self.align, steps, ..job }
    }
}

/// Numbers of drafts whose forwards are counted.
const DRAFTS: [usize; 5] = [1, 2, 3, 4, 8];

/// What to measure, and how much is drawn.
#[derive(Debug, Clone)]
pub struct DecodingOptions {
    /// A checkpoint directory of the demo model.
    pub model: PathBuf,
    /// Neutral prompts, each continued without steering.
    pub neutral: usize,
    /// Of those, prompts on which each concept is amplified; also primed prompts of each concept.
    pub each: usize,
    /// Other seeds draw other prompts and tokens.
    pub seed: u32,
    /// Runtimes that work side by side; the numbers do not depend on it.
    pub threads: usize,
}

/// The text under one setting.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingRow {
    /// The setting in words.
    pub setting: String,
    /// The method.
    pub method: &'static str,
    /// Whether generation blocks end where attention blocks do.
    pub aligned: bool,
    /// Over all generations together.
    pub tokens_per_forward: f64,
    /// Over all generations together.
    pub rows_per_token: f64,
    /// Share of texts in which the tagger finds the concept that is amplified, or that the prompt begins with.
    pub found: Option<f64>,
    /// Share of finished sentences after neutral prompts that the grammar derives.
    pub grammatical: Option<f64>,
    /// Different pairs of neighbouring tokens after neutral prompts.
    pub distinct_2: f64,
    /// Log-likelihood of a token after neutral prompts, from left to right, in nats.
    pub nats: Option<f64>,
}

/// Forwards with guessed steps, of those without. The text is the same, which is checked.
#[derive(Debug, Clone, Serialize)]
pub struct DraftsRow {
    /// Steps that are guessed in each forward.
    pub drafts: usize,
    /// Over all generations together.
    pub tokens_per_forward: f64,
    /// Share of forwards spared: the least, the tenth, half, nine tenths and the most of the generations.
    pub spared: [f64; 5],
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    /// Generations of each setting whose text is tagged.
    pub tagged: usize,
    /// Generations of each setting after neutral prompts.
    pub neutral: usize,
    /// Settings, in order; the first is what the others are set against.
    pub rows: Vec<DecodingRow>,
    /// Numbers of guessed steps, in order.
    pub drafts: Vec<DraftsRow>,
}

/// Measures every setting on the same prompts with the same seeds.
///
/// # Errors
/// [`Error::Checkpoint`] for a model that does not have the demo's known concepts; those of loading and computing.
pub fn measure_decoding(options: &DecodingOptions, progress: ProgressBar) -> Result<DecodingReport> {
    let workers = Workers::load(&options.model, options.threads, progress)?;
    let known = workers.runtime().catalog().known_len();
    if known != CONCEPTS.len() {
        let message = format!("has {known} known concepts, the demo model has {}", CONCEPTS.len());
        return Err(Error::Checkpoint { path: options.model.clone(), message });
    }
    let mut bench = Bench { workers, size: Size::FULL, seed: options.seed };
    let prompts = Prompts::draw(&bench, options);
    let mut report = DecodingReport { tagged: 0, neutral: options.neutral, rows: Vec::new(), drafts: Vec::new() };
    for setting in Setting::all() {
        let row = prompts.measure(&mut bench, &setting)?;
        report.rows.push(row);
    }
    report.tagged = prompts.primed.len() + CONCEPTS.len() * prompts.each;
    report.drafts = prompts.drafts(&mut bench)?;
    Ok(report)
}

struct Prompts {
    neutral: Vec<String>,
    /// Of each concept but the verse.
    primed: Vec<(usize, String)>,
    each: usize,
}

impl Prompts {
    fn draw(bench: &Bench, options: &DecodingOptions) -> Self {
        let neutral = neutral_prompts(options.neutral, &mut bench.rng(Draw::Neutral));
        let mut rng = bench.rng(Draw::Primed);
        let ids = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind != Kind::Verse);
        let ids = ids.flat_map(|id| std::iter::repeat_n(id, options.each));
        let primed = ids.map(|id| (id, primed_prompt(id, &mut rng))).collect();
        Self { neutral, primed, each: options.each.min(options.neutral) }
    }

    fn measure(&self, bench: &mut Bench, setting: &Setting) -> Result<DecodingRow> {
        let neutral: Vec<Job> = jobs(bench, &self.neutral).map(|job| setting.of(job)).collect();
        let neutral = bench.generate("neutral prompts", &neutral)?;
        let amplified = amplifying(bench, &self.neutral[..self.each], setting.align);
        let amplified: Vec<Job> = amplified.into_iter().map(|job| setting.of(job)).collect();
        let amplified = bench.generate("amplified concepts", &amplified)?;
        let primed = self.primed.iter().enumerate();
        let primed: Vec<Job> =
            primed.map(|(n, (_, prompt))| setting.of(Job::new(prompt, bench.seed(Draw::Primed, n)))).collect();
        let primed = bench.generate("primed prompts", &primed)?;
        let of_amplified = amplified.iter().zip((0..CONCEPTS.len()).flat_map(|id| std::iter::repeat_n(id, self.each)));
        let of_primed = primed.iter().zip(self.primed.iter().map(|(id, _)| *id));
        let found = of_amplified.chain(of_primed).map(|(text, id)| f64::from(text.tags.concepts.contains(id)));
        let items: Vec<_> = neutral.iter().map(Generated::item).collect();
        let all = || neutral.iter().chain(&amplified).chain(&primed);
        let tokens = all().map(|text| text.committed).sum::<usize>() as f64;
        Ok(DecodingRow {
            setting: setting.name(),
            method: setting.decoding.name(),
            aligned: setting.align == Align::Block,
            tokens_per_forward: tokens / all().map(|text| text.usage.forwards).sum::<usize>() as f64,
            rows_per_token: all().map(|text| text.usage.rows).sum::<usize>() as f64 / tokens,
            found: mean(found),
            grammatical: grammatical(&neutral),
            distinct_2: distinct_2(neutral.iter().map(|text| text.ids.as_slice())),
            nats: bench.likelihood("likelihood", &items)?,
        })
    }

    fn drafts(&self, bench: &mut Bench) -> Result<Vec<DraftsRow>> {
        let run = |bench: &mut Bench, decoding| {
            let setting = Setting::new(decoding);
            let jobs: Vec<Job> = jobs(bench, &self.neutral).map(|job| setting.of(job)).collect();
            bench.generate("guessed steps", &jobs)
        };
        let plain = run(bench, Decoding::Confidence)?;
        let row = |drafts| {
            let texts = run(bench, Decoding::Lossless { drafts: Some(drafts) })?;
            let mut spared = Vec::new();
            for (text, plain) in texts.iter().zip(&plain) {
                assert_eq!(text.ids, plain.ids, "guesses change the cost and nothing else");
                // Steps that a guess made unnecessary, of all.
                spared.push(text.usage.accepted as f64 / (text.usage.accepted + text.usage.forwards) as f64);
            }
            spared.sort_by(f64::total_cmp);
            let at = |share: f64| spared[((spared.len() - 1) as f64 * share).round() as usize];
            let sum = |count: fn(&Generated) -> usize| texts.iter().map(count).sum::<usize>() as f64;
            let tokens_per_forward = sum(|text| text.committed) / sum(|text| text.usage.forwards);
            Ok(DraftsRow { drafts, tokens_per_forward, spared: [0.0, 0.1, 0.5, 0.9, 1.0].map(at) })
        };
        DRAFTS.into_iter().map(row).collect()
    }
}

impl DecodingReport {
    /// Two tables: settings, and numbers of guessed steps.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| setting | tokens a forward | rows a token | concept found | grammatical | distinct-2 | log-likelihood |\n\
             |---|---|---|---|---|---|---|\n",
        );
        let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        for row in &self.rows {
            let nats = row.nats.map_or("–".to_owned(), |nats| format!("{nats:.3}"));
            let (found, grammatical) = (percent(row.found), percent(row.grammatical));
            let DecodingRow { setting, tokens_per_forward, rows_per_token, distinct_2, .. } = row;
            _ = writeln!(
                text,
                "| {setting} | {tokens_per_forward:.2} | {rows_per_token:.1} | {found} | {grammatical} | {distinct_2:.3} | {nats} |"
            );
        }
        text.push_str(
            "\n| drafts | tokens a forward | forwards spared: least | a tenth | half | nine tenths | most |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|\n");
        for row in &self.drafts {
            let spared: Vec<String> = row.spared.iter().map(|share| percent(Some(*share))).collect();
            _ = writeln!(text, "| {} | {:.2} | {} |", row.drafts, row.tokens_per_forward, spared.join(" | "));
        }
        text
    }
}
