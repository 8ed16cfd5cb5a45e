//! What can go wrong in a step, and when it has gone wrong too often.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use steerling::Error;

/// Faults are counted over this time.
const WINDOW: Duration = Duration::from_secs(600);

/// What went wrong in a step or a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A broken invariant.
    Panic,
    /// An operation on the device failed.
    Device,
    /// The device had no memory left.
    OutOfMemory,
    /// Logits were no finite numbers; nothing but the one generation is affected.
    NonFinite,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Panic, Self::Device, Self::OutOfMemory, Self::NonFinite];

    /// The name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Device => "device",
            Self::OutOfMemory => "out_of_memory",
            Self::NonFinite => "non_finite",
        }
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        match error {
            Error::NonFinite { .. } => Self::NonFinite,
            error if error.is_out_of_memory() => Self::OutOfMemory,
            _ => Self::Device,
        }
    }
}

/// The faults of the last ten minutes that cost a load of the model.
#[derive(Debug)]
pub(super) struct Record {
    times: VecDeque<Instant>,
    most: usize,
}

impl Record {
    pub(super) fn new(most: usize) -> Self {
        Self { times: VecDeque::new(), most }
    }

    /// One more at `now`. Whether it is one too many.
    pub(super) fn add(&mut self, now: Instant) -> bool {
        while self.times.front().is_some_and(|time| now - *time > WINDOW) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.times.len() > self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_count_while_they_are_recent() {
        let start = Instant::now();
        let mut record = Record::new(2);
        let seconds = [0, 1, 700, 701, 702];
        let many: Vec<bool> = seconds.into_iter().map(|s| record.add(start + Duration::from_secs(s))).collect();
        assert_eq!(many, [false, false, false, false, true]);
        assert!(Record::new(0).add(start));
    }
}
