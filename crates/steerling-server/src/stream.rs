//! Messages of the engine as server-sent events.

use std::time::Duration;

use axum::Extension;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, SelectAll};
use serde::Serialize;
use steerling::StepUpdate;

use crate::api::attribute::AttributeAnswer;
use crate::api::attribution::TokenBody;
use crate::api::generate::answer::{AttributionEvent, BlockEvent, GenerateResult, StartEvent};
use crate::api::lanes::{Ended, Lane};
use crate::api::steer::SteerSummary;
use crate::engine::{Message, Permit, merge};
use crate::error::{ApiError, ErrorBody};
use crate::metrics::StreamEnd;
use crate::observe::RequestId;

/// Shorter than the idle timeouts of common proxies.
const PING: Duration = Duration::from_secs(15);

/// The `data:` of an event. Which one it is stands in the line `event:` before it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum StreamEvent {
    Start(StartEvent),
    Block(BlockEvent),
    Attribution(AttributionEvent),
    Done(Box<GenerateResult>),
    Attributed(Box<AttributeAnswer>),
    Summary(Box<SteerSummary>),
    Error(ErrorBody),
}

impl StreamEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Block(_) => "block",
            Self::Attribution(_) => "attribution",
            Self::Done(_) | Self::Attributed(_) => "done",
            Self::Summary(_) => "summary",
            Self::Error(_) => "error",
        }
    }
}

/// What is sent when lanes end.
pub(crate) struct Tail {
    /// A `done` with the result of each lane.
    pub(crate) each: bool,
    /// What follows when all have ended, if anything does.
    pub(crate) last: Option<Last>,
    /// The slots of the request, until its last event.
    pub(crate) permit: Permit,
}

/// Makes the last event.
pub(crate) type Last = Box<dyn FnOnce(Vec<Ended>) -> BoxFuture<'static, Result<StreamEvent, ApiError>> + Send>;

impl Tail {
    /// A stream whose lanes end with their own results, and nothing after them.
    pub(crate) fn results(permit: Permit) -> Self {
        Self { each: true, last: None, permit }
    }
}

/// One lane being followed. Dropping it (the client has left) drops the receiver, which cancels the job.
struct Follow {
    index: usize,
    /// Taken by the last step.
    lane: Option<Lane>,
    started: bool,
    /// Steps that are not worth an event of their own.
    pending: Option<StepUpdate>,
    /// The step from which on the next event is due.
    due: usize,
    /// Follows the event before it.
    queued: Option<StreamEvent>,
}

/// What a lane yields.
enum Step {
    Event(StreamEvent),
    Ended(Box<Ended>),
    Failed(ApiError),
}

/// An open stream.
struct Open {
    steps: SelectAll<BoxStream<'static, (usize, Step)>>,
    names: Vec<Option<String>>,
    ended: Vec<Option<Ended>>,
    /// Taken by the last event.
    tail: Option<Tail>,
    request_id: RequestId,
    /// Tells those who measure, because the status is long sent.
    end: StreamEnd,
    next_id: u64,
}

/// The answer: the events of all lanes as they come, then what `tail` says, or one `error`.
pub(crate) fn answer(lanes: Vec<Lane>, tail: Tail, request_id: RequestId) -> Response {
    let names = lanes.iter().map(|lane| lane.name.clone()).collect();
    let ended = lanes.iter().map(|_| None).collect();
    let steps = stream::select_all(lanes.into_iter().enumerate().map(|(index, lane)| Follow::stream(index, lane)));
    let end = StreamEnd::default();
    let open = Open { steps, names, ended, tail: Some(tail), request_id, end: end.clone(), next_id: 0 };
    let events = stream::unfold(open, |mut open| async move {
        let event = open.next().await?;
        Some((event, open))
    });
    respond(events, end)
}

/// An answer of events, with pings between them; `end` is told how it ended.
pub(crate) fn respond(
    events: impl futures::Stream<Item = Result<Event, axum::Error>> + Send + 'static,
    end: StreamEnd,
) -> Response {
    // Proxies that buffer would turn the stream into one late answer.
    let unbuffered = [(header::HeaderName::from_static("x-accel-buffering"), "no")];
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(PING).text("ping"));
    (unbuffered, Extension(end), events).into_response()
}

