//! When a client that was turned away should come again: slots become free at a measured rate, and each is promised once.

use std::time::{Duration, Instant};

/// A client should look again before long.
const LONGEST: Duration = Duration::from_secs(60);
/// Weight of the newest interval.
const NEWEST: f64 = 0.2;

/// How fast slots become free, and up to when those to come are promised.
#[derive(Debug)]
pub(super) struct RetrySchedule {
    /// All slots there are: more clients cannot come at one moment and all find one.
    slots: usize,
    /// Between two slots that become free, smoothed; 0 while none were measured.
    seconds_per_slot: f64,
    /// The last time that a slot became free, or was wanted in vain; `None` while there are enough.
    since: Option<Instant>,
    /// The slots that become free before are promised to clients that have been turned away and come again.
    promised_until: Option<Instant>,
}

impl RetrySchedule {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: slots.max(1), seconds_per_slot: 0.0, since: None, promised_until: None }
    }

    /// `slots` became free at `now`; `busy` if the device had as much to do as it can take until then.
    pub(super) fn released(&mut self, now: Instant, slots: usize, busy: bool) {
        if let Some(since) = self.since.filter(|_| busy && slots > 0) {
            let newest = (now - since).as_secs_f64() / slots as f64;
            self.seconds_per_slot = match self.seconds_per_slot {
                0.0 => newest,
                smoothed => smoothed + NEWEST * (newest - smoothed),
            };
        }
        self.since = busy.then_some(now);
    }

    /// Promises the next `slots` to a client that is turned away at `now`, and says after how many whole seconds, 1 to
    /// 60, it should come for them.
    pub(super) fn promise(&mut self, now: Instant, slots: usize) -> Duration {
        // An interval that lasts longer than those before says that it has become slower.
        let waited = (now - *self.since.get_or_insert(now)).as_secs_f64();
        // Those who are told the same second come together.
        let seconds_per_slot = self.seconds_per_slot.max(waited).max(1.0 / self.slots as f64);
        let from = self.promised_until.map_or(now, |until| until.max(now));
        let most = (now + LONGEST).saturating_duration_since(from).as_secs_f64();
        let until = from + Duration::from_secs_f64((seconds_per_slot * slots as f64).min(most));
        self.promised_until = Some(until);
        // A rounding error is no second.
        let seconds = ((until - now).as_secs_f64() - 1e-6).ceil().max(1.0);
        Duration::from_secs_f64(seconds).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs_f64(seconds)
    }

    /// What so many clients are told that are turned away at one moment.
    fn told(schedule: &mut RetrySchedule, now: f64, clients: usize) -> Vec<u64> {
        (0..clients).map(|_| schedule.promise(at(now), 1).as_secs()).collect()
    }

    #[test]
    fn clients_that_are_turned_away_together_come_again_one_after_another() {
        // Nothing is measured yet: four slots, so four clients a second.
        let mut schedule = RetrySchedule::new(4);
        let expected: Vec<u64> = (0..20).map(|i| 1 + i / 4).collect();
        assert_eq!(told(&mut schedule, 0.0, 20), expected);
        // One that comes later is promised the slots behind those, and time that has passed counts.
        assert_eq!(told(&mut schedule, 0.0, 1), [6]);
        schedule.released(at(3.0), 1, false);
        assert_eq!(told(&mut schedule, 3.25, 2), [3, 3]);
        // Promises that are over are forgotten.
        assert_eq!(told(&mut schedule, 100.0, 2), [60, 60], "nothing became free since 3.25 s");
        schedule.released(at(200.0), 1, false);
        assert_eq!(told(&mut schedule, 200.0, 2), [1, 1]);
    }

    #[test]
    fn the_measured_rate_decides_within_bounds() {
        let mut schedule = RetrySchedule::new(8);
        told(&mut schedule, 0.0, 1);
        schedule.released(at(10.0), 1, true);
        assert_eq!(told(&mut schedule, 10.0, 8), [10, 20, 30, 40, 50, 60, 60, 60]);
        // Four at once, ten seconds later: 2.5 seconds each.
        (2..=101).for_each(|n| schedule.released(at(10.0 * f64::from(n)), 4, true));
        assert_eq!(told(&mut schedule, 1010.0, 5), [3, 5, 8, 10, 13]);
        assert_eq!(schedule.promise(at(1010.0), 4), Duration::from_secs(23));
        // An interval that lasts longer than those before.
        assert_eq!(told(&mut schedule, 1080.0, 2), [60, 60]);
    }

    #[test]
    fn a_time_without_demand_does_not_count() {
        let mut schedule = RetrySchedule::new(8);
        told(&mut schedule, 0.0, 1);
        schedule.released(at(4.0), 1, true);
        schedule.released(at(8.0), 1, false);
        schedule.released(at(5000.0), 1, true);
        schedule.released(at(5004.0), 1, true);
        assert_eq!(told(&mut schedule, 5004.0, 1), [4]);
    }
}
