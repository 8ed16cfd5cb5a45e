//! Log-probabilities of each token of a continuation from left to right: the terms of
//! [`ScoreMethod::LeftToRight`](super::ScoreMethod::LeftToRight).

use super::ScoreItem;
use super::losses::{Loss, Losses, Query};
use super::plan::Layout;
use super::window::IDS;
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

/// Continuations on their way to the log-probabilities of their tokens, a forward pass at a time. Their sequences are made
/// a window at a time.
pub struct TokenScoreJob {
    items: Vec<ScoreItem>,
    /// The item and its token that are next.
    next: (usize, usize),
    top: usize,
    layout: Layout,
    /// The items of the tokens that are being computed, and their losses.
    running: Option<(Vec<usize>, Losses)>,
    done: Vec<Vec<TokenScore>>,
}

impl TokenScoreJob {
    /// Checks the items. `top`: how many of the likeliest tokens are told beside each token.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the item that does not fit into the context or has ids beyond the vocabulary.
    pub fn new(items: Vec<ScoreItem>, top: usize, config: &Config) -> Result<Self> {
        for (i, item) in items.iter().enumerate() {
            let field = format!("items[{i}]");
            let mut ids = item.context.iter().chain(&item.continuation);
            if let Some(id) = ids.find(|id| **id as usize >= config.vocab_size) {
                let message = format!("{id} is not below the vocabulary size {}", config.vocab_size);
                return Err(Error::invalid(field, message));
            }
            item.check(&field, config)?;
        }
        let done = vec![Vec::new(); items.len()];
        Ok(Self { items, next: (0, 0), top, layout: Layout::of(config), running: None, done })
    }

    /// One forward pass; the tokens of all items once they are complete.
    ///
    /// # Errors
    /// [`Error::Busy`] when generations hold all pages, [`Error::Device`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<Vec<TokenScore>>>> {
        let Some((_, losses)) = &mut self.running else {
            self.running = self.window();
            let complete = self.running.is_none();
            return Ok(complete.then(|| std::mem::take(&mut self.done)));
        };
        if losses.advance(runtime)?
            && let Some((items, losses)) = self.running.take()
        {
            let score = |loss: Loss| TokenScore { logprob: -loss.cross_entropy, top: loss.top };
            for (item, losses) in items.into_iter().zip(losses.finish()) {
                self.done[item].extend(losses.into_iter().map(score));
            }
        }
        Ok(None)
    }

    /// The next tokens, as many as are prepared at a time; `None` when there are no more.
    fn window(&mut self) -> Option<(Vec<usize>, Losses)> {
        let (mut queries, mut items): (Vec<Query>, Vec<usize>) = Default::default();
        let mut ids = 0;
        let (mut at, mut token) = self.next;
        while ids < IDS
            && let Some(item) = self.items.get(at)
        {
            if token == item.continuation.len() {
                (at, token) = (at + 1, 0);
                continue;
            }
            let query = item.next(token, self.layout);
            ids += query.ids.len();
            queries.push(query);
            items.push(at);
            token += 1;
        }
        self.next = (at, token);
        let losses = |queries| Losses::new(queries, 0.0, self.layout.mask).with_top(self.top);
        (!queries.is_empty()).then(|| (items, losses(queries)))
    }
}
