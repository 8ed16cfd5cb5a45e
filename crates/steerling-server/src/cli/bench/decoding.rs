//! What decoding methods cost, measured in turn so that a busy machine slows all of them, and what they do to texts.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Serialize, Serializer};
use steerling::params::{Align, Decoding};
use steerling::{Canvas, Denoiser, GenerateParams, Runtime};

use super::BenchArgs;
use super::batch::{random_prompt, step};
use super::quality::Quality;

/// Flags that only matter with `--decoding`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding methods")]
pub(super) struct DecodingArgs {
    /// Compare decoding methods instead: confidence, threshold=P, threshold=P/MOST, factor=F, entropy_bound=NATS, lossless
    /// or lossless=DRAFTS; several are measured in turn and set against the first.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub(super) decoding: Vec<Decoding>,
    /// Where generation blocks are cut; both are measured if both are given.
    #[arg(long, value_delimiter = ',', default_value = "reference")]
    align: Vec<AlignFlag>,
    /// Text of the prompts, repeatable: sequences take them in turn, and what the methods make of them is set beside the
    /// first method's text. Without it, ids that mean nothing.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Times that everything is measured; medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

impl DecodingArgs {
    /// Whether prompts are texts that mean something, rather than ids drawn at random.
    pub(super) fn has_texts(&self) -> bool {
        !self.prompt.is_empty()
    }
}

/// Where generation blocks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum AlignFlag {
    /// Counted from the end of the prompt
    Reference,
    /// At attention blocks
    Block,
}

/// A method with its place of cuts.
#[derive(Debug, Clone, Copy, Serialize)]
struct Setting {
    #[serde(serialize_with = "as_text")]
    decoding: Decoding,
    align: AlignFlag,
}

fn as_text<S: Serializer>(decoding: &Decoding, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(decoding)
}

/// What one setting costs in batches of one size. Forwards, rows and tokens are means over the sequences.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    batch: usize,
    #[serde(flatten)]
    setting: Setting,
    forwards: f64,
    tokens_per_forward: f64,
    rows_per_forward: f64,
    /// Share of guessed steps that were right; none were made without `lossless`.
    accepted: Option<f64>,
    /// Median over the rounds, all sequences together, prompts included.
    tokens_per_second: f64,
    /// Of the first setting's tokens per second in the same round: median over the rounds.
    ratio: f64,
    /// What the method makes of the prompts; null where they mean nothing, or a text was broken off.
    quality: Option<Quality>,
}

/// One run of a setting.
struct Run {
    canvases: Vec<Canvas>,
    tokens_per_second: f64,
}

/// Measures every setting in every batch size, all settings in each round.
pub(super) fn measure(runtime: &mut Runtime, args: &BenchArgs) -> Result<Vec<Compared>> {
    let settings: Vec<Setting> = args
        .decoding
        .align
        .iter()
        .flat_map(|align| args.decoding.decoding.iter().map(|decoding| Setting { decoding: *decoding, align: *align }))
        .collect();
    let mut compared = Vec::new();
    for batch in &args.batches() {
        // What is allocated once is paid for before anything is measured.
        run(runtime, args, settings[0], *batch, 2)?;
        let mut rounds = Vec::new();
        for _ in 0..args.decoding.rounds {
            let runs = settings.iter().map(|setting| run(runtime, args, *setting, *batch, usize::MAX));
            rounds.push(runs.collect::<Result<Vec<Run>>>()?);
        }
        for (n, setting) in settings.iter().enumerate() {
            let speeds = rounds.iter().map(|runs| runs[n].tokens_per_second);
            let ratios = rounds.iter().map(|runs| runs[n].tokens_per_second / runs[0].tokens_per_second);
            let (speed, ratio) = (median(speeds), median(ratios));
            let [first, canvases] = [0, n].map(|n| rounds[0][n].canvases.as_slice());
            let ended = || first.iter().chain(canvases).all(|canvas| canvas.finish_reason().is_some());
            let told = args.decoding.has_texts() && ended();
            let quality = told.then(|| Quality::measure(runtime, first, canvases)).transpose()?;
            compared.push(Compared { quality, ..Compared::new(*setting, canvases, speed, ratio) });
        }
    }
    Ok(compared)
}

