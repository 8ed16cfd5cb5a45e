//! What the handle and the worker both see.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::{EngineOptions, Model, Phase};

/// Seconds that [`Shared::retry_after`] never exceeds: a client should look again before long.
const MAX_RETRY_AFTER: f64 = 60.0;
/// Weight of the newest job in the measured rate.
const NEWEST: f64 = 0.2;

pub(super) struct Shared {
    /// One permit for each job that may be in the house, waiting or running.
    pub(super) places: Arc<Semaphore>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) model: OnceLock<Arc<Model>>,
    pub(super) options: EngineOptions,
    active: AtomicUsize,
    draining: AtomicBool,
    /// Seconds between two places that become free while the batch is busy, smoothed.
    seconds_per_place: Mutex<f64>,
}

impl Shared {
    pub(super) fn new(options: EngineOptions) -> Self {
        Self {
            places: Arc::new(Semaphore::new(capacity(&options))),
            phase: watch::Sender::new(Phase::Loading),
            model: OnceLock::new(),
            options,
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            seconds_per_place: Mutex::new(0.0),
        }
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

    /// A job ran for `time` in a batch of `batch`.
    pub(super) fn record(&self, time: Duration, batch: usize) {
        let newest = time.as_secs_f64() / batch.max(1) as f64;
        let mut smoothed = self.seconds_per_place.lock().unwrap_or_else(PoisonError::into_inner);
        *smoothed = if *smoothed == 0.0 { newest } else { *smoothed + NEWEST * (newest - *smoothed) };
    }

    /// When the next place is likely to be free, in whole seconds from 1 on.
    pub(super) fn retry_after(&self) -> Duration {
        let seconds = *self.seconds_per_place.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs(seconds.ceil().clamp(1.0, MAX_RETRY_AFTER) as u64)
    }
}

fn capacity(options: &EngineOptions) -> usize {
    (options.max_batch.max(1)).saturating_add(options.max_queue).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_follows_the_measured_rate_within_its_bounds() {
        let shared = Shared::new(EngineOptions { max_batch: 4, max_queue: 4 });
        assert_eq!(shared.retry_after(), Duration::from_secs(1));
        shared.record(Duration::from_secs(40), 4);
        assert_eq!(shared.retry_after(), Duration::from_secs(10));
        (0..100).for_each(|_| shared.record(Duration::from_secs(4000), 1));
        assert_eq!(shared.retry_after(), Duration::from_secs(60));
    }
}
