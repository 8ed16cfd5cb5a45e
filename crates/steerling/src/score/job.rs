//! Log-likelihoods of continuations, a forward pass at a time. MODEL.md section 8.

use std::collections::VecDeque;

use super::masks::{MAX_EXACT_TOKENS, MaskedRow, count_distribution, exact_masks};
use super::plan::{Layout, Rows, ScoreItem};
use super::window::{Filling, Open, Window};
use crate::config::Config;
use crate::{Error, Result, Runtime};

/// Most rows of a Monte-Carlo estimate.
pub const MAX_SAMPLES: usize = 4096;

/// How a likelihood is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreMethod {
    /// Exact up to [`MAX_EXACT_TOKENS`] tokens, else Monte Carlo.
    Auto,
    /// The mean over random masks.
    MonteCarlo,
    /// The expectation of the Monte-Carlo estimate, from all masks.
    Exact,
    /// `sum log p(x_i | x_<i, rest of its attention block masked)`.
    LeftToRight,
}

impl ScoreMethod {
    /// What it is for a continuation of `len` tokens.
    fn resolve(self, len: usize) -> Self {
        match self {
            Self::Auto if len <= MAX_EXACT_TOKENS => Self::Exact,
            Self::Auto => Self::MonteCarlo,
            other => other,
        }
    }
}

/// How likelihoods are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreParams {
    /// The method.
    pub method: ScoreMethod,
    /// Rows of an estimate, 1 to [`MAX_SAMPLES`].
    pub samples: usize,
    /// Rows whose mask counts are spread evenly.
    pub batch: usize,
    /// Classifier-free guidance, 0 for none: logits are `u + (scale + 1) (c - u)`, `u` with the context masked.
    pub cfg_scale: f32,
    /// Same seed, same masks, whatever else is scored.
    pub seed: u64,
}

impl Default for ScoreParams {
    fn default() -> Self {
        Self { method: ScoreMethod::Auto, samples: 128, batch: 32, cfg_scale: 0.0, seed: 0 }
    }
}

impl ScoreParams {
    /// Token positions that the item's rows have at most: rows (those that tell whether it is greedy included) times
    /// length, twice under guidance. Known without drawing or computing any of them.
    pub fn positions(&self, item: &ScoreItem) -> u64 {
        let len = item.continuation.len();
        let rows = match self.method.resolve(len) {
            ScoreMethod::Exact if len <= MAX_EXACT_TOKENS => (1 << len) - 1 + len,
            ScoreMethod::LeftToRight => len,
            _ if len == 0 => 0,
            _ => self.samples + len,
        };
        let sequences = if self.cfg_scale != 0.0 && !item.context.is_empty() { 2 } else { 1 };
        (rows as u64).saturating_mul(sequences).saturating_mul((item.context.len() + len) as u64)
    }

    /// The rows of a continuation of `len` tokens.
    fn rows(&self, method: ScoreMethod, len: usize) -> Result<Rows> {
        let Self { samples, batch, seed, .. } = *self;
        Ok(match method {
            ScoreMethod::Exact => Rows::All(exact_masks(&count_distribution(len, samples, batch))?),
            ScoreMethod::MonteCarlo | ScoreMethod::Auto => Rows::Drawn { seed, samples, batch },
            ScoreMethod::LeftToRight => Rows::Next,
        })
    }
}

/// The likelihood of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// In nats.
    pub loglikelihood: f64,
    /// Of a Monte-Carlo estimate: the standard deviation of its batches' means (of one batch: of its rows) divided by
    /// the root of their number; `None` of a single row. 0 of the other methods, which draw nothing.
    pub standard_error: Option<f64>,
    /// Tokens of the continuation.
    pub tokens: usize,
    /// Whether every token is the likeliest where it is predicted from left to right, whatever the method: the
    /// continuation that greedy decoding from left to right gives. True without tokens.
    pub is_greedy: bool,
    /// Never [`ScoreMethod::Auto`].
    pub method: ScoreMethod,
    /// Forward passes in which rows of this item took part, those for `is_greedy` included.
    pub forwards: usize,
}

