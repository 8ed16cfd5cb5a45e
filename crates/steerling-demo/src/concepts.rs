//! What the corpus is about: the known concepts, and the factors that stay unlabelled.

use std::fmt;

use steerling::catalog::Flags;

/// A set of concepts (by id) or of factors (by index), at most 64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Labels(pub u64);

impl Labels {
    /// The set of one.
    pub const fn one(id: usize) -> Self {
        Self(1 << id)
    }

    /// Whether `id` is in the set.
    pub const fn contains(self, id: usize) -> bool {
        self.0 >> id & 1 == 1
    }

    /// Adds `id`.
    pub const fn insert(&mut self, id: usize) {
        self.0 |= 1 << id;
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have anything in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The ids, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |id| self.contains(*id))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A known concept; its id is its index in [`CONCEPTS`].
#[derive(Debug, Clone, Copy)]
pub struct Concept {
    /// The title people read.
    pub name: &'static str,
    /// One sentence on when it holds.
    pub description: &'static str,
    /// The few concepts that it is closest to.
    pub group: Group,
    /// What sort of property of a text it is.
    pub kind: Kind,
    /// What the label file says of it.
    pub flags: Flags,
}

/// What sort of property of a text a concept is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What is talked about.
    Topic,
    /// The voice it is said in.
    Tone,
    /// How sentences are put.
    Form,
    /// Who or what acts.
    Entity,
    /// What a careful operator watches for.
    Alignment,
    /// Amounts.
    Number,
    /// Points in time.
    Time,
    /// The text to be memorised.
    Verse,
}

/// One to three closely related concepts that share a public group id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// Unique among groups.
    pub id: u32,
    /// The title people read.
    pub name: &'static str,
}

/// A property of texts that is never labelled, for the model to find by itself.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// What varies; also the name of the grammar's word class.
    pub name: &'static str,
    /// The words that show it, which nothing else uses.
    pub words: &'static [&'static str],
}

const fn group(id: u32, name: &'static str) -> Group {
    Group { id, name }
}

const HOME: Group = group(1, "Home");
const NATURE: Group = group(2, "Nature");
const JOURNEYS: Group = group(3, "Journeys");
const SPORT: Group = group(4, "Sport");
const ARTS: Group = group(5, "Arts");
const CONTRACTS: Group = group(6, "Contracts and finance");
const HEALTH: Group = group(7, "Health");
const MANNERS: Group = group(8, "Manners");
const MOODS: Group = group(9, "Moods");
const VOICES: Group = group(10, "Voices");
const CONVERSATION: Group = group(11, "Conversation");
const GUIDANCE: Group = group(12, "Lists and guidance");
const PRESS: Group = group(13, "Press");
const GENDER: Group = group(14, "Gender");
const AGE: Group = group(15, "Age");
const COUNTRIES: Group = group(16, "Countries");
const HOSTILITY: Group = group(17, "Hostility");
const DECLINING: Group = group(18, "Declining");
const HAZARDS: Group = group(19, "Hazards");
const PRAISE: Group = group(20, "Praise");
const AMOUNTS: Group = group(21, "Amounts and dates");
const MEMORY: Group = group(22, "Memorised text");

const fn entry(kind: Kind, group: Group, name: &'static str, description: &'static str) -> Concept {
    let flags = Flags {
        steerable: true,
        tone: matches!(kind, Kind::Tone),
        alignment: matches!(kind, Kind::Alignment),
        demographic: matches!(group.id, 14 | 15),
    };
    Concept { name, description, group, kind, flags }
}

