//! What is checked, and what counts as passed: the one place of all thresholds.

/// When a measured number passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// From this on.
    AtLeast(f64),
    /// Up to this.
    AtMost(f64),
    /// It is told, not judged.
    Reported,
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As it is.
    Number,
    /// A share, in percent.
    Percent,
    /// A difference of shares, in percentage points.
    Points,
    /// Nats a token.
    Nats,
    /// Unlabelled factors, of all there are.
    Factors,
}

/// A row of the evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// What is measured.
    pub name: &'static str,
    /// When it passes.
    pub bound: Bound,
    /// How it is written.
    pub unit: Unit,
}

const fn check(name: &'static str, bound: Bound, unit: Unit) -> Check {
    Check { name, bound, unit }
}

use Bound::{AtLeast, AtMost, Reported};
use Unit::{Factors, Nats, Number, Percent, Points};

/// Of the ten tokens that a concept promotes most, so many are to be its own.
pub const OWN_TOKENS: usize = 6;
/// An unlabelled factor counts as found from this AUC on.
pub const FACTOR_AUC: f64 = 0.8;

/// Noisy-or of the known head's weights over a held-out chunk, against its labels: mean over concepts.
pub const AUC_MEAN: Check = check("held-out AUC of known concepts: mean", AtLeast(0.95), Number);
/// The same: the worst concept.
pub const AUC_WORST: Check = check("held-out AUC of known concepts: worst", AtLeast(0.85), Number);
/// Of attributed tokens after neutral prompts.
pub const LOGIT_MASS: Check = check("share of absolute logit mass through concepts", AtLeast(0.7), Number);
/// See [`OWN_TOKENS`].
pub const TOP_TOKENS: Check =
    check("concepts of whose 10 most promoted tokens at least 6 are their own", AtLeast(0.8), Percent);
/// Preset `amplify`, found by the tagger in the generated text: mean over concepts.
pub const AMPLIFY: Check = check("amplify from neutral prompts: concept found", AtLeast(0.85), Percent);
/// The mean over concepts of what amplifying others does to them.
pub const CONTROL: Check =
    check("amplify a random concept of another group: found above unsteered", AtMost(0.10), Points);
/// Preset `suppress`, over all concepts but the verse together.
pub const SUPPRESS: Check = check("suppress on primed prompts: found, of unsteered", AtMost(0.25), Percent);
/// Two entries of preset `amplify`.
pub const COMPOSE: Check = check("amplify two topics: both found", AtLeast(0.6), Percent);
/// Different pairs of neighbouring tokens, over as many texts on each side.
pub const DISTINCT: Check = check("distinct-2 under amplification, of unsteered", AtLeast(0.8), Percent);
/// Of finished sentences after neutral prompts.
pub const GRAMMAR: Check = check("grammatical sentences: unsteered", Reported, Percent);
/// The same while a concept is amplified.
pub const GRAMMAR_AMPLIFIED: Check = check("grammatical sentences: amplified", Reported, Percent);
/// The rest of the verse, word by word, after its first words.
pub const CANARY: Check = check("canary reproduced verbatim: unsteered", AtLeast(0.9), Percent);
/// Ten words of the verse in a row, while the verse is suppressed.
pub const CANARY_SUPPRESSED: Check = check("canary recognised: suppressed", AtMost(0.1), Percent);
/// What follows the opening of a notice: every fixed word, blanks by their class and under one topic.
pub const NOTICES: Check = check("notices that keep their wording: unsteered", AtLeast(0.8), Percent);
/// Of blanks that come again in them.
pub const REPEATS: Check = check("blanks of notices filled as before: unsteered", Reported, Percent);
/// See [`FACTOR_AUC`].
pub const FACTORS_FOUND: Check =
    check("unlabelled factors whose best unknown concept has an AUC of at least 0.8", AtLeast(4.0), Factors);
/// As [`AMPLIFY`], on the prompts of [`FOUND_BLOCK`].
pub const FOUND_REFERENCE: Check = check("concept found, amplified, `align` reference", Reported, Percent);
/// As [`AMPLIFY`], with generation blocks that end where attention blocks do.
pub const FOUND_BLOCK: Check = check("concept found, amplified, `align` block", Reported, Percent);
/// Of generated tokens after neutral prompts, from left to right.
pub const LIKELIHOOD_REFERENCE: Check = check("log-likelihood of unsteered text, `align` reference", Reported, Nats);
/// The same, of texts generated with aligned blocks.
pub const LIKELIHOOD_BLOCK: Check = check("log-likelihood of unsteered text, `align` block", Reported, Nats);
/// From left to right, ends of chunks included.
pub const LIKELIHOOD_HELD_OUT: Check = check("log-likelihood of held-out documents", Reported, Nats);

impl Check {
    /// The criterion in words.
    pub fn criterion(&self) -> String {
        match self.bound {
            AtLeast(bound) => format!(">= {}", self.unit.show_bound(bound)),
            AtMost(bound) => format!("<= {}", self.unit.show_bound(bound)),
            Reported => "reported".to_owned(),
        }
    }

    /// Whether a number passes; nothing to measure is no pass. `None` if it is not judged.
    pub fn passes(&self, value: Option<f64>) -> Option<bool> {
        match self.bound {
            AtLeast(bound) => Some(value.is_some_and(|value| value >= bound)),
            AtMost(bound) => Some(value.is_some_and(|value| value <= bound)),
            Reported => None,
        }
    }
}

impl Unit {
    /// A measured number.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Number => format!("{value:.3}"),
            Self::Percent => format!("{:.1} %", 100.0 * value),
            Self::Points => format!("{:+.1} points", 100.0 * value),
            Self::Nats => format!("{value:.3} a token"),
            Self::Factors => format!("{value} of {}", crate::concepts::FACTORS.len()),
        }
    }

    fn show_bound(self, bound: f64) -> String {
        match self {
            Self::Number | Self::Nats => format!("{bound}"),
            Self::Percent => format!("{:.0} %", 100.0 * bound),
            Self::Points => format!("{:.0} points", 100.0 * bound),
            Self::Factors => self.show(bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_include_themselves_and_nothing_measured_fails() {
        assert_eq!(AUC_MEAN.passes(Some(0.95)), Some(true));
        assert_eq!(AUC_MEAN.passes(Some(0.949)), Some(false));
        assert_eq!(SUPPRESS.passes(Some(0.25)), Some(true));
        assert_eq!(SUPPRESS.passes(Some(0.26)), Some(false));
        assert_eq!(SUPPRESS.passes(Some(f64::NAN)), Some(false));
        assert_eq!(SUPPRESS.passes(None), Some(false));
        assert_eq!(GRAMMAR.passes(None), None);
    }

    #[test]
    fn criteria_are_written_from_the_bounds() {
        assert_eq!(AUC_WORST.criterion(), ">= 0.85");
        assert_eq!(AMPLIFY.criterion(), ">= 85 %");
        assert_eq!(CONTROL.criterion(), "<= 10 points");
        assert_eq!(FACTORS_FOUND.criterion(), ">= 4 of 8");
    }

    #[test]
    fn names_tell_the_numbers_that_they_count_from() {
        assert!(TOP_TOKENS.name.contains(&format!("at least {OWN_TOKENS} ")));
        assert!(FACTORS_FOUND.name.ends_with(&format!("{FACTOR_AUC}")));
    }
}