/// Continuations on their way to their likelihoods, a forward pass at a time. Its memory does not grow with the number of
/// rows: they are made a window at a time, and of those that are computed a number each is kept.
pub struct ScoreJob {
    /// Items that are still to be opened, with their places in the answer.
    queue: VecDeque<(usize, ScoreItem)>,
    params: ScoreParams,
    /// Masks of the one item, if they were given.
    given: Option<Rows>,
    open: Vec<Open>,
    window: Option<Window>,
    done: Vec<Option<Score>>,
}

impl ScoreJob {
    /// Checks the items; computes and draws nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter or the item that cannot be honoured.
    pub fn new(items: Vec<ScoreItem>, params: &ScoreParams, config: &Config) -> Result<Self> {
        if params.samples == 0 || params.samples > MAX_SAMPLES {
            return Err(Error::invalid("samples", format!("{} is outside 1..={MAX_SAMPLES}", params.samples)));
        }
        if params.batch == 0 {
            return Err(Error::invalid("batch", "0 is below the minimum of 1"));
        }
        for (i, item) in items.iter().enumerate() {
            let len = item.continuation.len();
            if params.method == ScoreMethod::Exact && len > MAX_EXACT_TOKENS {
                let message =
                    format!("`exact` takes continuations of at most {MAX_EXACT_TOKENS} tokens, items[{i}] has {len}");
                return Err(Error::invalid("method", message));
            }
            item.check(&format!("items[{i}]"), config)?;
        }
        Self::of_items(items, params)
    }

    /// The Monte-Carlo estimate of one item from given masks, batch by batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an item that does not fit, or a `cfg_scale` that is not a number from 0 on.
    pub fn of_masks(item: ScoreItem, batches: Vec<Vec<MaskedRow>>, cfg_scale: f32, config: &Config) -> Result<Self> {
        item.check("item", config)?;
        let params = ScoreParams { method: ScoreMethod::MonteCarlo, cfg_scale, ..ScoreParams::default() };
        let sizes = batches.iter().map(Vec::len).collect();
        let given = Some(Rows::Given(batches.into_iter().flatten().collect(), sizes));
        Ok(Self { given, ..Self::of_items(vec![item], &params)? })
    }

    fn of_items(items: Vec<ScoreItem>, params: &ScoreParams) -> Result<Self> {
        let scale = params.cfg_scale;
        if !scale.is_finite() || scale < 0.0 {
            return Err(Error::invalid("cfg_scale", format!("{scale} is not a finite number from 0 on")));
        }
        let done = vec![None; items.len()];
        let queue = items.into_iter().enumerate().collect();
        Ok(Self { queue, params: *params, given: None, open: Vec::new(), window: None, done })
    }

    /// One forward pass, or the rows of the next ones; the scores of all items once they are complete.
    ///
    /// # Errors
    /// [`Error::Busy`] when generations hold all pages, [`Error::Device`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<Score>>> {
        let Some(window) = &mut self.window else {
            self.window = self.next_window(Layout::of(&runtime.info().config))?;
            let complete = self.window.is_none();
            return Ok(complete.then(|| std::mem::take(&mut self.done).into_iter().flatten().collect()));
        };
        if window.advance(runtime)?
            && let Some(window) = self.window.take()
        {
            window.settle(&mut self.open);
        }
        Ok(None)
    }

    /// Rows of the open items and of as many more as fit; `None` when all items are complete.
    fn next_window(&mut self, layout: Layout) -> Result<Option<Window>> {
        for open in self.open.extract_if(.., |open| open.is_complete()) {
            self.done[open.index] = Some(open.score());
        }
        let mut filling = Filling::default();
        for (at, open) in self.open.iter().enumerate() {
            filling.take(at, open, layout);
        }
        while filling.has_room()
            && let Some((index, item)) = self.queue.pop_front()
        {
            let len = item.continuation.len();
            let method = self.params.method.resolve(len);
            let rows = match self.given.take() {
                Some(given) => given,
                None => self.params.rows(method, len)?,
            };
            let open = Open::new(index, item, method, rows);
            if open.is_complete() {
                self.done[index] = Some(open.score());
            } else {
                filling.take(self.open.len(), &open, layout);
                self.open.push(open);
            }
        }
        Ok(filling.start(self.params.cfg_scale, layout.mask))
    }
}
