//! Choice of a token from one row of logits: entropy sampling, nucleus, argmax.

use crate::gpu::Draw;
use crate::kernels::scratch::{Scratch, scratch};
use crate::kernels::softmax::{RowStats, exp_shifted, row_stats};
use crate::params::GenerateParams;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The largest logit.
    Argmax,
    /// Nucleus of `softmax(logits / temperature)`.
    Nucleus {
        /// Above 0.
        temperature: f32,
    },
    /// Nucleus at a temperature between 0.3 and 0.7 that follows the entropy of the prediction.
    Entropy,
}

/// Draws tokens for rows of logits.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    sampling: Sampling,
    top_p: f32,
}

/// What entropy sampling found in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyTemperature {
    /// `-sum p ln(p + 1e-10)` in nats.
    pub entropy: f32,
    /// `max(1 + #{cumulative sorted p <= top_p}, 2)`.
    pub effective_k: usize,
    /// `0.3 + 0.4 min(1, entropy / ln effective_k)`.
    pub temperature: f32,
}

/// Probabilities below this change neither entropy nor nucleus in float32.
const NEGLIGIBLE: f32 = 1e-13;

/// Logits divided by a temperature below this could overflow, and all but the largest one are 0 long before.
const COLDEST: f32 = 1e-30;

impl Sampler {
    /// The sampler that `params` ask for.
    pub fn new(params: &GenerateParams) -> Self {
        let sampling = if params.use_entropy_sampling {
            Sampling::Entropy
        } else if params.temperature > COLDEST && params.top_p > 0.0 {
            Sampling::Nucleus { temperature: params.temperature }
        } else {
            Sampling::Argmax
        };
        Self { sampling, top_p: params.top_p }
    }

    /// The same for a device.
    pub(crate) fn on_device(&self) -> Draw {
        match self.sampling {
            Sampling::Argmax => Draw::Argmax,
            Sampling::Nucleus { temperature } => Draw::Nucleus { temperature, top_p: self.top_p },
            Sampling::Entropy => Draw::Entropy { top_p: self.top_p },
        }
    }

    /// The token of a row of logits (`[V]`, banned ones `-inf`) for a uniform draw in `[0, 1)`.
    pub fn draw(&self, logits: &[f32], stats: &RowStats, uniform: f64) -> u32 {
        let temperature = match self.sampling {
            Sampling::Argmax => return stats.argmax,
            Sampling::Nucleus { temperature } => temperature,
            Sampling::Entropy => self.entropy_temperature(logits, stats).temperature,
        };
        let nucleus = self.nucleus(logits, stats, temperature);
        let total: f64 = nucleus.iter().map(|(_, p)| f64::from(*p)).sum();
        let mut left = uniform * total;
        for (id, p) in &nucleus {
            left -= f64::from(*p);
            if left < 0.0 {
                return *id;
            }
        }
        nucleus.last().map_or(stats.argmax, |(id, _)| *id)
    }

    /// Entropy of the prediction and the temperature that follows from it.
    pub fn entropy_temperature(&self, logits: &[f32], stats: &RowStats) -> EntropyTemperature {
        let probabilities = softmax(logits, stats);
        let entropy: f64 = probabilities
            .iter()
            .filter(|p| **p > NEGLIGIBLE)
            .map(|p| f64::from(*p) * f64::from(-(p + 1e-10).ln()))
            .sum();
        let within = sorted_mass(&probabilities, self.top_p).take_while(|(_, before, p)| before + p <= self.top_p);
        let effective_k = (1 + within.count()).max(2);
        let relative = (entropy as f32 / (effective_k as f32).ln()).min(1.0);
        EntropyTemperature { entropy: entropy as f32, effective_k, temperature: 0.3 + 0.4 * relative }
    }

    /// Ids and probabilities of the nucleus at `temperature`, most probable first, not renormalised: tokens while the
    /// mass before them is at most `top_p`, and always the first.
    pub fn nucleus(&self, logits: &[f32], stats: &RowStats, temperature: f32) -> Vec<(u32, f32)> {
        let mut scaled = scratch(logits.len());
        scaled.iter_mut().zip(logits).for_each(|(scaled, logit)| *scaled = logit / temperature);
        let scaled_stats = match row_stats(&scaled, scaled.len()).as_slice() {
            [stats] => *stats,
            _ => *stats,
        };
        let probabilities = softmax(&scaled, &scaled_stats);
        sorted_mass(&probabilities, self.top_p)
            .enumerate()
            .take_while(|(rank, (_, before, _))| *rank == 0 || *before <= self.top_p)
            .map(|(_, (id, _, p))| (id, p))
            .collect()
    }
}

/// `exp(l - max) / sum_exp`.
fn softmax(logits: &[f32], stats: &RowStats) -> Scratch {
    let mut probabilities = scratch(logits.len());
    exp_shifted(logits, stats.max, &mut probabilities);
    let scale = 1.0 / stats.sum_exp;
    probabilities.iter_mut().for_each(|p| *p *= scale);
    probabilities
}

/// `(id, mass before, probability)` from the most probable id down, at least until the mass exceeds `top_p`.
///
/// Sorting the whole vocabulary costs milliseconds, and a nucleus is mostly a few hundred ids: only the ids above a
/// threshold are sorted, and the threshold falls until they hold enough mass.
fn sorted_mass(probabilities: &[f32], top_p: f32) -> impl Iterator<Item = (u32, f32, f32)> {
    let mut candidates: Vec<(u32, f32)>;
    let mut threshold = 1e-3f32;
    loop {
        candidates = (0u32..).zip(probabilities.iter().copied()).filter(|(_, p)| *p >= threshold).collect();
        let mass: f32 = candidates.iter().map(|(_, p)| p).sum();
        // The margin covers the rounding of sums taken in another order.
        if mass > top_p + 1e-4 || candidates.len() == probabilities.len() {
            break;
        }
        threshold = if threshold > 1e-9 { threshold * 1e-2 } else { 0.0 };
    }
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    candidates.into_iter().scan(0.0f32, |mass, (id, p)| {
        let before = *mass;
        *mass += p;
        Some((id, before, p))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_that_is_hardly_above_0_takes_the_likeliest_token() {
        let logits = [1.5, 31.0, f32::NEG_INFINITY, -20.0];
        let stats = row_stats(&logits, logits.len())[0];
        for temperature in [0.0, f32::from_bits(1), 1e-40, f32::MIN_POSITIVE, 1e-30, 1e-20, 1e-3] {
            let params = GenerateParams { temperature, use_entropy_sampling: false, ..GenerateParams::default() };
            assert_eq!(Sampler::new(&params).draw(&logits, &stats, 0.99), 1, "{temperature}");
        }
    }
}
