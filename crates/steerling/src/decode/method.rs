//! Which positions a step commits.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Which positions a step commits.
///
/// As text: `confidence`, `threshold=0.9`, `threshold=0.9/4` with `max_per_step`, `factor=1`, `entropy_bound=0.15`,
/// `lossless`, `lossless=2`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Decoding {
    /// A fixed number a step, most confident first: as many as `steps` leave to each.
    #[default]
    Confidence,
    /// All positions that are confident enough, at least the most confident one.
    Threshold {
        /// Largest probability of a position from which on it is committed, in `[0, 1]`. No probability reaches 1, which
        /// therefore commits one position a step.
        threshold: f32,
        /// Most positions of a step, the most confident ones; `None` is no limit.
        max_per_step: Option<usize>,
    },
    /// The `n` most confident positions for the largest `n` whose least confident one has at least `1 - factor / (n + 1)`:
    /// the more at once, the surer they must be. At least one.
    Factor {
        /// Not negative. 0 is one position a step.
        factor: f32,
    },
    /// Positions from the least entropy up while the entropies of all but the last add up to at most `gamma`. A step of
    /// one position commits the most confident one.
    EntropyBound {
        /// Nats, not negative. 0 leaves nothing to spend: one position a step.
        gamma: f32,
    },
    /// The order and the tokens of [`Decoding::Confidence`], with guessed continuations in the same forward.
    Lossless {
        /// Steps that are guessed, at most; `None` is as many as measured times say are worth their rows.
        drafts: Option<usize>,
    },
}

/// Most steps that a forward guesses.
pub const MAX_DRAFTS: usize = 8;

impl Decoding {
    /// The name used in requests.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Confidence => "confidence",
            Self::Threshold { .. } => "threshold",
            Self::Factor { .. } => "factor",
            Self::EntropyBound { .. } => "entropy_bound",
            Self::Lossless { .. } => "lossless",
        }
    }

    /// Whether the number of steps is fixed, rather than a consequence of the predictions.
    pub fn has_steps(&self) -> bool {
        matches!(self, Self::Confidence | Self::Lossless { .. })
    }

    /// Refuses values outside their range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field, the value and the limit.
    pub(crate) fn validate(&self) -> Result<()> {
        let within = |field: &str, value: f32, high: f32| match (0.0..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("decoding.{field}"), format!("{value} is outside 0..={high}"))),
        };
        match *self {
            Self::Confidence | Self::Lossless { drafts: None } => Ok(()),
            Self::Threshold { max_per_step: Some(0), .. } => {
                Err(Error::invalid("decoding.max_per_step", "0 is below the minimum of 1"))
            }
            Self::Threshold { threshold, .. } => within("threshold", threshold, 1.0),
            Self::Factor { factor } => within("factor", factor, 1000.0),
            Self::EntropyBound { gamma } => within("gamma", gamma, 1000.0),
            Self::Lossless { drafts: Some(drafts) } if (1..=MAX_DRAFTS).contains(&drafts) => Ok(()),
            Self::Lossless { drafts: Some(drafts) } => {
                Err(Error::invalid("decoding.drafts", format!("{drafts} is outside 1..={MAX_DRAFTS}")))
            }
        }
    }

    /// The rows that a step commits, in order, of rows with these confidences; at least one.
    ///
    /// `ranked` are all rows, most confident first; `quota` is what `steps` leave to this step. `entropies`, in nats and
    /// one a row, are asked for if needed.
    pub(super) fn rows(
        &self,
        quota: usize,
        ranked: &[usize],
        confidences: &[f32],
        entropies: impl FnOnce() -> Vec<f32>,
    ) -> Vec<usize> {
        let first = |n: usize| ranked[..n.clamp(1, ranked.len())].to_vec();
        match *self {
            Self::Confidence | Self::Lossless { .. } => ranked[..quota.min(ranked.len())].to_vec(),
            // In float32 a probability may round to 1.
            Self::Threshold { threshold, .. } if threshold >= 1.0 => first(1),
            Self::Threshold { threshold, max_per_step } => {
                let sure = ranked.partition_point(|row| confidences[*row] >= threshold);
                first(sure.min(max_per_step.unwrap_or(usize::MAX)))
            }
            Self::Factor { factor } if factor <= 0.0 => first(1),
            // The bound rises with n and the confidences fall: the first that misses it is followed by such only.
            Self::Factor { factor } => {
                let reaches = |(i, row): &(usize, &usize)| confidences[**row] >= 1.0 - factor / (*i + 2) as f32;
                first(ranked.iter().enumerate().take_while(reaches).count())
            }
            Self::EntropyBound { gamma } if gamma <= 0.0 => first(1),
            Self::EntropyBound { gamma } => {
                let entropies = entropies();
                let mut ascending: Vec<usize> = (0..ranked.len()).collect();
                ascending.sort_by(|a, b| entropies[*a].total_cmp(&entropies[*b]).then(a.cmp(b)));
                let mut sum = 0.0;
                let spent = |row: &&usize| {
                    // The last one of a prefix has its largest entropy, which does not count.
                    let before = sum;
                    sum += entropies[**row];
                    before <= gamma
                };
                let rows: Vec<usize> = ascending.iter().take_while(spent).copied().collect();
                if rows.len() > 1 { rows } else { first(1) }
            }
        }
    }
}

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Confidence | Self::Lossless { drafts: None } => f.write_str(name),
            Self::Threshold { threshold, max_per_step: None } => write!(f, "{name}={threshold}"),
            Self::Threshold { threshold, max_per_step: Some(most) } => write!(f, "{name}={threshold}/{most}"),
            Self::Factor { factor } => write!(f, "{name}={factor}"),
            Self::EntropyBound { gamma } => write!(f, "{name}={gamma}"),
            Self::Lossless { drafts: Some(drafts) } => write!(f, "{name}={drafts}"),
        }
    }
}

