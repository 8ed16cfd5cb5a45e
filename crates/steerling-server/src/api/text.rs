//! Text to ids and back, without the model.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use steerling::Tokenizer;
use steerling::tokenizer::Token;
use utoipa::ToSchema;

use super::AppState;
use super::respond::json;
use crate::error::ApiError;
use crate::extract::{Json, objects_only};
use crate::openapi::{Admitted, Body, Internal, NotReady};

objects_only!(TokenizeRequest, DetokenizeRequest);

/// Bytes of a text, and ids, that are done at once; more needs a slot as all longer work does.
const SHORT_TEXT: usize = 4096;

/// A text to be split into tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// Any text. Names of special tokens in it are plain text.
    text: String,
    /// Put the begin-of-text token before and the end-of-text token behind.
    #[serde(default)]
    #[schema(default = false)]
    add_special_tokens: bool,
}

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeResult {
    /// The ids, in order.
    ids: Vec<u32>,
    /// The same with their place in the text.
    tokens: Vec<TextToken>,
}

/// A token and its place in the text.
#[derive(Debug, Serialize, ToSchema)]
struct TextToken {
    /// The token's id.
    id: u32,
    /// The token's text; bytes that are no UTF-8 on their own show as U+FFFD.
    text: String,
    /// First byte of the text (as UTF-8) that the token covers.
    start: usize,
    /// One past the last byte that it covers; equal to `start` for a special token.
    end: usize,
}

impl From<Token> for TextToken {
    fn from(Token { id, text, start, end }: Token) -> Self {
        Self { id, text, start, end }
    }
}

/// Ids to be turned into text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// Ids below the vocabulary size.
    ids: Vec<u32>,
    /// Leave special tokens out; otherwise their names are shown.
    #[serde(default = "yes")]
    #[schema(default = true)]
    skip_special_tokens: bool,
}

/// The text of ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetokenizeResult {
    /// Bytes that are no UTF-8 show as U+FFFD.
    text: String,
}

fn yes() -> bool {
    true
}

/// The tokens of a text, with their places.
///
/// Places are bytes of the text as UTF-8.
#[utoipa::path(post, path = "/tokenize", tag = "text", request_body = TokenizeRequest,
    responses((status = 200, description = "the tokens", body = TokenizeResult), Body, Admitted, Internal, NotReady))]
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    Json(request): Json<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let model = state.model()?;
    if request.text.len() <= SHORT_TEXT {
        return Ok(Answer(request.split(&model.tokenizer)?).into_response());
    }
    let ticket = state.admit_planning()?;
    json(ticket, move || request.split(&model.tokenizer)).await
}

impl TokenizeRequest {
    fn split(self, tokenizer: &Tokenizer) -> Result<TokenizeResult, ApiError> {
        let Self { text, add_special_tokens } = self;
        let mut tokens = tokenizer.encode_with_offsets(&text).map_err(|error| ApiError::of_field(error, "text"))?;
        if add_special_tokens {
            let special = tokenizer.special();
            let at = |id: u32, place: usize| Token { id, text: tokenizer.token_text(id), start: place, end: place };
            tokens.insert(0, at(special.bos, 0));
            tokens.push(at(special.eos, text.len()));
        }
        let ids = tokens.iter().map(|token| token.id).collect();
        Ok(TokenizeResult { ids, tokens: tokens.into_iter().map(TextToken::from).collect() })
    }
}

/// The text of ids.
///
/// Ids without a text are left out.
#[utoipa::path(post, path = "/detokenize", tag = "text", request_body = DetokenizeRequest,
    responses((status = 200, description = "the text", body = DetokenizeResult), Body, Admitted, Internal, NotReady))]
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    Json(request): Json<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let model = state.model()?;
    let vocab_size = model.limits.canvas.vocab_size;
    if let Some((i, id)) = request.ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
        return Err(ApiError::invalid(
            format!("ids[{i}]"),
            format!("{id} is not below the vocabulary size {vocab_size}"),
        ));
    }
    if request.ids.len() <= SHORT_TEXT {
        return Ok(Answer(request.join(&model.tokenizer)).into_response());
    }
    let ticket = state.admit_planning()?;
    json(ticket, move || Ok(request.join(&model.tokenizer))).await
}

impl DetokenizeRequest {
    fn join(&self, tokenizer: &Tokenizer) -> DetokenizeResult {
        DetokenizeResult { text: tokenizer.decode(&self.ids, self.skip_special_tokens) }
    }
}
