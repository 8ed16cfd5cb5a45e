//! Whether guessed steps are worth their rows.

use super::row_cost::RowCost;

/// Steps that are guessed at most where measured times decide.
pub(super) const AUTOMATIC: usize = 3;
/// Weight that the fate of a guess keeps with each that follows it.
const KEEP: f64 = 0.99;
/// While the cost of a row is not known, one of so many steps guesses, which tells.
const PROBE: usize = 16;
/// What is assumed of guesses before any was made, and how many of them that counts as.
const PRIOR: (f64, f64) = (0.5, 4.0);

/// How long steps take and how often guesses are right.
#[derive(Debug, Default)]
pub(super) struct Worth {
    cost: RowCost,
    steps: usize,
    tried: f64,
    accepted: f64,
}

/// The step that drafts would ride in, without them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    /// Sequences that commit in it.
    pub(super) sequences: usize,
    /// Its rows.
    pub(super) rows: usize,
}

impl Worth {
    /// A step took `seconds` for `rows`.
    pub(super) fn observe(&mut self, rows: usize, seconds: f64) {
        self.cost.observe(rows, seconds);
        self.steps += 1;
    }

    /// A guess whose predecessors were right was right or wrong.
    pub(super) fn verified(&mut self, right: bool) {
        self.tried = self.tried * KEEP + 1.0;
        self.accepted = self.accepted * KEEP + f64::from(right);
    }

    /// The share of guesses that are right, given that those before them are.
    fn acceptance(&self) -> f64 {
        let (assumed, weight) = PRIOR;
        (self.accepted + assumed * weight) / (self.tried + weight)
    }

    /// Whether the guess of the step that is `ahead` of the current one (1 is the next) makes the step commit more in
    /// a second, for all its sequences together.
    pub(super) fn is_worth(&self, ahead: usize, rows: usize, beside: Beside) -> bool {
        self.is_worth_after(self.steps, ahead, rows, beside)
    }

    /// Whether the first guess is likely to be worth it in the step after the one under way, if that is like this one:
    /// otherwise nothing need be drawn for it.
    pub(super) fn is_worth_next(&self, rows: usize, beside: Beside) -> bool {
        self.is_worth_after(self.steps + 1, 1, rows, beside)
    }

    fn is_worth_after(&self, steps: usize, ahead: usize, rows: usize, beside: Beside) -> bool {
        let Some(line) = self.cost.line() else {
            return self.cost.is_ready() && ahead == 1 && steps.is_multiple_of(PROBE);
        };
        let gained = self.acceptance().powi(ahead as i32) / beside.sequences.max(1) as f64;
        let lost = line.per_row * rows as f64 / line.seconds(beside.rows);
        gained > lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After steps of 100 and of 200 rows, and guesses of which so many tenths were right.
    fn measured(fixed: f64, per_row: f64, tenths: usize) -> Worth {
        let mut worth = Worth::default();
        for n in 0..400 {
            let rows = 100 + n % 2 * 100;
            worth.observe(rows, fixed + per_row * rows as f64);
            worth.verified(n * 7 % 10 < tenths);
        }
        worth
    }

    fn drafts(worth: &Worth, rows: usize, beside: Beside) -> usize {
        (1..=AUTOMATIC).take_while(|ahead| worth.is_worth(*ahead, rows, beside)).count()
    }

    const ALONE: Beside = Beside { sequences: 1, rows: 100 };

    #[test]
    fn nothing_is_guessed_where_steps_cost_by_the_row() {
        assert_eq!(drafts(&measured(0.0, 0.001, 7), 100, ALONE), 0);
        // Half the rows for six tenths of a step are worth it, and again for a third of one they are not.
        assert_eq!(drafts(&measured(0.0, 0.001, 6), 50, ALONE), 1);
    }

    #[test]
    fn as_much_as_allowed_is_guessed_where_steps_cost_the_same() {
        assert_eq!(drafts(&measured(0.1, 0.00001, 7), 100, ALONE), AUTOMATIC);
    }

    #[test]
    fn guesses_give_way_to_company_and_to_being_wrong() {
        let worth = measured(0.05, 0.0002, 8);
        assert_eq!(drafts(&worth, 100, ALONE), AUTOMATIC);
        assert_eq!(drafts(&worth, 100, Beside { sequences: 32, rows: 3200 }), 0);
        assert_eq!(drafts(&measured(0.05, 0.0002, 1), 100, ALONE), 0);
    }

    #[test]
    fn a_guess_now_and_then_tells_what_a_row_costs() {
        let mut worth = Worth::default();
        let mut guessed = Vec::new();
        for step in 0..48 {
            let guesses = drafts(&worth, 100, ALONE);
            guessed.extend((guesses > 0).then_some(step));
            let rows = 100 + 100 * guesses;
            worth.observe(rows, 0.001 * rows as f64);
        }
        // The first one said that it is not worth it, for as long as it is remembered.
        assert_eq!(guessed, [16]);
    }
}
