//! An earlier generation explained from its trace.

use std::time::Instant;

use steerling::FinishReason;
use steerling::attribute::{ChunkEnds, ReplayJob, TokenAttribution, Trace};
use steerling::config::SpecialIds;

use super::Explaining;
use crate::api::attribution::{Attribution, AttributionRequest};
use crate::api::generate::answer::{GenerateResult, Replayed};
use crate::api::steering::Recipe;
use crate::engine::WorkKind;
use crate::error::ApiError;

/// A trace and what is wanted of it.
pub(super) struct Replay {
    pub(super) trace: Trace,
    /// The logits that the trace tells of its commits.
    pub(super) target_logits: Vec<Option<f32>>,
    pub(super) recipe: Option<Recipe>,
    pub(super) concepts: Option<AttributionRequest>,
    pub(super) stop_tokens: Vec<u32>,
    pub(super) warnings: Vec<String>,
}

impl Replay {
    /// Computes every snapshot again; refuses a trace whose logits come out different.
    pub(super) async fn run(&self, job: &Explaining) -> Result<(GenerateResult, Option<Attribution>), ApiError> {
        let started = Instant::now();
        let special = &job.model.limits.canvas.special;
        let ids = self.ids(special);
        let prompt = self.trace.prompt_ids.len();
        let mut stop = self.stop_tokens.clone();
        stop.extend(special.chat.map(|chat| chat.eot));
        let attribution = match self.concepts {
            None => None,
            Some(top) => {
                let attributions = self.attributions(job).await?;
                self.check_logits(&attributions, &job.model.info.dtype)?;
                let ends = ChunkEnds { endofchunk: special.endofchunk, stop: &stop };
                Some(Attribution::new(&attributions, (&ids, prompt), ends, (&job.model, top)))
            }
        };
        let end = ids[prompt..].iter().position(|id| stop.contains(id));
        let finish_reason = match end.map(|end| ids[prompt + end]) {
            None => FinishReason::Length,
            Some(id) if self.stop_tokens.contains(&id) => FinishReason::StopToken,
            Some(_) => FinishReason::Eot,
        };
        let generated = &ids[prompt..end.map_or(ids.len(), |end| prompt + end)];
        let token_ids: Vec<u32> =
            generated.iter().copied().filter(|id| ![special.mask, special.eos].contains(id)).collect();
        let result = GenerateResult::replayed(Replayed {
            model: job.model.info.name.clone(),
            text: job.model.tokenizer.decode(&token_ids, true),
            token_ids,
            prompt_tokens: prompt,
            finish_reason,
            total_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            warnings: self.warnings.clone(),
        });
        tracing::info!(id = result.id(), commits = self.trace.commits.len(), "replayed");
        Ok((result, attribution))
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

    fn check_logits(&self, found: &[TokenAttribution], dtype: &str) -> Result<(), ApiError> {
        // Rounding differs with the shape of a batch; another model or steering differs by whole logits.
        let limit = match dtype {
            "f32" => 1e-2,
            "f16" => 0.25,
            _ => 1.0,
        };
        for (i, (found, told)) in found.iter().zip(self.target_logits.iter().copied()).enumerate() {
            let Some(told) = told else { continue };
            if (told - found.target_logit).abs() <= limit {
                continue;
            }
            let message = format!(
                "{told} is not the logit of this token here, {}: the trace is of another model or another steering",
                found.target_logit
            );
            return Err(ApiError::invalid(format!("trace.commits[{i}].target_logit"), message));
        }
        Ok(())
    }
}
