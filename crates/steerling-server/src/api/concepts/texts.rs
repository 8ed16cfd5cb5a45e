//! `POST /concepts/detect` and `POST /concepts/contrast`: which concepts a text has, and which set two sets apart.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use steerling::embed::Pooling;
use utoipa::ToSchema;

use super::super::concept::ConceptBody;
use super::super::embed::global;
use super::super::respond::json;
use super::super::states::{check_count, encode, of_texts};
use super::super::{AppState, plan};
use super::{MAX_LIMIT, with_concepts};
use crate::error::ApiError;
use crate::extract::{Json, objects_only};
use crate::openapi::{Body, Compute, Internal, NonEmpty, NotReady};

objects_only!(DetectRequest, ContrastRequest);

/// Concepts by global id, with their weights.
type Weights = Vec<(u32, f32)>;

/// Most texts of a set.
const MAX_TEXTS: usize = 512;

/// A text in which concepts are looked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct DetectRequest {
    /// Any text but an empty one.
    #[schema(min_length = 1)]
    text: String,
    /// Concepts of each item, 1 to 1000.
    #[serde(default = "ten")]
    #[schema(default = 10, minimum = 1, maximum = 1000)]
    top_k: usize,
    /// What an item is.
    #[serde(default)]
    level: Level,
    /// Milliseconds from the request to the end of the answer, at most what the server allows (`limits.timeout_seconds`
    /// of `/info`). Null: that.
    #[schema(minimum = 1)]
    timeout_ms: Option<u64>,
}

/// What an item is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DetectLevel)]
enum Level {
    /// A token.
    Token,
    /// An attention block: the tokens that see one another.
    Chunk,
    /// The whole text.
    #[default]
    Text,
}

/// The concepts of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetectResult {
    model: String,
    level: Level,
    /// Tokens of the text.
    tokens: usize,
    /// In the order of the text.
    items: Vec<DetectedItem>,
}

/// A part of the text and its concepts.
#[derive(Debug, Serialize, ToSchema)]
struct DetectedItem {
    /// First position.
    start: usize,
    /// One past the last position.
    end: usize,
    /// The text of these tokens.
    text: String,
    /// Of both heads, largest weight first.
    concepts: Vec<DetectedConcept>,
}

/// A concept and how active it is.
#[derive(Debug, Serialize, ToSchema)]
struct DetectedConcept {
    #[serde(flatten)]
    concept: ConceptBody,
    /// 0 to 1: the mean over the item's tokens, of which those count 0 where the concept is not among the top ones.
    #[schema(minimum = 0, maximum = 1)]
    weight: f32,
}

/// Two sets of texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct ContrastRequest {
    /// Texts, 1 to 512, none of them empty.
    #[schema(min_items = 1, max_items = 512, value_type = Vec<NonEmpty>)]
    a: Vec<String>,
    /// Texts, 1 to 512, none of them empty.
    #[schema(min_items = 1, max_items = 512, value_type = Vec<NonEmpty>)]
    b: Vec<String>,
    /// Concepts of the answer, 1 to 1000.
    #[serde(default = "twenty")]
    #[schema(default = 20, minimum = 1, maximum = 1000)]
    top_k: usize,
    /// Milliseconds from the request to the end of the answer, at most what the server allows (`limits.timeout_seconds`
    /// of `/info`). Null: that.
    #[schema(minimum = 1)]
    timeout_ms: Option<u64>,
}

/// The concepts that set two sets of texts apart.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContrastResult {
    model: String,
    /// The largest `|auc - 0.5|` first; among equals, as between single texts, the largest difference.
    items: Vec<Contrasted>,
}

/// A concept and what it is in each set. A text's weight is the mean over its tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ContrastedConcept)]
struct Contrasted {
    #[serde(flatten)]
    concept: ConceptBody,
    /// Mean weight of the texts of `a`, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    mean_a: f32,
    /// Mean weight of the texts of `b`, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    mean_b: f32,
    /// `mean_a - mean_b`.
    difference: f32,
    /// How likely a text of `a` has a larger weight than one of `b`; equal weights count one half. 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    auc: f32,
}

fn ten() -> usize {
    10
}

fn twenty() -> usize {
    20
}

/// The concepts that are active in a text.
///
/// Of the whole text, of each attention block, or of each token, with their weights.
#[utoipa::path(post, path = "/concepts/detect", tag = "concepts", operation_id = "detect_concepts", request_body = DetectRequest,
    responses((status = 200, description = "the concepts", body = DetectResult), Body, Compute, Internal, NotReady))]
pub(crate) async fn detect(
    State(state): State<AppState>,
    Json(request): Json<DetectRequest>,
) -> Result<Response, ApiError> {
    let ticket = state.admit(request.timeout_ms)?;
    let model = with_concepts(&state)?;
    check_count(request.top_k, MAX_LIMIT, "top_k")?;
    let DetectRequest { text, top_k, level, .. } = request;
    let ids = {
        let model = model.clone();
        plan(&ticket, move || encode(&model, &text, "text")).await?
    };
    let pooling = if level == Level::Text { Pooling::Mean } else { Pooling::None };
    let known = model.catalog.known_len();
    let size = if level == Level::Chunk { model.limits.canvas.block_size } else { 1 };
    let texts = vec![ids.clone()];
    let mut items = of_texts(&ticket, texts, pooling, move |states, runtime| {
        let texts = states.concepts(runtime.model())?.into_iter();
        Ok(texts
            .map(|rows| {
                let rows: Vec<_> = rows.into_iter().map(|row| global(row, known)).collect();
                rows.chunks(size).map(|rows| top(mean(rows), top_k)).collect::<Vec<_>>()
            })
            .collect())
    })
    .await?;
    json(ticket, move || {
        let size = if level == Level::Text { ids.len() } else { size };
        let item = |(tokens, (n, concepts)): (&[u32], (usize, Weights))| DetectedItem {
            start: n * size,
            end: n * size + tokens.len(),
            text: model.tokenizer.decode(tokens, false),
            concepts: concepts
                .into_iter()
                .filter_map(|(id, weight)| Some(DetectedConcept { concept: model.catalog.get(id)?.into(), weight }))
                .collect(),
        };
        let found = items.pop().unwrap_or_default().into_iter().enumerate();
        let items = ids.chunks(size).zip(found).map(item).collect();
        Ok(DetectResult { model: model.info.name.clone(), level, tokens: ids.len(), items })
    })
    .await
}

