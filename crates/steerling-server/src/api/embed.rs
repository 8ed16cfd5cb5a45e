//! `POST /embed`.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use steerling::embed::{ConceptWeights, EmbeddingType, Pooling};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::respond::json;
use super::states::{check_count, check_length, encode_any, of_texts};
use super::{AppState, plan};
use crate::engine::{Model, Ticket};
use crate::error::ApiError;
use crate::extract::{Json, objects_only};
use crate::openapi::{Body, Compute, Internal, NotReady};

objects_only!(EmbedRequest);

/// Most inputs of one request.
const MAX_INPUTS: usize = 2048;
/// Most tokens of one request without pooling: 134 MB of vectors at a width of 4,096.
const MAX_ROWS: usize = 8192;

/// Texts to be embedded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct EmbedRequest {
    /// A text, a list of texts (up to 2048), or a list of lists of token ids. None may be empty.
    pub(crate) inputs: Inputs,
    /// Which vector a text is embedded as.
    #[serde(default)]
    pub(crate) embedding_type: Kind,
    /// How the vectors of a text's tokens become one.
    #[serde(default)]
    pub(crate) pooling: Pool,
    /// Scale each vector to length 1.
    #[serde(default)]
    #[schema(default = false)]
    pub(crate) normalize: bool,
    /// Cut a text that is longer than the context at its end instead of refusing it.
    #[serde(default)]
    #[schema(default = false)]
    pub(crate) truncate: bool,
    /// Keep so many numbers of each vector, from its start, before it is normalised. Null: all.
    #[schema(minimum = 1)]
    pub(crate) dimensions: Option<usize>,
    /// How vectors are written.
    #[serde(default)]
    pub(crate) encoding_format: Encoding,
    /// Milliseconds from the request to the end of the answer, at most what the server allows (`limits.timeout_seconds`
    /// of `/info`). Null: that.
    #[schema(minimum = 1)]
    pub(crate) timeout_ms: Option<u64>,
}

/// A text, several, or several as token ids.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "neither a text, nor a list of texts, nor a list of lists of token ids")]
pub(crate) enum Inputs {
    /// One text. Names of special tokens in it are plain text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Token ids below the vocabulary size. A mask stands for a position that is not decided.
    Ids(Vec<Vec<u32>>),
}

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let schema = json!({
            "description": "A text, several, or several as token ids. A mask among ids stands for a position that is not \
                            decided; names of special tokens in a text are plain text.",
            "oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": {"type": "string", "minLength": 1}},
                {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": {
                    "type": "array", "minItems": 1, "items": {"type": "integer", "format": "uint32", "minimum": 0}
                }},
            ],
        });
        RefOr::T(serde_json::from_value(schema).expect("it is a schema"))
    }
}

impl ToSchema for Inputs {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("EmbedInputs")
    }
}

/// Which vector a text is embedded as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EmbeddingType)]
pub(crate) enum Kind {
    /// The hidden state after the final norm.
    Hidden,
    /// What the output head reads.
    #[default]
    Composed,
    /// The known concepts' part.
    Known,
    /// The unknown concepts' part.
    Unknown,
    /// What all concepts leave.
    Epsilon,
    /// The active concepts with their weights, `[[id, weight], ...]` by falling weight; 0 for all others.
    Concepts,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Pooling)]
pub(crate) enum Pool {
    /// Their mean.
    #[default]
    Mean,
    /// That of the last token.
    Last,
    /// That of the first token.
    First,
    /// They do not: one row for each token. At most 8192 tokens in one request.
    None,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EncodingFormat)]
pub(crate) enum Encoding {
    /// Lists of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floating-point numbers.
    Base64,
}

/// The embeddings, in the order of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbedResult {
    pub(crate) model: String,
    embedding_type: Kind,
    pooling: Pool,
    /// Numbers in a vector; of concepts, how many there are.
    dimensions: usize,
    pub(crate) embeddings: Vec<Embedding>,
    /// Tokens of each input.
    pub(crate) tokens: Vec<usize>,
}

/// One input's embedding: a row, or one for each of its tokens with `pooling: "none"`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Embedding {
    /// Pooled.
    One(Row),
    /// Not pooled.
    Each(Vec<Row>),
}

/// A vector.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = EmbeddingVector)]
pub(crate) enum Row {
    /// Numbers.
    Float(Vec<f32>),
    /// Little-endian 32-bit floating-point numbers.
    Base64(String),
    /// Global ids of concepts with their weights, 0 to 1.
    Concepts(Vec<(u32, f32)>),
}

/// What becomes of each vector.
#[derive(Clone, Copy)]
struct Finish {
    dimensions: usize,
    normalize: bool,
    encoding: Encoding,
}