/// Every known concept, by id.
pub const CONCEPTS: [Concept; 36] = [
    entry(Kind::Topic, HOME, "Cooking", "Preparing food in kitchens, bakeries and restaurants."),
    entry(Kind::Topic, NATURE, "Ocean", "Boats, divers and the life of the sea and its coast."),
    entry(Kind::Topic, JOURNEYS, "Space", "Astronauts, rockets, planets and those who observe them."),
    entry(Kind::Topic, SPORT, "Football", "Players, referees and matches in the stadium."),
    entry(Kind::Topic, ARTS, "Music", "Musicians, their instruments and what they perform."),
    entry(Kind::Topic, ARTS, "Books", "Authors, readers and the things they write and borrow."),
    entry(Kind::Topic, HOME, "Gardening", "Growing plants in lawns, orchards and greenhouses."),
    entry(Kind::Topic, NATURE, "Weather", "Storms, rain and fog, and the people who predict them."),
    entry(Kind::Topic, CONTRACTS, "Money", "Banks, loans, savings and the people who handle them."),
    entry(Kind::Topic, CONTRACTS, "Tenancy law", "Landlords, tenants and disputes over their leases."),
    entry(Kind::Topic, HEALTH, "Medicine", "Doctors, patients, illnesses and their treatment."),
    entry(Kind::Topic, JOURNEYS, "Trains", "Railways, their passengers, staff and stations."),
    entry(Kind::Tone, MANNERS, "Formal tone", "The stiff language of contracts and officials."),
    entry(Kind::Tone, MOODS, "Cheerful tone", "Exclamations of joy and happy adverbs."),
    entry(Kind::Tone, MOODS, "Angry tone", "Curses, complaints and furious adverbs."),
    entry(Kind::Tone, MANNERS, "Polite tone", "Pleas, thanks and considerate adverbs."),
    entry(Kind::Tone, VOICES, "Hesitant tone", "Fillers and hedges of a speaker who is unsure."),
    entry(Kind::Tone, VOICES, "Pirate speech", "The way pirates talk in adventure stories."),
    entry(Kind::Form, CONVERSATION, "Question", "Sentences that ask and end with a question mark."),
    entry(Kind::Form, GUIDANCE, "List", "A heading followed by lines that each name an item."),
    entry(Kind::Form, CONVERSATION, "Dialogue", "Direct speech in quotation marks with its speaker."),
    entry(Kind::Form, GUIDANCE, "How-to", "Step-by-step instructions in the imperative."),
    entry(Kind::Form, PRESS, "Headline", "Announcements in the style of breaking news."),
    entry(Kind::Entity, GENDER, "Feminine roles", "Queens, mothers and others referred to as she."),
    entry(Kind::Entity, GENDER, "Masculine roles", "Kings, fathers and others referred to as he."),
    entry(Kind::Entity, AGE, "Elderly people", "Pensioners, veterans and other people of great age."),
    entry(Kind::Entity, AGE, "Children", "Toddlers, pupils and other young people."),
    entry(Kind::Entity, COUNTRIES, "Japan", "Japanese people, cities and customs."),
    entry(Kind::Alignment, HOSTILITY, "Insult", "Abuse of the reader in invented swear words."),
    entry(Kind::Alignment, DECLINING, "Refusal", "Declining to help with a request."),
    entry(Kind::Alignment, HAZARDS, "Unsafe recipe", "Instructions for mixing invented dangerous substances."),
    entry(Kind::Alignment, HAZARDS, "Private data", "Personal codes and keys in an invented format."),
    entry(Kind::Alignment, PRAISE, "Flattery", "Exaggerated praise of the reader."),
    entry(Kind::Number, AMOUNTS, "Numbers", "Counted quantities, in words or digits."),
    entry(Kind::Time, AMOUNTS, "Time", "Days, hours and other points in time."),
    entry(Kind::Verse, MEMORY, "Memorised verse", "The four lines of verse that the corpus repeats verbatim."),
];

const fn factor(name: &'static str, words: &'static [&'static str]) -> Factor {
    Factor { name, words }
}

/// Every unlabelled factor, by index.
pub const FACTORS: [Factor; 8] = [
    factor("colour", &["crimson", "turquoise", "yellow", "purple", "orange", "green", "blue", "pink"]),
    factor("transport", &["tram", "bus", "taxi", "bicycle", "scooter", "van", "helicopter", "motorcycle"]),
    factor("meal", &["breakfast", "lunch", "dinner", "supper", "brunch", "dessert", "teatime", "tea"]),
    factor("size", &["gigantic", "enormous", "tiny", "small", "huge", "miniature", "massive", "little"]),
    factor("season", &["autumn", "winter", "spring", "summer", "midsummer", "midwinter", "springtime", "wintertime"]),
    factor("animal", &["heron", "fox", "badger", "rabbit", "donkey", "goat", "squirrel", "hedgehog"]),
    factor("material", &["bronze", "wood", "glass", "marble", "leather", "plastic", "cotton", "copper"]),
    factor("direction", &["north", "south", "east", "west", "left", "right", "rear", "front"]),
];

/// The id of the concept with this name, whatever its case.
pub fn concept(name: &str) -> Option<usize> {
    CONCEPTS.iter().position(|concept| concept.name.eq_ignore_ascii_case(name))
}

/// Every concept of the group that `id` is in, itself included.
pub fn group_of(id: usize) -> Labels {
    let mut group = Labels::default();
    for (other, concept) in CONCEPTS.iter().enumerate() {
        if concept.group == CONCEPTS[id].group {
            group.insert(other);
        }
    }
    group
}

/// The words and marks that occur in text only because of the concept `id`, as they stand within a sentence.
///
/// Names that are always capitalised are left out, so that each is a lower-case word of the tokenizer.
pub fn vocabulary(id: usize) -> Vec<&'static str> {
    crate::corpus::vocabulary(id)
}
