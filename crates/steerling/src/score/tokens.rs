//! Log-probabilities of each token of a continuation from left to right: the terms of
//! [`ScoreMethod::LeftToRight`].

use std::collections::VecDeque;

use super::job::{IDS, Layout, Plan, Rows};
use super::losses::{Loss, Losses, Query};
use super::{ScoreItem, ScoreMethod};
use crate::config::Config;
use crate::{Error, Result, Runtime};

/// A token after those before it, with the rest of its attention block masked.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// `log p(token)` in nats.
    pub logprob: f64,
    /// The likeliest tokens with their `log p`, likeliest first.
    pub top: Vec<(u32, f64)>,
}

/// Continuations on their way to the log-probabilities of their tokens, a forward at a time.
pub struct TokenScoreJob {
    queue: VecDeque<Plan>,
    top: usize,
    layout: Layout,
    /// Tokens of the items that are being computed, and their losses.
    running: Option<(Vec<usize>, Losses)>,
    done: Vec<Vec<TokenScore>>,
}

impl TokenScoreJob {
    /// Checks the items. `top`: how many of the likeliest tokens are told beside each token.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the item that does not fit into the context or has ids beyond the vocabulary.
    pub fn new(items: Vec<ScoreItem>, top: usize, config: &Config) -> Result<Self> {
        let plan = |(i, item): (usize, ScoreItem)| {
            let ids = item.context.iter().chain(&item.continuation);
            if let Some(id) = ids.copied().find(|id| *id as usize >= config.vocab_size) {
                let message = format!("{id} is not below the vocabulary size {}", config.vocab_size);
                return Err(Error::invalid(format!("items[{i}]"), message));
            }
            Plan::new(&format!("items[{i}]"), item, ScoreMethod::LeftToRight, Rows::Next, config)
        };
        let queue = items.into_iter().enumerate().map(plan).collect::<Result<_>>()?;
        Ok(Self { queue, top, layout: Layout::of(config), running: None, done: Vec::new() })
    }

    /// One forward; the tokens of all items once they are complete.
    ///
    /// # Errors
    /// [`Error::Busy`] when generations hold all pages, [`Error::Device`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<Vec<TokenScore>>>> {
        let Some((_, losses)) = &mut self.running else {
            return Ok((!self.start()).then(|| std::mem::take(&mut self.done)));
        };
        if losses.advance(runtime)?
            && let Some((counts, losses)) = self.running.take()
        {
            let mut found = losses.finish().flat_map(|(losses, _)| losses);
            let score = |loss: Loss| TokenScore { logprob: -loss.cross_entropy, top: loss.top };
            self.done.extend(counts.into_iter().map(|count| found.by_ref().take(count).map(score).collect()));
        }
        Ok(None)
    }

    /// Takes the next items out of the queue; whether there were any.
    fn start(&mut self) -> bool {
        let mut queries: Vec<Query> = Vec::new();
        let mut counts = Vec::new();
        let mut ids = 0;
        while let Some(plan) = self.queue.pop_front_if(|plan| counts.is_empty() || ids + plan.ids() <= IDS) {
            ids += plan.ids();
            counts.push(plan.item.continuation.len());
            queries.extend((0..plan.item.continuation.len()).map(|i| plan.next(i, self.layout)));
        }
        let any = !counts.is_empty();
        self.running = any.then(|| (counts, Losses::new(queries, 0.0, self.layout.mask).with_top(self.top)));
        any
    }
}
