//! What an evaluation found, as tables and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::checks::{Check, Unit};
use super::{Options, Size};
use crate::concepts::CONCEPTS;

/// A check with what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What is measured.
    pub check: &'static str,
    /// When it passes.
    pub criterion: String,
    /// The number; `None` if there was nothing to measure, which is no pass.
    pub value: Option<f64>,
    /// What else there is to say of it.
    pub note: String,
    /// `None` if it is not judged.
    pub passed: Option<bool>,
    #[serde(skip)]
    unit: Unit,
}

/// What was found of one known concept; shares are of generations.
#[derive(Debug, Clone, Serialize)]
pub struct ConceptRow {
    /// Index in [`CONCEPTS`](crate::concepts::CONCEPTS).
    pub id: usize,
    /// Its name.
    pub name: &'static str,
    /// Of its score on held-out chunks.
    pub auc: Option<f64>,
    /// Its own words among the ten tokens that it promotes most.
    pub own_top_tokens: usize,
    /// Found after neutral prompts.
    pub unsteered: Option<f64>,
    /// Found after neutral prompts, amplified.
    pub amplified: Option<f64>,
    /// Found after neutral prompts while a concept of another group is amplified.
    pub control: Option<f64>,
    /// Found after prompts that begin with it.
    pub primed: Option<f64>,
    /// Found after prompts that begin with it, suppressed.
    pub suppressed: Option<f64>,
}

/// What was found of one unlabelled factor.
#[derive(Debug, Clone, Serialize)]
pub struct FactorRow {
    /// Its name.
    pub name: &'static str,
    /// The unknown concept that tells it best, by its index in the unknown head.
    pub unknown: Option<usize>,
    /// Of that concept on held-out chunks that it was not chosen by.
    pub auc: Option<f64>,
}

/// Everything that an evaluation found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed it was made with.
    pub seed: u32,
    /// How much was drawn.
    pub size: Size,
    /// Checks, in order.
    pub rows: Vec<Row>,
    /// Known concepts, by id.
    pub concepts: Vec<ConceptRow>,
    /// Unlabelled factors, by index.
    pub factors: Vec<FactorRow>,
}

impl Report {
    /// A report without any numbers yet.
    pub(super) fn new(options: &Options) -> Self {
        let concepts = (0..CONCEPTS.len()).map(ConceptRow::new).collect();
        Self { seed: options.seed, size: options.size, rows: Vec::new(), concepts, factors: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, check: Check, value: Option<f64>, note: impl Into<String>) {
        self.rows.push(Row {
            check: check.name,
            criterion: check.criterion(),
            value,
            note: note.into(),
            passed: check.passes(value),
            unit: check.unit,
        });
    }

    /// Whether no row fails.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed != Some(false))
    }

    /// The checks, the known concepts and the factors as tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| check | pass criterion | measured | passed |\n|---|---|---|---|\n");
        for row in &self.rows {
            let passed = match row.passed {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            };
            line(&mut text, &[row.check, &row.criterion, &row.measured(), passed]);
        }
        text.push_str("\n| concept | AUC | own of top 10 | unsteered | amplified | control | primed | suppressed |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        for row in &self.concepts {
            let shares = [row.unsteered, row.amplified, row.control, row.primed, row.suppressed].map(percent);
            let [unsteered, amplified, control, primed, suppressed] = &shares;
            let (auc, own) = (number(row.auc), row.own_top_tokens.to_string());
            line(&mut text, &[row.name, &auc, &own, unsteered, amplified, control, primed, suppressed]);
        }
        text.push_str("\n| factor | best unknown concept | AUC |\n|---|---|---|\n");
        for row in &self.factors {
            let unknown = row.unknown.map_or_else(|| NOTHING.to_owned(), |index| index.to_string());
            line(&mut text, &[row.name, &unknown, &number(row.auc)]);
        }
        text
    }
}

impl ConceptRow {
    fn new(id: usize) -> Self {
        let name = CONCEPTS[id].name;
        Self {
            id,
            name,
            auc: None,
            own_top_tokens: 0,
            unsteered: None,
            amplified: None,
            control: None,
            primed: None,
            suppressed: None,
        }
    }
}

impl Row {
    fn measured(&self) -> String {
        let value = self.value.map_or_else(|| "nothing to measure".to_owned(), |value| self.unit.show(value));
        if self.note.is_empty() { value } else { format!("{value} ({})", self.note) }
    }
}

const NOTHING: &str = "–";

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.3}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| NOTHING.to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

fn line(text: &mut String, cells: &[&str]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::super::checks::{AUC_MEAN, CANARY, GRAMMAR};
    use super::*;

    fn empty() -> Report {
        Report::new(&Options { model: "model".into(), size: Size::QUICK, seed: 7, threads: 1 })
    }

    #[test]
    fn a_report_passes_unless_a_judged_row_fails() {
        let mut report = empty();
        report.add(AUC_MEAN, Some(0.96), "");
        report.add(GRAMMAR, None, "");
        assert!(report.passed());
        report.add(CANARY, Some(0.5), "2 of 4");
        assert!(!report.passed());
        let table = report.markdown();
        assert!(table.contains("| held-out AUC of known concepts: mean | >= 0.95 | 0.960 | yes |"), "{table}");
        assert!(table.contains("| grammatical sentences: unsteered | reported | nothing to measure |  |"), "{table}");
        assert!(
            table.contains("| canary reproduced verbatim: unsteered | >= 90 % | 50.0 % (2 of 4) | **no** |"),
            "{table}"
        );
    }

    #[test]
    fn json_holds_the_numbers_of_the_tables() {
        let mut report = empty();
        report.add(CANARY, Some(0.5), "");
        report.factors.push(FactorRow { name: "colour", unknown: Some(3), auc: None });
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["seed"], 7);
        assert_eq!(json["rows"][0]["passed"], false);
        assert_eq!(json["rows"][0]["value"], 0.5);
        assert_eq!(json["factors"][0]["unknown"], 3);
    }
}