impl FromStr for Decoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        fn number<T: FromStr>(text: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| Error::invalid("decoding", format!("`{value}` in `{text}` is not such a number")))
        }
        let decoding = match text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value))) {
            ("confidence", None) => Self::Confidence,
            ("threshold", Some(value)) => {
                let (threshold, most) =
                    value.split_once('/').map_or((value, None), |(value, most)| (value, Some(most)));
                let max_per_step = most.map(|most| number(text, most)).transpose()?;
                Self::Threshold { threshold: number(text, threshold)?, max_per_step }
            }
            ("factor", Some(value)) => Self::Factor { factor: number(text, value)? },
            ("entropy_bound", Some(value)) => Self::EntropyBound { gamma: number(text, value)? },
            ("lossless", drafts) => Self::Lossless { drafts: drafts.map(|value| number(text, value)).transpose()? },
            _ => {
                let forms = "confidence, threshold=P, threshold=P/MAX, factor=F, entropy_bound=GAMMA, lossless or lossless=DRAFTS";
                return Err(Error::invalid("decoding", format!("`{text}` is not {forms}")));
            }
        };
        decoding.validate()?;
        Ok(decoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(decoding: Decoding, confidences: &[f32], entropies: &[f32]) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..confidences.len()).collect();
        ranked.sort_by(|a, b| confidences[*b].total_cmp(&confidences[*a]).then(a.cmp(b)));
        decoding.rows(1, &ranked, confidences, || entropies.to_vec())
    }

    #[test]
    fn threshold_takes_all_that_are_sure_enough_up_to_the_most() {
        let confidences = [0.2, 0.95, 0.9, 1.0];
        let threshold =
            |threshold, max_per_step| rows(Decoding::Threshold { threshold, max_per_step }, &confidences, &[]);
        assert_eq!(threshold(0.9, None), [3, 1, 2]);
        assert_eq!(threshold(0.9, Some(2)), [3, 1]);
        assert_eq!(threshold(0.0, None), [3, 1, 2, 0]);
        assert_eq!(threshold(1.0, None), [3]);
        assert_eq!(rows(Decoding::Threshold { threshold: 0.9, max_per_step: None }, &[0.1, 0.3], &[]), [1]);
    }

    #[test]
    fn factor_asks_for_more_the_more_there_are() {
        // 1 - 0.6 / (n + 1) is 0.7, 0.8, 0.85 and 0.88 for n = 1 to 4.
        let factor = |confidences: &[f32]| rows(Decoding::Factor { factor: 0.6 }, confidences, &[]);
        assert_eq!(factor(&[0.86, 0.87, 0.9, 0.85]), [2, 1, 0]);
        assert_eq!(factor(&[0.5, 0.4]), [0]);
        assert_eq!(rows(Decoding::Factor { factor: 0.0 }, &[0.9, 0.99], &[]), [1]);
    }

    #[test]
    fn entropy_bound_leaves_out_the_largest_entropy() {
        let bound = |gamma| rows(Decoding::EntropyBound { gamma }, &[0.9, 0.5, 0.8], &[0.1, 0.5, 0.2]);
        assert_eq!(bound(0.05), [0]);
        assert_eq!(bound(0.1), [0, 2]);
        assert_eq!(bound(0.3001), [0, 2, 1]);
        // One position a step is the most confident one, whatever its entropy.
        assert_eq!(rows(Decoding::EntropyBound { gamma: 0.1 }, &[0.5, 0.6], &[0.2, 0.3]), [1]);
        assert_eq!(rows(Decoding::EntropyBound { gamma: 0.0 }, &[0.5, 1.0], &[0.0, 0.0]), [1]);
    }

    #[test]
    fn text_makes_the_round_trip_and_nonsense_is_refused_by_name() {
        for text in [
            "confidence",
            "threshold=0.9",
            "threshold=0.9/4",
            "factor=1.5",
            "entropy_bound=0.15",
            "lossless",
            "lossless=2",
        ] {
            assert_eq!(text.parse::<Decoding>().expect(text).to_string(), text);
        }
        for (text, field) in [
            ("fast", "decoding"),
            ("threshold", "decoding"),
            ("confidence=1", "decoding"),
            ("threshold=high", "decoding"),
            ("threshold=1.1", "decoding.threshold"),
            ("threshold=NaN", "decoding.threshold"),
            ("threshold=0.9/0", "decoding.max_per_step"),
            ("factor=-1", "decoding.factor"),
            ("entropy_bound=-0.1", "decoding.gamma"),
            ("lossless=0", "decoding.drafts"),
            ("lossless=9", "decoding.drafts"),
        ] {
            match text.parse::<Decoding>() {
                Err(Error::Invalid { field: found, .. }) => assert_eq!(found, field, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn every_method_takes_some_rows_and_each_once(
            pairs in prop::collection::vec((0.0f32..=1.0, 0.0f32..12.0), 1..40),
            kind in 0..4,
            value in 0.0f32..=1.0,
            most in prop::option::of(1usize..5),
        ) {
            let (confidences, entropies): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let decoding = match kind {
                0 => Decoding::Confidence,
                1 => Decoding::Threshold { threshold: value, max_per_step: most },
                2 => Decoding::Factor { factor: 4.0 * value },
                _ => Decoding::EntropyBound { gamma: 10.0 * value },
            };
            let mut found = rows(decoding, &confidences, &entropies);
            prop_assert!(!found.is_empty() && found.iter().all(|row| *row < confidences.len()));
            if let (1, Some(most)) = (kind, most) {
                prop_assert!(found.len() <= most);
            }
            found.sort_unstable();
            let all = found.len();
            found.dedup();
            prop_assert_eq!(found.len(), all);
        }
    }
}
