//! One generation on its way through the engine.

use std::sync::Arc;
use std::time::Instant;

use steerling::canvas::CanvasId;
use steerling::{Canvas, Generation, Outcome};

use super::fault::Fault;
use super::mailbox::Sender;
use super::schedule::Priority;
use super::ticket::Permit;

/// A generation, owned by the worker from submission to its end.
pub(super) struct Job {
    pub(super) generation: Generation,
    pub(super) mailbox: Sender,
    /// Released when the job ends.
    pub(super) permit: Permit,
    /// Counts it as waiting; none once it is admitted.
    pub(super) waiting: Option<Arc<()>>,
    pub(super) deadline: Instant,
    pub(super) priority: Priority,
    pub(super) clock: Clock,
    /// The last step completed a block.
    pub(super) block_ended: bool,
    pub(super) outcome: Option<Outcome>,
    /// The request's, for what the worker has to say about it.
    pub(super) span: tracing::Span,
}

/// When a job reached which point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) submitted: Instant,
    pub(super) admitted: Option<Instant>,
    pub(super) first_commit: Option<Instant>,
}

/// Where the time of a job went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// From submission until the job left the queue.
    pub queue_ms: u64,
    /// Until the first token was committed.
    pub prefill_ms: u64,
    /// From the first token to the end.
    pub decode_ms: u64,
    /// All of it.
    pub total_ms: u64,
}

/// The end of a job that went well.
#[derive(Debug)]
pub struct Finished {
    /// Text, ids and the reason of the end.
    pub outcome: Outcome,
    /// The canvas with its commits and costs.
    pub canvas: Canvas,
    /// Where the time went.
    pub timings: Timings,
}

/// The end of a job that did not.
#[derive(Debug)]
pub enum Failure {
    /// Its deadline passed.
    Deadline,
    /// The server shuts down.
    ShuttingDown,
    /// The denoiser refused this job.
    Refused(steerling::Error),
    /// A step that it took part in failed; the reason is in the log.
    Fault(Fault),
    /// Its logits were no finite numbers.
    NonFinite {
        /// It was steered, which can do this.
        steered: bool,
    },
    /// A broken invariant; the reason is in the log.
    Internal,
}

impl Job {
    pub(super) fn id(&self) -> CanvasId {
        self.generation.canvas.id()
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.clock.admitted = Some(now);
        self.waiting = None;
        self.mailbox.start();
    }

    /// Passes on what the last step changed. How many tokens it committed.
    pub(super) fn after_step(&mut self, now: Instant) -> usize {
        let update = self.generation.update();
        let tokens = update.as_ref().map_or(0, |update| update.commits.len());
        self.block_ended = update.as_ref().is_some_and(|update| update.last);
        self.outcome = self.generation.outcome();
        if let Some(mut update) = update {
            self.clock.first_commit.get_or_insert(now);
            if let Some(outcome) = &self.outcome {
                update.delta.push_str(&outcome.delta);
            }
            self.mailbox.send(update);
        }
        tokens
    }

    /// Ends the job: with its outcome if it has one.
    pub(super) fn finish(self, now: Instant) {
        let Self { generation, mailbox, permit, clock, outcome, .. } = self;
        // First, so that who reads the end and holds no clone finds the slots free.
        drop(permit);
        mailbox.finish(match outcome {
            Some(outcome) => Ok(Box::new(Finished { outcome, canvas: generation.canvas, timings: clock.timings(now) })),
            None => Err(Failure::Internal),
        });
    }

    /// Ends the job with a failure.
    pub(super) fn fail(self, failure: Failure) {
        drop(self.permit);
        self.mailbox.finish(Err(failure));
    }
}

impl Clock {
    pub(super) fn new(submitted: Instant) -> Self {
        Self { submitted, admitted: None, first_commit: None }
    }

    fn timings(&self, end: Instant) -> Timings {
        let admitted = self.admitted.unwrap_or(end);
        let first_commit = self.first_commit.unwrap_or(end);
        let ms = |from: Instant, to: Instant| u64::try_from((to - from).as_millis()).unwrap_or(u64::MAX);
        Timings {
            queue_ms: ms(self.submitted, admitted),
            prefill_ms: ms(admitted, first_commit),
            decode_ms: ms(first_commit, end),
            total_ms: ms(self.submitted, end),
        }
    }
}
