//! What was measured of decoding methods, as tables and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// What becomes of one sort of text under one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Quality {
    /// Over all generations together.
    pub tokens_per_forward: f64,
    /// Over all generations together.
    pub rows_per_token: f64,
    /// Shares that say whether the text is as it is to be.
    pub shares: Vec<Share>,
    /// Different pairs of neighbouring tokens.
    pub distinct_2: Option<f64>,
    /// Log-likelihood of a token, from left to right, in nats.
    pub nats: Option<f64>,
}

impl Quality {
    /// Whether no measure is worse than that of `other` by more than this share of it; of the likelihood its perplexity.
    pub fn keeps(&self, other: &Self, within: f64) -> bool {
        let shares = self.shares.iter().zip(&other.shares).map(|(share, other)| (share.share, other.share));
        let likelihood = [self, other].map(|quality| quality.nats.map(f64::exp));
        let mut measures = shares.chain([(self.distinct_2, other.distinct_2), likelihood.into()]);
        measures.all(|(measured, other)| measured.zip(other).is_some_and(|(m, other)| m >= (1.0 - within) * other))
    }
}

/// A measure that is a share.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// What is counted.
    pub measure: &'static str,
    /// Of all there is to count; `None` of nothing.
    pub share: Option<f64>,
}

impl Share {
    pub(super) const fn new(measure: &'static str, share: Option<f64>) -> Self {
        Self { measure, share }
    }
}

/// The text under one setting.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingRow {
    /// The setting in words.
    pub setting: String,
    /// The method.
    pub method: &'static str,
    /// Whether generation blocks end where attention blocks do.
    pub aligned: bool,
    /// Sentences that the grammar leaves open nearly word by word: texts in which the tagger finds the concept that is
    /// amplified, or that the prompt begins with; then, after neutral prompts, finished sentences that the grammar derives.
    pub free: Quality,
    /// Texts whose wording is fixed but for their blanks: those that keep it.
    pub notices: Quality,
}

