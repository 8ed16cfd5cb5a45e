//! What an answer tells its reader: first of all, which parameters had no effect.

use steerling::GenerateParams;

use super::answer::StartEvent;
use super::decoding::DecodingRequest;
use super::request::{EotRequest, GenerateRequest};
use crate::engine::Model;

/// Said in every answer of a model with random weights.
pub(crate) const NOISE: &str = "this is a synthetic model with random weights: its text is noise";

impl GenerateRequest {
    /// The warnings of a generation, but for those of its steering.
    pub(super) fn warnings(&self, model: &Model, start: &StartEvent) -> Vec<String> {
        let mut warnings = Vec::new();
        if model.info.synthetic {
            warnings.push(NOISE.to_owned());
        }
        if self.max_new_tokens.is_none() && start.max_new_tokens < GenerateParams::default().max_new_tokens {
            warnings.push(format!(
                "`max_new_tokens` is {}: the context has {} positions, the prompt {} tokens",
                start.max_new_tokens, model.limits.canvas.context, start.prompt_tokens
            ));
        }
        if let Some(steps) = self.steps.filter(|steps| *steps != start.steps) {
            let (actual, blocks) = (start.steps, start.num_blocks);
            warnings.push(format!(
                "`steps` {steps} became {actual}: each of the {blocks} blocks takes at least one step, and at most one a position"
            ));
        }
        let mut warn = |unheeded: bool, text: &str| warnings.extend(unheeded.then(|| text.to_owned()));
        self.sampling(&mut warn);
        self.methods(&mut warn);
        warn(
            matches!(self.eot, EotRequest::Reference) && model.limits.canvas.special.chat.is_none(),
            "`eot` has no effect: this checkpoint has no `<|eot_id|>`",
        );
        warn(!self.stream && self.stream_every != 1, "`stream_every` has no effect without `stream`");
        warnings
    }

    /// What plays no part in the choice of tokens.
    fn sampling(&self, warn: &mut impl FnMut(bool, &str)) {
        let usual = GenerateParams::default();
        let temperature = self.temperature.unwrap_or(usual.temperature);
        warn(
            self.temperature.is_some() && self.use_entropy_sampling,
            "`temperature` has no effect while `use_entropy_sampling` is true",
        );
        // The nucleus of mass 0 is the likeliest token alone.
        let greedy = if self.top_p == 0.0 {
            warn(self.temperature.is_some() && !self.use_entropy_sampling, "`temperature` has no effect at `top_p` 0");
            Some("`top_p` 0")
        } else {
            let greedy = !self.use_entropy_sampling && temperature == 0.0;
            warn(greedy && self.top_p != usual.top_p, "`top_p` has no effect at `temperature` 0");
            greedy.then_some("`temperature` 0")
        };
        if let Some(why) = greedy {
            warn(self.seed.is_some(), &format!("`seed` has no effect at {why}: the likeliest token is taken"));
        }
    }

    /// What a decoding method leaves no room for.
    fn methods(&self, warn: &mut impl FnMut(bool, &str)) {
        if let DecodingRequest::Threshold { threshold, max_per_step: Some(_) } = self.decoding {
            let text = "`decoding.max_per_step` has no effect: `threshold` 1 commits one position a step";
            warn(threshold >= 1.0, text);
        }
    }
}
