//! Whether the parts of a logit add up, and what rounding may make of them.

use serde::Serialize;
use steerling::attribute::TokenAttribution;
use utoipa::ToSchema;

/// The logits against the sum of their parts: known, unknown and an epsilon computed from the vectors.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Verify {
    /// Largest difference of any returned token, in logits.
    pub(crate) max_abs_error: f32,
    /// Difference in logits that rounding may make of any token: 1e-4 where the model computes in f32, 0.05 in f16, 0.5
    /// in bf16.
    pub(crate) atol: f32,
    /// What rounding may add to that, as a share of the sum of the logit's absolute parts, which is at least the
    /// absolute logit: 2^-18 in f32, 2^-10 in f16, 2^-7 in bf16.
    pub(crate) rtol: f32,
    /// Whether every token differs by `atol + rtol * (sum |known| + sum |unknown| + |epsilon|)` at most.
    pub(crate) passed: bool,
}

/// What rounding may make of a logit: `atol`, and `rtol` of the parts that are added up to it. A few roundings of the
/// type that the model computes in; in f32 some sixty, because sums over the hidden state round at every term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) atol: f32,
    pub(crate) rtol: f32,
}

impl Tolerance {
    /// For the parts of a logit against the logit, in the type that the model computes in.
    pub(crate) fn of_parts(dtype: &str) -> Self {
        let (atol, exponent) = match dtype {
            "f32" => (1e-4, -18),
            "f16" => (0.05, -10),
            _ => (0.5, -7),
        };
        Self { atol, rtol: 2f32.powi(exponent) }
    }

    /// For logits against those of another forward pass, whose rounding differs with the shape of its batch. Another
    /// model or another steering differs by more.
    pub(crate) fn of_passes(dtype: &str) -> Self {
        let atol = match dtype {
            "f32" => 1e-2,
            "f16" => 0.25,
            _ => 1.0,
        };
        Self { atol, ..Self::of_parts(dtype) }
    }

    /// Whether rounding explains a difference in the logit of `token`. It never explains a NaN or an overflow.
    pub(crate) fn explains(self, difference: f32, token: &TokenAttribution) -> bool {
        let limit = self.atol + self.rtol * token.absolute_total();
        limit.is_finite() && difference.abs() <= limit
    }
}

impl Verify {
    /// Of these tokens.
    pub(crate) fn of(attributions: &[&TokenAttribution], tolerance: Tolerance) -> Self {
        let Tolerance { atol, rtol } = tolerance;
        Self {
            max_abs_error: attributions.iter().map(|token| token.error()).fold(0.0, f32::max),
            atol,
            rtol,
            passed: attributions.iter().all(|token| tolerance.explains(token.error(), token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use steerling::attribute::{ConceptShare, Contributions};

    use super::*;

    /// A token whose parts are these contributions and a remainder of 1, off from its logit by `error`.
    fn token(contributions: &[f32], error: f32) -> TokenAttribution {
        let share = |(index, contribution): (usize, &f32)| ConceptShare {
            index: index as u32,
            weight: 1.0,
            contribution: *contribution,
        };
        let known: Vec<ConceptShare> = contributions.iter().enumerate().map(share).collect();
        let sum: f32 = contributions.iter().sum();
        let contributions = Contributions { known, unknown: Vec::new(), remainder: 1.0 - error };
        let (target_logit, decision_logit) = (sum + 1.0, None);
        TokenAttribution { position: 0, id: 0, step: 0, target_logit, decision_logit, contributions }
    }

    fn passes(token: &TokenAttribution, dtype: &str) -> bool {
        Verify::of(&[token], Tolerance::of_parts(dtype)).passed
    }

    #[test]
    fn what_rounding_may_be_grows_with_the_parts_and_a_wrong_part_is_found_at_any_size() {
        // Measured with a weight of 100: 1.7e-4 at a logit of 340.
        assert!(passes(&token(&[339.0], 1.7e-4), "f32"));
        assert!(!passes(&token(&[3.0], 1.7e-4), "f32"), "too much for a logit of usual size");
        // Large parts that cancel round as large parts do.
        assert!(passes(&token(&[3_390.0, -3_389.0], 1.7e-3), "f32"));
        for (dtype, share) in [("f32", 1e-3), ("f16", 0.02), ("bf16", 0.05)] {
            for size in [30.0, 340.0, 34_000.0] {
                let mut wrong = token(&[size], 0.0);
                assert!(passes(&wrong, dtype));
                wrong.contributions.known[0].contribution *= 1.0 + share;
                assert!(!passes(&wrong, dtype), "{dtype}: a contribution of {size} that is off by {share}");
            }
        }
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(!passes(&token(&[broken], 0.0), "f32") && !passes(&token(&[1.0], broken), "f32"));
        }
    }

    #[test]
    fn logits_of_another_pass_may_round_otherwise_and_not_be_others() {
        let tolerance = Tolerance::of_passes("f32");
        assert!(tolerance.explains(5e-3, &token(&[3.0], 0.0)) && !tolerance.explains(0.1, &token(&[3.0], 0.0)));
        assert!(
            tolerance.explains(0.1, &token(&[34_000.0], 0.0)) && !tolerance.explains(1.0, &token(&[34_000.0], 0.0))
        );
    }
}
