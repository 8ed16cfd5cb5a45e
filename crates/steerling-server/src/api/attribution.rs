//! Concept attribution in requests and answers.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use steerling::attribute::{ChunkEnds, ChunkScores, ConceptShare, TokenAttribution, chunk_boundaries};
use steerling::steer::ConceptKey;
use steerling::{Canvas, Outcome};
use utoipa::ToSchema;

use super::concept::HeadBody;
use super::verify::{Tolerance, Verify};
use crate::engine::Model;
use crate::error::ApiError;
use crate::extract::written_objects_only;

written_objects_only!(AttributionRequest);

/// How many concepts are reported of each token and chunk; all of the top-k take part in the sums.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub(crate) struct AttributionRequest {
    /// Known concepts, largest absolute contribution first.
    #[schema(default = 10, maximum = 1024)]
    pub(crate) top_known: usize,
    /// Unknown (discovered) concepts, likewise.
    #[schema(default = 10, maximum = 1024)]
    pub(crate) top_unknown: usize,
}

/// Most concepts reported of a token.
const MAX_TOP: usize = 1024;

impl Default for AttributionRequest {
    fn default() -> Self {
        Self { top_known: 10, top_unknown: 10 }
    }
}

impl AttributionRequest {
    /// Refuses what `field` cannot be asked of this model.
    pub(crate) fn check(&self, field: &str, model: &Model, cfg_scale: f32) -> Result<(), ApiError> {
        if model.info.config.concept.is_none() {
            return Err(ApiError::unsupported(field, "this checkpoint has no concept heads to attribute tokens to"));
        }
        check_guidance(field, cfg_scale)?;
        for (name, top) in [("top_known", self.top_known), ("top_unknown", self.top_unknown)] {
            if top > MAX_TOP {
                return Err(ApiError::invalid(format!("{field}.{name}"), format!("{top} is outside 0..={MAX_TOP}")));
            }
        }
        Ok(())
    }
}

/// A token chosen under guidance comes from two forward passes; the parts of one of them would not explain it.
pub(crate) fn check_guidance(field: &str, cfg_scale: f32) -> Result<(), ApiError> {
    if cfg_scale > 0.0 {
        let message = format!("attribution of tokens chosen under classifier-free guidance (`cfg_scale` {cfg_scale})");
        return Err(ApiError::unsupported(field, message));
    }
    Ok(())
}

/// Why the tokens of a generation were committed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Attribution {
    /// One for each of the result's `token_ids`, in the same order.
    pub(crate) tokens: Vec<TokenBody>,
    /// The text cut at `<|endofchunk|>`, each piece with what concepts did for it.
    pub(crate) chunks: Vec<ChunkBody>,
    pub(crate) verify: Verify,
}

/// A committed token and why. Contributions are in logits.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = TokenAttribution)]
pub(crate) struct TokenBody {
    /// Absolute index in the sequence.
    pub(crate) position: usize,
    /// Token id.
    pub(crate) id: u32,
    /// The token's text.
    pub(crate) text: String,
    /// Denoising step that committed it.
    pub(crate) step: usize,
    /// The model's logit of the token, before suppression, penalty and bans.
    pub(crate) target_logit: f32,
    /// The logit that decided, after them; null when a trace is replayed.
    #[schema(required = true)]
    pub(crate) decision_logit: Option<f32>,
    pub(crate) fractions: Fractions,
    /// Largest absolute contribution first.
    pub(crate) known: Vec<ShareBody>,
    /// Largest absolute contribution first.
    pub(crate) unknown: Vec<ShareBody>,
    /// Sum over all known concepts of the top-k.
    pub(crate) known_total: f32,
    /// Sum over all unknown concepts of the top-k.
    pub(crate) unknown_total: f32,
    /// What the concepts leave: `target_logit - known_total - unknown_total`.
    pub(crate) epsilon: f32,
}

/// Shares of the sum of absolute contributions; they add up to 1.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Fractions {
    #[schema(minimum = 0, maximum = 1)]
    known: f32,
    #[schema(minimum = 0, maximum = 1)]
    unknown: f32,
    #[schema(minimum = 0, maximum = 1)]
    epsilon: f32,
}

/// What one concept adds to a logit.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ConceptContribution)]
pub(crate) struct ShareBody {
    /// Global id.
    pub(crate) id: u32,
    /// Index within the unknown head; absent for known concepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    /// The concept's name.
    pub(crate) name: String,
    /// How active the concept is, 0 to 1 unless set otherwise.
    pub(crate) weight: f32,
    /// `weight (e . lm_head_y)`.
    pub(crate) contribution: f32,
}

/// A piece of the text and its concepts.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ChunkAttribution)]
pub(crate) struct ChunkBody {
    /// First position.
    start: usize,
    /// One past the last position. The last chunk ends with the last token that is returned.
    end: usize,
    /// The piece's text; a stop string cuts it as it cuts the text.
    text: String,
    /// Largest magnitude first.
    concepts: Vec<ScoreBody>,
    /// Mean share of epsilon with its sign.
    epsilon_signed: f32,
    /// Mean share of epsilon's magnitude.
    #[schema(minimum = 0, maximum = 1)]
    epsilon_abs: f32,
}

/// What one concept did for a chunk.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ConceptScore)]
struct ScoreBody {
    /// Global id.
    id: u32,
    /// Index within the unknown head; absent for known concepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    head: HeadBody,
    /// The concept's name.
    name: String,
    /// Mean over the chunk's positions of the contribution's share in the sum of absolute contributions.
    score: f32,
}

