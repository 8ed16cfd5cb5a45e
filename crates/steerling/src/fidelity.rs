//! How far one model's answers are from another's: what quantization, or another type, costs.

use std::collections::BTreeMap;

use crate::attribute::{ConceptShare, Contributions};
use crate::runtime::{Evaluation, Probe};
use crate::{Result, Runtime, scratch};

/// What a model says at the masked positions of some sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// Ids of the vocabulary.
    vocab_size: usize,
    /// `[positions, vocab_size]`.
    logits: Vec<f32>,
    /// The token that is taken apart at each position.
    tokens: Vec<u32>,
    /// Empty without concept heads.
    contributions: Vec<Contributions>,
}

/// How far readings are from those of a reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Fidelity {
    /// Masked positions that were compared.
    pub positions: usize,
    /// Share of them at which both have the same most likely token.
    pub argmax_agreement: f64,
    /// Mean divergence of the predictions, `KL(reference || other)`, in nats.
    pub kl: f64,
    /// Mean share of the reference's active known concepts that are active in the other; `None` without the head.
    pub known_overlap: Option<f64>,
    /// The same of unknown concepts.
    pub unknown_overlap: Option<f64>,
    /// Mean over positions of the differences of a token's contributions, remainder included, in parts of the sum of
    /// their sizes; `None` without concept heads.
    pub attribution_error: Option<f64>,
}

impl Readings {
    /// Of a model, at the masked positions of `sequences`. The tokens that are taken apart are the most likely ones, or
    /// those of the readings to compare with.
    ///
    /// # Errors
    /// Those of [`Evaluation::advance`] and of the concept heads.
    pub fn of(runtime: &mut Runtime, sequences: &[Vec<u32>], like: Option<&Self>) -> Result<Self> {
        let mask = runtime.info().config.special.mask;
        let vocab_size = runtime.info().config.vocab_size;
        let probes = sequences.iter().map(|ids| {
            let positions = (0..ids.len()).filter(|position| ids[*position] == mask).collect();
            Probe::new(ids.clone(), positions)
        });
        let mut evaluation = Evaluation::new(probes.collect());
        let (mut logits, mut tokens, mut contributions) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(hidden) = evaluation.advance(runtime)? {
            let model = runtime.model();
            let first = tokens.len();
            let chunk = scratch::chunk_rows(scratch::logit_row(&model.info().config));
            let composed = model.composed(&hidden, &[])?; // [positions, D]
            scratch::in_chunks(&composed, chunk, |composed, _| {
                let mut part = Vec::new();
                model.logits(composed, &mut part)?;
                logits.extend_from_slice(&part);
                Ok(())
            })?;
            match like {
                Some(like) => tokens.extend_from_slice(&like.tokens[first..first + hidden.dim(0)?]),
                None => tokens.extend(logits[first * vocab_size..].chunks(vocab_size).map(most_likely)),
            }
            if model.heads().is_some() {
                contributions.extend(model.contributions(&hidden, &tokens[first..], &[])?);
            }
        }
        Ok(Self { vocab_size, logits, tokens, contributions })
    }

    /// How far `other` is from these; both of the same sequences, and `other` read like these.
    ///
    /// # Panics
    /// If they are not.
    pub fn against(&self, other: &Self) -> Fidelity {
        assert_eq!(self.logits.len(), other.logits.len(), "readings of the same positions");
        assert_eq!(self.tokens, other.tokens, "contributions to the same tokens");
        let rows = || self.logits.chunks(self.vocab_size).zip(other.logits.chunks(self.vocab_size));
        let parts = || self.contributions.iter().zip(&other.contributions);
        let overlap = |list: fn(&Contributions) -> &Vec<ConceptShare>| {
            mean(parts().filter_map(|(a, b)| shared(list(a), list(b))))
        };
        Fidelity {
            positions: self.tokens.len(),
            argmax_agreement: mean(rows().map(|(a, b)| f64::from(u8::from(most_likely(a) == most_likely(b)))))
                .unwrap_or(1.0),
            kl: mean(rows().map(|(a, b)| divergence(a, b))).unwrap_or(0.0),
            known_overlap: overlap(|c| &c.known),
            unknown_overlap: overlap(|c| &c.unknown),
            attribution_error: mean(parts().map(|(a, b)| difference(a, b))),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

/// The lowest id among those of the largest logit.
fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// `KL(softmax(a) || softmax(b))`.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        most + logits.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
    };
    let (sum_a, sum_b) = (log_sum(a), log_sum(b));
    let term = |(a, b): (&f32, &f32)| {
        let (log_a, log_b) = (f64::from(*a) - sum_a, f64::from(*b) - sum_b);
        log_a.exp() * (log_a - log_b)
    };
    a.iter().zip(b).map(term).sum()
}

/// Share of the concepts of `a` that are in `b`.
fn shared(a: &[ConceptShare], b: &[ConceptShare]) -> Option<f64> {
    mean(a.iter().map(|a| f64::from(u8::from(b.iter().any(|b| a.index == b.index)))))
}

/// Sum of the differences of contributions in parts of the sum of the sizes of those of `a`.
fn difference(a: &Contributions, b: &Contributions) -> f64 {
    let parts = |c: &Contributions| -> BTreeMap<(u8, u32), f64> {
        let known = c.known.iter().map(|share| ((0, share.index), f64::from(share.contribution)));
        let unknown = c.unknown.iter().map(|share| ((1, share.index), f64::from(share.contribution)));
        known.chain(unknown).chain([((2, 0), f64::from(c.remainder))]).collect()
    };
    let (a, mut b) = (parts(a), parts(b));
    let size: f64 = a.values().map(|x| x.abs()).sum();
    let common: f64 = a.iter().map(|(key, x)| (x - b.remove(key).unwrap_or(0.0)).abs()).sum();
    (common + b.values().map(|x| x.abs()).sum::<f64>()) / size.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(index: u32, contribution: f32) -> ConceptShare {
        ConceptShare { index, weight: 0.5, contribution }
    }

    fn readings(logits: &[f32], known: Vec<ConceptShare>) -> Readings {
        let contributions = vec![Contributions { known, unknown: Vec::new(), remainder: 1.0 }];
        Readings { vocab_size: logits.len(), logits: logits.to_vec(), tokens: vec![1], contributions }
    }

    #[test]
    fn nothing_is_between_equal_readings() {
        let one = readings(&[0.5, 2.0, -1.0], vec![share(3, 1.0), share(4, -2.0)]);
        let expected = Fidelity {
            positions: 1,
            argmax_agreement: 1.0,
            kl: 0.0,
            known_overlap: Some(1.0),
            unknown_overlap: None,
            attribution_error: Some(0.0),
        };
        assert_eq!(one.against(&one), expected);
    }

    #[test]
    fn every_measure_tells_its_difference() {
        let one = readings(&[0.0, 1.0], vec![share(3, 1.0), share(4, -2.0)]);
        let other = readings(&[1.0, 0.0], vec![share(3, 1.5), share(5, 1.0)]);
        let found = one.against(&other);
        assert_eq!((found.argmax_agreement, found.known_overlap), (0.0, Some(0.5)));
        // p = 1 / (1 + e) and 1 - p change places, one logit apart: (1 - 2 p) nats.
        let p = 1.0 / (1.0 + 1f64.exp());
        assert!((found.kl - (1.0 - 2.0 * p)).abs() < 1e-12);
        // |1 - 1.5| + |-2| + |1| of 1 + 2 + 1.
        assert_eq!(found.attribution_error, Some(3.5 / 4.0));
    }
}
