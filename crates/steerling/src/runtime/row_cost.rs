//! What a row of a step costs, from measured step times.

/// Weight that a measurement keeps with each that follows it.
const KEEP: f64 = 0.98;
/// Ten steps weigh 9.1.
const ENOUGH: f64 = 9.0;
/// Below this relative spread of rows, step times say nothing about the cost of a row.
const SPREAD: f64 = 0.1;

/// Fits `seconds = fixed + per_row * rows` to steps, the newest counting most.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowCost {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

/// The time of a step as a function of its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepTime {
    /// Seconds of a step without rows, not negative.
    pub fixed: f64,
    /// Seconds that each row adds, positive.
    pub per_row: f64,
}

impl RowCost {
    /// A step took `seconds` for `rows`.
    pub fn observe(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        let add = |sum: &mut f64, value: f64| *sum = *sum * KEEP + value;
        add(&mut self.weight, 1.0);
        add(&mut self.rows, rows);
        add(&mut self.seconds, seconds);
        add(&mut self.rows_rows, rows * rows);
        add(&mut self.rows_seconds, rows * seconds);
    }

    /// Whether there are enough steps to say something.
    pub fn is_ready(&self) -> bool {
        self.weight >= ENOUGH && self.rows > 0.0
    }

    /// Mean rows of a step; 0 before the first.
    pub fn mean_rows(&self) -> f64 {
        if self.weight > 0.0 { self.rows / self.weight } else { 0.0 }
    }

    /// The line through the steps; `None` while they are too few or too much alike.
    pub fn line(&self) -> Option<StepTime> {
        if !self.is_ready() {
            return None;
        }
        let (mean_rows, mean_seconds) = (self.mean_rows(), self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - mean_rows * mean_rows;
        if variance < (SPREAD * mean_rows).powi(2) {
            return None;
        }
        let per_row = (self.rows_seconds / self.weight - mean_rows * mean_seconds) / variance;
        (per_row > 0.0).then(|| StepTime { fixed: (mean_seconds - per_row * mean_rows).max(0.0), per_row })
    }
}

impl StepTime {
    /// Seconds of a step of `rows`.
    pub fn seconds(&self, rows: usize) -> f64 {
        self.fixed + self.per_row * rows as f64
    }
}
