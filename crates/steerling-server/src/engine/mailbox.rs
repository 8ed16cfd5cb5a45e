//! The way from the worker to one reader: never blocks the worker, and its memory is bounded.
//!
//! A reader that falls behind finds updates of the same block merged, so it neither slows its neighbours nor makes
//! the process grow: at most [`CAPACITY`] updates plus one for each later block wait for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use steerling::StepUpdate;
use tokio::sync::Notify;

use super::job::{Failure, Finished};

/// Updates that wait for a reader before they are merged.
pub(super) const CAPACITY: usize = 32;

/// What a reader finds, in this order: one start, updates, one end.
#[derive(Debug)]
pub enum Message {
    /// The job has left the queue.
    Started,
    /// One step, or several steps of one block merged.
    Update(StepUpdate),
    /// The job is finished; nothing follows.
    Done(Box<Finished>),
    /// The job has failed; nothing follows.
    Failed(Failure),
}

#[derive(Default)]
struct State {
    started: bool,
    updates: VecDeque<StepUpdate>,
    end: Option<Result<Box<Finished>, Failure>>,
    sender_gone: bool,
    receiver_gone: bool,
}

#[derive(Default)]
struct Mailbox {
    state: Mutex<State>,
    changed: Notify,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half-written, so a poisoned lock is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's side. Dropped without [`Sender::finish`], it leaves an internal failure.
pub(super) struct Sender(Arc<Mailbox>);

/// The reader's side. Dropped, it tells the worker to stop.
pub struct Receiver {
    mailbox: Arc<Mailbox>,
    ended: bool,
    deadline: Instant,
}

/// A new mailbox, whose reader hears of `deadline` in time even if the worker is in the middle of a long step.
pub(super) fn mailbox(deadline: Instant) -> (Sender, Receiver) {
    let mailbox = Arc::new(Mailbox::default());
    (Sender(mailbox.clone()), Receiver { mailbox, ended: false, deadline })
}

impl Sender {
    /// The job has left the queue.
    pub(super) fn start(&self) {
        self.0.state().started = true;
        self.0.changed.notify_one();
    }

    /// Leaves an update, merged into the last one when the reader is far behind.
    pub(super) fn send(&self, update: StepUpdate) {
        let mut state = self.0.state();
        let full = state.updates.len() >= CAPACITY;
        match state.updates.back_mut() {
            Some(last) if full && last.block == update.block => merge(last, update),
            _ => state.updates.push_back(update),
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Leaves the end.
    pub(super) fn finish(self, end: Result<Box<Finished>, Failure>) {
        self.0.state().end = Some(end);
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.state().receiver_gone
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().sender_gone = true;
        self.0.changed.notify_one();
    }
}

impl Receiver {
    /// The next message; `None` after the end. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(message) = self.take() {
                self.ended = matches!(message, Message::Done(_) | Message::Failed(_));
                return Some(message);
            }
            let changed = self.mailbox.changed.notified();
            if tokio::time::timeout_at(self.deadline.into(), changed).await.is_err() {
                // The worker may have been faster by a moment.
                let message = self.take().unwrap_or(Message::Failed(Failure::Deadline));
                self.ended = matches!(message, Message::Done(_) | Message::Failed(_));
                return Some(message);
            }
        }
    }

