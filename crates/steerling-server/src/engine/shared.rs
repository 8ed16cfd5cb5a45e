//! What the handle and the worker both see.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use steerling::cache::PageUse;
use tokio::sync::{Semaphore, watch};

use super::departures::Departures;
use super::schedule::Budget;
use super::{EngineOptions, Model, Phase};
use crate::metrics::Metrics;

pub(super) struct Shared {
    /// One permit for each job that may be in the house, waiting or running.
    pub(super) places: Arc<Semaphore>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) model: OnceLock<Arc<Model>>,
    pub(super) options: EngineOptions,
    pub(super) metrics: Arc<Metrics>,
    active: AtomicUsize,
    draining: AtomicBool,
    departures: Mutex<Departures>,
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
            places: Arc::new(Semaphore::new(capacity(&options))),
            phase: watch::Sender::new(Phase::Loading),
            model: OnceLock::new(),
            options,
            metrics,
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            departures: Mutex::default(),
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

    pub(super) fn in_flight(&self) -> usize {
        capacity(&self.options) - self.places.available_permits()
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

    /// Jobs have left; `wanted` if others wait for their places.
    pub(super) fn departed(&self, places: usize, wanted: bool) {
        self.departures().record(Instant::now(), places, wanted);
    }

    /// When `places` are likely to be free.
    pub(super) fn retry_after(&self, places: usize) -> Duration {
        self.departures().until_free(Instant::now(), places)
    }

    /// How the pages were used after the last step.
    pub(super) fn page_use(&self) -> PageUse {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_page_use(&self, pages: PageUse) {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    fn departures(&self) -> std::sync::MutexGuard<'_, Departures> {
        self.departures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn capacity(options: &EngineOptions) -> usize {
    (options.max_batch.max(1)).saturating_add(options.max_queue).min(Semaphore::MAX_PERMITS)
}
