//! `POST /v1/embeddings`.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::common::Input;
use super::error::Refusals;
use super::{models, neutral};
use crate::api::AppState;
use crate::api::embed::{self, EmbedRequest, EmbedResult, Embedding, Encoding, Inputs, Kind, Pool};
use crate::api::respond::json;
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::openapi::extended;

/// A request to embed texts, with all fields of OpenAI's.
pub(crate) struct EmbeddingsBody;

/// The fields that mean something here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "steerling-demo", "input": ["The chef stirred the soup."]}))]
struct EmbeddingsRequest {
    /// The model's name, or `steerling`.
    model: String,
    /// A text, a list of texts (up to 2048), token ids, or a list of lists of token ids. None may be empty.
    input: Input,
    /// How vectors are written; null is `float`.
    encoding_format: Option<Encoding>,
    /// Keep so many numbers of each vector, from its start; the rest is scaled to length 1 again. Null: all.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
}

impl PartialSchema for EmbeddingsBody {
    fn schema() -> RefOr<Schema> {
        let about = "Texts to be embedded: the mean over a text's tokens of what the output head reads (`composed` of \
                     `/embed`), scaled to length 1.";
        extended(neutral::schema(neutral::EMBEDDING, about), EmbeddingsRequest::schema(), &["model", "input"])
    }
}

impl ToSchema for EmbeddingsBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        EmbeddingsRequest::schemas(schemas);
    }
}

/// The embeddings, in the order of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    usage: EmbeddingUsage,
}

/// One embedding.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingEntry {
    #[schema(example = "embedding")]
    object: &'static str,
    /// Which input it is of, from 0.
    index: usize,
    /// Numbers, or base64 of little-endian 32-bit floating-point numbers.
    embedding: Embedding,
}

/// Tokens of all inputs.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Embeds texts, as OpenAI does.
///
/// Every vector has length 1, so that a dot product is a cosine; `/embed` has other vectors and leaves their lengths.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", operation_id = "create_embeddings",
    request_body = EmbeddingsBody,
    responses((status = 200, description = "the embeddings", body = EmbeddingList), Refusals))]
pub(crate) async fn embeddings(State(state): State<AppState>, mut body: Object) -> Result<Response, ApiError> {
    neutral::strip(body.fields(), neutral::EMBEDDING)?;
    let body = body.checked::<EmbeddingsBody>()?;
    let EmbeddingsRequest { model, input, encoding_format, dimensions } = extract::read(Value::Object(body))?;
    models::check(&*state.model()?, &model)?;
    let ticket = state.admit(None)?;
    let ours = if matches!(input, Input::Ids(_)) { "inputs[0]" } else { "inputs" };
    let request = EmbedRequest {
        inputs: match input {
            Input::Text(text) => Inputs::Text(text),
            Input::Texts(texts) => Inputs::Texts(texts),
            Input::Ids(ids) => Inputs::Ids(vec![ids]),
            Input::Lists(lists) => Inputs::Ids(lists),
        },
        embedding_type: Kind::Composed,
        pooling: Pool::Mean,
        normalize: true,
        truncate: false,
        dimensions,
        encoding_format: encoding_format.unwrap_or_default(),
        timeout_ms: None,
    };
    let result = embed::compute(&state, &ticket, request).await.map_err(|error| error.in_terms(&[(ours, "input")]))?;
    let EmbedResult { model, embeddings, tokens, .. } = result;
    let tokens = tokens.iter().sum();
    let entry = |(index, embedding)| EmbeddingEntry { object: "embedding", index, embedding };
    let list = EmbeddingList {
        object: "list",
        data: embeddings.into_iter().enumerate().map(entry).collect(),
        model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    };
    json(ticket, move || Ok(list)).await
}
