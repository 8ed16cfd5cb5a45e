//! Work on the model that is not a generation, done in slices between the steps of generations.

use std::time::Instant;

use steerling::{Error, Result, Runtime};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::job::Failure;
use super::ticket::Permit;

/// What a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// Input attribution, and replays of traces.
    Attribute,
    /// Hidden states of texts.
    Embed,
    /// Likelihoods.
    Score,
    /// Resolving and measuring steering.
    Steer,
    /// Tokens and neighbours of concepts.
    Concepts,
}

impl WorkKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Attribute, Self::Embed, Self::Score, Self::Steer, Self::Concepts];

    /// The name used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attribute => "attribute",
            Self::Embed => "embed",
            Self::Score => "score",
            Self::Steer => "steer",
            Self::Concepts => "concepts",
        }
    }
}

/// What became of a slice.
pub(super) enum Slice {
    /// There is more to do.
    More,
    /// There is no room beside the running generations: again later.
    Blocked,
    /// The task has answered.
    Done,
    /// It has answered that this happened to it.
    Failed(Fault),
}

/// A task, whatever it answers.
pub(super) trait Task: Send {
    /// Does one slice; `None` is a denoiser that is no model.
    fn advance(&mut self, runtime: Option<&mut Runtime>) -> Slice;
    /// Whether nobody waits for the answer any more.
    fn is_closed(&self) -> bool;
    fn deadline(&self) -> Instant;
    fn kind(&self) -> WorkKind;
    /// Token positions that it needs in all, about.
    fn size(&self) -> u64;
    fn fail(&mut self, failure: Failure);
}

/// A task that `work` does: called again and again until it has the answer.
pub(super) struct Work<T, F> {
    work: F,
    /// Taken when the task has answered.
    reply: Option<oneshot::Sender<Result<T, Failure>>>,
    deadline: Instant,
    kind: WorkKind,
    size: u64,
    span: tracing::Span,
    /// Released when the task has answered.
    permit: Option<Permit>,
}

impl<T, F> Work<T, F> {
    pub(super) fn new(
        work: F,
        (kind, size): (WorkKind, u64),
        deadline: Instant,
        permit: Permit,
    ) -> (Self, oneshot::Receiver<Result<T, Failure>>) {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        (Self { work, reply: Some(reply), deadline, kind, size, span, permit: Some(permit) }, answer)
    }

    fn answer(&mut self, answer: Result<T, Failure>) {
        // First, so that who reads the answer and holds no clone finds the slots free.
        self.permit = None;
        if let Some(reply) = self.reply.take() {
            // The reader may have left in the meantime.
            _ = reply.send(answer);
        }
    }
}

impl<T, F> Task for Work<T, F>
where
    T: Send,
    F: FnMut(&mut Runtime) -> Result<Option<T>> + Send,
{
    fn advance(&mut self, runtime: Option<&mut Runtime>) -> Slice {
        let unsupported = || Error::Unsupported("this denoiser is no model: it only generates".into());
        match runtime.ok_or_else(unsupported).and_then(|runtime| (self.work)(runtime)) {
            Ok(None) => return Slice::More,
            Err(Error::Busy(_)) => return Slice::Blocked,
            Ok(Some(answer)) => self.answer(Ok(answer)),
            Err(error @ Error::Device(_)) => {
                let fault = Fault::from(&error);
                self.span.in_scope(|| tracing::error!(%error, "a slice failed on the device"));
                self.answer(Err(Failure::Fault(fault)));
                return Slice::Failed(fault);
            }
            Err(error) => self.answer(Err(Failure::Refused(error))),
        }
        Slice::Done
    }

    fn is_closed(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn kind(&self) -> WorkKind {
        self.kind
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn fail(&mut self, failure: Failure) {
        self.answer(Err(failure));
    }
}
