//! Latencies and counts of each kind of request.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::client::{Outcome, Sample};

/// What became of all requests of a kind.
#[derive(Debug)]
pub(super) struct Stats {
    requests: u64,
    tokens: u64,
    /// Everything but [`Outcome::Ok`], by name.
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) without_retry_after: u64,
    first_block: Histogram<u64>,
    between: Histogram<u64>,
    total: Histogram<u64>,
}

/// The same for the report.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) name: String,
    pub(super) requests: u64,
    pub(super) ok: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) tokens: u64,
    /// From the time the request was due to its first `block` event.
    pub(super) first_block_seconds: Option<Quantiles>,
    /// Between `block` events.
    pub(super) between_blocks_seconds: Option<Quantiles>,
    /// From the time the request was due to the end of its answer.
    pub(super) total_seconds: Option<Quantiles>,
}

/// Of requests that went well.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quantiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Default for Stats {
    fn default() -> Self {
        // Microseconds to three digits; it grows as needed.
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self {
            requests: 0,
            tokens: 0,
            failures: BTreeMap::new(),
            without_retry_after: 0,
            first_block: histogram(),
            between: histogram(),
            total: histogram(),
        }
    }
}

impl Stats {
    pub(super) fn add(&mut self, sample: &Sample) {
        self.requests += 1;
        self.tokens += sample.tokens;
        let failure = match &sample.outcome {
            Outcome::Ok => {
                let record = |histogram: &mut Histogram<u64>, time: Duration| {
                    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                    histogram.record(micros).expect("it grows as needed");
                };
                sample.first_block.iter().for_each(|time| record(&mut self.first_block, *time));
                sample.between.iter().for_each(|time| record(&mut self.between, *time));
                record(&mut self.total, sample.total);
                return;
            }
            Outcome::Status(status) => {
                let should = matches!(status, 429 | 503);
                self.without_retry_after += u64::from(should && !sample.retry_after);
                format!("status {status}")
            }
            Outcome::Error(code) => format!("error {code}"),
            Outcome::Broken => "broken stream".to_owned(),
            Outcome::Held => "held for too long".to_owned(),
            Outcome::Unreachable => "unreachable".to_owned(),
        };
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Takes in those of another kind.
    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
        self.without_retry_after += other.without_retry_after;
        for (name, n) in &other.failures {
            *self.failures.entry(name.clone()).or_default() += n;
        }
        let all = [(&mut self.first_block, &other.first_block), (&mut self.between, &other.between)];
        for (mine, theirs) in all.into_iter().chain([(&mut self.total, &other.total)]) {
            mine.add(theirs).expect("both grow as needed");
        }
    }

    pub(super) fn summary(&self, name: &str) -> Summary {
        Summary {
            name: name.to_owned(),
            requests: self.requests,
            ok: self.requests - self.failed(),
            failures: self.failures.clone(),
            tokens: self.tokens,
            first_block_seconds: quantiles(&self.first_block),
            between_blocks_seconds: quantiles(&self.between),
            total_seconds: quantiles(&self.total),
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Option<Quantiles> {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e6;
    (!histogram.is_empty()).then(|| Quantiles {
        mean: histogram.mean() / 1e6,
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        max: histogram.max() as f64 / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64, outcome: Outcome) -> Sample {
        let time = Duration::from_millis(ms);
        Sample {
            kind: 0,
            outcome,
            first_block: Some(time),
            between: Vec::new(),
            total: 2 * time,
            tokens: 3,
            retry_after: false,
        }
    }

    #[test]
    fn latencies_are_those_of_requests_that_went_well() {
        let (mut one, mut other) = (Stats::default(), Stats::default());
        (1..=100).for_each(|ms| one.add(&sample(ms, Outcome::Ok)));
        other.add(&sample(9_999, Outcome::Status(429)));
        other.add(&sample(9_999, Outcome::Broken));
        one.merge(&other);
        let summary = one.summary("all");
        assert_eq!((summary.requests, summary.ok, summary.tokens), (102, 100, 306));
        let first = summary.first_block_seconds.unwrap();
        assert!((first.p50 - 0.050).abs() < 1e-3 && (first.max - 0.1).abs() < 1e-3, "{first:?}");
        assert!((summary.total_seconds.unwrap().p99 - 0.198).abs() < 2e-3);
        assert!(summary.between_blocks_seconds.is_none());
        assert_eq!(summary.failures.keys().collect::<Vec<_>>(), ["broken stream", "status 429"]);
        assert_eq!(one.without_retry_after, 1);
    }
}
