//! Attributions made comparable.

/// Smallest magnitude that scores are divided by.
const EPS: f64 = 1e-6;

/// Divides scores by the magnitude of their signed sum and by its sign: `x / (sign(sum) * max(|sum|, 1e-6))`, where the
/// sign of 0 is 1. They then sum to 1 unless their sum was within 1e-6 of 0; all signs turn when it was negative.
pub fn normalize_attributions(scores: &mut [f32]) {
    // Summed in f64: the scores may cancel almost entirely.
    let sum: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    let divisor = sum.abs().max(EPS).copysign(if sum < 0.0 { -1.0 } else { 1.0 });
    for score in scores {
        *score = (f64::from(*score) / divisor) as f32;
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Helpers {
        normalize_attributions: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        x: Vec<f32>,
        out: Vec<f32>,
    }

    #[test]
    fn scores_are_normalised_as_recorded() {
        let helpers: Helpers = serde_json::from_str(include_str!("../../tests/goldens/helpers.json")).unwrap();
        assert_eq!(helpers.normalize_attributions.len(), 6);
        for case in helpers.normalize_attributions {
            let mut scores = case.x.clone();
            normalize_attributions(&mut scores);
            for (score, expected) in scores.iter().zip(&case.out) {
                // The record summed in f32; where the sum cancels to a tenth, that costs a few units of the sixth digit.
                assert!((score - expected).abs() <= 5e-6 * expected.abs(), "{:?}: {scores:?}, {:?}", case.x, case.out);
            }
        }
    }
}
