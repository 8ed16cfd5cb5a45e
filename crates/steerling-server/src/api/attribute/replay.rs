//! An earlier generation explained from its trace.

use std::time::Instant;

use steerling::Outcome;
use steerling::attribute::{ReplayJob, TokenAttribution, Trace};
use steerling::canvas::OutputRules;
use steerling::config::SpecialIds;

use super::{Explaining, inputs};
use crate::api::attribution::{Attribution, AttributionRequest, Returned};
use crate::api::generate::answer::{GenerateResult, Replayed};
use crate::api::steering::Recipe;
use crate::api::verify::Tolerance;
use crate::engine::WorkKind;
use crate::error::ApiError;

/// A trace and what is wanted of it.
pub(super) struct Replay {
    pub(super) trace: Trace,
    /// The logits that the trace tells of its commits.
    pub(super) target_logits: Vec<Option<f32>>,
    pub(super) recipe: Option<Recipe>,
    pub(super) concepts: Option<AttributionRequest>,
    pub(super) stops: Stops,
    /// The policies that held for the generation.
    pub(super) policies: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// What ends the text of a trace.
#[derive(Debug, Clone, Default)]
pub(super) struct Stops {
    pub(super) strings: Vec<String>,
    pub(super) tokens: Vec<u32>,
}

/// A trace explained.
pub(super) struct Explained {
    pub(super) result: GenerateResult,
    pub(super) attribution: Option<Attribution>,
    /// One past the last position that is returned.
    pub(super) end: usize,
}

impl Replay {
    /// Computes every snapshot again; refuses a trace whose logits come out different.
    pub(super) async fn run(&self, job: &Explaining) -> Result<Explained, ApiError> {
        let started = Instant::now();
        let special = &job.model.limits.canvas.special;
        let ids = self.ids(special);
        let prompt_len = self.trace.prompt_ids.len();
        let rules = OutputRules { special, stop_tokens: &self.stops.tokens };
        let outcome = Outcome::of((&ids, prompt_len), rules, &self.stops.strings, &job.model.tokenizer);
        let attribution = match self.concepts {
            None => None,
            Some(top) => {
                let attributions = self.attributions(job).await?;
                self.check_logits(&attributions, Tolerance::of_passes(&job.model.info.dtype))?;
                let returned = Returned { ids: &ids, prompt_len, outcome: &outcome };
                Some(Attribution::new(&attributions, returned, (&job.model, top)))
            }
        };
        let end = outcome.end;
        let mut warnings = self.warnings.clone();
        warnings.extend(job.inputs.as_ref().and_then(|inputs| inputs::left_out(inputs, &self.trace, end)));
        let result = GenerateResult::replayed(Replayed {
            model: job.model.info.name.clone(),
            outcome,
            prompt_tokens: prompt_len,
            policies: self.policies.clone(),
            total_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            warnings,
        });
        tracing::info!(id = result.id(), commits = self.trace.commits.len(), "replayed");
        Ok(Explained { result, attribution, end })
    }

    /// The sequence after its last commit.
    fn ids(&self, special: &SpecialIds) -> Vec<u32> {
        let mut ids = self.trace.prompt_ids.clone();
        ids.resize(self.trace.seq_length, special.mask);
        for commit in &self.trace.commits {
            ids[commit.position] = commit.id;
            if special.chat.is_some_and(|chat| chat.eot == commit.id) {
                ids[commit.position + 1..].fill(special.eos);
            }
        }
        ids
    }

    async fn attributions(&self, job: &Explaining) -> Result<Vec<TokenAttribution>, ApiError> {
        let (trace, steering) = (self.trace.clone(), job.steering.clone());
        let mut replay: Option<ReplayJob> = None;
        let size = trace.commits.len() * trace.seq_length;
        let work = job.ticket.run(WorkKind::Attribute, size, move |runtime| {
            let replay = replay.get_or_insert_with(|| ReplayJob::new(&trace, steering.clone(), runtime.model()));
            replay.advance(runtime)
        })?;
        Ok(work.await?)
    }

    fn check_logits(&self, found: &[TokenAttribution], tolerance: Tolerance) -> Result<(), ApiError> {
        for (i, (found, told)) in found.iter().zip(self.target_logits.iter().copied()).enumerate() {
            let Some(told) = told.filter(|told| !tolerance.explains(told - found.target_logit, found)) else {
                continue;
            };
            let message = format!(
                "{told} is not the logit of this token here, {}: the trace is of another model or another steering",
                found.target_logit
            );
            return Err(ApiError::invalid(format!("trace.commits[{i}].target_logit"), message));
        }
        Ok(())
    }
}
