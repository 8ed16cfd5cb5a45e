//! A listener that has at most so many connections open.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum_server::{AddrListener, Address};
use metrics::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Activity;

/// A connection that has been idle for less than this is not closed for another one: its last answer may be on its way,
/// and its first request, too.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// While all slots are taken, the listener looks this often for a connection that has become idle.
const RETRY: Duration = Duration::from_millis(50);

/// A client. Nothing here asks for its address.
#[derive(Debug, Clone)]
pub(crate) struct Peer;

impl Address for Peer {
    type Stream = Admitted;
    type Listener = Bounded;
}

/// A connection that has a slot.
pub(crate) struct Admitted {
    pub(super) stream: TcpStream,
    pub(super) slot: Slot,
}

/// Accepts a connection when there is a slot for it; the others wait in the queue of the operating system.
pub(crate) struct Bounded {
    pub(super) listener: TcpListener,
    pub(super) slots: Arc<Slots>,
}

impl AddrListener<Admitted, Peer> for Bounded {
    async fn bind_to(_: Peer) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept_stream(&self) -> io::Result<(Admitted, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((Admitted { stream, slot: self.slots.take().await }, Peer))
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.listener.local_addr().map(|_| Peer)
    }
}

/// The connections of a port.
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    next: AtomicU64,
    gauge: Gauge,
}

/// One of the slots, given back when it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    activity: Arc<Activity>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(most: usize, gauge: Gauge) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { permits, open: Mutex::default(), next: AtomicU64::new(0), gauge })
    }

    /// A slot. When all are taken, the connection that has been idle for the longest time is closed.
    pub(super) async fn take(self: &Arc<Self>) -> Slot {
        let permit = self.permit().await;
        let (id, activity) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Activity::default()));
        self.lock().insert(id, activity.clone());
        self.gauge.increment(1.0);
        Slot { slots: self.clone(), id, activity, _permit: permit }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                return permit;
            }
            self.close_longest_idle();
            if let Ok(Ok(permit)) = tokio::time::timeout(RETRY, self.permits.clone().acquire_owned()).await {
                return permit;
            }
        }
    }

    fn close_longest_idle(&self) {
        let open = self.lock();
        let idle = open.values().filter_map(|activity| Some((activity.idle_since()?, activity)));
        if let Some((since, activity)) = idle.min_by_key(|(since, _)| *since)
            && since.elapsed() >= MIN_IDLE
        {
            activity.close();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().remove(&self.id);
        self.slots.gauge.decrement(1.0);
    }
}
