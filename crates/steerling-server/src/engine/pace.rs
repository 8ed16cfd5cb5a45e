//! How many sequences are worth sharing a step, from measured step times.

use steerling::RowCost;

/// Sequences that always share a step: below, each of them would wait long for its turn, for little.
const FEW: f64 = 8.0;
/// Share of the rows per second of an endless batch that a step should reach; more would only share the same compute.
const WORTH: f64 = 0.9;
/// Weight that the number of sequences of a step keeps with each step that follows.
const KEEP: f64 = 0.98;
/// What a row costs, and how many rows a sequence has.
#[derive(Debug, Default)]
pub(super) struct Pace {
    cost: RowCost,
    weight: f64,
    sequences: f64,
}

impl Pace {
    /// A step of `sequences` took `seconds` for `rows`.
    pub(super) fn observe(&mut self, sequences: usize, rows: usize, seconds: f64) {
        self.cost.observe(rows, seconds);
        self.weight = self.weight * KEEP + 1.0;
        self.sequences = self.sequences * KEEP + sequences as f64;
    }

    /// Sequences beyond which a larger batch hardly computes more rows a second; `None` while that is not known.
    pub(super) fn sequences(&self) -> Option<usize> {
        let line = self.cost.line()?;
        let rows = line.fixed / line.per_row * WORTH / (1.0 - WORTH);
        let mean_sequences = self.sequences / self.weight;
        Some((rows * mean_sequences / self.cost.mean_rows()).ceil().max(FEW) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(fixed: f64, per_row: f64) -> Option<usize> {
        let mut pace = Pace::default();
        for n in (1..=16).cycle().take(200) {
            // A tenth of noise.
            let seconds = fixed + per_row * 100.0 * n as f64;
            pace.observe(n, n * 100, seconds * if n % 2 == 0 { 1.05 } else { 0.95 });
        }
        pace.sequences()
    }

    #[test]
    fn where_steps_cost_by_the_row_a_few_sequences_are_enough() {
        assert_eq!(measured(0.001, 0.001), Some(8));
    }

    #[test]
    fn where_steps_cost_the_same_many_sequences_are_worth_it() {
        // 0.05 s fixed and 0.05 s for 32 sequences: 288 reach nine tenths.
        let found = measured(0.05, 0.05 / 3200.0).expect("known");
        assert!((200..=400).contains(&found), "{found}");
    }

    #[test]
    fn nothing_is_concluded_from_steps_that_are_all_alike() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.observe(4, 400, 0.1));
        assert_eq!(pace.sequences(), None);
        assert_eq!(Pace::default().sequences(), None);
    }
}
