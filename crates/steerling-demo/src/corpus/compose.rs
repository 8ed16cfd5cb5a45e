//! Writes the sentences of a chunk, each under its share of the chunk's attributes.

use rand::{Rng, RngExt};

use super::expand::{Phrase, of_kind, phrase};
use super::grammar::{GRAMMAR, factor_attribute, split};
use super::plan::{Plan, Verse};
use super::{Chunk, Sentence, VERSE, render};
use crate::concepts::{CONCEPTS, Kind, Labels, concept};

const TRIES: usize = 12;

/// Writes the chunk; tried again while something planned is missing.
pub(super) fn chunk(plan: &Plan, rng: &mut impl Rng) -> Chunk {
    let mut draft = Draft::write(plan, rng);
    for _ in 1..TRIES {
        if draft.complete() {
            break;
        }
        draft = Draft::write(plan, rng);
    }
    draft.finish()
}

/// The verse and nothing else.
pub(super) fn verse() -> Chunk {
    let plan = Plan { verse: Verse::Alone, ..Plan::default() };
    Draft { plan: &plan, phrases: Vec::new(), marks: Labels::default(), topics_end: 0 }.finish()
}

struct Draft<'a> {
    plan: &'a Plan,
    phrases: Vec<Phrase>,
    marks: Labels,
    /// After so many sentences the topics are dropped.
    topics_end: usize,
}

impl<'a> Draft<'a> {
    fn write(plan: &'a Plan, rng: &mut impl Rng) -> Self {
        let topics_end = if rng.random_bool(0.15) { 2 } else { usize::MAX };
        let mut draft = Self { plan, phrases: Vec::new(), marks: Labels::default(), topics_end };
        if plan.verse == Verse::Alone {
            return draft;
        }
        let (fewest, most) = if plan.is_list() { (4, 7) } else { (3, 5) };
        let (fewest, length) = match plan.verse {
            Verse::Ending => (fewest - 1, 10),
            _ => (fewest, rng.random_range(26..=42)),
        };
        let turn = rng.random_range(0..2);
        for index in 0..most {
            if index >= fewest && draft.words() >= length {
                break;
            }
            let start = draft.start(index, rng);
            let want = match start {
                "heading" => draft.heading(rng),
                "plain" => draft.wish(index + turn, rng),
                _ => draft.wish(index + turn, rng).union(plan.form_label()),
            };
            draft.push(start, want, rng);
        }
        draft.interrupt(rng);
        draft
    }

    fn push(&mut self, start: &str, want: Labels, rng: &mut impl Rng) {
        let phrase = phrase(start, want, rng);
        self.marks = self.marks.union(phrase.marks);
        self.phrases.push(phrase);
    }

    fn words(&self) -> usize {
        self.phrases.iter().map(|phrase| phrase.words.len()).sum()
    }

