//! What completions and chat completions have in common, in requests and in answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::attribution::{Attribution, AttributionRequest};
use crate::api::generate::answer::{FinishReason, GenerateResult, TimingsBody, UsageBody};
use crate::api::generate::decoding::DecodingRequest;
use crate::api::generate::request::GenerateRequest;
use crate::api::lanes::Ended;
use crate::api::seed::Seed;
use crate::api::steering::SteeringRequest;
use crate::error::ApiError;
use crate::extract::objects_only;
use crate::openapi::NonEmpty;

objects_only!(StreamOptions);

/// Most choices of a prompt.
const MAX_N: usize = 128;
/// The names of [`Common`].
pub(super) const FIELDS: &[&str] = &[
    "model",
    "n",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "steering",
    "attribution",
    "decoding",
    "cfg_scale",
    "repetition_penalty",
    "policy",
];

/// How to generate, whatever from. Null is the same as leaving a field out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Common {
    /// The model's name, or `steerling`.
    #[schema(example = "steerling")]
    pub(super) model: String,
    /// Choices for each prompt. The seed of a choice is that of the request plus its place among them.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    n: Option<usize>,
    /// Left out, the reference's entropy sampling takes the temperature from each prediction. A given one turns that
    /// off; 0 takes the likeliest token.
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    /// Nucleus mass. Left out, the reference's 0.8.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Same seed, same text, whatever else the server does. Left out, one is drawn and returned.
    pub(super) seed: Option<Seed>,
    /// The text ends before the first of these strings, up to 8.
    stop: Option<Stop>,
    /// Answer with server-sent events.
    pub(super) stream: Option<bool>,
    /// Only with `stream`.
    stream_options: Option<StreamOptions>,
    /// Beyond OpenAI: what is added to the model's computation, as in `/steer`.
    steering: Option<SteeringRequest>,
    /// Beyond OpenAI: attribute every token to concepts; the answer is in `steerling` of the choice.
    attribution: Option<AttributionRequest>,
    /// Beyond OpenAI: which positions a step commits.
    decoding: Option<DecodingRequest>,
    /// Beyond OpenAI: classifier-free guidance; 0 is off, otherwise twice the work.
    #[schema(minimum = 0, maximum = 100)]
    cfg_scale: Option<f32>,
    /// Beyond OpenAI: positive logits of ids already present are divided by this, others multiplied. Left out, the
    /// reference's 1.1.
    #[schema(minimum = 0.01, maximum = 100)]
    repetition_penalty: Option<f32>,
    /// Beyond OpenAI: a policy of the server's configuration, beside the one that holds for all.
    policy: Option<String>,
}

/// A string or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "neither a string nor a list of strings")]
#[schema(as = StopStrings)]
enum Stop {
    #[schema(value_type = NonEmpty)]
    One(String),
    #[schema(value_type = StopList)]
    Several(Vec<String>),
}

/// Up to 8.
#[derive(ToSchema)]
#[schema(max_items = 8)]
#[expect(dead_code, reason = "only its schema is used")]
struct StopList(Vec<NonEmpty>);

/// What a stream tells beside the text.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct StreamOptions {
    /// A last chunk without choices has the usage.
    include_usage: Option<bool>,
    /// Only false: nothing is padded.
    include_obfuscation: Option<bool>,
}

/// One or several texts, as text or as token ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "neither a text, nor token ids, nor a list of these")]
#[schema(as = TextInput)]
pub(super) enum Input {
    /// One text. Names of special tokens in it are plain text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Token ids of one text.
    Ids(Vec<u32>),
    /// Token ids of each text.
    Lists(Vec<Vec<u32>>),
}

impl Common {
    /// Choices for each prompt.
    pub(super) fn n(&self) -> Result<usize, ApiError> {
        let n = self.n.unwrap_or(1);
        match (1..=MAX_N).contains(&n) {
            true => Ok(n),
            false => Err(ApiError::invalid("n", format!("{n} is outside 1..={MAX_N}"))),
        }
    }

    /// Whether to stream, and whether the stream ends with the usage.
    pub(super) fn streaming(&self) -> Result<(bool, bool), ApiError> {
        let stream = self.stream.unwrap_or(false);
        let Some(StreamOptions { include_usage, include_obfuscation }) = self.stream_options else {
            return Ok((stream, false));
        };
        if !stream {
            return Err(ApiError::invalid("stream_options", "only with `stream: true`"));
        }
        if include_obfuscation == Some(true) {
            let message = "not supported by this server: nothing is padded";
            return Err(ApiError::unsupported("stream_options.include_obfuscation", message));
        }
        Ok((true, include_usage.unwrap_or(false)))
    }

