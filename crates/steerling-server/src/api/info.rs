//! What runs here.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::generate::warnings::NOISE;
use crate::demo::NOTICE;
use crate::engine::Model;
use crate::openapi::Internal;

/// What runs here: the model, what it can take, and how busy it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    /// Generations are taken.
    ready: bool,
    /// Null while it is being loaded for the first time.
    #[schema(required = true)]
    model: Option<ModelCard>,
    limits: ServiceLimits,
    /// What this build does with this checkpoint: `generate`, `stream`, `chat`, `score`, `embed`, `concepts`.
    capabilities: Vec<&'static str>,
    load: Load,
    build: Build,
    /// The licence of the server; a checkpoint has its own.
    #[schema(example = "Apache-2.0")]
    licence: &'static str,
    /// What a user of this server should know.
    warnings: Vec<&'static str>,
}

/// The model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelCard {
    name: String,
    /// Number of parameters.
    parameters: u64,
    /// Random weights: its text is noise.
    synthetic: bool,
    /// Where it is computed.
    device: String,
    /// The type it is computed in.
    dtype: String,
    /// The type in which most weights lie in memory: `f32`, `bf16`, `f16`, or `q8_0` or `q4_k` from a GGUF file.
    #[schema(example = "bf16")]
    weights: String,
    /// Transformer layers.
    n_layers: usize,
    /// Query heads.
    n_head: usize,
    /// Key and value heads.
    n_kv_heads: usize,
    /// Width of the hidden state.
    n_embd: usize,
    /// Inner width of the feed-forward half.
    intermediate_size: usize,
    /// Token ids are below this.
    vocab_size: usize,
    /// Known concepts; null without concept heads.
    #[schema(required = true)]
    known_concepts: Option<usize>,
    /// Unknown (discovered) concepts; null without that head.
    #[schema(required = true)]
    unknown_concepts: Option<usize>,
}

/// What is refused beyond.
#[derive(Debug, Serialize, ToSchema)]
struct ServiceLimits {
    /// Positions of prompt and generated text together; null while the model is being loaded.
    #[schema(required = true)]
    context: Option<usize>,
    /// Positions of an attention block; null while the model is being loaded.
    #[schema(required = true)]
    block_size: Option<usize>,
    /// Attention blocks whose keys and values fit into memory; null while the model is being loaded.
    #[schema(required = true)]
    kv_blocks: Option<usize>,
    /// Bytes of the keys and values of one attention block; null while the model is being loaded.
    #[schema(required = true)]
    kv_block_bytes: Option<u64>,
    /// Bytes that the gradients of an input attribution may take; null while the model is being loaded.
    #[schema(required = true)]
    gradient_bytes: Option<u64>,
    /// Generations under way at once.
    max_batch: usize,
    /// Token positions that a step computes at most.
    max_rows: usize,
    /// Generations that wait.
    max_queue: usize,
    /// Token positions (rows times length) that a request to `/score` may need.
    max_score_positions: u64,
    /// Largest request body in bytes.
    max_body_bytes: usize,
    /// Longest time from request to end of the answer, in seconds.
    timeout_seconds: f64,
}

/// How busy it is at this moment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ServerLoad)]
struct Load {
    /// Generations being computed.
    active: usize,
    /// Generations that wait.
    queued: usize,
    /// Attention blocks in use by generations.
    kv_blocks_active: usize,
    /// Attention blocks kept for later requests.
    kv_blocks_cached: usize,
}

/// What was built.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BuildInfo)]
struct Build {
    version: &'static str,
    /// The source's commit, if the build was told.
    #[schema(required = true)]
    git_commit: Option<&'static str>,
}

/// What runs here: the model, its limits, and how busy it is.
///
/// Answers also while the model is being loaded.
#[utoipa::path(get, path = "/info", tag = "state",
    responses((status = 200, description = "the model, its limits, and how busy it is", body = Info), Internal))]
pub(crate) async fn info(State(state): State<AppState>) -> Json<Info> {
    let model = state.engine.model();
    let limits = model.as_ref().map(|model| model.limits);
    let options = &state.options;
    let mut capabilities = vec!["generate", "stream"];
    if limits.is_some_and(|limits| limits.canvas.special.chat.is_some()) {
        capabilities.push("chat");
    }
    capabilities.extend(["score", "embed"]);
    if model.as_ref().is_some_and(|model| !model.catalog.is_empty()) {
        capabilities.extend(["concepts", "steer", "attribute"]);
    }
    let pages = state.engine.page_use();
    Json(Info {
        ready: state.engine.is_ready(),
        limits: ServiceLimits {
            context: limits.map(|limits| limits.canvas.context),
            block_size: limits.map(|limits| limits.canvas.block_size),
            kv_blocks: limits.map(|limits| limits.pages),
            kv_block_bytes: limits.map(|limits| limits.page_bytes),
            gradient_bytes: limits.map(|limits| limits.gradients.bytes),
            max_batch: options.max_batch,
            max_rows: options.max_rows,
            max_queue: options.max_queue,
            max_score_positions: options.max_score_positions,
            max_body_bytes: options.max_body_bytes,
            timeout_seconds: options.timeout.as_secs_f64(),
        },
        capabilities,
        load: Load {
            active: state.engine.active(),
            queued: state.engine.queued(),
            kv_blocks_active: pages.active,
            kv_blocks_cached: pages.cached,
        },
        build: Build { version: env!("CARGO_PKG_VERSION"), git_commit: option_env!("STEERLING_GIT_COMMIT") },
        licence: env!("CARGO_PKG_LICENSE"),
        warnings: model.iter().filter_map(|model| warning(model)).collect(),
        model: model.as_deref().map(ModelCard::from),
    })
}

/// What a user of the model should know. Only the demo model is embedded.
fn warning(model: &Model) -> Option<&'static str> {
    match &model.info {
        info if info.synthetic => Some(NOISE),
        info if info.embedded => Some(NOTICE),
        _ => None,
    }
}

impl From<&Model> for ModelCard {
    fn from(model: &Model) -> Self {
        let info = &model.info;
        let config = &info.config;
        let concept = config.concept.as_ref();
        Self {
            name: info.name.clone(),
            parameters: info.parameters,
            synthetic: info.synthetic,
            device: info.device.clone(),
            dtype: info.dtype.clone(),
            weights: info.weights.clone(),
            n_layers: config.n_layers,
            n_head: config.n_head,
            n_kv_heads: config.n_kv_heads,
            n_embd: config.n_embd,
            intermediate_size: config.intermediate_size,
            vocab_size: config.vocab_size,
            known_concepts: concept.map(|concept| concept.n_concepts),
            unknown_concepts: concept.and_then(|concept| concept.unknown.as_ref()).map(|head| head.n_concepts),
        }
    }
}