impl Open {
    async fn next(&mut self) -> Option<Result<Event, axum::Error>> {
        loop {
            match self.steps.next().await {
                Some((lane, Step::Event(event))) => return Some(self.event(Some(lane), &event)),
                Some((lane, Step::Ended(ended))) => {
                    let result = self.tail.as_ref().is_some_and(|tail| tail.each).then(|| result(&ended));
                    self.ended[lane] = Some(*ended);
                    // First, so that who reads the last event finds the slots free.
                    if self.ended.iter().all(Option::is_some)
                        && self.tail.as_ref().is_some_and(|tail| tail.last.is_none())
                    {
                        self.tail = None;
                    }
                    if let Some(result) = result {
                        return Some(self.event(Some(lane), &result));
                    }
                }
                Some((lane, Step::Failed(error))) => return Some(self.fail(Some(lane), error)),
                None => {
                    // Without a tail, the last event has been sent.
                    let Tail { last, permit, .. } = self.tail.take()?;
                    let ended = self.ended.drain(..).flatten().collect();
                    let last = last?(ended).await;
                    drop(permit);
                    return Some(match last {
                        Ok(event) => self.event(None, &event),
                        Err(error) => self.fail(None, error),
                    });
                }
            }
        }
    }

    /// With the lane's name if the stream has several; null for what belongs to all of them.
    fn event(&mut self, lane: Option<usize>, event: &StreamEvent) -> Result<Event, axum::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            lane: Option<&'a str>,
            #[serde(flatten)]
            event: &'a StreamEvent,
        }
        let line = Event::default().event(event.name()).id(self.next_id.to_string());
        self.next_id += 1;
        if self.names.iter().all(Option::is_none) {
            return line.json_data(event);
        }
        let lane = lane.and_then(|lane| self.names[lane].as_deref());
        line.json_data(Named { lane, event })
    }

    fn fail(&mut self, lane: Option<usize>, error: ApiError) -> Result<Event, axum::Error> {
        self.tail = None;
        // The other lanes are cancelled.
        self.steps = SelectAll::new();
        tracing::warn!(request_id = %self.request_id.0, code = ?error.code, "a stream ended with an error");
        self.end.set(error.code);
        let body = error.body(&self.request_id.0);
        self.event(lane, &StreamEvent::Error(body))
    }
}

fn result(ended: &Ended) -> StreamEvent {
    StreamEvent::Done(Box::new(GenerateResult::new(&ended.head, &ended.finished)))
}

impl Follow {
    fn stream(index: usize, lane: Lane) -> BoxStream<'static, (usize, Step)> {
        let due = lane.head.stream_every - 1;
        let follow = Self { index, lane: Some(lane), started: false, pending: None, due, queued: None };
        stream::unfold(follow, |mut follow| async move {
            let step = follow.next().await?;
            Some(((follow.index, step), follow))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Step> {
        if let Some(event) = self.queued.take() {
            return Some(Step::Event(event));
        }
        if !std::mem::replace(&mut self.started, true) {
            return self.lane.as_ref().map(|lane| Step::Event(StreamEvent::Start(lane.head.start.clone())));
        }
        loop {
            // Without a lane, the last step has been taken.
            let lane = self.lane.as_mut()?;
            match lane.receiver.recv().await {
                Some(Message::Started) => {}
                Some(Message::Update(update)) => {
                    let step = update.step;
                    let update = match self.pending.take() {
                        Some(mut pending) => {
                            merge(&mut pending, update);
                            pending
                        }
                        None => update,
                    };
                    if update.last || step >= self.due {
                        self.due = step.saturating_add(lane.head.stream_every);
                        return Some(Step::Event(self.show(update)?));
                    }
                    self.pending = Some(update);
                }
                Some(Message::Done(finished)) => {
                    let Lane { head, .. } = self.lane.take()?;
                    return Some(Step::Ended(Box::new(Ended { head, finished })));
                }
                Some(Message::Failed(failure)) => {
                    self.lane = None;
                    return Some(Step::Failed(failure.into()));
                }
                None => {
                    self.lane = None;
                    return Some(Step::Failed(ApiError::internal()));
                }
            }
        }
    }

    /// The `block` event of an update; its attributions follow.
    fn show(&mut self, mut update: StepUpdate) -> Option<StreamEvent> {
        let head = &self.lane.as_ref()?.head;
        let attributions = std::mem::take(&mut update.attributions);
        if let Some(top) = head.attribution {
            let tokens = attributions.iter().map(|token| TokenBody::new(token, &head.model, top)).collect();
            self.queued = Some(StreamEvent::Attribution(AttributionEvent { tokens }));
        }
        Some(StreamEvent::Block(BlockEvent::new(update, &head.model.tokenizer)))
    }
}
