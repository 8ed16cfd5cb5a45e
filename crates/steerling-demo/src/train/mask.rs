//! Which positions of a sequence are masked, and how likely each was to be.

use rand::{Rng, RngExt};

/// Rates below this would weigh a single position too much.
const LOWEST: f32 = 0.15;

/// A masking of `T` positions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Masking {
    pub(super) masked: Vec<bool>,
    /// The rate that each position was masked with.
    pub(super) rate: Vec<f32>,
}

impl Masking {
    /// One rate per block of `s` positions, none of the first `prompt` positions.
    ///
    /// Every other time a text is being generated: all is visible up to a random place, the `s` positions from there are
    /// masked at one rate, and the rest of their block is masked.
    pub(super) fn draw(t: usize, s: usize, prompt: usize, rng: &mut impl Rng) -> Self {
        let mut rate: Vec<f32> = Vec::with_capacity(t);
        for _ in 0..t.div_ceil(s) {
            rate.resize((rate.len() + s).min(t), block_rate(rng));
        }
        if prompt > 0 || rng.random_bool(0.5) {
            let from = match prompt {
                0 => rng.random_range(1..t),
                _ if rng.random_bool(0.5) => prompt,
                _ => rng.random_range(prompt..t),
            };
            let window = (from + s).min(t);
            rate[..from].fill(0.0);
            rate[from..window].fill(rng.random_range(LOWEST..1.0));
            rate[window..window.next_multiple_of(s).min(t)].fill(1.0);
        }
        let masked = rate.iter().map(|rate| rng.random::<f32>() < *rate).collect();
        Self { masked, rate }
    }
}

fn block_rate(rng: &mut impl Rng) -> f32 {
    match rng.random_range(0..20) {
        0..3 => 0.0,
        3..6 => 1.0,
        _ => rng.random_range(LOWEST..1.0),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn prompts_stay_visible_and_rates_are_kept() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut masked, mut expected) = (0.0, 0.0);
        for _ in 0..2000 {
            let found = Masking::draw(70, 16, 9, &mut rng);
            assert!(!found.masked[..9].contains(&true));
            for (masked, rate) in found.masked.iter().zip(&found.rate) {
                assert!(*rate == 0.0 || (LOWEST..=1.0).contains(rate));
                assert!(!masked || *rate > 0.0);
                assert!(*masked || *rate < 1.0);
            }
            masked += found.masked.iter().filter(|masked| **masked).count() as f32;
            expected += found.rate.iter().sum::<f32>();
        }
        assert!((masked / expected - 1.0).abs() < 0.02, "{masked} of {expected}");
    }

    #[test]
    fn without_a_prompt_most_positions_belong_to_a_block_of_one_rate() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let whole = (0..1000).filter(|_| {
            let found = Masking::draw(64, 16, 0, &mut rng);
            found.rate.chunks(16).all(|block| block.iter().all(|rate| *rate == block[0]))
        });
        let whole = whole.count();
        assert!((400..700).contains(&whole), "{whole}");
    }
}
