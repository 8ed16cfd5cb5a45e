//! Generations from neutral prompts: unsteered, one concept amplified, two topics amplified, and with aligned blocks.

use rand::seq::SliceRandom;
use steerling::Result;
use steerling::params::Align;

use super::bench::{Bench, Draw};
use super::generate::{Generated, Job, Steer};
use super::measures::{distinct_2, mean};
use crate::concepts::{CONCEPTS, Kind, group_of};
use crate::corpus::{grammatical_share, neutral_prompts};

const IDS: [usize; CONCEPTS.len()] = {
    let mut ids = [0; CONCEPTS.len()];
    let mut id = 0;
    while id < ids.len() {
        ids[id] = id;
        id += 1;
    }
    ids
};

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
        let jobs: Vec<Job> = jobs(bench, &prompts).map(|job| Job { attribute: true, ..job }).collect();
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
        let others = IDS.iter().filter(|other| !group_of(id).contains(**other));
        rate(others.flat_map(|other| &self.amplified[*other]), id)
    }

    /// Distinct-2 of amplified generations as a share of that of unsteered ones: sides of one generation a prompt, as
    /// many as there are concepts, in each of which every prompt has another concept.
    pub(super) fn distinct(&self) -> Option<f64> {
        let n = self.amplified[0].len();
        let unsteered = distinct_2(self.unsteered[..n].iter().map(|text| text.ids.as_slice()));
        let side = |first: &usize| {
            distinct_2((0..n).map(|prompt| self.amplified[(first + prompt) % CONCEPTS.len()][prompt].ids.as_slice()))
        };
        mean(IDS.iter().map(side)).map(|amplified| amplified / unsteered)
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
        let found = |texts: &mut dyn Iterator<Item = (usize, &Generated)>| {
            mean(texts.map(|(id, text)| f64::from(text.tags.concepts.contains(id))))
        };
        let reference = &mut self
            .amplified
            .iter()
            .enumerate()
            .flat_map(|(id, texts)| texts[..n].iter().map(move |text| (id, text)));
        Ok([found(reference), found(&mut blocks.iter().enumerate().map(|(at, text)| (at / n, text)))])
    }

    /// The mean log-likelihood of the tokens of unsteered generations, with blocks cut in both ways.
    ///
    /// # Errors
    /// Those of [`Bench::generate`] and [`Bench::likelihood`].
    pub(super) fn likelihoods(&self, bench: &mut Bench) -> Result<[Option<f64>; 2]> {
        let jobs: Vec<Job> = jobs(bench, &self.prompts).map(|job| Job { align: Align::Block, ..job }).collect();
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
    let topics: Vec<usize> = IDS.into_iter().filter(|id| CONCEPTS[*id].kind == Kind::Topic).collect();
    let pairs = topics.iter().enumerate().flat_map(|(at, a)| topics[at + 1..].iter().map(|b| [*a, *b]));
    let mut pairs: Vec<[usize; 2]> = pairs.collect();
    pairs.shuffle(&mut rng);
    pairs.truncate(bench.size.pairs);
    let prompts = neutral_prompts(pairs.len(), &mut rng);
    let jobs = prompts.iter().zip(&pairs).enumerate();
    let jobs = jobs.map(|(index, (prompt, pair))| Job {
        steer: Steer::Amplify(pair),
        ..Job::new(prompt, bench.seed(Draw::Pairs, index))
    });
    let jobs: Vec<Job> = jobs.collect();
    let texts = bench.generate("two topics", &jobs)?;
    let both = texts
        .iter()
        .zip(&pairs)
        .map(|(text, [a, b])| f64::from(text.tags.concepts.contains(*a) && text.tags.concepts.contains(*b)));
    Ok(mean(both))
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

fn jobs<'a>(bench: &Bench, prompts: &'a [String]) -> impl Iterator<Item = Job<'a>> {
    let seeded = prompts.iter().enumerate().map(|(index, prompt)| Job::new(prompt, bench.seed(Draw::Neutral, index)));
    seeded.collect::<Vec<_>>().into_iter()
}

/// Every concept amplified on every prompt.
fn amplifying<'a>(bench: &Bench, prompts: &'a [String], align: Align) -> Vec<Job<'a>> {
    let with = |id: &'static usize| {
        let steer = Steer::Amplify(std::slice::from_ref(id));
        jobs(bench, prompts).map(move |job| Job { steer, align, ..job })
    };
    IDS.iter().flat_map(with).collect()
}
