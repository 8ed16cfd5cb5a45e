//! What is computed of an item: its rows, each made when its turn comes, so that a description of much work is small.

use super::losses::Query;
use super::masks::{MaskedRow, batch_size, masked_row};
use crate::config::Config;
use crate::{Error, Result};

/// A context and the continuation whose likelihood is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreItem {
    /// May be empty.
    pub context: Vec<u32>,
    /// May be empty: then the log-likelihood is 0.
    pub continuation: Vec<u32>,
}

impl ScoreItem {
    /// Rejects an item that is longer than the context of the model; `field` names it.
    pub(super) fn check(&self, field: &str, config: &Config) -> Result<()> {
        let (context, continuation) = (self.context.len(), self.continuation.len());
        if context + continuation <= config.context {
            return Ok(());
        }
        let message = format!(
            "a context of {context} and a continuation of {continuation} tokens exceed the {} positions of the model",
            config.context
        );
        Err(Error::invalid(field, message))
    }

    /// The sequence in which token `i` of the continuation is predicted from those before it: the rest of its attention
    /// block is masked, also beyond the continuation, so that the parts of a text add up however it is cut.
    pub(super) fn next(&self, i: usize, layout: Layout) -> Query {
        let position = self.context.len() + i;
        let end = ((position / layout.block + 1) * layout.block).min(layout.context);
        let mut ids = Vec::with_capacity(end);
        ids.extend_from_slice(&self.context);
        ids.extend_from_slice(&self.continuation[..i]);
        ids.resize(end, layout.mask);
        Query { ids, targets: vec![(position, self.continuation[i])], context: self.context.len() }
    }

    /// The sequence of a row, and the tokens behind its masks.
    pub(super) fn masked(&self, row: &MaskedRow, layout: Layout) -> Query {
        let first = self.context.len();
        let mut ids = [&self.context[..], &self.continuation].concat();
        row.masked.iter().for_each(|i| ids[first + i] = layout.mask);
        let targets = row.masked.iter().map(|i| (first + i, self.continuation[*i])).collect();
        Query { ids, targets, context: first }
    }
}

/// What a sequence looks like.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) mask: u32,
    block: usize,
    context: usize,
}

impl Layout {
    pub(super) fn of(config: &Config) -> Self {
        Self { mask: config.special.mask, block: config.diff_block_size, context: config.context }
    }
}

/// The rows of an item.
pub(super) enum Rows {
    /// Monte Carlo with given masks, and the sizes of the batches.
    Given(Vec<MaskedRow>, Vec<usize>),
    /// Monte Carlo with `samples` masks in batches of `batch`, drawn when they are computed.
    Drawn { seed: u64, samples: usize, batch: usize },
    /// Every mask.
    All(Vec<MaskedRow>),
    /// Every token from those before it.
    Next,
}

impl Rows {
    /// How many there are, for a continuation of `len` tokens.
    pub(super) fn count(&self, len: usize) -> usize {
        match self {
            Self::Given(rows, _) | Self::All(rows) => rows.len(),
            Self::Drawn { samples, .. } if len > 0 => *samples,
            Self::Drawn { .. } => 0,
            Self::Next => len,
        }
    }

    /// The masks of row `i`; none where rows are tokens from left to right.
    pub(super) fn masks(&self, i: usize, len: usize) -> Option<MaskedRow> {
        match self {
            Self::Given(rows, _) | Self::All(rows) => rows.get(i).cloned(),
            Self::Drawn { seed, samples, batch } => {
                let size = batch_size(*samples, *batch);
                let rows = size.min(samples - i / size * size);
                Some(masked_row(*seed, (i / size, rows), i % size, len))
            }
            Self::Next => None,
        }
    }

    /// The log-likelihood that the values of all rows make, and its standard error.
    pub(super) fn reduce(&self, values: &[f64]) -> (f64, Option<f64>) {
        let batches: Vec<&[f64]> = match self {
            Self::Given(_, sizes) => {
                let mut rest = values;
                let cut = |size: &usize| rest.split_off(..*size);
                sizes.iter().filter_map(cut).filter(|batch| !batch.is_empty()).collect()
            }
            Self::Drawn { samples, batch, .. } => values.chunks(batch_size(*samples, *batch)).collect(),
            Self::All(_) | Self::Next => return (values.iter().sum(), Some(0.0)),
        };
        let means: Vec<f64> = batches.iter().map(|values| mean(values)).collect();
        let standard_error = match (&batches[..], &means[..]) {
            ([], _) => Some(0.0),
            ([values], _) => standard_error(values),
            (_, means) => standard_error(means),
        };
        (mean(&means), standard_error)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Of the mean of independent values; `None` for fewer than two.
fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}