    fn take(&self) -> Option<Message> {
        let mut state = self.mailbox.state();
        if std::mem::take(&mut state.started) {
            return Some(Message::Started);
        }
        if let Some(update) = state.updates.pop_front() {
            return Some(Message::Update(update));
        }
        match state.end.take() {
            Some(Ok(finished)) => Some(Message::Done(finished)),
            Some(Err(failure)) => Some(Message::Failed(failure)),
            None => state.sender_gone.then_some(Message::Failed(Failure::Internal)),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.mailbox.state().receiver_gone = true;
    }
}

/// Makes one update of two that follow each other in the same block: both deltas and commits, the newer snapshot.
pub fn merge(last: &mut StepUpdate, next: StepUpdate) {
    let StepUpdate { block, step, start, ids, mut commits, mut attributions, delta, masked, last: is_last } = next;
    last.commits.append(&mut commits);
    last.attributions.append(&mut attributions);
    last.delta.push_str(&delta);
    (last.block, last.step, last.start, last.ids, last.masked, last.last) = (block, step, start, ids, masked, is_last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use steerling::canvas::Commit;

    fn update(step: usize, block: usize) -> StepUpdate {
        let commit =
            Commit { step, block, position: step, id: 1, confidence: 0.5, target_logit: 1.0, decision_logit: 1.0 };
        StepUpdate {
            block,
            step,
            start: block * 8,
            ids: vec![Some(1), None],
            commits: vec![commit],
            attributions: Vec::new(),
            delta: format!("{step},"),
            masked: 1,
            last: false,
        }
    }

    async fn drain(mut receiver: Receiver) -> (Vec<StepUpdate>, usize) {
        let (mut updates, mut ends) = (Vec::new(), 0);
        while let Some(message) = receiver.recv().await {
            match message {
                Message::Update(update) => updates.push(update),
                Message::Done(_) | Message::Failed(_) => ends += 1,
                Message::Started => {}
            }
        }
        (updates, ends)
    }

    fn later() -> Instant {
        Instant::now() + std::time::Duration::from_secs(60)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    proptest! {
        #[test]
        fn a_reader_that_never_reads_loses_no_delta_and_no_commit(blocks in prop::collection::vec(1usize..80, 1..6)) {
            let (sender, receiver) = mailbox(later());
            let mut step = 0;
            for (block, steps) in blocks.iter().enumerate() {
                for _ in 0..*steps {
                    sender.send(update(step, block));
                    step += 1;
                }
            }
            drop(sender);
            let (updates, ends) = block_on(drain(receiver));
            prop_assert!(updates.len() <= CAPACITY + blocks.len());
            prop_assert_eq!(ends, 1);
            let steps: Vec<usize> = updates.iter().flat_map(|u| u.commits.iter().map(|c| c.step)).collect();
            prop_assert_eq!(steps, (0..step).collect::<Vec<_>>());
            let text: String = updates.iter().map(|u| u.delta.as_str()).collect();
            prop_assert_eq!(text, (0..step).map(|s| format!("{s},")).collect::<String>());
            prop_assert!(updates.iter().all(|u| u.commits.iter().all(|c| c.block == u.block)));
            prop_assert!(updates.iter().all(|u| u.step == u.commits.last().map_or(0, |c| c.step)));
        }
    }

    #[test]
    fn a_sender_that_vanishes_leaves_one_internal_failure() {
        let (sender, mut receiver) = mailbox(later());
        sender.start();
        drop(sender);
        block_on(async {
            assert!(matches!(receiver.recv().await, Some(Message::Started)));
            assert!(matches!(receiver.recv().await, Some(Message::Failed(Failure::Internal))));
            assert!(receiver.recv().await.is_none());
        });
    }

    #[test]
    fn an_end_is_not_followed_by_a_second_one() {
        let (sender, mut receiver) = mailbox(later());
        sender.finish(Err(Failure::Deadline));
        block_on(async {
            assert!(matches!(receiver.recv().await, Some(Message::Failed(Failure::Deadline))));
            assert!(receiver.recv().await.is_none());
        });
    }

    #[test]
    fn the_worker_sees_that_nobody_reads() {
        let (sender, receiver) = mailbox(later());
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
    }

    #[test]
    fn a_reader_hears_of_its_deadline_while_the_worker_is_busy() {
        let (sender, mut receiver) = mailbox(Instant::now() + std::time::Duration::from_millis(20));
        sender.start();
        block_on(async {
            assert!(matches!(receiver.recv().await, Some(Message::Started)));
            assert!(matches!(receiver.recv().await, Some(Message::Failed(Failure::Deadline))));
            assert!(receiver.recv().await.is_none());
        });
    }
}
