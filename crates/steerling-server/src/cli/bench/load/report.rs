//! The report, as a table and as JSON.

use serde::Serialize;

use super::soak::Verdict;
use super::stats::{Quantiles, Summary};

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    /// `closed` or `open`.
    pub(super) mode: &'static str,
    /// Clients of a closed loop.
    pub(super) concurrency: Option<usize>,
    /// Requests a second of an open loop, as wanted.
    pub(super) rate: Option<f64>,
    /// Requests of an open loop that were due when too many others were still open.
    pub(super) not_sent: u64,
    pub(super) seconds: f64,
    pub(super) requests_per_second: f64,
    pub(super) tokens_per_second: f64,
    /// All kinds together.
    pub(super) total: Summary,
    pub(super) kinds: Vec<Summary>,
    /// Answers 429 and 503 without a `retry-after`.
    pub(super) without_retry_after: u64,
    pub(super) soak: Option<Verdict>,
}

impl Report {
    /// For people.
    pub(super) fn table(&self) -> String {
        let load = match (self.concurrency, self.rate) {
            (Some(clients), _) => format!("{clients} clients"),
            (_, Some(rate)) => format!("{rate} requests/s wanted"),
            _ => String::new(),
        };
        let mut text = format!(
            "{} ({} loop, {load}) for {:.1} s: {:.2} requests/s, {:.1} tokens/s\n\n",
            self.url, self.mode, self.seconds, self.requests_per_second, self.tokens_per_second
        );
        let kinds = self.kinds.iter().chain((self.kinds.len() > 1).then_some(&self.total));
        let width = kinds.clone().map(|kind| kind.name.chars().count()).max().unwrap_or(0).max(4);
        text += &format!(
            "{:<width$} {:>8} {:>8} {:>14} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
            "kind", "requests", "ok", "milliseconds", "p50", "p90", "p95", "p99", "max"
        );
        for kind in kinds {
            let counts = format!("{:<width$} {:>8} {:>8}", kind.name, kind.requests, kind.ok);
            let blank = " ".repeat(counts.chars().count());
            let rows = [
                ("first block", kind.first_block_seconds),
                ("between", kind.between_blocks_seconds),
                ("total", kind.total_seconds),
            ];
            let mut left = counts.as_str();
            for (name, quantiles) in rows.into_iter().filter_map(|(name, found)| Some((name, found?))) {
                let Quantiles { p50, p90, p95, p99, max, .. } = quantiles;
                let [p50, p90, p95, p99, max] = [p50, p90, p95, p99, max].map(|seconds| seconds * 1e3);
                text += &format!("{left} {name:>14} {p50:>9.1} {p90:>9.1} {p95:>9.1} {p99:>9.1} {max:>9.1}\n");
                left = &blank;
            }
            if left == counts.as_str() {
                text += &format!("{counts}\n");
            }
        }
        for (failure, n) in &self.total.failures {
            text += &format!("\n{n:>8} × {failure}");
        }
        if self.not_sent > 0 {
            text += &format!("\n{:>8} × not sent: too many requests were open", self.not_sent);
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        if let Some(soak) = &self.soak {
            text += &soak.table();
        }
        text
    }
}