/// Forwards with guessed steps, of those without. The text is the same, which is checked.
#[derive(Debug, Clone, Serialize)]
pub struct DraftsRow {
    /// Steps that are guessed in each forward.
    pub drafts: usize,
    /// Over all generations together.
    pub tokens_per_forward: f64,
    /// Share of forwards spared: the least, the tenth, half, nine tenths and the most of the generations.
    pub spared: [f64; 5],
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct DecodingReport {
    /// Generations of each setting whose text is tagged.
    pub tagged: usize,
    /// Generations of each setting after neutral prompts.
    pub neutral: usize,
    /// Notices of each setting.
    pub notices: usize,
    /// Settings, in order; the first is what the others are set against.
    pub rows: Vec<DecodingRow>,
    /// Numbers of guessed steps after neutral prompts, in order.
    pub free_drafts: Vec<DraftsRow>,
    /// The same in notices.
    pub notice_drafts: Vec<DraftsRow>,
}

/// Settings whose measures are within this share of the first one's count as harmless.
const HARMLESS: f64 = 0.02;

/// One sort of text: its title, and where it stands in a row.
type Sort = (&'static str, fn(&DecodingRow) -> &Quality);

const SORTS: [Sort; 2] = [("Free text", |row| &row.free), ("Notices", |row| &row.notices)];

impl DecodingReport {
    /// Of a method's settings that are harmless to all of these sorts of text, the one that commits most tokens a forward of
    /// the last sort, as words and with those tokens.
    fn furthest(&self, method: &str, sorts: &[Sort]) -> Option<String> {
        let (first, (_, of)) = (self.rows.first()?, sorts.last()?);
        let settings = self.rows.iter().filter(|row| row.method == method && !row.aligned);
        let harmless = settings.filter(|row| sorts.iter().all(|(_, of)| of(row).keeps(of(first), HARMLESS)));
        let furthest = harmless.max_by(|a, b| of(a).tokens_per_forward.total_cmp(&of(b).tokens_per_forward))?;
        Some(format!("{}: {:.2}", furthest.setting, of(furthest).tokens_per_forward))
    }

    /// For each sort of text a table of settings, what is harmless, and a table of numbers of guessed steps.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let number = |number: Option<f64>| number.map_or("–".to_owned(), |number| format!("{number:.3}"));
        for ((title, of), drafts) in SORTS.iter().zip([&self.free_drafts, &self.notice_drafts]) {
            let measures = self.rows.first().map_or(&[][..], |row| &of(row).shares);
            let measures: Vec<&str> = measures.iter().map(|share| share.measure).collect();
            _ = writeln!(
                text,
                "{title}:\n\n| setting | tokens a forward | rows a token | {} | distinct-2 | log-likelihood |\n|{}",
                measures.join(" | "),
                "---|".repeat(5 + measures.len())
            );
            for row in &self.rows {
                let Quality { tokens_per_forward, rows_per_token, shares, distinct_2, nats } = of(row);
                let shares: Vec<String> = shares.iter().map(|share| percent(share.share)).collect();
                let [distinct_2, nats] = [*distinct_2, *nats].map(number);
                _ = writeln!(
                    text,
                    "| {} | {tokens_per_forward:.2} | {rows_per_token:.1} | {} | {distinct_2} | {nats} |",
                    row.setting,
                    shares.join(" | ")
                );
            }
            text.push_str(
                "\n| drafts | tokens a forward | forwards spared: least | a tenth | half | nine tenths | most |\n\
                 |---|---|---|---|---|---|---|\n",
            );
            for row in drafts {
                let spared: Vec<String> = row.spared.iter().map(|share| percent(Some(*share))).collect();
                _ = writeln!(text, "| {} | {:.2} | {} |", row.drafts, row.tokens_per_forward, spared.join(" | "));
            }
            text.push('\n');
        }
        _ = writeln!(
            text,
            "Most tokens a forward within {} % of the first setting:\n\n\
             | method | free text | notices | notices, and free text within as much |\n|---|---|---|---|",
            100.0 * HARMLESS
        );
        let mut methods: Vec<&str> = self.rows.iter().filter(|row| !row.aligned).map(|row| row.method).collect();
        methods.dedup();
        for method in methods {
            let columns = [&SORTS[..1], &SORTS[1..], &SORTS];
            let columns = columns.map(|sorts| self.furthest(method, sorts).unwrap_or_else(|| "–".to_owned()));
            _ = writeln!(text, "| {method} | {} |", columns.join(" | "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(tokens_per_forward: f64, share: f64, nats: f64) -> Quality {
        let shares = vec![Share::new("grammatical", Some(share))];
        Quality { tokens_per_forward, rows_per_token: 8.0, shares, distinct_2: Some(0.5), nats: Some(nats) }
    }

    fn row(setting: &str, free: Quality, notices: Quality) -> DecodingRow {
        let method = if setting == "confidence" { "confidence" } else { "threshold" };
        DecodingRow { setting: setting.to_owned(), method, aligned: false, free, notices }
    }

    #[test]
    fn quality_is_kept_if_no_measure_falls_by_more_than_its_share() {
        let first = quality(1.0, 0.90, -1.0);
        assert!(first.keeps(&first, 0.0));
        assert!(quality(2.0, 0.883, -1.015).keeps(&first, 0.02));
        assert!(!quality(2.0, 0.880, -1.0).keeps(&first, 0.02), "a share");
        assert!(!quality(2.0, 0.90, -1.03).keeps(&first, 0.02), "the perplexity");
        assert!(!Quality { distinct_2: Some(0.48), ..first.clone() }.keeps(&first, 0.02), "repetition");
        assert!(!Quality { nats: None, ..first.clone() }.keeps(&first, 0.02), "nothing was measured");
    }

    #[test]
    fn furthest_setting_is_harmless_to_every_sort_it_is_told_of() {
        let report = DecodingReport {
            tagged: 0,
            neutral: 0,
            notices: 0,
            rows: vec![
                row("confidence", quality(1.0, 0.9, -1.0), quality(1.0, 0.8, -1.0)),
                row("threshold=0.9", quality(1.1, 0.9, -1.0), quality(4.0, 0.8, -1.0)),
                row("threshold=0.5", quality(1.2, 0.7, -1.0), quality(6.0, 0.8, -1.0)),
            ],
            free_drafts: Vec::new(),
            notice_drafts: Vec::new(),
        };
        let text = report.markdown();
        for line in [
            "| threshold | threshold=0.9: 1.10 | threshold=0.5: 6.00 | threshold=0.9: 4.00 |",
            "| confidence | confidence: 1.00 | confidence: 1.00 | confidence: 1.00 |",
            "| threshold=0.9 | 4.00 | 8.0 | 80.0 % | 0.500 | -1.000 |",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
