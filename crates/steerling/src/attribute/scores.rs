//! What each concept did for a run of tokens. MODEL.md section 6.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ConceptShare, TokenAttribution};
use crate::steer::ConceptKey;

/// Smallest total that contributions are divided by.
const EPS: f64 = 1e-8;

/// The concepts of a run of positions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChunkScores {
    /// Every concept that took part, largest magnitude first: `(1 / len) * sum contribution / total` over committed
    /// positions, where `total = sum |known| + sum |unknown| + |epsilon|` of the position.
    pub concepts: Vec<(ConceptKey, f32)>,
    /// Mean of `epsilon / total` over committed positions; signs may cancel. 0 without any.
    pub epsilon_signed: f32,
    /// Mean of `|epsilon| / total` over committed positions: the share that no concept explains. 0 without any.
    pub epsilon_abs: f32,
}

impl ChunkScores {
    /// Scores the tokens committed at positions in `chunk`, in whatever order they come. Positions without a commit
    /// count in the length that concepts are divided by, as in the reference, but not for epsilon.
    pub fn of<'a>(attributions: impl IntoIterator<Item = &'a TokenAttribution>, chunk: Range<usize>) -> Self {
        let mut sums: BTreeMap<ConceptKey, f64> = BTreeMap::new();
        let (mut signed, mut absolute, mut committed) = (0.0, 0.0, 0usize);
        for token in attributions.into_iter().filter(|token| chunk.contains(&token.position)) {
            let total = f64::from(token.absolute_total()).max(EPS);
            let mut add = |key: fn(u32) -> ConceptKey, shares: &[ConceptShare]| {
                for share in shares {
                    *sums.entry(key(share.index)).or_default() += f64::from(share.contribution) / total;
                }
            };
            add(ConceptKey::Known, &token.contributions.known);
            add(ConceptKey::Unknown, &token.contributions.unknown);
            signed += f64::from(token.epsilon()) / total;
            absolute += f64::from(token.epsilon().abs()) / total;
            committed += 1;
        }
        let len = chunk.len().max(1) as f64;
        let mut concepts: Vec<_> = sums.into_iter().map(|(concept, sum)| (concept, (sum / len) as f32)).collect();
        // Stable: equal magnitudes stay in the order of head and index.
        concepts.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let mean = |sum: f64| (sum / committed.max(1) as f64) as f32;
        Self { concepts, epsilon_signed: mean(signed), epsilon_abs: mean(absolute) }
    }
}
