//! Random numbers keyed by (seed, position): the same draw whatever else runs, and in whatever order.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A uniform number in `[0, 1)` for one position of a generation.
pub fn uniform(seed: u64, position: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(position as u64);
    // 53 random bits, the precision of a double.
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_position_only() {
        assert_eq!(uniform(7, 3), uniform(7, 3));
        assert_ne!(uniform(7, 3), uniform(7, 4));
        assert_ne!(uniform(7, 3), uniform(8, 3));
    }

    #[test]
    fn draws_over_positions_are_uniform() {
        let n = 20_000;
        let mut buckets = [0usize; 20];
        for position in 0..n {
            let u = uniform(42, position);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 20.0) as usize] += 1;
        }
        let expected = n as f64 / 20.0;
        let chi2: f64 = buckets.iter().map(|b| (*b as f64 - expected).powi(2) / expected).sum();
        // 19 degrees of freedom: 43.8 is passed by one sequence in a thousand.
        assert!(chi2 < 43.8, "chi squared {chi2}");
    }
}
