//! Attribution to the tokens that the model saw.

use serde::Serialize;
use steerling::attribute::Trace;
use steerling::attribute::inputs::{InputAttribution, InputJob, ranking};
use utoipa::ToSchema;

use super::Explaining;
use super::request::{InputsRequest, MethodBody, RuleBody};
use crate::engine::WorkKind;
use crate::error::ApiError;

/// What each token that the model saw did for each committed one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = InputAttributions)]
pub(crate) struct Inputs {
    method: MethodBody,
    /// Points of the path; null without one.
    #[schema(required = true)]
    n_steps: Option<usize>,
    /// Where they lie; null without a path.
    #[schema(required = true)]
    rule: Option<RuleBody>,
    /// In the order of the commits; returned tokens alone.
    pub(super) targets: Vec<Target>,
    /// The prompt's tokens, largest mean score first. Each target's scores over the prompt are divided by their
    /// absolute sum before the mean.
    prompt_ranking: Vec<Ranked>,
    /// The ids of the whole sequence, for tables.
    #[serde(skip)]
    pub(super) ids: Vec<u32>,
}

/// A committed token and what each position did for its logit.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = InputTarget)]
pub(super) struct Target {
    /// Absolute index in the sequence.
    pub(super) position: usize,
    /// Token id.
    pub(super) id: u32,
    /// One score in logits for each position from 0 to the end of the target's attention block; positions that were
    /// masked score 0. Tokens behind the end of the text that stood when the target was committed have a score.
    pub(super) scores: Vec<f32>,
    /// Sum of the scores.
    sum: f32,
    /// The token's logit, less that with everything masked.
    pub(super) logit_delta: f32,
    /// `|sum - logit_delta| / max(|logit_delta|, 1)`: relative, but in logits where the difference is below one logit.
    completeness_error: f32,
}

/// A token of the prompt.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RankedInput)]
struct Ranked {
    /// Absolute index in the sequence.
    position: usize,
    /// Token id.
    id: u32,
    /// The token's text.
    text: String,
    /// Mean share, -1 to 1.
    score: f32,
}

/// Says which of the requested positions are left out: the text ends at `end`, or nothing was committed there.
pub(super) fn left_out(request: &InputsRequest, trace: &Trace, end: usize) -> Option<String> {
    let wanted = request.positions.as_ref()?;
    let missing: Vec<String> = wanted.iter().filter(|p| !is_returned(trace, end, **p)).map(usize::to_string).collect();
    let list = missing.join(", ");
    (!missing.is_empty())
        .then(|| format!("`inputs.positions`: no token is returned at {list}; the text ends before position {end}"))
}

/// Whether a token was committed at `position` and is returned.
fn is_returned(trace: &Trace, end: usize, position: usize) -> bool {
    position < end && trace.commits.iter().any(|commit| commit.position == position)
}

/// Attributes the tokens of a trace that are returned: those before `end`.
pub(super) async fn attribute(
    job: &Explaining,
    request: &InputsRequest,
    (trace, end): (&Trace, usize),
) -> Result<Inputs, ApiError> {
    let method = request.method();
    let positions: Vec<usize> = match &request.positions {
        Some(wanted) => wanted.iter().copied().filter(|position| is_returned(trace, end, *position)).collect(),
        None => trace.commits.iter().map(|commit| commit.position).filter(|position| *position < end).collect(),
    };
    let steering = job.steering.clone();
    let mut inputs: Option<InputJob> = None;
    let size = positions.len() * request.n_steps().unwrap_or(1) * trace.seq_length;
    let work = {
        let trace = trace.clone();
        job.ticket.run(WorkKind::Attribute, size, move |runtime| {
            let inputs = match &mut inputs {
                Some(inputs) => inputs,
                none => {
                    let job = InputJob::new(&trace, Some(&positions), method, steering.clone(), runtime.model())?;
                    none.insert(job)
                }
            };
            inputs.advance(runtime)
        })?
    };
    let targets = work.await?;
    let mut ids = trace.prompt_ids.clone();
    ids.resize(trace.seq_length, job.model.limits.canvas.special.mask);
    trace.commits.iter().for_each(|commit| ids[commit.position] = commit.id);
    let prompt: Vec<usize> = (0..trace.prompt_ids.len()).collect();
    let ranked = ranking(&targets, &prompt, true).into_iter().map(|(position, score)| {
        let id = ids[position];
        Ranked { position, id, text: job.model.tokenizer.token_text(id), score }
    });
    Ok(Inputs {
        method: request.method,
        n_steps: request.n_steps(),
        rule: request.rule(),
        prompt_ranking: ranked.collect(),
        targets: targets.into_iter().map(Target::from).collect(),
        ids,
    })
}

impl From<InputAttribution> for Target {
    fn from(found: InputAttribution) -> Self {
        let (sum, completeness_error) = (found.sum(), found.completeness_error());
        let InputAttribution { position, id, scores, logit_delta, .. } = found;
        Self { position, id, scores, sum, logit_delta, completeness_error }
    }
}