fn run(runtime: &mut Runtime, args: &BenchArgs, setting: Setting, batch: usize, most: usize) -> Result<Run> {
    let mut canvases =
        (0..batch).map(|n| canvas(runtime, args, setting, n)).collect::<Result<Vec<Canvas>>>().context("a sequence")?;
    for canvas in &mut canvases {
        ensure!(runtime.admit(canvas)?, "a batch of {batch} does not fit the pages; raise --kv-cache-mib");
    }
    let start = Instant::now();
    let most = most.min(args.max_forwards.unwrap_or(usize::MAX));
    for _ in 0..most {
        if canvases.iter().all(|canvas| canvas.finish_reason().is_some()) {
            break;
        }
        step(runtime, &mut canvases)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    canvases.iter().for_each(|canvas| runtime.release(canvas.id()));
    let tokens: usize = canvases.iter().map(|canvas| canvas.commits().len()).sum();
    Ok(Run { canvases, tokens_per_second: tokens as f64 / seconds })
}

/// The same prompts and seeds for every setting and round, so that all rounds commit the same tokens.
fn canvas(runtime: &Runtime, args: &BenchArgs, setting: Setting, n: usize) -> Result<Canvas> {
    let (limits, shape) = (runtime.limits(), args.shape());
    let texts = &args.decoding.prompt;
    let prompt = match texts.is_empty() {
        true => random_prompt(&limits, shape.prompt_tokens, n),
        false => runtime.tokenizer().encode(&texts[n % texts.len()])?,
    };
    let params = GenerateParams {
        max_new_tokens: shape.max_new_tokens,
        steps: shape.steps.filter(|_| setting.decoding.has_steps()),
        seed: n as u64,
        decoding: setting.decoding,
        align: match setting.align {
            AlignFlag::Reference => Align::Reference,
            AlignFlag::Block => Align::Block,
        },
        ..GenerateParams::default()
    };
    Ok(Canvas::new(&prompt, params, &limits.canvas)?)
}

impl Compared {
    fn new(setting: Setting, canvases: &[Canvas], tokens_per_second: f64, ratio: f64) -> Self {
        let sum = |count: fn(&Canvas) -> usize| canvases.iter().map(count).sum::<usize>() as f64;
        let forwards = sum(|canvas| canvas.usage.forwards);
        let drafts = sum(|canvas| canvas.usage.drafts);
        Self {
            batch: canvases.len(),
            setting,
            forwards: forwards / canvases.len() as f64,
            tokens_per_forward: sum(|canvas| canvas.commits().len()) / forwards,
            rows_per_forward: sum(|canvas| canvas.usage.rows) / forwards,
            accepted: (drafts > 0.0).then(|| sum(|canvas| canvas.usage.accepted) / drafts),
            tokens_per_second,
            ratio,
            quality: None,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The table for people.
pub(super) fn table(compared: &[Compared]) -> String {
    let mut text = format!(
        "{:>5} {:>20} {:>10} {:>9} {:>11} {:>9} {:>9} {:>10} {:>6}{}\n",
        "batch",
        "decoding",
        "align",
        "forwards",
        "tokens/fwd",
        "rows/fwd",
        "accepted",
        "tokens/s",
        "ratio",
        if compared.iter().any(|one| one.quality.is_some()) { "   same  nats/token  distinct-2" } else { "" }
    );
    for one in compared {
        let Setting { decoding, align } = one.setting;
        let align = align.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let accepted = one.accepted.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        text += &format!(
            "{:>5} {:>20} {align:>10} {:>9.1} {:>11.2} {:>9.1} {accepted:>9} {:>10.1} {:>6.2}{}\n",
            one.batch,
            decoding.to_string(),
            one.forwards,
            one.tokens_per_forward,
            one.rows_per_forward,
            one.tokens_per_second,
            one.ratio,
            one.quality.map_or_else(String::new, told)
        );
    }
    text
}

fn told(quality: Quality) -> String {
    let number = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |number| format!("{number:.3}"));
    let Quality { same_tokens, loglikelihood_per_token, distinct_2 } = quality;
    format!(" {:>4.0} % {:>11} {:>11}", 100.0 * same_tokens, number(loglikelihood_per_token), number(distinct_2))
}