/// A sequence, and what of it is returned.
#[derive(Clone, Copy)]
pub(crate) struct Returned<'a> {
    /// Prompt first.
    pub(crate) ids: &'a [u32],
    pub(crate) prompt_len: usize,
    pub(crate) outcome: &'a Outcome,
}

impl Attribution {
    /// The attribution of a finished canvas.
    pub(crate) fn of(canvas: &Canvas, outcome: &Outcome, model: &Model, top: AttributionRequest) -> Self {
        let returned = Returned { ids: canvas.ids(), prompt_len: canvas.prompt_len(), outcome };
        Self::new(canvas.attributions(), returned, (model, top))
    }

    /// The attribution of what is returned of a sequence; tokens that were committed behind it are left out.
    pub(crate) fn new(
        attributions: &[TokenAttribution],
        returned: Returned<'_>,
        (model, top): (&Model, AttributionRequest),
    ) -> Self {
        let mut attributions: Vec<&TokenAttribution> =
            attributions.iter().filter(|token| token.position < returned.outcome.end).collect();
        attributions.sort_by_key(|token| token.position);
        let chunk = |(range, text): (Range<usize>, String)| {
            let scores = ChunkScores::of(attributions.iter().copied(), range.clone());
            ChunkBody::new(scores, range, text, (model, top))
        };
        Self {
            tokens: attributions.iter().map(|token| TokenBody::new(token, model, top)).collect(),
            chunks: returned.chunks(model).into_iter().map(chunk).collect(),
            verify: Verify::of(&attributions, Tolerance::of_parts(&model.info.dtype)),
        }
    }
}

impl Returned<'_> {
    /// The chunks of the text, with the text of each.
    fn chunks(&self, model: &Model) -> Vec<(Range<usize>, String)> {
        let Self { ids, prompt_len, outcome } = *self;
        let decode = |ids: &[u32]| model.tokenizer.decode(ids, true);
        // What ends the text lies behind `end`.
        let ends = ChunkEnds { endofchunk: model.limits.canvas.special.endofchunk, stop: &[] };
        let ranges = chunk_boundaries(&ids[..outcome.end], prompt_len, ends, true);
        let mut chunks: Vec<_> = ranges.into_iter().map(|range| (range.clone(), decode(&ids[range]))).collect();
        // A stop string may begin inside the last token.
        let behind = decode(&outcome.token_ids).len().saturating_sub(outcome.text.len());
        if let Some((_, text)) = chunks.last_mut() {
            text.truncate(text.floor_char_boundary(text.len().saturating_sub(behind)));
        }
        chunks
    }
}

impl TokenBody {
    pub(crate) fn new(token: &TokenAttribution, model: &Model, top: AttributionRequest) -> Self {
        let [known, unknown, epsilon] = token.fractions();
        let TokenAttribution { position, id, step, target_logit, decision_logit, ref contributions } = *token;
        Self {
            position,
            id,
            text: model.tokenizer.token_text(id),
            step,
            target_logit,
            decision_logit,
            fractions: Fractions { known, unknown, epsilon },
            known: shares(&contributions.known, ConceptKey::Known, top.top_known, model),
            unknown: shares(&contributions.unknown, ConceptKey::Unknown, top.top_unknown, model),
            known_total: token.known_total(),
            unknown_total: token.unknown_total(),
            epsilon: token.epsilon(),
        }
    }
}

fn shares(shares: &[ConceptShare], key: fn(u32) -> ConceptKey, top: usize, model: &Model) -> Vec<ShareBody> {
    let mut sorted: Vec<&ConceptShare> = shares.iter().collect();
    sorted.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
    sorted.truncate(top);
    let share = |share: &ConceptShare| {
        let Named { id, index, name, .. } = Named::of(key(share.index), model);
        ShareBody { id, index, name, weight: share.weight, contribution: share.contribution }
    };
    sorted.into_iter().map(share).collect()
}

impl ChunkBody {
    fn new(scores: ChunkScores, range: Range<usize>, text: String, (model, top): (&Model, AttributionRequest)) -> Self {
        let ChunkScores { concepts, epsilon_signed, epsilon_abs } = scores;
        let (mut known, mut unknown) = (0, 0);
        let wanted = concepts.into_iter().filter(|(key, _)| {
            let (count, limit) = match key {
                ConceptKey::Known(_) => (&mut known, top.top_known),
                ConceptKey::Unknown(_) => (&mut unknown, top.top_unknown),
            };
            *count += 1;
            *count <= limit
        });
        let score = |(key, score): (ConceptKey, f32)| {
            let Named { id, index, head, name } = Named::of(key, model);
            ScoreBody { id, index, head, name, score }
        };
        let concepts = wanted.map(score).collect();
        Self { start: range.start, end: range.end, text, concepts, epsilon_signed, epsilon_abs }
    }
}

/// What a concept is called.
struct Named {
    id: u32,
    index: Option<u32>,
    head: HeadBody,
    name: String,
}

impl Named {
    fn of(key: ConceptKey, model: &Model) -> Self {
        let (concept, index, head) = match key {
            ConceptKey::Known(id) => (model.catalog.get(id), None, HeadBody::Known),
            ConceptKey::Unknown(index) => (model.catalog.unknown(index), Some(index), HeadBody::Unknown),
        };
        let (id, name) = concept.map_or((0, String::new()), |concept| (concept.id, concept.name.to_owned()));
        Self { id, index, head, name }
    }
}
