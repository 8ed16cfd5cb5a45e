//! Generations, as the server makes them: its defaults, its steering presets, many canvases a step.

use std::sync::Arc;

use steerling::canvas::Usage;
use steerling::params::{Align, Decoding};
use steerling::score::ScoreItem;
use steerling::steer::{ConceptKey, InjectionSpec, SUPPRESS_STRENGTH, SteeringSpec};
use steerling::{Canvas, Denoiser, Error, GenerateParams, Result, Runtime};

use crate::corpus::{Tags, tag};

/// Tokens of a generation.
pub(super) const NEW_TOKENS: usize = 64;
/// Canvases that one runtime fills together.
pub(super) const BATCH: usize = 24;

/// How a generation is steered, by the server's presets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Steer {
    /// Not at all.
    None,
    /// `amplify`, one entry a concept.
    Amplify(Vec<usize>),
    /// `suppress`, with the concept's group.
    Suppress(usize),
}

/// A generation to make.
#[derive(Debug, Clone)]
pub(super) struct Job<'a> {
    /// What it goes on from.
    pub(super) prompt: &'a str,
    /// Of its draws.
    pub(super) seed: u64,
    /// What is injected.
    pub(super) steer: Steer,
    /// Which positions a step commits.
    pub(super) decoding: Decoding,
    /// Denoising steps; one a token if absent.
    pub(super) steps: Option<usize>,
    /// Where its blocks are cut.
    pub(super) align: Align,
    /// Whether each token is attributed to concepts.
    pub(super) attribute: bool,
}

impl<'a> Job<'a> {
    /// An unsteered generation.
    pub(super) fn new(prompt: &'a str, seed: u64) -> Self {
        let (decoding, align) = (Decoding::Confidence, Align::Reference);
        Self { prompt, seed, steer: Steer::None, decoding, steps: None, align, attribute: false }
    }
}

/// A generation that was made.
#[derive(Debug, Clone)]
pub(super) struct Generated {
    /// The prompt's ids.
    pub(super) prompt_ids: Vec<u32>,
    /// The generated ids.
    pub(super) ids: Vec<u32>,
    /// Their text, special tokens by name.
    pub(super) raw: String,
    /// The same; the ends of chunks are line breaks.
    pub(super) text: String,
    /// What the text expresses.
    pub(super) tags: Tags,
    /// Of each token's logit, the shares of known concepts, unknown concepts and the rest, if attributed.
    pub(super) fractions: Vec<[f32; 3]>,
    /// Tokens committed, and what they cost.
    pub(super) committed: usize,
    pub(super) usage: Usage,
}

/// Makes generations, all at once.
///
/// # Errors
/// [`Error::ContextLength`] for a prompt that is too long, [`Error::Busy`] for more jobs than pages, [`Error::Device`].
pub(super) fn generate(runtime: &mut Runtime, jobs: &[Job<'_>]) -> Result<Vec<Generated>> {
    let mut canvases = jobs.iter().map(|job| canvas(runtime, job)).collect::<Result<Vec<_>>>()?;
    for canvas in &mut canvases {
        if !runtime.admit(canvas)? {
            return Err(Error::Busy(format!("{} generations at once do not fit", jobs.len())));
        }
    }
    loop {
        let mut batch: Vec<&mut Canvas> =
            canvases.iter_mut().filter(|canvas| canvas.finish_reason().is_none()).collect();
        if batch.is_empty() {
            break;
        }
        runtime.step(&mut batch)?;
    }
    canvases.iter().for_each(|canvas| runtime.release(canvas.id()));
    Ok(canvases.iter().map(|canvas| result(runtime, canvas)).collect())
}

impl Generated {
    /// The generated ids after their prompt.
    pub(super) fn item(&self) -> ScoreItem {
        ScoreItem { context: self.prompt_ids.clone(), continuation: self.ids.clone() }
    }
}

fn canvas(runtime: &Runtime, job: &Job<'_>) -> Result<Canvas> {
    let Job { seed, decoding, steps, align, .. } = *job;
    let usual = GenerateParams::default();
    let params = GenerateParams { max_new_tokens: NEW_TOKENS, steps, seed, decoding, align, ..usual };
    let prompt = runtime.tokenizer().encode(job.prompt)?;
    let canvas = Canvas::new(&prompt, params, &runtime.limits().canvas)?;
    let canvas = match steering(runtime, &job.steer) {
        Some(spec) => canvas.steered(Arc::new(runtime.model().steering(&spec)?)),
        None => canvas,
    };
    if job.attribute { canvas.attributed() } else { Ok(canvas) }
}

/// What the server makes of an entry of `amplify` or `suppress` without further settings.
fn steering(runtime: &Runtime, steer: &Steer) -> Option<SteeringSpec> {
    let known = runtime.catalog().known_len() as u32;
    let of_id = |id: u32| if id < known { ConceptKey::Known(id) } else { ConceptKey::Unknown(id - known) };
    let key = |id: usize| of_id(id as u32);
    match steer {
        Steer::None => None,
        Steer::Amplify(ids) => {
            let n_layers = runtime.info().config.n_layers;
            let injections = ids.iter().map(|id| InjectionSpec::amplify(vec![key(*id)], n_layers));
            Some(SteeringSpec { injections: injections.collect(), ..SteeringSpec::default() })
        }
        Steer::Suppress(id) => {
            let group = runtime.catalog().group(*id as u32).into_iter().map(of_id).collect();
            Some(SteeringSpec {
                injections: vec![InjectionSpec::suppress(group)],
                suppress_logits: vec![(key(*id), SUPPRESS_STRENGTH)],
                set_weights: Vec::new(),
            })
        }
    }
}

fn result(runtime: &Runtime, canvas: &Canvas) -> Generated {
    let ids = canvas.output_ids();
    let raw = runtime.tokenizer().decode(&ids, false);
    let text = raw.replace(&runtime.tokenizer().token_text(canvas.special().endofchunk), "\n");
    Generated {
        prompt_ids: canvas.ids()[..canvas.prompt_len()].to_vec(),
        tags: tag(&text),
        raw,
        text,
        ids,
        fractions: canvas.attributions().iter().map(|token| token.fractions()).collect(),
        committed: canvas.commits().len(),
        usage: canvas.usage,
    }
}
