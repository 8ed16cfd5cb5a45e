//! The rows that are prepared at a time, whichever items they belong to.

use std::collections::HashMap;
use std::ops::Range;

use super::losses::{Losses, Query};
use super::plan::{Layout, Rows, ScoreItem};
use super::{Score, ScoreMethod};
use crate::{Result, Runtime};

/// Ids of the sequences of a window, 1 MB of them; the last sequence may pass it.
pub(super) const IDS: usize = 1 << 18;

/// An item that is being computed.
pub(super) struct Open {
    /// Its place in the answer.
    pub(super) index: usize,
    item: ScoreItem,
    method: ScoreMethod,
    rows: Rows,
    /// The values of its first rows.
    values: Vec<f64>,
    /// Leading tokens that have been compared with the likeliest ones from left to right.
    compared: usize,
    is_greedy: bool,
    forwards: usize,
}

/// What is computed of an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The rows of its likelihood.
    Rows,
    /// Tokens that are compared with the likeliest ones.
    Tokens,
}

impl Open {
    pub(super) fn new(index: usize, item: ScoreItem, method: ScoreMethod, rows: Rows) -> Self {
        Self { index, item, method, rows, values: Vec::new(), compared: 0, is_greedy: true, forwards: 0 }
    }

    fn len(&self) -> usize {
        self.item.continuation.len()
    }

    /// What is left to compute before more can be said. Most continuations are not greedy at their first token.
    fn pending(&self) -> (Kind, Range<usize>) {
        let count = self.rows.count(self.len());
        if self.values.len() < count {
            return (Kind::Rows, self.values.len()..count);
        }
        let tokens = match (self.is_greedy, self.compared) {
            (false, _) => 0..0,
            (true, 0) => 0..self.len().min(1),
            (true, compared) => compared..self.len(),
        };
        (Kind::Tokens, tokens)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.pending().1.is_empty()
    }

    /// Takes in the values of its next rows or tokens, and whether all tokens behind their masks are the likeliest.
    fn settle(&mut self, kind: Kind, values: Vec<f64>, is_argmax: bool) {
        match kind {
            Kind::Tokens => self.compared += values.len(),
            Kind::Rows => self.values.extend_from_slice(&values),
        }
        let compares = kind == Kind::Tokens || matches!(self.rows, Rows::Next);
        self.is_greedy &= is_argmax || !compares;
        if matches!(self.rows, Rows::Next) {
            self.compared = self.values.len();
        }
    }

    pub(super) fn score(&self) -> Score {
        let (loglikelihood, standard_error) = self.rows.reduce(&self.values);
        let Self { is_greedy, method, forwards, .. } = *self;
        Score { loglikelihood, standard_error, tokens: self.len(), is_greedy, method, forwards }
    }
}

/// Rows of an item in a window.
struct Part {
    /// Which of the open items.
    open: usize,
    kind: Kind,
    /// The query and the weight of each row: equal masks are computed once.
    rows: Vec<(usize, f64)>,
    queries: Range<usize>,
}

/// A window that is being filled.
#[derive(Default)]
pub(super) struct Filling {
    parts: Vec<Part>,
    queries: Vec<Query>,
    ids: usize,
}

impl Filling {
    pub(super) fn has_room(&self) -> bool {
        self.ids < IDS
    }

    /// Takes as much of what is pending of the open item `at` as fits.
    pub(super) fn take(&mut self, at: usize, open: &Open, layout: Layout) {
        let (kind, pending) = open.pending();
        let first = self.queries.len();
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut rows = Vec::new();
        for i in pending {
            if !self.has_room() {
                break;
            }
            let masks = if kind == Kind::Rows { open.rows.masks(i, open.len()) } else { None };
            rows.push(match masks {
                None => (self.push(open.item.next(i, layout)), 1.0),
                Some(row) => match known.get(&row.masked) {
                    Some(query) => (*query, row.weight),
                    None => {
                        let query = self.push(open.item.masked(&row, layout));
                        known.insert(row.masked, query);
                        (query, row.weight)
                    }
                },
            });
        }
        if !rows.is_empty() {
            self.parts.push(Part { open: at, kind, rows, queries: first..self.queries.len() });
        }
    }

    fn push(&mut self, query: Query) -> usize {
        self.ids += query.ids.len();
        self.queries.push(query);
        self.queries.len() - 1
    }

    /// The window to be computed; `None` without any rows.
    pub(super) fn start(self, cfg_scale: f32, mask: u32) -> Option<Window> {
        let Self { parts, queries, .. } = self;
        (!parts.is_empty()).then(|| Window { parts, losses: Losses::new(queries, cfg_scale, mask) })
    }
}

/// A window that is being computed.
pub(super) struct Window {
    parts: Vec<Part>,
    losses: Losses,
}

impl Window {
    /// One forward pass; whether that was the last.
    ///
    /// # Errors
    /// Those of [`Losses::advance`].
    pub(super) fn advance(&mut self, runtime: &mut Runtime) -> Result<bool> {
        self.losses.advance(runtime)
    }

    /// Tells the open items what became of their rows.
    pub(super) fn settle(self, open: &mut [Open]) {
        for part in &self.parts {
            open[part.open].forwards += self.losses.forwards_of(&part.queries);
        }
        let losses = self.losses.finish();
        for Part { open: at, kind, rows, queries } in self.parts {
            let cross_entropy = |query: usize| losses[query].iter().map(|loss| loss.cross_entropy).sum::<f64>();
            let sums: Vec<f64> = queries.clone().map(cross_entropy).collect();
            let values = rows.into_iter().map(|(query, weight)| -weight * sums[query - queries.start]).collect();
            let is_argmax = losses[queries].iter().flatten().all(|loss| loss.is_argmax);
            open[at].settle(kind, values, is_argmax);
        }
    }
}
