//! Generations from neutral prompts: unsteered, one concept amplified, two topics amplified, and with aligned blocks.

use rand::seq::SliceRandom;
use steerling::Result;
use steerling::params::Align;
use steerling::score::distinct_2;

use super::bench::{Bench, Draw};
use super::generate::{Generated, Job, Steer};
use super::measures::mean;
use crate::concepts::{CONCEPTS, Kind, group_of};
use crate::corpus::{grammatical_share, neutral_prompts};

/// Generations from the same neutral prompts.
pub(super) struct Neutral {
    prompts: Vec<String>,
    /// One a prompt, each token attributed to concepts.
    pub(super) unsteered: Vec<Generated>,
    /// Of each concept, one for each of the first prompts.
    pub(super) amplified: Vec<Vec<Generated>>,
}

impl Neutral {
    /// Makes them.
    ///
    /// # Errors
    /// Those of [`Bench::generate`].
    pub(super) fn generate(bench: &mut Bench) -> Result<Self> {
        let prompts = neutral_prompts(bench.size.neutral, &mut bench.rng(Draw::Neutral));
        let jobs: Vec<Job> = jobs(bench, Draw::Neutral, &prompts).map(|job| Job { attribute: true, ..job }).collect();
        let unsteered = bench.generate("unsteered", &jobs)?;
        let jobs = amplifying(bench, &prompts[..bench.size.amplified], Align::Reference);
        let amplified = bench.generate("amplified", &jobs)?;
        let amplified = amplified.chunks(bench.size.amplified).map(<[_]>::to_vec).collect();
        Ok(Self { prompts, unsteered, amplified })
    }

    /// The share of unsteered generations in which a concept is found.
    pub(super) fn unsteered_rate(&self, id: usize) -> Option<f64> {
        rate(&self.unsteered, id)
    }

    /// The share of generations in which a concept is found while it is amplified.
    pub(super) fn amplified_rate(&self, id: usize) -> Option<f64> {
        rate(&self.amplified[id], id)
    }

    /// The share of generations in which a concept is found while another is amplified: the mean over all concepts of
    /// other groups, which is what drawing one of them at random comes to.
    pub(super) fn control_rate(&self, id: usize) -> Option<f64> {
        let others = (0..CONCEPTS.len()).filter(|other| !group_of(id).contains(*other));
        rate(others.flat_map(|other| &self.amplified[other]), id)
    }

    /// Distinct-2 of amplified generations as a share of that of unsteered ones: one generation a prompt on each side,
    /// all equally long. On the amplified side the concepts go round, and it is taken once from each concept on.
    pub(super) fn distinct(&self) -> Option<f64> {
        let n = self.amplified[0].len();
        let unsteered = distinct_2(self.unsteered[..n].iter().map(|text| text.ids.as_slice()));
        let side = |first: usize| {
            distinct_2((0..n).map(|prompt| self.amplified[(first + prompt) % CONCEPTS.len()][prompt].ids.as_slice()))
        };
        let amplified = mean((0..CONCEPTS.len()).filter_map(side));
        amplified.zip(unsteered).map(|(amplified, unsteered)| amplified / unsteered)
    }

    /// The share of amplified generations in which their concept is found, with generation blocks cut as the
    /// reference package does and at attention blocks, from the same prompts.
    ///
    /// # Errors
    /// Those of [`Bench::generate`].
    pub(super) fn aligned(&self, bench: &mut Bench) -> Result<[Option<f64>; 2]> {
        let n = bench.size.aligned;
        let jobs = amplifying(bench, &self.prompts[..n], Align::Block);
        let blocks = bench.generate("amplified, aligned blocks", &jobs)?;
        let blocks: Vec<&[Generated]> = blocks.chunks(n).collect();
        let reference: Vec<&[Generated]> = self.amplified.iter().map(|texts| &texts[..n]).collect();
        // As many texts of each concept: the mean of their rates is the rate.
        let found = |texts: &[&[Generated]]| mean(texts.iter().enumerate().filter_map(|(id, texts)| rate(*texts, id)));
        Ok([found(&reference), found(&blocks)])
    }

