//! Random concepts in place of those that a request names.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use steerling::catalog::{Catalog, Filter};

use crate::api::steering::Recipe;
use crate::error::ApiError;

/// Sets the draws of concepts apart from all others of the same seed, above all from those of the tokens.
const DOMAIN: &str = "steerling random control concepts 1";

/// For each of `n` runs, different steerable known concepts in place of those that `recipe` names, in their order. None
/// of them is one that the recipe acts on or that is `governed` by a policy; where the recipe takes groups along, none
/// is in a group with one of those.
pub(super) fn draw(
    catalog: &Catalog,
    recipe: &Recipe,
    governed: &BTreeSet<u32>,
    (n, seed): (usize, u64),
) -> Result<Vec<Vec<u32>>, ApiError> {
    if n == 0 {
        return Ok(Vec::new());
    }
    let taken: BTreeSet<u32> = recipe.edited().into_iter().chain(governed.iter().copied()).collect();
    let group_of = |id: u32| catalog.get(id).and_then(|concept| concept.group).map(|group| group.id);
    let groups: BTreeSet<i64> = match recipe.takes_groups() {
        true => taken.iter().filter_map(|id| group_of(*id)).collect(),
        false => BTreeSet::new(),
    };
    let mut pool: Vec<u32> = catalog.list(Filter::REFERENCE, 0, usize::MAX).items.iter().map(|c| c.id).collect();
    pool.retain(|id| !taken.contains(id) && group_of(*id).is_none_or(|group| !groups.contains(&group)));
    let each = recipe.named().len();
    let wanted = n * each;
    if pool.len() < wanted {
        let message = format!("{wanted} random concepts are needed, the catalogue has {} to draw from", pool.len());
        return Err(ApiError::invalid("controls.random_concepts", message));
    }
    let (drawn, _) = pool.partial_shuffle(&mut generator(seed), wanted);
    Ok(drawn.chunks(each).map(<[u32]>::to_vec).collect())
}

/// Random numbers for concepts: keyed by the SHA-256 of [`DOMAIN`] and the seed, and so a stream of their own, where
/// tokens are drawn from the seed and their position.
fn generator(seed: u64) -> ChaCha8Rng {
    let key = Sha256::new().chain_update(DOMAIN).chain_update(seed.to_le_bytes()).finalize();
    ChaCha8Rng::from_seed(key.into())
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use steerling::decode::uniform;

    use super::*;

    #[test]
    fn concepts_and_tokens_of_a_seed_share_no_random_numbers() {
        let uniforms = |seed: u64| -> Vec<u64> {
            let mut rng = generator(seed);
            (0..64).map(|_| rng.next_u64() >> 11).collect()
        };
        for seed in [0, 1, 7, u64::MAX] {
            let tokens: BTreeSet<u64> = (0..1024).map(|i| (uniform(seed, i) * (1u64 << 53) as f64) as u64).collect();
            assert!(uniforms(seed).iter().all(|draw| !tokens.contains(draw)), "{seed}");
            assert_eq!(uniforms(seed), uniforms(seed));
            assert_ne!(uniforms(seed), uniforms(seed ^ 1));
        }
    }
}
