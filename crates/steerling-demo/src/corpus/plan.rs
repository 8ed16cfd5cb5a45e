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

impl Plan {
    /// A chunk's plan, which keeps some of the attributes of the chunk before.
    fn after(last: Option<&Self>, rng: &mut impl Rng) -> Self {
        let mut keep = |chance: f64| last.filter(|_| rng.random_bool(chance));
        let (topics, tone, form, entities) = (keep(0.8), keep(0.8), keep(0.5), keep(0.7));
        let mut plan = Self {
            topics: match topics {
                Some(last) => last.topics.clone(),
                None => several(Kind::Topic, &[0.15, 0.60, 0.25], rng),
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

    /// A plan drawn as usual, but that this concept is in it and nothing interrupts it.
    pub(super) fn with(id: usize, rng: &mut impl Rng) -> Self {
        let mut plan = Self { alignment: None, ..Self::after(None, rng) };
        match CONCEPTS[id].kind {
            Kind::Topic => plan.topics = vec![id],
            Kind::Tone => plan.tone = Some(id),
            Kind::Form => plan.form = Some(id),
            Kind::Entity => plan.entities = vec![id],
            Kind::Alignment => plan.alignment = Some(id),
            Kind::Number | Kind::Time => plan.amounts.insert(id),
            Kind::Verse => plan.verse = Verse::Alone,
        }
        plan
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
