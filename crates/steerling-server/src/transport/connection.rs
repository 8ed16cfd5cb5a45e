//! A connection that ends when it has had no request for too long, or when its client reads none of what is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::slots::Slot;

/// What a connection is doing. Its stream, its requests and the listener share it.
pub(super) struct Activity {
    state: Mutex<State>,
    /// The task that reads and writes the connection.
    task: AtomicWaker,
}

struct State {
    /// Requests whose body or answer has not ended.
    requests: usize,
    /// Since when there has been no request, and nothing to write.
    idle_since: Instant,
    /// Since when bytes have been waiting to be written and none was taken.
    blocked_since: Option<Instant>,
    /// Its slot is needed for another connection.
    closing: bool,
}

/// Counts a request of a connection for as long as it exists.
pub(super) struct InFlight(Arc<Activity>);

impl Default for Activity {
    fn default() -> Self {
        let state = State { requests: 0, idle_since: Instant::now(), blocked_since: None, closing: false };
        Self { state: Mutex::new(state), task: AtomicWaker::new() }
    }
}

impl Activity {
    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<InFlight> {
        self.lock().requests += 1;
        Arc::new(InFlight(self.clone()))
    }

    /// Since when the connection could have been closed without harm; none while it cannot.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.requests == 0 && state.blocked_since.is_none() && !state.closing).then_some(state.idle_since)
    }

    /// Ends the connection unless a request arrives first.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.task.wake();
    }

    fn is_closing(&self) -> bool {
        let state = self.lock();
        state.closing && state.requests == 0 && state.blocked_since.is_none()
    }

    fn is_blocked(&self) -> bool {
        self.lock().blocked_since.is_some()
    }

    /// Notes whether bytes were taken, or are waiting.
    fn note_write(&self, blocked: bool) {
        let mut state = self.lock();
        match (blocked, state.blocked_since) {
            (true, None) => state.blocked_since = Some(Instant::now()),
            (false, Some(_)) => {
                state.blocked_since = None;
                state.idle_since = Instant::now();
            }
            _ => {}
        }
    }

    /// When the connection will have run out of time, as things are.
    fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let state = self.lock();
        match state.blocked_since {
            Some(since) => Some(since + limits.write_time),
            None if state.requests == 0 => Some(state.idle_since + limits.header_time),
            None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
            state.idle_since = Instant::now();
            drop(state);
            // Its deadline begins.
            self.0.task.wake();
        }
    }
}

/// A stream with deadlines.
pub(super) struct Connection<S> {
    stream: S,
    limits: Limits,
    timer: Pin<Box<Sleep>>,
    slot: Slot,
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, slot: Slot, limits: Limits) -> Self {
        Self { stream, limits, timer: Box::pin(tokio::time::sleep(limits.header_time)), slot }
    }

    /// Ready when the connection has run out of time.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.slot.activity().deadline(&self.limits) else { return Poll::Pending };
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(context)
    }

    fn note_write(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.slot.activity().note_write(written.is_pending());
        if written.is_pending() {
            ready!(self.poll_overdue(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.slot.activity().task.register(context.waker());
        if this.poll_overdue(context).is_ready() {
            return Poll::Ready(match this.slot.activity().is_blocked() {
                true => Err(io::ErrorKind::TimedOut.into()),
                // Nothing is under way: the same as if the client had ended it.
                false => Ok(()),
            });
        }
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_pending() && this.slot.activity().is_closing() {
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note_write(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.note_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
