//! What a request holds of the engine, from before its planning until the last byte of its answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use steerling::{Generation, Result, Runtime};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use super::job::{Clock, Failure, Job};
use super::mailbox::{Receiver, mailbox};
use super::schedule::Priority;
use super::shared::Shared;
use super::task::{Work, WorkKind};
use super::worker::Command;
use super::{EngineHandle, SubmitError};

/// Slots of queue and batch, shared by the work of a request and the body of its answer. They are free again when the
/// last clone is dropped.
#[derive(Clone)]
pub struct Permit {
    slots: Arc<Slots>,
}

struct Slots {
    shared: Arc<Shared>,
    held: Mutex<OwnedSemaphorePermit>,
}

impl Drop for Slots {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.shared.releasing(held.num_permits());
    }
}

/// The right of one request to have work done until its deadline. Nothing is planned or computed without one.
pub struct Ticket {
    engine: EngineHandle,
    permit: Permit,
    deadline: Instant,
    /// Counts as long as work may follow: a server that shuts down waits for it.
    _open: Arc<()>,
}

impl EngineHandle {
    /// Admits a request with one slot, to be answered by `deadline`.
    ///
    /// # Errors
    /// If no slot is free, or no work is taken: nothing waits for a slot.
    pub fn admit(&self, deadline: Instant) -> Result<Ticket, SubmitError> {
        self.check_open()?;
        self.admit_planning(deadline)
    }

    /// As [`Self::admit`], for a request that needs no computation by the model: also while that is loaded again.
    ///
    /// # Errors
    /// If no slot is free.
    pub fn admit_planning(&self, deadline: Instant) -> Result<Ticket, SubmitError> {
        let held = Mutex::new(self.acquire(1)?);
        let permit = Permit { slots: Arc::new(Slots { shared: self.shared.clone(), held }) };
        Ok(Ticket { engine: self.clone(), permit, deadline, _open: self.shared.tickets.clone() })
    }

    fn acquire(&self, n: usize) -> Result<OwnedSemaphorePermit, SubmitError> {
        let acquired = u32::try_from(n).ok().and_then(|n| self.shared.slots.clone().try_acquire_many_owned(n).ok());
        acquired.ok_or_else(|| SubmitError::Overloaded { retry_after: self.shared.retry_after(n) })
    }
}

impl Ticket {
    /// When the answer must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The slots, for the body of an answer while more work follows.
    pub fn permit(&self) -> Permit {
        self.permit.clone()
    }

    /// The slots alone, for the body of the answer: no more work follows.
    pub fn into_permit(self) -> Permit {
        self.permit
    }

    /// Holds `n` slots from now on, so that what a request needs at once cannot be turned away half-way.
    ///
    /// # Errors
    /// If there are not as many free.
    pub fn extend_to(&self, n: usize) -> Result<(), SubmitError> {
        let mut held = self.permit.slots.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = n.checked_sub(held.num_permits()).filter(|more| *more > 0) {
            held.merge(self.engine.acquire(more)?);
        }
        Ok(())
    }

    /// Does `work` on one of the threads for planning, of which there are as many as cores. What has not begun when the
    /// request is dropped never begins.
    ///
    /// # Errors
    /// [`Failure::Deadline`], or [`Failure::Internal`] if it panics.
    pub async fn plan<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let deadline = self.deadline.into();
        let turn = timeout_at(deadline, self.engine.shared.planning.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Failure::Deadline)?.map_err(|_| Failure::Internal)?;
        let (permit, span) = (self.permit.clone(), tracing::Span::current());
        let planned = tokio::task::spawn_blocking(move || {
            // It goes on when its request is dropped: with the slots of that request.
            let _held = (turn, permit);
            span.in_scope(work)
        });
        match timeout_at(deadline, AbortOnDropHandle::new(planned)).await {
            Ok(planned) => planned.map_err(|_| Failure::Internal),
            Err(_) => Err(Failure::Deadline),
        }
    }

    /// Hands in a generation.
    ///
    /// # Errors
    /// If it cannot be taken.
    pub fn submit(&self, generation: Generation, priority: Priority) -> Result<Receiver, SubmitError> {
        self.engine.check_size(&generation)?;
        let (mailbox, receiver) = mailbox(self.deadline);
        let job = Job {
            generation,
            mailbox,
            permit: self.permit.clone(),
            waiting: Some(self.engine.shared.waiting.clone()),
            priority,
            deadline: self.deadline,
            clock: Clock::new(Instant::now()),
            block_ended: false,
            outcome: None,
            span: tracing::Span::current(),
        };
        self.engine.send(Command::Job(Box::new(job)))?;
        Ok(receiver)
    }

    /// Has `work` done on the model, between the steps of generations: it is called again and again until it has the
    /// answer, and should do no more at a time than a step takes. `size` says about how many token positions it needs in
    /// all: small work does not wait for large work.
    ///
    /// # Errors
    /// If the worker is gone. The future yields the failure of the work itself.
    pub fn run<T, F>(
        &self,
        kind: WorkKind,
        size: usize,
        work: F,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        let (task, answer) = Work::new(work, (kind, size as u64), self.deadline, self.permit.clone());
        self.engine.send(Command::Task(Box::new(task)))?;
        Ok(until(self.deadline, answer))
    }
}

/// The answer, or the deadline even if the worker is in the middle of a long step.
async fn until<T>(deadline: Instant, answer: oneshot::Receiver<Result<T, Failure>>) -> Result<T, Failure> {
    match timeout_at(deadline.into(), answer).await {
        // A worker that is gone without an answer has failed.
        Ok(answer) => answer.unwrap_or(Err(Failure::Internal)),
        Err(_) => Err(Failure::Deadline),
    }
}