    /// What has no effect if nothing is to be generated.
    pub(super) fn of_generations(&self) -> Vec<&'static str> {
        let given = [
            ("temperature", self.temperature.is_some()),
            ("top_p", self.top_p.is_some()),
            ("seed", self.seed.is_some()),
            ("stop", self.stop.is_some()),
            ("steering", self.steering.is_some()),
            ("attribution", self.attribution.is_some()),
            ("decoding", self.decoding.is_some()),
            ("cfg_scale", self.cfg_scale.is_some()),
            ("repetition_penalty", self.repetition_penalty.is_some()),
            ("policy", self.policy.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// The generation that all choices share, still without a prompt.
    pub(super) fn request(&self, max_new_tokens: Option<usize>) -> GenerateRequest {
        let usual = GenerateRequest::default();
        GenerateRequest {
            max_new_tokens,
            temperature: self.temperature,
            use_entropy_sampling: self.temperature.is_none(),
            top_p: self.top_p.unwrap_or(usual.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            cfg_scale: self.cfg_scale.unwrap_or(usual.cfg_scale),
            stop: match self.stop.clone() {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop],
                Some(Stop::Several(stop)) => stop,
            },
            decoding: self.decoding.unwrap_or(usual.decoding),
            steering: self.steering.clone(),
            attribution: self.attribution,
            policy: self.policy.clone(),
            seed: self.seed,
            ..usual
        }
    }
}

/// What every answer and every chunk of a stream begins with.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AnswerHead)]
pub(super) struct Head {
    /// Names the request; the same in all chunks.
    pub(super) id: String,
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model's name.
    pub(super) model: String,
}

/// Tokens.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[schema(as = TokenUsage)]
pub(super) struct Usage {
    /// Of all prompts, each counted once.
    pub(super) prompt_tokens: usize,
    /// Of all choices.
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// Beyond OpenAI: of the whole request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RequestExtra {
    /// The seed of the first choice of each prompt, given or drawn; the next ones count up.
    pub(super) seed: Seed,
    /// What the client should know, such as a model whose text is noise.
    pub(super) warnings: Vec<String>,
}

/// Beyond OpenAI: of one choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChoiceExtra {
    /// This seed with `n: 1` gives this choice again.
    pub(super) seed: Option<Seed>,
    /// Why the text ends where it does, more exactly than OpenAI's word.
    pub(super) finish_reason: FinishReason,
    /// The generated ids up to the end or the stop.
    pub(super) token_ids: Vec<u32>,
    /// Why the tokens were committed; null unless asked for.
    pub(super) attribution: Option<Attribution>,
    pub(super) usage: UsageBody,
    pub(super) timings: TimingsBody,
}

impl ChoiceExtra {
    /// What a generation has to tell, after its text.
    pub(super) fn of(ended: &Ended) -> (String, Self) {
        let mut result = GenerateResult::new(&ended.head, &ended.finished);
        let attribution = result.take_attribution();
        let GenerateResult { text, token_ids, finish_reason, seed, usage, timings, .. } = result;
        (text, Self { seed, finish_reason, token_ids, attribution, usage, timings })
    }

    /// OpenAI's name of the reason.
    pub(super) fn finish_reason(&self) -> &'static str {
        match self.finish_reason {
            FinishReason::Length => "length",
            _ => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use utoipa::PartialSchema;
    use utoipa::openapi::{RefOr, Schema};

    #[test]
    fn the_list_of_fields_is_that_of_the_type() {
        let RefOr::T(Schema::Object(schema)) = Common::schema() else { panic!("not an object") };
        let named: BTreeSet<&str> = schema.properties.keys().map(String::as_str).collect();
        assert_eq!(named, FIELDS.iter().copied().collect());
    }

    #[test]
    fn a_given_temperature_turns_entropy_sampling_off_and_an_omitted_field_is_the_reference() {
        let request = |json: &str| serde_json::from_str::<Common>(json).expect("fields").request(Some(3));
        let plain = request(r#"{"model": "x"}"#);
        let usual = GenerateRequest::default();
        assert_eq!(
            (plain.use_entropy_sampling, plain.top_p, plain.repetition_penalty),
            (true, usual.top_p, usual.repetition_penalty)
        );
        let greedy = request(r#"{"model": "x", "temperature": 0, "stop": "x"}"#);
        assert_eq!((greedy.use_entropy_sampling, greedy.temperature), (false, Some(0.0)));
        assert_eq!(greedy.stop, ["x"]);
    }
}
