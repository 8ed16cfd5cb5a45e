//! `GET /concepts` and below: what the concepts are called, promote and resemble.

mod params;
pub(crate) mod query;
pub(crate) mod texts;

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use steerling::catalog::{Concept, Filter, Flag, Head};
use steerling::steer::ConceptKey;
use steerling::{Catalog, ConceptRef, Runtime};
use utoipa::ToSchema;

use super::AppState;
use super::concept::ConceptBody;
use super::respond::json;
use crate::engine::{Model, WorkKind};
use crate::error::ApiError;
use crate::openapi::{Admitted, Compute, Internal, InvalidQuery, NoConcepts, NotReady, UnknownConcept};
use params::{ListParams, NeighborsParams, TokensParams, WhichFlag, WhichHead, WhichSteerable};
use query::{Named, Params};

/// Most entries of one answer.
const MAX_LIMIT: usize = 1000;

/// A part of a listing or of what a search found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptPage {
    /// Entries of the whole listing.
    total: usize,
    items: Vec<Found>,
}

/// A concept of a listing or a search.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConceptHit)]
struct Found {
    #[serde(flatten)]
    concept: ConceptBody,
    /// Of a search: for each of its words, three times the occurrences in the name plus those in the description.
    /// Null in a listing.
    #[schema(required = true)]
    score: Option<u64>,
}

/// The concepts of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptMembers {
    /// Concepts in the group.
    total: usize,
    /// The concept that was asked for first, then by id.
    items: Vec<ConceptBody>,
}

/// The tokens that a concept promotes, or works against.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptTokens {
    concept: ConceptBody,
    sign: Sign,
    /// Strongest first.
    tokens: Vec<AlignedToken>,
}

/// Which tokens of a concept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sign {
    /// Those that it promotes most.
    Positive,
    /// Those that it works against most.
    Negative,
}

/// A token and how much a concept promotes it.
#[derive(Debug, Serialize, ToSchema)]
struct AlignedToken {
    /// The token's id.
    id: u32,
    /// Its text.
    text: String,
    /// Logits that one unit of the concept's direction adds: `lm_head . (e / |e|)`.
    alignment: f32,
}

/// Concepts whose embeddings point the same way.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptNeighbors {
    concept: ConceptBody,
    /// Of both heads, the most similar first.
    items: Vec<Neighbor>,
}

/// A concept and how alike it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConceptNeighbor)]
struct Neighbor {
    #[serde(flatten)]
    concept: ConceptBody,
    /// Cosine of the two embeddings; a rounding error may take it beyond 1.
    similarity: f32,
}

/// The model, if it has concepts.
fn with_concepts(state: &AppState) -> Result<Arc<Model>, ApiError> {
    let model = state.model()?;
    if model.catalog.is_empty() {
        return Err(steerling::Error::Unsupported("this checkpoint has no concepts".to_owned()).into());
    }
    Ok(model)
}

/// The concept that a path names: by its global id, else by its exact name.
fn of_path<'a>(catalog: &'a Catalog, name: &str) -> Result<Concept<'a>, ApiError> {
    let named = match name.parse() {
        Ok(id) => ConceptRef::Id(id),
        Err(_) => ConceptRef::Name(name.to_owned()),
    };
    catalog.resolve("id", &named).map_err(|error| ApiError::of_path(error, catalog))
}

fn key(concept: &Concept<'_>) -> ConceptKey {
    match concept.head {
        Head::Known => ConceptKey::Known(concept.index),
        Head::Unknown => ConceptKey::Unknown(concept.index),
    }
}

/// The global id of a concept.
fn id(catalog: &Catalog, key: ConceptKey) -> u32 {
    match key {
        ConceptKey::Known(index) => index,
        ConceptKey::Unknown(index) => catalog.known_len() as u32 + index,
    }
}

/// Lists the concepts, or searches them.
///
/// A search looks for whole words in names and descriptions, without regard to case, best first; unless told otherwise
/// among known concepts that may be steered. A listing goes by id and, unless told otherwise, holds all concepts.
#[utoipa::path(get, path = "/concepts", tag = "concepts",
    operation_id = "list_concepts", params(ListParams),
    responses(
        (status = 200, description = "the concepts", body = ConceptPage),
        InvalidQuery, NoConcepts, Admitted, Internal, NotReady,
    ))]
pub(crate) async fn list(State(state): State<AppState>, mut params: Params) -> Result<Response, ApiError> {
    let ticket = state.admit_planning()?;
    let model = with_concepts(&state)?;
    let query = params.text("q")?.filter(|query| !query.is_empty());
    let limit = params.count("limit", 10, MAX_LIMIT)?;
    let offset = params.integer("offset", 0..=usize::MAX)?.unwrap_or(0);
    let default = if query.is_some() { Filter::REFERENCE } else { Filter::default() };
    let filter = Filter {
        head: params.word("head")?.map_or(default.head, WhichHead::filter),
        steerable: params.word("steerable")?.map_or(default.steerable, WhichSteerable::filter),
        flag: params.word::<WhichFlag>("flag")?.map(Flag::from),
    };
    params.end()?;
    // A search reads all texts of the catalogue.
    json(ticket, move || {
        let Some(query) = query else {
            let page = model.catalog.list(filter, offset, limit);
            let items = page.items.into_iter().map(|concept| Found { concept: concept.into(), score: None });
            return Ok(ConceptPage { total: page.total, items: items.collect() });
        };
        let page = model.catalog.search(&query, filter, offset, limit)?;
        let found = |hit: steerling::catalog::Hit<'_>| Found { concept: hit.concept.into(), score: Some(hit.score) };
        Ok(ConceptPage { total: page.total, items: page.items.into_iter().map(found).collect() })
    })
    .await
}

