//! What streams hold, event by event: `event` is the line of that name, `data` the JSON behind it.

use utoipa::ToSchema;

use crate::api::attribute::AttributeAnswer;
use crate::api::generate::answer::{AttributionEvent, BlockEvent, GenerateResult, StartEvent};
use crate::api::steer::SteerSummary;
use crate::error::ErrorBody;

/// An event of `POST /generate`. One `start`, then `block`s, then exactly one `done` or `error`.
#[derive(ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum GenerateEvent {
    /// The generation has left the queue.
    Start(StartEvent),
    /// A denoising step.
    Block(BlockEvent),
    /// Why the tokens of the `block` before were committed, if attribution is asked for.
    Attribution(AttributionEvent),
    /// The whole result.
    Done(Box<GenerateResult>),
    /// It has failed. Nothing follows.
    Error(ErrorBody),
}

/// An event of `POST /attribute`. One `start` (none for a trace), then `block`s with their `attribution`s, then exactly one
/// `done` or `error`.
#[derive(ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum AttributeEvent {
    /// The generation has left the queue.
    Start(StartEvent),
    /// A denoising step.
    Block(BlockEvent),
    /// Why the tokens of the `block` before were committed.
    Attribution(AttributionEvent),
    /// The generation and its attribution.
    Done(Box<AttributeAnswer>),
    /// It has failed. Nothing follows.
    Error(ErrorBody),
}

/// An event of `POST /steer`. Each lane has one `start`, then `block`s, then one `done`; when all have ended there is one
/// `summary`. An `error` ends all lanes.
#[derive(ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum SteerEvent {
    /// The run has left the queue.
    Start(LaneStart),
    /// A denoising step of a run.
    Block(LaneBlock),
    /// Why the tokens of the `block` of this lane before were committed, if attribution is asked for.
    Attribution(LaneAttribution),
    /// The whole result of a run.
    Done(Box<LaneDone>),
    /// What was steered by, and what it did. Its `lane` is null.
    Summary(LaneSummary),
    /// It has failed. Nothing follows.
    Error(LaneError),
}

/// Data with the name of its lane.
macro_rules! in_lanes {
    ($($name:ident: $data:ident),+ $(,)?) => {$(
        /// An event's data, of one of several runs.
        #[derive(ToSchema)]
        #[expect(dead_code, reason = "only its schema is used")]
        pub(crate) struct $name {
            /// `steered`, `default`, `control-0` and so on, `sweep-0` and so on; null for what belongs to all.
            #[schema(required = true, example = "steered")]
            lane: Option<String>,
            #[serde(flatten)]
            data: $data,
        }
    )+};
}

in_lanes!(
    LaneStart: StartEvent,
    LaneBlock: BlockEvent,
    LaneAttribution: AttributionEvent,
    LaneDone: GenerateResult,
    LaneSummary: SteerSummary,
    LaneError: ErrorBody,
);
