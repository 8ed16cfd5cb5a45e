//! What the handle and the worker both see.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use steerling::cache::PageUse;
use tokio::sync::{Semaphore, watch};

use super::retry::RetrySchedule;
use super::schedule::Budget;
use super::{EngineOptions, Model, Phase};
use crate::metrics::Metrics;

pub(super) struct Shared {
    /// One for each request that may be under way: what waits, what is computed, and what is being sent.
    pub(super) slots: Arc<Semaphore>,
    /// Planning under way at once.
    pub(super) planning: Arc<Semaphore>,
    /// A clone for each generation that waits.
    pub(super) waiting: Arc<()>,
    /// A clone for each request that may still hand in work.
    pub(super) tickets: Arc<()>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) model: OnceLock<Arc<Model>>,
    pub(super) options: EngineOptions,
    pub(super) metrics: Arc<Metrics>,
    active: AtomicUsize,
    draining: AtomicBool,
    retry: Mutex<RetrySchedule>,
    pages: Mutex<PageUse>,
    started: Instant,
    /// Milliseconds from the start to the worker's last round; [`IDLE`] while it has nothing to do.
    last_round: AtomicU64,
}

/// The worker waits for work.
const IDLE: u64 = u64::MAX;

impl Shared {
    pub(super) fn new(options: EngineOptions, metrics: Arc<Metrics>) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(capacity(&options))),
            planning: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))),
            waiting: Arc::default(),
            tickets: Arc::default(),
            phase: watch::Sender::new(Phase::Loading),
            model: OnceLock::new(),
            options,
            metrics,
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            retry: Mutex::new(RetrySchedule::new(capacity(&options))),
            pages: Mutex::default(),
            started: Instant::now(),
            last_round: AtomicU64::new(IDLE),
        }
    }

    /// What there is to share on a device with these limits.
    pub(super) fn budget(&self, limits: &steerling::Limits) -> Budget {
        Budget { jobs: self.options.max_batch, pages: limits.pages, rows: self.options.max_rows }
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn set_active(&self, active: usize) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Generations that wait.
    pub(super) fn waiting(&self) -> usize {
        Arc::strong_count(&self.waiting) - 1
    }

    /// Whether requests that were admitted may still hand in work.
    pub(super) fn expects_work(&self) -> bool {
        Arc::strong_count(&self.tickets) > 1
    }

    /// Slots that are held.
    pub(super) fn in_flight(&self) -> usize {
        capacity(&self.options) - self.slots.available_permits()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// The worker begins a round, or waits for work.
    pub(super) fn beat(&self, idle: bool) {
        let now = self.started.elapsed().as_millis() as u64;
        self.last_round.store(if idle { IDLE } else { now }, Ordering::Relaxed);
    }

    /// Whether the worker has work and has not come round to it for too long.
    pub(super) fn is_stalled(&self) -> bool {
        let last = self.last_round.load(Ordering::Relaxed);
        let now = self.started.elapsed().as_millis() as u64;
        last != IDLE && Duration::from_millis(now.saturating_sub(last)) > self.options.stall
    }

    /// So many slots are about to become free.
    pub(super) fn releasing(&self, slots: usize) {
        let busy = self.in_flight() >= self.options.max_batch;
        self.retry().released(Instant::now(), slots, busy);
    }

    /// After which time a client for which there are no `slots` should come again.
    pub(super) fn retry_after(&self, slots: usize) -> Duration {
        self.retry().promise(Instant::now(), slots)
    }

    /// How the pages were used after the last step.
    pub(super) fn page_use(&self) -> PageUse {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_page_use(&self, pages: PageUse) {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    fn retry(&self) -> std::sync::MutexGuard<'_, RetrySchedule> {
        self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn capacity(options: &EngineOptions) -> usize {
    (options.max_batch.max(1)).saturating_add(options.max_queue).min(Semaphore::MAX_PERMITS)
}
