//! How many sequences are worth sharing a step, from measured step times.

/// Sequences that always share a step: below, each of them would wait long for its turn, for little.
const FEW: f64 = 8.0;
/// Share of the rows per second of an endless batch that a step should reach; more would only share the same compute.
const WORTH: f64 = 0.9;
/// Weight that a measurement keeps with each that follows it.
const KEEP: f64 = 0.98;
/// Below this relative spread of rows, step times say nothing about the cost of a row.
const SPREAD: f64 = 0.1;

/// Fits `seconds = fixed + per_row * rows` to the steps, the newest counting most.
#[derive(Debug, Default)]
pub(super) struct Pace {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
    sequences: f64,
}

impl Pace {
    /// A step of `sequences` took `seconds` for `rows`.
    pub(super) fn observe(&mut self, sequences: usize, rows: usize, seconds: f64) {
        let (sequences, rows) = (sequences as f64, rows as f64);
        let add = |sum: &mut f64, value: f64| *sum = *sum * KEEP + value;
        add(&mut self.weight, 1.0);
        add(&mut self.rows, rows);
        add(&mut self.seconds, seconds);
        add(&mut self.rows_rows, rows * rows);
        add(&mut self.rows_seconds, rows * seconds);
        add(&mut self.sequences, sequences);
    }

    /// Sequences beyond which a larger batch hardly computes more rows a second; `None` while that is not known.
    pub(super) fn sequences(&self) -> Option<usize> {
        // Ten steps weigh 9.1.
        if self.weight < 9.0 || self.rows <= 0.0 {
            return None;
        }
        let (mean_rows, mean_seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - mean_rows * mean_rows;
        if variance < (SPREAD * mean_rows).powi(2) {
            return None;
        }
        let per_row = (self.rows_seconds / self.weight - mean_rows * mean_seconds) / variance;
        if per_row <= 0.0 {
            return None;
        }
        let fixed = (mean_seconds - per_row * mean_rows).max(0.0);
        let rows = fixed / per_row * WORTH / (1.0 - WORTH);
        Some((rows * self.sequences / self.rows).ceil().max(FEW) as usize)
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