    /// The mean log-likelihood of the tokens of unsteered generations, with blocks cut in both ways.
    ///
    /// # Errors
    /// Those of [`Bench::generate`] and [`Bench::likelihood`].
    pub(super) fn likelihoods(&self, bench: &mut Bench) -> Result<[Option<f64>; 2]> {
        let jobs: Vec<Job> =
            jobs(bench, Draw::Neutral, &self.prompts).map(|job| Job { align: Align::Block, ..job }).collect();
        let blocks = bench.generate("unsteered, aligned blocks", &jobs)?;
        let items = |texts: &[Generated]| texts.iter().map(Generated::item).collect::<Vec<_>>();
        let reference = bench.likelihood("likelihood of generations", &items(&self.unsteered))?;
        Ok([reference, bench.likelihood("likelihood of generations", &items(&blocks))?])
    }
}

/// The share of generations with two topics amplified in which both are found, over pairs of topics drawn at random.
///
/// # Errors
/// Those of [`Bench::generate`].
pub(super) fn compose(bench: &mut Bench) -> Result<Option<f64>> {
    let mut rng = bench.rng(Draw::Pairs);
    let topics: Vec<usize> = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind == Kind::Topic).collect();
    let pairs = topics.iter().enumerate().flat_map(|(at, a)| topics[at + 1..].iter().map(|b| [*a, *b]));
    let mut pairs: Vec<[usize; 2]> = pairs.collect();
    pairs.shuffle(&mut rng);
    let pairs: Vec<[usize; 2]> = pairs.into_iter().cycle().take(bench.size.pairs).collect();
    let prompts = neutral_prompts(pairs.len(), &mut rng);
    let job = |n: usize| {
        let steer = Steer::Amplify(pairs[n].to_vec());
        Job { steer, ..Job::new(&prompts[n], bench.seed(Draw::Pairs, n)) }
    };
    let jobs: Vec<Job> = (0..pairs.len()).map(job).collect();
    let texts = bench.generate("two topics", &jobs)?;
    let both = |(text, pair): (&Generated, &[usize; 2])| pair.iter().all(|id| text.tags.concepts.contains(*id));
    Ok(mean(texts.iter().zip(&pairs).map(|pair| f64::from(both(pair)))))
}

/// The share of finished sentences that the grammar derives.
pub(super) fn grammatical<'a>(texts: impl IntoIterator<Item = &'a Generated>) -> Option<f64> {
    let (good, all) = texts.into_iter().fold((0, 0), |(good, all), text| {
        let (accepted, finished) = grammatical_share(&text.text);
        (good + accepted, all + finished)
    });
    (all > 0).then(|| good as f64 / all as f64)
}

/// The share of generations in which a concept is found.
pub(super) fn rate<'a>(texts: impl IntoIterator<Item = &'a Generated>, id: usize) -> Option<f64> {
    mean(texts.into_iter().map(|text| f64::from(text.tags.concepts.contains(id))))
}

/// An unsteered generation of each prompt.
pub(super) fn jobs<'a>(bench: &Bench, draw: Draw, prompts: &'a [String]) -> impl Iterator<Item = Job<'a>> {
    prompts.iter().enumerate().map(move |(index, prompt)| Job::new(prompt, bench.seed(draw, index)))
}

/// Every concept amplified on every prompt.
pub(super) fn amplifying<'a>(bench: &Bench, prompts: &'a [String], align: Align) -> Vec<Job<'a>> {
    let with =
        |id| jobs(bench, Draw::Neutral, prompts).map(move |job| Job { steer: Steer::Amplify(vec![id]), align, ..job });
    (0..CONCEPTS.len()).flat_map(with).collect()
}
