//! Hidden states of texts, for all operations that read texts rather than write them.

use std::collections::VecDeque;

use steerling::embed::{EmbedJob, Pooling, TextStates};
use steerling::{Runtime, Tokenizer};

use crate::engine::{Model, Ticket, WorkKind};
use crate::error::{ApiError, Code};

/// Tokens of texts that are held at a time, unless a single text has more.
const TOKENS: usize = 1024;

/// What `reduce` makes of each of `texts`, in their order. Other requests go on between groups of texts.
pub(crate) async fn of_texts<T, F>(
    ticket: &Ticket,
    texts: Vec<Vec<u32>>,
    pooling: Pooling,
    reduce: F,
) -> Result<Vec<T>, ApiError>
where
    T: Send + 'static,
    F: FnMut(&TextStates, &Runtime) -> steerling::Result<Vec<T>> + Send + 'static,
{
    let tokens = texts.iter().map(Vec::len).sum();
    Ok(ticket.run(WorkKind::Embed, tokens, reading(texts, pooling, reduce))?.await?)
}

/// The work of [`of_texts`].
pub(crate) fn reading<T, F>(
    texts: Vec<Vec<u32>>,
    pooling: Pooling,
    mut reduce: F,
) -> impl FnMut(&mut Runtime) -> steerling::Result<Option<Vec<T>>> + Send + 'static
where
    T: Send + 'static,
    F: FnMut(&TextStates, &Runtime) -> steerling::Result<Vec<T>> + Send + 'static,
{
    let mut queue = VecDeque::from(texts);
    let mut job: Option<EmbedJob> = None;
    let mut found = Vec::with_capacity(queue.len());
    move |runtime: &mut Runtime| {
        let running = match &mut job {
            Some(running) => running,
            none => {
                let mut group: Vec<Vec<u32>> = Vec::new();
                let mut tokens = 0;
                while let Some(text) = queue.pop_front_if(|text| group.is_empty() || tokens + text.len() <= TOKENS) {
                    tokens += text.len();
                    group.push(text);
                }
                if group.is_empty() {
                    return Ok(Some(Vec::new()));
                }
                none.insert(EmbedJob::new(group, pooling)?)
            }
        };
        if let Some(states) = running.advance(runtime)? {
            job = None;
            found.extend(reduce(&states, runtime)?);
            if queue.is_empty() {
                return Ok(Some(std::mem::take(&mut found)));
            }
        }
        Ok(None)
    }
}

/// The ids of a text that the model is to read.
///
/// # Errors
/// 422 for a text without tokens or with more than the context has positions.
pub(crate) fn encode(model: &Model, text: &str, param: &str) -> Result<Vec<u32>, ApiError> {
    let ids = encode_any(&model.tokenizer, text, param)?;
    check_length(model, ids.len(), param)?;
    Ok(ids)
}

/// The ids of a text of any length but none.
pub(crate) fn encode_any(tokenizer: &Tokenizer, text: &str, param: &str) -> Result<Vec<u32>, ApiError> {
    let ids = tokenizer.encode(text).map_err(|error| ApiError::of_field(error, param))?;
    if ids.is_empty() {
        return Err(ApiError::invalid(param, "an empty text has no tokens"));
    }
    Ok(ids)
}

/// Refuses what is longer than the context.
pub(crate) fn check_length(model: &Model, tokens: usize, param: &str) -> Result<(), ApiError> {
    let context = model.limits.canvas.context;
    if tokens <= context {
        return Ok(());
    }
    let message = format!("{tokens} tokens exceed the context of {context} positions");
    let details = serde_json::json!({ "prompt_tokens": tokens, "context": context });
    Err(ApiError::new(Code::ContextLengthExceeded, message).or_param(param).with_details(details))
}

/// Refuses more or fewer entries than a list may have.
pub(crate) fn check_count(n: usize, most: usize, param: &str) -> Result<(), ApiError> {
    if (1..=most).contains(&n) {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("{n} is outside 1..={most}")))
}
