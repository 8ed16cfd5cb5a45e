//! When a place is likely to be free: from the times at which places became free while others were wanted.

use std::time::{Duration, Instant};

/// A client should look again before long.
const LONGEST: f64 = 60.0;
/// Weight of the newest interval.
const NEWEST: f64 = 0.2;

/// How fast the house empties.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Seconds between two places that become free, smoothed; none were measured at 0.
    seconds_per_place: f64,
    /// The last time that a place became free, or was wanted in vain; `None` while there are enough.
    since: Option<Instant>,
}

impl Departures {
    /// `places` became free at `now`; `wanted` if somebody waits for more.
    pub(super) fn record(&mut self, now: Instant, places: usize, wanted: bool) {
        if let Some(since) = self.since.filter(|_| places > 0) {
            let newest = (now - since).as_secs_f64() / places as f64;
            self.seconds_per_place = match self.seconds_per_place {
                0.0 => newest,
                smoothed => smoothed + NEWEST * (newest - smoothed),
            };
        }
        if places > 0 || !wanted {
            self.since = wanted.then_some(now);
        }
    }

    /// When `places` are likely to be free for somebody who comes in vain at `now`, in whole seconds from 1 on.
    pub(super) fn until_free(&mut self, now: Instant, places: usize) -> Duration {
        // An interval that lasts longer than those before says that it has become slower.
        let waited = now - *self.since.get_or_insert(now);
        let seconds = self.seconds_per_place.max(waited.as_secs_f64()) * places as f64;
        Duration::from_secs(seconds.ceil().clamp(1.0, LONGEST) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    #[test]
    fn the_answer_follows_the_measured_intervals_within_its_bounds() {
        let mut departures = Departures::default();
        assert_eq!(departures.until_free(at(0), 1), Duration::from_secs(1));
        departures.record(at(10), 1, true);
        assert_eq!(departures.until_free(at(10), 1), Duration::from_secs(10));
        assert_eq!(departures.until_free(at(10), 3), Duration::from_secs(30));
        // Four at once, ten seconds later: 2.5 seconds each.
        (1..40).for_each(|n| departures.record(at(10 + 10 * n), 4, true));
        assert_eq!(departures.until_free(at(400), 2), Duration::from_secs(5 + 1));
        assert_eq!(departures.until_free(at(2000), 1), Duration::from_secs(60));
    }

    #[test]
    fn a_time_without_demand_does_not_count() {
        let mut departures = Departures::default();
        departures.until_free(at(0), 1);
        departures.record(at(4), 1, true);
        departures.record(at(8), 1, false);
        departures.record(at(5000), 1, true);
        departures.record(at(5004), 1, true);
        assert_eq!(departures.until_free(at(5004), 1), Duration::from_secs(4));
    }
}
