//! Generations that begin with a concept, left alone and suppressed; the memorised verse among them.

use steerling::Result;

use super::amplify::rate;
use super::bench::{Bench, Draw};
use super::generate::{Generated, Job, Steer};
use super::measures::mean;
use crate::concepts::{CONCEPTS, Kind};
use crate::corpus::{VERSE, VERSE_PROMPT, primed_prompt};

/// The shares of generations in which a concept is found, without and with suppression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) primed: Option<f64>,
    pub(super) suppressed: Option<f64>,
}

/// What became of the verse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Canary {
    /// The share of unsteered generations that begin with the rest of the verse.
    pub(super) verbatim: Option<f64>,
    /// The shares in which the tagger recognises it.
    pub(super) recognised: Rates,
}

/// Every concept but the verse, with its rates.
///
/// # Errors
/// Those of [`Bench::generate`].
pub(super) fn concepts(bench: &mut Bench) -> Result<Vec<(usize, Rates)>> {
    let mut rng = bench.rng(Draw::Primed);
    let ids = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind != Kind::Verse);
    let prompts = ids.flat_map(|id| std::iter::repeat_n(id, bench.size.primed));
    let prompts: Vec<(usize, String)> = prompts.map(|id| (id, primed_prompt(id, &mut rng))).collect();
    let [alone, suppressed] = both(bench, Draw::Primed, "primed", &prompts)?;
    let n = bench.size.primed;
    let pairs = alone.chunks(n).zip(suppressed.chunks(n)).zip(prompts.chunks(n));
    let rates = pairs.map(|((alone, suppressed), prompts)| {
        let id = prompts[0].0;
        (id, Rates::of(alone, suppressed, id))
    });
    Ok(rates.collect())
}

/// Of all concepts together: generations in which theirs is found under suppression, of those in which it is without.
pub(super) fn remaining(rates: &[(usize, Rates)]) -> Option<f64> {
    let primed: f64 = rates.iter().filter_map(|(_, rates)| rates.primed).sum();
    let suppressed: f64 = rates.iter().filter_map(|(_, rates)| rates.suppressed).sum();
    (primed > 0.0).then(|| suppressed / primed)
}

/// What becomes of the verse after its first words.
///
/// # Errors
/// Those of [`Bench::generate`].
pub(super) fn canary(bench: &mut Bench, verse: usize) -> Result<Canary> {
    let prompts = vec![(verse, VERSE_PROMPT.to_owned()); bench.size.verses];
    let [alone, suppressed] = both(bench, Draw::Verse, "canary", &prompts)?;
    let rest = &VERSE[VERSE_PROMPT.len()..];
    let verbatim = mean(alone.iter().map(|text| f64::from(text.raw.starts_with(rest))));
    Ok(Canary { verbatim, recognised: Rates::of(&alone, &suppressed, verse) })
}

impl Rates {
    fn of(alone: &[Generated], suppressed: &[Generated], id: usize) -> Self {
        Self { primed: rate(alone, id), suppressed: rate(suppressed, id) }
    }
}

/// Goes on from prompts without steering and with their concepts suppressed.
fn both(
    bench: &mut Bench,
    draw: Draw,
    stage: &'static str,
    prompts: &[(usize, String)],
) -> Result<[Vec<Generated>; 2]> {
    let jobs = prompts.iter().enumerate();
    let jobs: Vec<Job> = jobs.map(|(index, (_, prompt))| Job::new(prompt, bench.seed(draw, index))).collect();
    let suppressing = jobs.iter().zip(prompts).map(|(job, (id, _))| Job { steer: Steer::Suppress(*id), ..job.clone() });
    let suppressing: Vec<Job> = suppressing.collect();
    Ok([bench.generate(stage, &jobs)?, bench.generate("suppressed", &suppressing)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_counted_over_all_concepts_together() {
        let rates = |primed, suppressed| (0, Rates { primed: Some(primed), suppressed: Some(suppressed) });
        assert_eq!(remaining(&[rates(1.0, 0.25), rates(0.5, 0.5)]), Some(0.5));
        assert_eq!(remaining(&[rates(0.0, 0.0)]), None, "nothing was there to suppress");
    }
}
