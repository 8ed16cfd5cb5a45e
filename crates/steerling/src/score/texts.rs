//! Measures of generated texts that know nothing of what a text is about.

use std::collections::HashSet;

use super::{Score, ScoreItem, ScoreJob, ScoreMethod, ScoreParams};
use crate::error::Result;
use crate::runtime::Runtime;

/// The likelihood of each continuation, every token from those before it, with all forwards at once.
///
/// # Errors
/// Those of [`ScoreJob::new`] and [`ScoreJob::advance`].
pub fn left_to_right(runtime: &mut Runtime, items: Vec<ScoreItem>) -> Result<Vec<Score>> {
    let params = ScoreParams { method: ScoreMethod::LeftToRight, ..ScoreParams::default() };
    let mut job = ScoreJob::new(items, &params, &runtime.info().config)?;
    loop {
        if let Some(scores) = job.advance(runtime)? {
            return Ok(scores);
        }
    }
}

/// Different pairs of neighbouring tokens as a share of all pairs in the texts together: low where texts repeat themselves
/// or each other. `None` without pairs.
pub fn distinct_2<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Option<f64> {
    let mut different = HashSet::new();
    let mut all = 0usize;
    for pair in texts.into_iter().flat_map(|text| text.windows(2)) {
        different.insert(pair);
        all += 1;
    }
    (all > 0).then(|| different.len() as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_pairs_are_counted_over_all_texts_but_not_across_them() {
        // Pairs 1 2, 2 1, 1 2 and 1 2: two different ones of four.
        assert_eq!(distinct_2([&[1, 2, 1, 2][..], &[1, 2]]), Some(0.5));
        assert_eq!(distinct_2([&[7, 7, 7, 7, 7][..]]), Some(0.25));
        assert_eq!(distinct_2([&[1][..], &[2]]), None);
    }
}