impl Finish {
    fn row(self, mut vector: Vec<f32>) -> Row {
        vector.truncate(self.dimensions);
        if self.normalize {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|x| *x /= length);
            }
        }
        match self.encoding {
            Encoding::Float => Row::Float(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Row::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Both heads' concepts by global id, largest weight first; equal weights by id.
pub(crate) fn global(weights: ConceptWeights, known: usize) -> Vec<(u32, f32)> {
    let unknown = weights.unknown.into_iter().map(|(index, weight)| (known as u32 + index, weight));
    let mut all: Vec<_> = weights.known.into_iter().chain(unknown).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

impl EmbedRequest {
    fn texts(&self, model: &Model) -> Result<Vec<Vec<u32>>, ApiError> {
        self.check_form(model)?;
        let mut texts = match &self.inputs {
            Inputs::Text(text) => vec![encode_any(&model.tokenizer, text, "inputs")?],
            Inputs::Texts(texts) => {
                check_count(texts.len(), MAX_INPUTS, "inputs")?;
                let encode = |(i, text): (usize, &String)| encode_any(&model.tokenizer, text, &format!("inputs[{i}]"));
                texts.iter().enumerate().map(encode).collect::<Result<_, _>>()?
            }
            Inputs::Ids(texts) => {
                check_count(texts.len(), MAX_INPUTS, "inputs")?;
                texts.iter().enumerate().try_for_each(|(i, ids)| check_ids(model, ids, i))?;
                texts.clone()
            }
        };
        for (i, ids) in texts.iter_mut().enumerate() {
            if self.truncate {
                ids.truncate(model.limits.canvas.context);
            }
            let param =
                if matches!(self.inputs, Inputs::Text(_)) { "inputs".to_owned() } else { format!("inputs[{i}]") };
            check_length(model, ids.len(), &param)?;
        }
        let tokens: usize = texts.iter().map(Vec::len).sum();
        if self.pooling == Pool::None && tokens > MAX_ROWS {
            let message = format!("{tokens} tokens without pooling exceed the limit of {MAX_ROWS} rows of one request");
            return Err(ApiError::invalid("inputs", message));
        }
        Ok(texts)
    }

    /// Refuses what no input could make right.
    fn check_form(&self, model: &Model) -> Result<(), ApiError> {
        let needs_heads = !matches!(self.embedding_type, Kind::Hidden | Kind::Composed);
        if needs_heads && model.catalog.is_empty() {
            return Err(ApiError::unsupported("embedding_type", "this checkpoint has no concept heads"));
        }
        let width = model.info.config.n_embd;
        if let Some(dimensions) = self.dimensions.filter(|n| !(1..=width).contains(n)) {
            return Err(ApiError::invalid("dimensions", format!("{dimensions} is outside 1..={width}")));
        }
        if self.embedding_type == Kind::Concepts {
            let refuse = |param: &str| Err(ApiError::invalid(param, "not for concepts, which are no dense vectors"));
            if self.dimensions.is_some() {
                return refuse("dimensions");
            }
            if self.normalize {
                return refuse("normalize");
            }
            if self.encoding_format == Encoding::Base64 {
                return refuse("encoding_format");
            }
        }
        Ok(())
    }
}

fn check_ids(model: &Model, ids: &[u32], i: usize) -> Result<(), ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid(format!("inputs[{i}]"), "an empty text has no tokens"));
    }
    let vocab = model.limits.canvas.vocab_size;
    match ids.iter().position(|id| *id as usize >= vocab) {
        Some(j) => {
            let message = format!("{} is not below the vocabulary size {vocab}", ids[j]);
            Err(ApiError::invalid(format!("inputs[{i}][{j}]"), message))
        }
        None => Ok(()),
    }
}

/// Embeds texts.
///
/// Tokens come without special ones. Inputs share forwards, and blocks that texts have in common are computed once.
#[utoipa::path(post, path = "/embed", tag = "read", request_body = EmbedRequest,
    responses((status = 200, description = "the embeddings", body = EmbedResult), Body, Compute, Internal, NotReady))]
pub(crate) async fn embed(
    State(state): State<AppState>,
    Json(request): Json<EmbedRequest>,
) -> Result<Response, ApiError> {
    let ticket = state.admit(request.timeout_ms)?;
    let result = compute(&state, &ticket, request).await?;
    json(ticket, move || Ok(result)).await
}

/// The embeddings that a request asks for.
pub(crate) async fn compute(state: &AppState, ticket: &Ticket, request: EmbedRequest) -> Result<EmbedResult, ApiError> {
    let model = state.model()?;
    let (kind, pool) = (request.embedding_type, request.pooling);
    let width = request.dimensions.unwrap_or(model.info.config.n_embd);
    let finish = Finish { dimensions: width, normalize: request.normalize, encoding: request.encoding_format };
    let texts = {
        let model = model.clone();
        plan(ticket, move || request.texts(&model)).await?
    };
    let tokens = texts.iter().map(Vec::len).collect();
    let pooling = match pool {
        Pool::Mean => Pooling::Mean,
        Pool::Last => Pooling::Last,
        Pool::First => Pooling::First,
        Pool::None => Pooling::None,
    };
    let kind_of_vector = match kind {
        Kind::Hidden => Some(EmbeddingType::Hidden),
        Kind::Composed => Some(EmbeddingType::Composed),
        Kind::Known => Some(EmbeddingType::Known),
        Kind::Unknown => Some(EmbeddingType::Unknown),
        Kind::Epsilon => Some(EmbeddingType::Epsilon),
        Kind::Concepts => None,
    };
    let known = model.catalog.known_len();
    let rows: Vec<Vec<Row>> = of_texts(ticket, texts, pooling, move |states, runtime| match kind_of_vector {
        Some(kind) => {
            let texts = states.embeddings(runtime.model(), kind)?.into_iter();
            Ok(texts.map(|rows| rows.into_iter().map(|row| finish.row(row)).collect()).collect())
        }
        None => {
            let texts = states.concepts(runtime.model())?.into_iter();
            Ok(texts.map(|rows| rows.into_iter().map(|row| Row::Concepts(global(row, known))).collect()).collect())
        }
    })
    .await?;
    let embedding = |mut rows: Vec<Row>| match pool {
        Pool::None => Embedding::Each(rows),
        _ => Embedding::One(rows.swap_remove(0)),
    };
    Ok(EmbedResult {
        model: model.info.name.clone(),
        embedding_type: kind,
        pooling: pool,
        dimensions: if kind == Kind::Concepts { model.catalog.len() } else { width },
        embeddings: rows.into_iter().map(embedding).collect(),
        tokens,
    })
}