/// The concepts that set two sets of texts apart.
///
/// Of all concepts that are among the top ones of any token, those whose weights tell the sets apart best.
#[utoipa::path(post, path = "/concepts/contrast", tag = "concepts", operation_id = "contrast_concepts", request_body = ContrastRequest,
    responses((status = 200, description = "the concepts", body = ContrastResult), Body, Compute, Internal, NotReady))]
pub(crate) async fn contrast(
    State(state): State<AppState>,
    Json(request): Json<ContrastRequest>,
) -> Result<Response, ApiError> {
    let ticket = state.admit(request.timeout_ms)?;
    let model = with_concepts(&state)?;
    let ContrastRequest { a, b, top_k, .. } = request;
    check_count(top_k, MAX_LIMIT, "top_k")?;
    check_count(a.len(), MAX_TEXTS, "a")?;
    check_count(b.len(), MAX_TEXTS, "b")?;
    let (in_a, in_b) = (a.len(), b.len());
    let texts = {
        let model = model.clone();
        plan(&ticket, move || {
            let named = |name: &'static str| move |(i, text): (usize, String)| (format!("{name}[{i}]"), text);
            let texts = a.into_iter().enumerate().map(named("a")).chain(b.into_iter().enumerate().map(named("b")));
            texts.map(|(param, text)| encode(&model, &text, &param)).collect::<Result<Vec<_>, _>>()
        })
        .await?
    };
    let known = model.catalog.known_len();
    let weights = of_texts(&ticket, texts, Pooling::Mean, move |states, runtime| {
        let texts = states.concepts(runtime.model())?.into_iter();
        Ok(texts.map(|mut rows| global(rows.swap_remove(0), known)).collect())
    })
    .await?;
    json(ticket, move || {
        let mut of_concept: HashMap<u32, (Vec<f32>, Vec<f32>)> = HashMap::new();
        for (n, (id, weight)) in weights.iter().enumerate().flat_map(|(n, row)| row.iter().map(move |pair| (n, *pair)))
        {
            let (a, b) = of_concept.entry(id).or_default();
            if n < in_a {
                a.push(weight)
            } else {
                b.push(weight)
            };
        }
        let contrasted = |(id, (mut a, mut b)): (u32, (Vec<f32>, Vec<f32>))| {
            a.resize(in_a, 0.0);
            b.resize(in_b, 0.0);
            let mean = |weights: &[f32]| weights.iter().sum::<f32>() / weights.len() as f32;
            let (mean_a, mean_b) = (mean(&a), mean(&b));
            let concept = model.catalog.get(id)?.into();
            Some(Contrasted { concept, mean_a, mean_b, difference: mean_a - mean_b, auc: auc(&mut a, &mut b) })
        };
        let mut items: Vec<Contrasted> = of_concept.into_iter().filter_map(contrasted).collect();
        let distance = |item: &Contrasted| (item.auc - 0.5).abs();
        items.sort_by(|x, y| {
            let by_auc = distance(y).total_cmp(&distance(x));
            by_auc.then(y.difference.abs().total_cmp(&x.difference.abs())).then(x.concept.id.cmp(&y.concept.id))
        });
        items.truncate(top_k);
        Ok(ContrastResult { model: model.info.name.clone(), items })
    })
    .await
}

/// The mean weights of some tokens' concepts.
fn mean(rows: &[Weights]) -> Weights {
    if let [row] = rows {
        return row.clone();
    }
    let mut sums: HashMap<u32, f32> = HashMap::new();
    for (id, weight) in rows.iter().flatten() {
        *sums.entry(*id).or_default() += weight;
    }
    sums.into_iter().map(|(id, sum)| (id, sum / rows.len() as f32)).collect()
}

/// The largest weights, equal ones by id.
fn top(mut weights: Weights, k: usize) -> Weights {
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(k);
    weights
}

/// How often a number of `a` is larger than one of `b`, equal ones counting one half. Sorts both.
fn auc(a: &mut [f32], b: &mut [f32]) -> f32 {
    a.sort_by(f32::total_cmp);
    b.sort_by(f32::total_cmp);
    let of = |x: &f32| {
        let below = b.partition_point(|y| y < x);
        let equal = b[below..].partition_point(|y| y == x);
        below as f64 + equal as f64 / 2.0
    };
    let wins: f64 = a.iter().map(of).sum();
    (wins / (a.len() * b.len()) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_is_the_share_of_pairs_that_are_in_order() {
        let (mut a, mut b) = ([0.3, 0.0, 0.9, 0.3], [0.0, 0.3, 0.1]);
        let mut pairs = 0.0;
        for (x, y) in a.iter().flat_map(|x| b.iter().map(move |y| (*x, *y))) {
            pairs += if x > y {
                1.0
            } else if x == y {
                0.5
            } else {
                0.0
            };
        }
        assert_eq!(auc(&mut a, &mut b), pairs / 12.0);
        assert_eq!(auc(&mut [0.2], &mut [0.1]), 1.0);
        assert_eq!(auc(&mut [0.0; 3], &mut [0.0; 2]), 0.5);
    }
}