/// One concept.
///
/// Its name, what it stands for, its group and its flags.
#[utoipa::path(get, path = "/concepts/{id}", tag = "concepts", operation_id = "show_concept",
    params(("id" = String, Path, description = "global id, or the exact name", min_length = 1)),
    responses((status = 200, description = "the concept", body = ConceptBody), UnknownConcept, Internal, NotReady))]
pub(crate) async fn show(
    State(state): State<AppState>,
    Named(name): Named,
    params: Params,
) -> Result<Answer<ConceptBody>, ApiError> {
    params.end()?;
    let model = with_concepts(&state)?;
    Ok(Answer(of_path(&model.catalog, &name)?.into()))
}

/// The concepts of a concept's group.
///
/// A concept without a group is alone.
#[utoipa::path(get, path = "/concepts/{id}/group", tag = "concepts", operation_id = "concept_group",
    params(("id" = String, Path, description = "global id, or the exact name", min_length = 1)),
    responses((status = 200, description = "the group", body = ConceptMembers), UnknownConcept, Admitted, Internal, NotReady))]
pub(crate) async fn group(
    State(state): State<AppState>,
    Named(name): Named,
    params: Params,
) -> Result<Response, ApiError> {
    params.end()?;
    let ticket = state.admit_planning()?;
    let model = with_concepts(&state)?;
    json(ticket, move || {
        let catalog = &model.catalog;
        let ids = catalog.group(of_path(catalog, &name)?.id);
        let items: Vec<ConceptBody> = ids.iter().filter_map(|id| catalog.get(*id)).map(ConceptBody::from).collect();
        Ok(ConceptMembers { total: items.len(), items })
    })
    .await
}

/// The tokens that a concept promotes most, or works against most.
///
/// By the output head's alignment with the concept's embedding.
#[utoipa::path(get, path = "/concepts/{id}/tokens", tag = "concepts", operation_id = "concept_tokens",
    params(
        ("id" = String, Path, description = "global id, or the exact name", min_length = 1),
        TokensParams,
    ),
    responses(
        (status = 200, description = "the tokens", body = ConceptTokens), UnknownConcept, Compute, Internal, NotReady,
    ))]
pub(crate) async fn tokens(
    State(state): State<AppState>,
    Named(name): Named,
    mut params: Params,
) -> Result<Response, ApiError> {
    let ticket = state.admit(None)?;
    let model = with_concepts(&state)?;
    let k = params.count("k", 15, MAX_LIMIT)?;
    let sign = params.word("sign")?.unwrap_or(Sign::Positive);
    params.end()?;
    let key = key(&of_path(&model.catalog, &name)?);
    let work =
        move |runtime: &mut Runtime| runtime.model().concept_top_tokens(key, k, sign == Sign::Negative).map(Some);
    let top = ticket.run(WorkKind::Concepts, 1, work)?.await?;
    json(ticket, move || {
        let token = |(id, alignment): (u32, f32)| AlignedToken { id, text: model.tokenizer.token_text(id), alignment };
        let concept = of_path(&model.catalog, &name)?.into();
        Ok(ConceptTokens { concept, sign, tokens: top.into_iter().map(token).collect() })
    })
    .await
}

/// The concepts whose embeddings are most similar to a concept's.
///
/// By cosine, of both heads.
#[utoipa::path(get, path = "/concepts/{id}/neighbors", tag = "concepts", operation_id = "concept_neighbors",
    params(
        ("id" = String, Path, description = "global id, or the exact name", min_length = 1),
        NeighborsParams,
    ),
    responses(
        (status = 200, description = "the concepts", body = ConceptNeighbors),
        UnknownConcept, Compute, Internal, NotReady,
    ))]
pub(crate) async fn neighbors(
    State(state): State<AppState>,
    Named(name): Named,
    mut params: Params,
) -> Result<Response, ApiError> {
    let ticket = state.admit(None)?;
    let model = with_concepts(&state)?;
    let k = params.count("k", 20, MAX_LIMIT)?;
    params.end()?;
    let key = key(&of_path(&model.catalog, &name)?);
    let work = move |runtime: &mut Runtime| runtime.model().concept_neighbors(key, k).map(Some);
    let found = ticket.run(WorkKind::Concepts, 1, work)?.await?;
    json(ticket, move || {
        let catalog = &model.catalog;
        let neighbor = |(key, similarity)| {
            catalog.get(id(catalog, key)).map(|concept| Neighbor { concept: concept.into(), similarity })
        };
        let items = found.into_iter().filter_map(neighbor).collect();
        Ok(ConceptNeighbors { concept: of_path(catalog, &name)?.into(), items })
    })
    .await
}
