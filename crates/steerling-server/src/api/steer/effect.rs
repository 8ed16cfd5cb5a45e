//! What steering did, in numbers.

use std::collections::HashSet;

use serde::Serialize;
use steerling::score::distinct_2;
use steerling::steer::ConceptKey;
use steerling::{Evaluation, Probe, Runtime};
use utoipa::ToSchema;

use super::{Kind, Summarising};
use crate::api::lanes::Ended;
use crate::engine::WorkKind;
use crate::error::ApiError;

/// What steering did to the generated text.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = SteerEffect)]
pub(crate) struct Effect {
    /// Mean weight that the model, unsteered, gives the concepts named in the request over the generated tokens.
    concept_weight_mean: Runs,
    /// Share of generated tokens among the 50 that a direction promotes most; null without directions.
    top_token_rate: Runs,
    /// Different pairs of neighbouring tokens, as a share of all pairs: low where text repeats itself.
    distinct_2: Runs,
    /// Share of positions at which the steered and the default text differ; null unless `compare`.
    #[schema(required = true)]
    changed_fraction: Option<f64>,
}

/// A number for each kind of run; null where there is none.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[schema(as = SteerEffectRuns)]
struct Runs {
    /// The unsteered run.
    #[schema(required = true)]
    default: Option<f64>,
    /// The steered run.
    #[schema(required = true)]
    steered: Option<f64>,
    /// Mean over the runs with random concepts.
    #[schema(required = true)]
    controls: Option<f64>,
}

/// Measures all runs but those of the sweep.
pub(super) async fn measure(
    job: &Summarising,
    ended: &[Ended],
    tokens: &[Vec<(u32, f32)>],
) -> Result<Effect, ApiError> {
    let weights = weights(job, ended).await?;
    let top: HashSet<u32> = tokens.iter().flatten().map(|(id, _)| *id).collect();
    let texts: Vec<&[u32]> = ended.iter().map(|ended| ended.finished.outcome.token_ids.as_slice()).collect();
    let find = |kind: Kind| job.kinds.iter().position(|other| *other == kind).map(|lane| texts[lane]);
    let rate = |ids: &[u32]| {
        let hits = ids.iter().filter(|id| top.contains(id)).count();
        (!ids.is_empty() && !tokens.is_empty()).then(|| hits as f64 / ids.len() as f64)
    };
    Ok(Effect {
        concept_weight_mean: Runs::of(&job.kinds, |lane| weights[lane]),
        top_token_rate: Runs::of(&job.kinds, |lane| rate(texts[lane])),
        distinct_2: Runs::of(&job.kinds, |lane| distinct_2([texts[lane]])),
        changed_fraction: find(Kind::Steered).zip(find(Kind::Default)).and_then(|(a, b)| changed(a, b)),
    })
}

impl Runs {
    fn of(kinds: &[Kind], value: impl Fn(usize) -> Option<f64>) -> Self {
        let find = |kind: Kind| kinds.iter().position(|other| *other == kind).and_then(&value);
        let controls = (0..kinds.len()).filter(|lane| matches!(kinds[*lane], Kind::Control(_)));
        let controls: Vec<f64> = controls.filter_map(&value).collect();
        let mean = controls.iter().sum::<f64>() / controls.len() as f64;
        Self {
            default: find(Kind::Default),
            steered: find(Kind::Steered),
            controls: (!controls.is_empty()).then_some(mean),
        }
    }
}

/// Share of positions that differ; where one text has ended, the other differs.
fn changed(a: &[u32], b: &[u32]) -> Option<f64> {
    let n = a.len().max(b.len());
    let differ = (0..n).filter(|i| a.get(*i) != b.get(*i)).count();
    (n > 0).then(|| differ as f64 / n as f64)
}

/// The mean weight of the named concepts over the generated tokens of each run, `None` for runs of the sweep and empty
/// texts. The texts are evaluated in one go; their prompts' blocks come from the cache.
async fn weights(job: &Summarising, ended: &[Ended]) -> Result<Vec<Option<f64>>, ApiError> {
    let probe = |(kind, ended): (&Kind, &Ended)| {
        let canvas = &ended.finished.canvas;
        let prompt = canvas.prompt_len();
        let mut ids = canvas.ids()[..prompt].to_vec();
        if !matches!(kind, Kind::Sweep(_)) {
            ids.extend_from_slice(&ended.finished.outcome.token_ids);
        }
        let positions = (prompt..ids.len()).collect();
        Probe::new(ids, positions)
    };
    let probes: Vec<Probe> = job.kinds.iter().zip(ended).map(probe).collect();
    let lengths: Vec<usize> = probes.iter().map(|probe| probe.positions.len()).collect();
    let (mut known, mut unknown): (Vec<u32>, Vec<u32>) = Default::default();
    for id in job.recipe.named() {
        match job.recipe.key(id) {
            ConceptKey::Known(index) => known.push(index),
            ConceptKey::Unknown(index) => unknown.push(index),
        }
    }
    let named = (known.len() + unknown.len()) as f64;
    let size = probes.iter().map(|probe| probe.ids.len()).sum();
    let mut evaluation = Evaluation::new(probes);
    let mut rows: Vec<f64> = Vec::new();
    let work = job.ticket.run(WorkKind::Steer, size, move |runtime: &mut Runtime| {
        let Some(hidden) = evaluation.advance(runtime)? else { return Ok(Some(std::mem::take(&mut rows))) };
        let Some(heads) = runtime.model().heads() else { return Ok(Some(Vec::new())) };
        // A head of which nothing is named is not evaluated. A concept outside the top-k weighs nothing.
        let mut sums = vec![0.0; hidden.dim(0)?];
        for (head, indices) in [(Some(&heads.known), &known), (heads.unknown.as_ref(), &unknown)] {
            let Some(head) = head.filter(|_| !indices.is_empty()) else { continue };
            for (sum, active) in sums.iter_mut().zip(head.active(&hidden)?) {
                *sum += weight_of(&active, indices);
            }
        }
        rows.extend(sums.into_iter().map(|sum| sum / named));
        Ok(None)
    })?;
    let mut rows = work.await?.into_iter();
    let mean = |len: usize| {
        let sum: f64 = rows.by_ref().take(len).sum();
        (len > 0).then(|| sum / len as f64)
    };
    Ok(lengths.into_iter().map(mean).collect())
}

/// The summed weight of the concepts among `(index, score)` pairs.
fn weight_of(active: &[(u32, f32)], indices: &[u32]) -> f64 {
    let named = active.iter().filter(|(index, _)| indices.contains(index));
    named.map(|(_, z)| 1.0 / (1.0 + f64::from(-z).exp())).sum()
}
