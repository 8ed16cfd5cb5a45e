//! Generations as OpenAI's chunks: final text only, ended by `data: [DONE]` or by an error.

use std::collections::VecDeque;

use axum::response::Response;
use axum::response::sse::Event;
use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use serde::Serialize;

use super::common::{ChoiceExtra, Usage};
use super::error::OpenAiErrorBody;
use crate::api::lanes::{Ended, Lane};
use crate::engine::{Message, Permit};
use crate::error::ApiError;
use crate::metrics::StreamEnd;
use crate::observe::RequestId;
use crate::stream::respond;

/// What a chunk tells.
pub(super) enum Piece {
    /// A choice begins.
    Opening(usize),
    /// Text of a choice has become final.
    Text(usize, String),
    /// A choice is complete.
    End(usize, Box<ChoiceExtra>),
    /// All choices are complete, and the usage is asked for.
    Usage(Usage),
}

/// Makes a chunk of a piece; none where its shape has none.
pub(super) trait Render<C: Serialize>: FnMut(Piece) -> Option<C> + Send + 'static {}
impl<C: Serialize, R: FnMut(Piece) -> Option<C> + Send + 'static> Render<C> for R {}

/// What a lane yields.
enum Step {
    Text(String),
    Ended(Box<Ended>),
    Failed(ApiError),
}

/// An open stream.
struct Open<R> {
    steps: SelectAll<BoxStream<'static, (usize, Step)>>,
    /// Events that are to be sent before the next step is waited for.
    queue: VecDeque<Result<Event, axum::Error>>,
    has_ended: bool,
    /// The slots of the request, until its last event is made.
    permit: Option<Permit>,
    render: R,
    usage: Usage,
    include_usage: bool,
    request_id: RequestId,
    /// Tells those who measure, because the status is long sent.
    end: StreamEnd,
}

/// The answer. `usage` counts the prompts; it is sent if `include_usage`.
pub(super) fn answer<C: Serialize>(
    (lanes, permit): (Vec<Lane>, Permit),
    (usage, include_usage): (Usage, bool),
    request_id: RequestId,
    render: impl Render<C>,
) -> Response {
    let choices = lanes.len();
    let steps = stream::select_all(lanes.into_iter().enumerate().map(|(index, lane)| follow(index, lane)));
    let end = StreamEnd::default();
    let mut open = Open {
        steps,
        queue: VecDeque::new(),
        has_ended: false,
        permit: Some(permit),
        render,
        usage,
        include_usage,
        request_id,
        end: end.clone(),
    };
    (0..choices).for_each(|index| open.push(Piece::Opening(index)));
    let events = stream::unfold(open, |mut open| async move {
        let event = open.next().await?;
        Some((event, open))
    });
    respond(events, end)
}

impl<R> Open<R> {
    fn push<C: Serialize>(&mut self, piece: Piece)
    where
        R: Render<C>,
    {
        if let Some(chunk) = (self.render)(piece) {
            self.queue.push_back(Event::default().json_data(chunk));
        }
    }

    async fn next<C: Serialize>(&mut self) -> Option<Result<Event, axum::Error>>
    where
        R: Render<C>,
    {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            match self.steps.next().await {
                Some((_, Step::Text(delta))) if delta.is_empty() => {}
                Some((index, Step::Text(delta))) => self.push(Piece::Text(index, delta)),
                Some((index, Step::Ended(ended))) => {
                    let (_, extra) = ChoiceExtra::of(&ended);
                    let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
                    self.usage = Usage::new(prompt_tokens, completion_tokens + extra.token_ids.len());
                    self.push(Piece::End(index, Box::new(extra)));
                }
                Some((_, Step::Failed(error))) => self.fail(&error),
                None => {
                    self.has_ended = true;
                    self.permit = None;
                    if self.include_usage {
                        self.push(Piece::Usage(self.usage));
                    }
                    self.queue.push_back(Ok(Event::default().data("[DONE]")));
                }
            }
        }
    }

    /// Without `[DONE]`: a stream cut short is not to be taken for a success.
    fn fail(&mut self, error: &ApiError) {
        self.has_ended = true;
        self.permit = None;
        // The other choices are cancelled.
        self.steps = SelectAll::new();
        tracing::warn!(request_id = %self.request_id.0, code = ?error.code, "a stream ended with an error");
        self.end.set(error.code);
        self.queue.push_back(Event::default().json_data(OpenAiErrorBody::from(error)));
    }
}

fn follow(index: usize, lane: Lane) -> BoxStream<'static, (usize, Step)> {
    stream::unfold(Some(lane), move |lane| async move {
        let mut lane = lane?;
        loop {
            return match lane.receiver.recv().await {
                Some(Message::Started) => continue,
                Some(Message::Update(update)) => Some(((index, Step::Text(update.delta)), Some(lane))),
                Some(Message::Done(finished)) => {
                    Some(((index, Step::Ended(Box::new(Ended { head: lane.head, finished }))), None))
                }
                Some(Message::Failed(failure)) => Some(((index, Step::Failed(failure.into())), None)),
                None => Some(((index, Step::Failed(ApiError::internal())), None)),
            };
        }
    })
    .boxed()
}
