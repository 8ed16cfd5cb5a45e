//! How much memory gradients take, and how much they may take.

use crate::backbone::Compute;
use crate::config::{Config, MlpKind, NormKind, NormOrder};
use crate::scratch::{Estimate, Term};
use crate::{Error, Result};

/// How much memory gradients may take, and what they are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientBudget {
    /// Bytes of an autograd graph, together with what is computed beside it.
    pub bytes: u64,
    /// Whether the CPU kernels compute them; candle's operations keep more, attention scores above all.
    kernels: bool,
    /// Whether weights are packed; of others candle computes gradients that are not needed.
    packed: bool,
    /// Bytes of a number between products.
    number: u64,
}

/// No limit, for a device without gradients.
impl Default for GradientBudget {
    fn default() -> Self {
        Self { bytes: u64::MAX, kernels: true, packed: true, number: 4 }
    }
}

/// What is computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientShare {
    /// Points of the path in one forward pass.
    pub points: usize,
    /// Targets whose gradients are held.
    pub targets: usize,
}

impl GradientBudget {
    /// `bytes` for the gradients of a model that is computed so.
    pub fn new(bytes: u64, config: &Config, compute: &Compute) -> Self {
        let packed = compute.has_kernels();
        let kernels = packed && config.norm == NormKind::Rms;
        Self { bytes, kernels, packed, number: compute.activations().size_in_bytes() as u64 }
    }

    /// What the gradients of a sequence of `positions` take at their peak.
    pub fn estimate(&self, config: &Config, positions: usize, share: GradientShare) -> Estimate {
        let [d, layers] = [config.n_embd, config.n_layers].map(|n| n as u64);
        let (positions, points) = (positions as u64, share.points as u64);
        let rows = positions * points;
        let scores = points * config.n_head as u64 * positions * positions * self.number;
        let [kept, transient] = self.row_bytes(config);
        let mut terms = vec![
            Term { name: "results of all layers, kept for the backward pass", bytes: rows * layers * kept },
            Term { name: "the backward pass through one layer", bytes: rows * transient },
            Term { name: "points of the path and hidden states", bytes: (6 * rows + 6 * positions) * d * self.number },
            Term { name: "gradients of the targets", bytes: share.targets as u64 * positions * d * self.number },
        ];
        if !self.kernels {
            // Scores, scaled, masked, shifted, exponentials, weights; and in the backward pass the gradient of the mask.
            terms.push(Term { name: "attention scores", bytes: (7 * layers + 8) * scores });
        }
        if !self.packed {
            terms.push(Term { name: "gradients of weights", bytes: layers * weights(config) * self.number });
        }
        Estimate(terms)
    }

    /// Bytes of a row that a layer keeps, and those that the backward pass through it takes.
    fn row_bytes(&self, config: &Config) -> [u64; 2] {
        let (d, kv, inner) = (config.n_embd as u64, config.kv_dim() as u64, config.intermediate_size as u64);
        let swiglu = config.mlp == MlpKind::SwiGlu;
        let fc = if swiglu { 2 * inner } else { inner };
        let qkv = d + 2 * kv;
        // Sums with biases, and gradients of the biases, one for each row.
        let bias = if config.use_bias { 2 * (qkv + d + fc + d) } else { 0 };
        let (kept, number) = match self.kernels {
            true => {
                let norms = if config.norm_order == NormOrder::Pre { 2 * d } else { 0 };
                // qkv raw and prepared, attended and projected, sums after both halves, injected; MLP block.
                (2 * qkv + d + d + 3 * d + fc + inner + d + norms + bias, self.number)
            }
            false => {
                // Every operation keeps its result, and the gradient of what it is broadcast with: weights of norms, cosines
                // and sines, bounds of the clamp. Norms and rotations are computed in float32.
                let norm = if config.norm == NormKind::Layer { 7 } else { 4 };
                let activation = if swiglu { 2 * inner } else { inner };
                let halves = (3 * norm + 14) * d + (norm + 8) * kv;
                // Measured, it is six tenths more than these counts explain.
                ((6 * qkv + halves + fc + activation + bias) * 8 / 5, self.number.max(4))
            }
        };
        // The derivatives of the other activations are sums of powers.
        let derivative = if swiglu && self.kernels { inner } else { 14 * inner };
        [kept * number, (2 * fc + derivative + 8 * d) * number]
    }

    /// As many points and targets at once as fit, not more than wanted. The results do not depend on it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if not even one point and one target fit.
    pub(super) fn share(&self, config: &Config, positions: usize, wanted: GradientShare) -> Result<GradientShare> {
        let fits = |share| self.estimate(config, positions, share).bytes() <= self.bytes;
        let one = GradientShare { points: 1, targets: 1 };
        if !fits(one) {
            let needed = self.estimate(config, positions, one).bytes();
            let message = format!(
                "the gradient of one token through {positions} positions takes {} MiB, {} MiB are allowed: shorten the \
                 prompt or the generation, ask for earlier positions, or use `occlusion`",
                needed.div_ceil(1 << 20),
                self.bytes >> 20
            );
            return Err(Error::TooLarge { field: "inputs".into(), message, needed, available: self.bytes });
        }
        let most =
            |wanted: usize, of: &dyn Fn(usize) -> GradientShare| (1..=wanted).rev().find(|n| fits(of(*n))).unwrap_or(1);
        let targets = most(wanted.targets, &|targets| GradientShare { targets, ..one });
        let points = most(wanted.points, &|points| GradientShare { points, targets });
        Ok(GradientShare { points, targets })
    }

    /// Whether gradients through `positions` can be computed at all.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with what is needed and what there is.
    pub fn check(&self, config: &Config, positions: usize) -> Result<()> {
        self.share(config, positions, GradientShare { points: 1, targets: 1 }).map(drop)
    }
}

/// Numbers of the linear layers of a layer.
fn weights(config: &Config) -> u64 {
    let (d, kv, inner) = (config.n_embd as u64, config.kv_dim() as u64, config.intermediate_size as u64);
    let fc = if config.mlp == MlpKind::SwiGlu { 2 * inner } else { inner };
    d * (d + 2 * kv) + d * d + fc * d + d * inner
}