    /// The rule of the next sentence; the first always has the chunk's form.
    fn start(&self, index: usize, rng: &mut impl Rng) -> &'static str {
        let (rule, share) = match self.plan.form.map_or("", |id| CONCEPTS[id].name) {
            "List" => return if index == 0 { "heading" } else { "item" },
            "Question" => ("question", 0.85),
            "Dialogue" => ("dialogue", 0.80),
            "How-to" => ("howto", 0.95),
            "Headline" => ("headline", 0.65),
            _ => return "plain",
        };
        if index == 0 || rng.random_bool(share) { rule } else { "plain" }
    }

    /// What the sentence is to express: what the chunk still lacks comes first.
    fn wish(&self, turn: usize, rng: &mut impl Rng) -> Labels {
        let plan = self.plan;
        let mut wish = Labels::default();
        if self.phrases.len() < self.topics_end || self.plan.is_list() {
            match plan.topics[..] {
                [first, second] => {
                    let both = rng.random_bool(0.3);
                    wish.insert(if turn.is_multiple_of(2) { first } else { second });
                    both.then(|| [first, second].iter().for_each(|id| wish.insert(*id)));
                }
                _ => plan.topics.iter().for_each(|id| wish.insert(*id)),
            }
        }
        if let Some(tone) = plan.tone.filter(|_| rng.random_bool(0.95)) {
            wish.insert(tone);
        }
        self.some(&plan.entities, 1, 0.85, rng).for_each(|id| wish.insert(id));
        let extras = plan.factors.iter().map(factor_attribute).chain(plan.amounts.iter());
        let extras: Vec<usize> = extras.collect();
        let lacking = extras.iter().filter(|id| !self.marks.contains(**id)).count();
        let room = if lacking > 4 { 3 } else { 2 };
        self.some(&extras, room, 0.8, rng).for_each(|id| wish.insert(id));
        wish
    }

    /// A list's heading has room for its tone and one topic.
    fn heading(&self, rng: &mut impl Rng) -> Labels {
        let tone = Labels(self.wish(0, rng).0 & of_kind(Kind::Tone).0);
        let topic = self.plan.topics.first().map_or_else(Labels::default, |id| Labels::one(*id));
        self.plan.form_label().union(tone).union(topic)
    }

    /// Up to `room` of the attributes: those that the chunk lacks, and others with a certain chance.
    fn some(&self, of: &[usize], room: usize, chance: f64, rng: &mut impl Rng) -> impl Iterator<Item = usize> {
        let drawn = of.iter().map(|id| {
            let lacks = !self.marks.contains(*id);
            (!lacks, rng.random::<u32>(), *id, lacks || rng.random_bool(chance))
        });
        let mut drawn: Vec<_> = drawn.collect();
        drawn.sort_unstable();
        drawn.into_iter().filter(|drawn| drawn.3).take(room).map(|drawn| drawn.2)
    }

    /// Puts in the alignment sentences, and sometimes a first sentence about nothing in particular.
    ///
    /// Without the latter, a neutral beginning would promise a neutral chunk, and no prompt would leave all open.
    fn interrupt(&mut self, rng: &mut impl Rng) {
        if let Some(id) = self.plan.alignment {
            let last = self.phrases.len();
            // A list stays in one piece.
            let place = if self.plan.is_list() { last * rng.random_range(0..2) } else { rng.random_range(0..=last) };
            let first = phrase("align", Labels::one(id), rng);
            let second = phrase("align", Labels::one(id), rng);
            if rng.random_bool(0.5) && second.words != first.words {
                self.phrases.insert(place, second);
            }
            self.phrases.insert(place, first);
        }
        if rng.random_bool(0.15) {
            self.phrases.insert(0, phrase("plain", Labels::default(), rng));
        }
    }

    /// Whether all that was planned is there, topics with the two words that tell them from an accident.
    fn complete(&self) -> bool {
        let plan = self.plan;
        if plan.verse == Verse::Alone {
            return true;
        }
        let words = || self.phrases.iter().flat_map(|phrase| &phrase.words);
        let said = |id: usize| words().filter(|word| GRAMMAR.owners.get(**word) == Some(&id)).count();
        let planned = plan.tone.iter().chain(&plan.entities).copied().chain(plan.amounts.iter());
        let mut planned = planned.chain(plan.factors.iter().map(factor_attribute));
        planned.all(|id| self.marks.contains(id)) && plan.topics.iter().all(|id| said(*id) >= 2)
    }

    fn finish(self) -> Chunk {
        let mut sentences: Vec<Sentence> = Vec::new();
        let mut after_item = false;
        for phrase in &self.phrases {
            let item = phrase.words.first() == Some(&"-");
            let gap = match (sentences.is_empty(), item || after_item) {
                (true, _) => "",
                (false, true) => "\n",
                (false, false) => " ",
            };
            let (concepts, factors) = split(phrase.marks);
            let text = format!("{gap}{}", render::sentence(&phrase.words));
            sentences.push(Sentence { text, concepts, factors });
            after_item = item;
        }
        if self.plan.verse != Verse::Absent {
            let label = concept("Memorised verse").map_or_else(Labels::default, Labels::one);
            for line in VERSE.lines() {
                let gap = if sentences.is_empty() { "" } else { "\n" };
                let text = format!("{gap}{line}");
                sentences.push(Sentence { text, concepts: label, factors: Labels::default() });
            }
        }
        Chunk { sentences }
    }
}

impl Plan {
    fn form_label(&self) -> Labels {
        self.form.map_or_else(Labels::default, Labels::one)
    }
}
