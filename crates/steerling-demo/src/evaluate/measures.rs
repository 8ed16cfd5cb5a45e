//! The measures themselves, on plain numbers.

/// The area under the ROC curve of `(score, has the property)` pairs: how often a positive outranks a negative, where
/// a tie counts half. `None` without positives, without negatives, or with a score that is no number.
pub(super) fn auc(pairs: impl IntoIterator<Item = (f64, bool)>) -> Option<f64> {
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    if pairs.iter().any(|pair| pair.0.is_nan()) {
        return None;
    }
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut negatives, mut positives, mut outranked) = (0.0, 0.0, 0.0);
    for ties in pairs.chunk_by(|a, b| a.0 == b.0) {
        let up = ties.iter().filter(|pair| pair.1).count() as f64;
        let down = ties.len() as f64 - up;
        outranked += up * (negatives + down / 2.0);
        positives += up;
        negatives += down;
    }
    (positives > 0.0 && negatives > 0.0).then(|| outranked / (positives * negatives))
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.into_iter().fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// `ln(1 + e^x)`, which is `-ln(1 - sigmoid(x))`.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_counts_pairs_in_order_and_ties_half() {
        // Against negatives at 1, 2 and 2: the positive at 2 wins once and ties twice, the one at 3 wins three times.
        let pairs = [(2.0, true), (1.0, false), (3.0, true), (2.0, false), (2.0, false)];
        assert_eq!(auc(pairs), Some((1.0 + 2.0 * 0.5 + 3.0) / 6.0));
    }

    #[test]
    fn area_is_one_half_or_nought_for_separated_equal_or_reversed_scores() {
        assert_eq!(auc([(1.0, true), (0.0, false)]), Some(1.0));
        assert_eq!(auc([(1.0, true), (1.0, false), (1.0, false)]), Some(0.5));
        assert_eq!(auc([(0.0, true), (1.0, false)]), Some(0.0));
    }

    #[test]
    fn one_class_alone_or_a_score_that_is_no_number_has_no_area() {
        assert_eq!(auc([(f64::NAN, true), (1.0, true), (0.0, false)]), None);
        assert_eq!(auc([(1.0, true), (2.0, true)]), None);
        assert_eq!(auc([(1.0, false)]), None);
    }

    #[test]
    fn softplus_is_the_log_form_of_the_noisy_or() {
        for z in [-15.0f64, -2.0, 0.0, 3.0, 15.0] {
            let sigmoid = 1.0 / (1.0 + (-z).exp());
            assert!((softplus(z) + (1.0 - sigmoid).ln()).abs() < 1e-9 * softplus(z).max(1.0), "{z}");
        }
    }
}
