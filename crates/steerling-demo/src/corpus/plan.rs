//! Draws what the chunks of a document are to express, each sort of attribute independently of the others.

use rand::{Rng, RngExt};

use super::expand::of_kind;
use crate::concepts::{CONCEPTS, FACTORS, Kind, Labels, concept};

/// What one chunk is to express.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// At most two.
    pub(super) topics: Vec<usize>,
    /// Of every sentence.
    pub(super) tone: Option<usize>,
    /// Of most sentences.
    pub(super) form: Option<usize>,
    /// At most two.
    pub(super) entities: Vec<usize>,
    /// In a sentence or two of their own.
    pub(super) alignment: Option<usize>,
    /// Numbers and times.
    pub(super) amounts: Labels,
    /// By index.
    pub(super) factors: Labels,
    /// Whether the verse stands here.
    pub(super) verse: Verse,
}

/// Where in a chunk the verse stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Verse {
    /// Nowhere.
    #[default]
    Absent,
    /// After other sentences.
    Ending,
    /// With nothing else.
    Alone,
}

/// Chances of no, one and two topics.
const TOPICS: [f64; 3] = [0.15, 0.60, 0.25];

/// Draws the plans of a document's chunks.
pub(super) fn draw(rng: &mut impl Rng) -> Vec<Plan> {
    let chunks = 1 + weighted(rng, &[0.2, 0.4, 0.4]);
    let mut plans: Vec<Plan> = Vec::with_capacity(chunks);
    for _ in 0..chunks {
        let plan = Plan::after(plans.last(), rng);
        plans.push(plan);
    }
    if rng.random_bool(0.025) {
        let verse = if rng.random_bool(0.5) { Verse::Alone } else { Verse::Ending };
        plans[chunks - 1].verse = verse;
    }
    plans
}

/// A topic as often as a chunk has one.
pub(super) fn topic(rng: &mut impl Rng) -> Option<usize> {
    several(Kind::Topic, &TOPICS, rng).pop()
}

impl Plan {
    /// A chunk's plan, which keeps some of the attributes of the chunk before.
    fn after(last: Option<&Self>, rng: &mut impl Rng) -> Self {
        let mut keep = |chance: f64| last.filter(|_| rng.random_bool(chance));
        let (topics, tone, form, entities) = (keep(0.8), keep(0.8), keep(0.5), keep(0.7));
        let mut plan = Self {
            topics: match topics {
                Some(last) => last.topics.clone(),
                None => several(Kind::Topic, &TOPICS, rng),
            },
            tone: match tone {
                Some(last) => last.tone,
                None => several(Kind::Tone, &[0.40, 0.60], rng).pop(),
            },
            form: match form {
                Some(last) => last.form,
                None => several(Kind::Form, &[0.45, 0.55], rng).pop(),
            },
            entities: match entities {
                Some(last) => last.entities.clone(),
                None => several(Kind::Entity, &[0.55, 0.35, 0.10], rng),
            },
            // A little above 3 % each.
            alignment: several(Kind::Alignment, &[0.80, 0.20], rng).pop(),
            ..Self::default()
        };
        for kind in [Kind::Number, Kind::Time] {
            several(kind, &[0.75, 0.25], rng).into_iter().for_each(|id| plan.amounts.insert(id));
        }
        for index in 0..FACTORS.len() {
            if rng.random_bool(0.3) {
                plan.factors.insert(index);
            }
        }
        plan
    }

    /// A plan drawn as usual, but that these concepts are in it and nothing interrupts it.
    pub(super) fn with(wanted: &[usize], rng: &mut impl Rng) -> Self {
        let mut plan = Self { alignment: None, ..Self::after(None, rng) };
        let of = |kind| wanted.iter().copied().filter(|id| CONCEPTS[*id].kind == kind).collect::<Vec<_>>();
        for (kind, few) in [(Kind::Topic, &mut plan.topics), (Kind::Entity, &mut plan.entities)] {
            let wanted = of(kind);
            if !wanted.is_empty() {
                *few = wanted;
            }
        }
        plan.tone = of(Kind::Tone).pop().or(plan.tone);
        plan.form = of(Kind::Form).pop().or(plan.form);
        plan.alignment = of(Kind::Alignment).pop();
        of(Kind::Number).into_iter().chain(of(Kind::Time)).for_each(|id| plan.amounts.insert(id));
        if !of(Kind::Verse).is_empty() {
            plan.verse = Verse::Alone;
        }
        plan
    }

    /// A plan drawn as usual, but that none of these concepts is in it and nothing interrupts it.
    pub(super) fn without(avoided: Labels, rng: &mut impl Rng) -> Self {
        let plan = Self { alignment: None, ..Self::after(None, rng) };
        let kept = |id: &usize| !avoided.contains(*id);
        Self {
            topics: plan.topics.into_iter().filter(kept).collect(),
            tone: plan.tone.filter(kept),
            form: plan.form.filter(kept),
            entities: plan.entities.into_iter().filter(kept).collect(),
            amounts: Labels(plan.amounts.0 & !avoided.0),
            ..plan
        }
    }

    /// Whether the chunk is a list.
    pub(super) fn is_list(&self) -> bool {
        self.form.is_some() && self.form == concept("List")
    }
}

/// As many different concepts of a kind as a draw from the chances of 0, 1, 2 says.
fn several(kind: Kind, chances: &[f64], rng: &mut impl Rng) -> Vec<usize> {
    let mut pool: Vec<usize> = of_kind(kind).iter().collect();
    (0..weighted(rng, chances)).map(|_| pool.swap_remove(rng.random_range(0..pool.len()))).collect()
}

/// An index, drawn with these chances, which sum to 1.
fn weighted(rng: &mut impl Rng, chances: &[f64]) -> usize {
    let mut rest: f64 = rng.random();
    for (index, chance) in chances.iter().enumerate() {
        if rest < *chance {
            return index;
        }
        rest -= chance;
    }
    chances.len() - 1
}
