//! What decoding methods do to the text, beside the forwards they spare.

mod report;

use std::fmt::Write;
use std::path::PathBuf;

use indicatif::ProgressBar;
use steerling::Result;
use steerling::params::{Align, Decoding};
use steerling::score::distinct_2;

use super::Size;
use super::amplify::{amplifying, grammatical, jobs};
use super::bench::{Bench, Draw};
use super::generate::{Generated, Job, NEW_TOKENS};
use super::measures::mean;
use super::notices::{self, Shares};
use super::workers::Workers;
use crate::concepts::{CONCEPTS, Kind};
use crate::corpus::{neutral_prompts, primed_prompt};

pub use report::{DecodingReport, DecodingRow, DraftsRow, Quality, Share};

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
    /// Those that are compared; the first is what the others are set against.
    pub settings: Vec<Setting>,
    /// Neutral prompts, each continued without steering.
    pub neutral: usize,
    /// Of those, prompts on which each concept is amplified; also primed prompts of each concept.
    pub each: usize,
    /// Continuations of each notice's opening.
    pub notices: usize,
    /// Other seeds draw other prompts and tokens.
    pub seed: u32,
    /// Runtimes that work side by side; the numbers do not depend on it.
    pub threads: usize,
}

/// Measures every setting on the same prompts with the same seeds.
///
/// # Errors
/// [`steerling::Error::Checkpoint`] for a model that does not have the demo's known concepts; those of loading and
/// computing.
pub fn measure_decoding(options: &DecodingOptions, progress: ProgressBar) -> Result<DecodingReport> {
    let workers = Workers::load(&options.model, options.threads, progress)?;
    let mut bench = Bench { workers, size: Size::FULL, seed: options.seed };
    let prompts = Prompts::draw(&bench, options);
    let row = |setting: &Setting, bench: &mut Bench| {
        Ok(DecodingRow {
            setting: setting.name(),
            method: setting.decoding.name(),
            aligned: setting.align == Align::Block,
            free: prompts.free(bench, setting)?,
            notices: prompts.notices(bench, setting)?,
        })
    };
    Ok(DecodingReport {
        tagged: prompts.primed.len() + CONCEPTS.len() * prompts.each,
        neutral: prompts.neutral.len(),
        notices: prompts.notices.len(),
        rows: options.settings.iter().map(|setting| row(setting, &mut bench)).collect::<Result<_>>()?,
        free_drafts: drafts(&mut bench, Draw::Neutral, &prompts.neutral)?,
        notice_drafts: drafts(&mut bench, Draw::Notices, &prompts.notices)?,
    })
}

struct Prompts {
    neutral: Vec<String>,
    /// Of each concept but the verse.
    primed: Vec<(usize, String)>,
    each: usize,
    notices: Vec<String>,
}

impl Prompts {
    fn draw(bench: &Bench, options: &DecodingOptions) -> Self {
        let neutral = neutral_prompts(options.neutral, &mut bench.rng(Draw::Neutral));
        let mut rng = bench.rng(Draw::Primed);
        let ids = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind != Kind::Verse);
        let ids = ids.flat_map(|id| std::iter::repeat_n(id, options.each));
        let primed = ids.map(|id| (id, primed_prompt(id, &mut rng))).collect();
        let each = options.each.min(options.neutral);
        Self { neutral, primed, each, notices: notices::prompts(options.notices) }
    }

    fn free(&self, bench: &mut Bench, setting: &Setting) -> Result<Quality> {
        let neutral: Vec<Job> = jobs(bench, Draw::Neutral, &self.neutral).map(|job| setting.of(job)).collect();
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
        let shares = vec![Share::new("concept found", mean(found)), Share::new("grammatical", grammatical(&neutral))];
        let all: Vec<&Generated> = neutral.iter().chain(&amplified).chain(&primed).collect();
        Quality::of(bench, shares, &all, &neutral)
    }

    fn notices(&self, bench: &mut Bench, setting: &Setting) -> Result<Quality> {
        let notices: Vec<Job> = jobs(bench, Draw::Notices, &self.notices).map(|job| setting.of(job)).collect();
        let notices = bench.generate("notices", &notices)?;
        let shares = vec![Share::new("wording kept", Shares::of(&self.notices, &notices).wording)];
        Quality::of(bench, shares, &notices.iter().collect::<Vec<_>>(), &notices)
    }
}

impl Quality {
    /// What `all` cost, and what is told of `texts`.
    fn of(bench: &mut Bench, shares: Vec<Share>, all: &[&Generated], texts: &[Generated]) -> Result<Self> {
        let sum = |count: fn(&Generated) -> usize| all.iter().map(|text| count(text)).sum::<usize>() as f64;
        let tokens = sum(|text| text.committed);
        let items: Vec<_> = texts.iter().map(Generated::item).collect();
        Ok(Self {
            tokens_per_forward: tokens / sum(|text| text.usage.forwards),
            rows_per_token: sum(|text| text.usage.rows) / tokens,
            shares,
            distinct_2: distinct_2(texts.iter().map(|text| text.ids.as_slice())),
            nats: bench.likelihood("likelihood", &items)?,
        })
    }
}

fn drafts(bench: &mut Bench, draw: Draw, prompts: &[String]) -> Result<Vec<DraftsRow>> {
    let run = |bench: &mut Bench, decoding| {
        let setting = Setting::new(decoding);
        let jobs: Vec<Job> = jobs(bench, draw, prompts).map(|job| setting.of(job)).collect();
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
