//! The rows of the catalogue: texts in one buffer, 20 bytes a concept beside them.

use super::{Concept, Flags, Group, Head};

const NO_GROUP: u32 = u32::MAX;
const STEERABLE: u8 = 1;
const TONE: u8 = 2;
const ALIGNMENT: u8 = 4;
const DEMOGRAPHIC: u8 = 8;
/// Set once a concept has its texts, from the file or generated.
const FILLED: u8 = 16;

/// `text[start..middle]` is the name, `text[middle..end]` the description.
#[derive(Debug, Clone, Copy)]
struct Row {
    start: u32,
    middle: u32,
    end: u32,
    /// Index into the groups, or [`NO_GROUP`].
    group: u32,
    bits: u8,
}

/// What the label file says of one concept.
pub(super) struct Label<'a> {
    /// `None` leaves the name to be generated.
    pub(super) name: Option<&'a str>,
    pub(super) description: &'a str,
    pub(super) group: Option<u32>,
    pub(super) flags: Flags,
}

/// All concepts by global id, and the order in which the file names them.
#[derive(Debug, Clone)]
pub(super) struct Table {
    text: String,
    rows: Vec<Row>,
    groups: Vec<(i64, String)>,
    /// Ids in the order of the file, then those without a row: the order of equal search scores.
    order: Vec<u32>,
    known: u32,
    labelled: usize,
}

impl Table {
    pub(super) fn new(known: u32, unknown: u32) -> Self {
        let empty = Row { start: 0, middle: 0, end: 0, group: NO_GROUP, bits: 0 };
        let len = (known + unknown) as usize;
        let rows = vec![empty; len];
        Self { text: String::new(), rows, groups: Vec::new(), order: Vec::with_capacity(len), known, labelled: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(super) fn known(&self) -> u32 {
        self.known
    }

    pub(super) fn labelled(&self) -> usize {
        self.labelled
    }

    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    pub(super) fn head(&self, id: u32) -> Head {
        if id < self.known { Head::Known } else { Head::Unknown }
    }

    pub(super) fn is_filled(&self, id: u32) -> bool {
        self.rows[id as usize].bits & FILLED != 0
    }

    /// Adds a group; [`Label::group`] and [`Self::name_group`] speak of it by the returned index.
    pub(super) fn add_group(&mut self, id: i64) -> u32 {
        self.groups.push((id, String::new()));
        (self.groups.len() - 1) as u32
    }

    /// The first row of a group that names it decides.
    pub(super) fn name_group(&mut self, group: u32, name: &str) {
        let slot = &mut self.groups[group as usize].1;
        if slot.is_empty() {
            name.clone_into(slot);
        }
    }

    /// Fills one concept, false if all texts together would pass 4 GiB.
    pub(super) fn fill(&mut self, id: u32, label: &Label<'_>) -> bool {
        let start = self.text.len();
        match label.name {
            Some(name) => self.text.push_str(name),
            None => self.push_generated(id),
        }
        let middle = self.text.len();
        self.text.push_str(label.description);
        let end = self.text.len();
        if u32::try_from(end).is_err() {
            return false;
        }
        self.rows[id as usize] = Row {
            start: start as u32,
            middle: middle as u32,
            end: end as u32,
            group: label.group.unwrap_or(NO_GROUP),
            bits: pack(label.flags) | FILLED,
        };
        self.order.push(id);
        self.labelled += usize::from(label.name.is_some());
        true
    }

    fn push_generated(&mut self, id: u32) {
        let head = self.head(id);
        let index = if head == Head::Known { id } else { id - self.known };
        self.text.push_str(head.as_str());
        self.text.push_str(" #");
        self.text.push_str(&index.to_string());
    }

    /// Gives every concept without a row a generated name and `flags`. False as for [`Self::fill`].
    pub(super) fn generate_missing(&mut self, flags: Flags) -> bool {
        let label = Label { name: None, description: "", group: None, flags };
        (0..self.len()).all(|id| self.is_filled(id) || self.fill(id, &label))
    }

    /// Ends the reading: groups that no row named get a generated name, spare memory goes.
    pub(super) fn finish(&mut self) {
        for (id, name) in self.groups.iter_mut().filter(|(_, name)| name.is_empty()) {
            *name = format!("group #{id}");
        }
        self.text.shrink_to_fit();
        self.groups.shrink_to_fit();
    }

    /// The concept with an id below [`Self::len`].
    pub(super) fn concept(&self, id: u32) -> Concept<'_> {
        let row = self.rows[id as usize];
        let head = self.head(id);
        let group = (row.group != NO_GROUP).then(|| &self.groups[row.group as usize]);
        Concept {
            id,
            index: if head == Head::Known { id } else { id - self.known },
            head,
            name: &self.text[row.start as usize..row.middle as usize],
            description: &self.text[row.middle as usize..row.end as usize],
            group: group.map(|(id, name)| Group { id: *id, name }),
            flags: unpack(row.bits),
        }
    }
}

fn pack(flags: Flags) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(flags.steerable, STEERABLE)
        | bit(flags.tone, TONE)
        | bit(flags.alignment, ALIGNMENT)
        | bit(flags.demographic, DEMOGRAPHIC)
}

fn unpack(bits: u8) -> Flags {
    Flags {
        steerable: bits & STEERABLE != 0,
        tone: bits & TONE != 0,
        alignment: bits & ALIGNMENT != 0,
        demographic: bits & DEMOGRAPHIC != 0,
    }
}
