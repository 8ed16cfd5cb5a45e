//! Log-likelihoods of continuations, a forward at a time. MODEL.md section 8.

use std::collections::{HashMap, VecDeque};

use super::losses::{Loss, Losses, Query};
use super::masks::{MAX_EXACT_TOKENS, MaskedRow, batch_sizes, count_distribution, exact_masks, masked_rows};
use crate::config::Config;
use crate::{Error, Result, Runtime};

/// Most rows of a Monte-Carlo estimate.
pub const MAX_SAMPLES: usize = 4096;
/// Ids of sequences that are prepared at a time; a single item may exceed it.
pub(super) const IDS: usize = 1 << 21;

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

/// A context and the continuation whose likelihood is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreItem {
    /// May be empty.
    pub context: Vec<u32>,
    /// May be empty: then the log-likelihood is 0.
    pub continuation: Vec<u32>,
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
    /// Forwards in which rows of this item took part, those for `is_greedy` included.
    pub forwards: usize,
}

/// Continuations on their way to their likelihoods, a forward at a time.
pub struct ScoreJob {
    queue: VecDeque<Plan>,
    cfg_scale: f32,
    group: Option<Group>,
    done: Vec<Score>,
}

impl ScoreJob {
    /// Checks the items.
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
        let plan = |(i, item): (usize, ScoreItem)| {
            let len = item.continuation.len();
            let method = params.method.resolve(len);
            let rows = match method {
                ScoreMethod::Exact if len > MAX_EXACT_TOKENS => {
                    let message = format!(
                        "`exact` takes continuations of at most {MAX_EXACT_TOKENS} tokens, items[{i}] has {len}"
                    );
                    return Err(Error::invalid("method", message));
                }
                ScoreMethod::Exact => Rows::All(exact_masks(&count_distribution(len, params.samples, params.batch))?),
                ScoreMethod::MonteCarlo | ScoreMethod::Auto => {
                    let sizes = batch_sizes(params.samples, params.batch);
                    let batches = sizes.into_iter().enumerate();
                    Rows::Drawn(batches.map(|(b, rows)| masked_rows(params.seed, b, rows, len)).collect())
                }
                ScoreMethod::LeftToRight => Rows::Next,
            };
            Plan::new(&format!("items[{i}]"), item, method, rows, config)
        };
        let queue = items.into_iter().enumerate().map(plan).collect::<Result<_>>()?;
        Self::of_plans(queue, params.cfg_scale)
    }

    /// The Monte-Carlo estimate of one item from given masks, batch by batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an item that does not fit, or a `cfg_scale` that is not a number from 0 on.
    pub fn of_masks(item: ScoreItem, batches: Vec<Vec<MaskedRow>>, cfg_scale: f32, config: &Config) -> Result<Self> {
        let plan = Plan::new("item", item, ScoreMethod::MonteCarlo, Rows::Drawn(batches), config)?;
        Self::of_plans([plan].into(), cfg_scale)
    }

    fn of_plans(queue: VecDeque<Plan>, cfg_scale: f32) -> Result<Self> {
        if !cfg_scale.is_finite() || cfg_scale < 0.0 {
            return Err(Error::invalid("cfg_scale", format!("{cfg_scale} is not a finite number from 0 on")));
        }
        Ok(Self { queue, cfg_scale, group: None, done: Vec::new() })
    }

    /// One forward; the scores of all items once they are complete.
    ///
    /// # Errors
    /// [`Error::Busy`] when generations hold all pages, [`Error::Device`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<Score>>> {
        let layout = Layout::of(&runtime.info().config);
        let Some(group) = &mut self.group else {
            let mut plans = Vec::new();
            let mut ids = 0;
            while let Some(plan) = self.queue.pop_front_if(|plan| plans.is_empty() || ids + plan.ids() <= IDS) {
                ids += plan.ids();
                plans.push(plan);
            }
            if plans.is_empty() {
                return Ok(Some(std::mem::take(&mut self.done)));
            }
            self.group = Some(Group::new(plans, layout, self.cfg_scale));
            return Ok(None);
        };
        if let Some(scores) = group.advance(runtime)? {
            self.done.extend(scores);
            self.group = None;
        }
        Ok(None)
    }
}

/// The rows of an item.
pub(super) enum Rows {
    /// Monte Carlo, batch by batch.
    Drawn(Vec<Vec<MaskedRow>>),
    /// Every mask.
    All(Vec<MaskedRow>),
    /// Every token from those before it.
    Next,
}

/// What is to be computed of an item.
pub(super) struct Plan {
    pub(super) item: ScoreItem,
    method: ScoreMethod,
    rows: Rows,
}

impl Plan {
    pub(super) fn new(field: &str, item: ScoreItem, method: ScoreMethod, rows: Rows, config: &Config) -> Result<Self> {
        let (context, continuation) = (item.context.len(), item.continuation.len());
        if context + continuation > config.context {
            let message = format!(
                "a context of {context} and a continuation of {continuation} tokens exceed the {} positions of the model",
                config.context
            );
            return Err(Error::invalid(field, message));
        }
        Ok(Self { item, method, rows })
    }

    /// Ids of its sequences.
    pub(super) fn ids(&self) -> usize {
        let rows = match &self.rows {
            Rows::Drawn(batches) => batches.iter().map(Vec::len).sum(),
            Rows::All(rows) => rows.len(),
            Rows::Next => self.item.continuation.len(),
        };
        rows * (self.item.context.len() + self.item.continuation.len())
    }

    /// The sequence in which token `i` of the continuation is predicted from those before it: the rest of its attention
    /// block is masked, also beyond the continuation, so that the parts of a text add up however it is cut.
    pub(super) fn next(&self, i: usize, layout: Layout) -> Query {
        let position = self.item.context.len() + i;
        let end = ((position / layout.block + 1) * layout.block).min(layout.context);
        let mut ids = self.item.context.clone();
        ids.extend_from_slice(&self.item.continuation[..i]);
        ids.resize(end, layout.mask);
        Query { ids, targets: vec![(position, self.item.continuation[i])], context: self.item.context.len() }
    }

    fn masked(&self, row: &MaskedRow, layout: Layout) -> Query {
        let first = self.item.context.len();
        let mut ids = [&self.item.context[..], &self.item.continuation].concat();
        row.masked.iter().for_each(|i| ids[first + i] = layout.mask);
        let targets = row.masked.iter().map(|i| (first + i, self.item.continuation[*i])).collect();
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

/// An item that is being computed.
struct Open {
    plan: Plan,
    layout: Layout,
    /// Queries of each of its rows: equal masks are computed once.
    queries: Vec<Vec<usize>>,
    loglikelihood: f64,
    standard_error: Option<f64>,
    /// Tokens of which is known that they are the likeliest from left to right.
    greedy: usize,
    is_greedy: bool,
    forwards: usize,
}

impl Open {
    /// With its queries.
    fn new(plan: Plan, layout: Layout) -> (Self, Vec<Query>) {
        let mut queries = Vec::new();
        let mut indices = Vec::new();
        let mut known: HashMap<&[usize], usize> = HashMap::new();
        let mut index_of = |row| index(&mut known, row, &mut queries, &plan, layout);
        match &plan.rows {
            Rows::Drawn(batches) => {
                indices.extend(batches.iter().map(|rows| rows.iter().map(&mut index_of).collect::<Vec<_>>()));
            }
            Rows::All(rows) => indices.push(rows.iter().map(index_of).collect()),
            Rows::Next => {
                queries.extend((0..plan.item.continuation.len()).map(|i| plan.next(i, layout)));
                indices.push((0..queries.len()).collect());
            }
        }
        let open = Self {
            plan,
            layout,
            queries: indices,
            loglikelihood: 0.0,
            standard_error: Some(0.0),
            greedy: 0,
            is_greedy: true,
            forwards: 0,
        };
        (open, queries)
    }

    /// Takes in the losses of its queries.
    fn reduce(&mut self, losses: &[Vec<Loss>]) {
        let sums: Vec<f64> = losses.iter().map(|of| of.iter().map(|loss| loss.cross_entropy).sum()).collect();
        let value = |row: &MaskedRow, query: &usize| -row.weight * sums[*query];
        match &self.plan.rows {
            Rows::Drawn(batches) => {
                let batches = batches.iter().zip(&self.queries).filter(|(rows, _)| !rows.is_empty());
                let batches: Vec<Vec<f64>> = batches
                    .map(|(rows, queries)| rows.iter().zip(queries).map(|(row, query)| value(row, query)).collect())
                    .collect();
                let means: Vec<f64> = batches.iter().map(|values| mean(values)).collect();
                self.loglikelihood = mean(&means);
                self.standard_error = match (&batches[..], &means[..]) {
                    ([], _) => Some(0.0),
                    ([values], _) => standard_error(values),
                    (_, means) => standard_error(means),
                };
            }
            Rows::All(rows) => {
                let queries = self.queries.iter().flatten();
                self.loglikelihood = rows.iter().zip(queries).map(|(row, query)| value(row, query)).sum();
            }
            Rows::Next => {
                self.loglikelihood = -sums.iter().sum::<f64>();
                self.greedy = losses.len();
                self.is_greedy = losses.iter().flatten().all(|loss| loss.is_argmax);
            }
        }
    }

    /// The next tokens to be compared with the likeliest ones: most continuations fail at the first.
    fn doubtful(&self) -> std::ops::Range<usize> {
        let len = self.plan.item.continuation.len();
        match (self.is_greedy, self.greedy) {
            (false, _) => 0..0,
            (true, 0) => 0..len.min(1),
            (true, n) => n..len,
        }
    }

    fn score(self) -> Score {
        Score {
            loglikelihood: self.loglikelihood,
            standard_error: self.standard_error,
            tokens: self.plan.item.continuation.len(),
            is_greedy: self.is_greedy,
            method: self.plan.method,
            forwards: self.forwards,
        }
    }
}

/// The query of a row, a new one if its mask is new.
fn index<'a>(
    known: &mut HashMap<&'a [usize], usize>,
    row: &'a MaskedRow,
    queries: &mut Vec<Query>,
    plan: &Plan,
    layout: Layout,
) -> usize {
    *known.entry(&row.masked).or_insert_with(|| {
        queries.push(plan.masked(row, layout));
        queries.len() - 1
    })
}

/// Items that are computed together.
struct Group {
    items: Vec<Open>,
    /// Queries of each item in the losses that are being computed.
    counts: Vec<usize>,
    losses: Option<Losses>,
    /// The likelihoods are known; what is left is whether the continuations are greedy.
    is_reduced: bool,
    cfg_scale: f32,
    mask: u32,
}

impl Group {
    fn new(plans: Vec<Plan>, layout: Layout, cfg_scale: f32) -> Self {
        let (items, queries): (Vec<_>, Vec<_>) = plans.into_iter().map(|plan| Open::new(plan, layout)).unzip();
        let counts = queries.iter().map(Vec::len).collect();
        let losses = Losses::new(queries.into_iter().flatten().collect(), cfg_scale, layout.mask);
        Self { items, counts, losses: Some(losses), is_reduced: false, cfg_scale, mask: layout.mask }
    }

    fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<Score>>> {
        if let Some(losses) = &mut self.losses
            && !losses.advance(runtime)?
        {
            return Ok(None);
        }
        let mut found = self.losses.take().into_iter().flat_map(Losses::finish);
        for (item, count) in self.items.iter_mut().zip(&self.counts) {
            let (losses, forwards): (Vec<_>, Vec<_>) = found.by_ref().take(*count).unzip();
            item.forwards += forwards.into_iter().max().unwrap_or(0);
            if !self.is_reduced {
                item.reduce(&losses);
            } else if *count > 0 {
                item.greedy += count;
                item.is_greedy = losses.iter().flatten().all(|loss| loss.is_argmax);
            }
        }
        self.is_reduced = true;
        let queries: Vec<Vec<Query>> =
            self.items.iter().map(|item| item.doubtful().map(|i| item.plan.next(i, item.layout)).collect()).collect();
        self.counts = queries.iter().map(Vec::len).collect();
        if self.counts.iter().all(|count| *count == 0) {
            return Ok(Some(std::mem::take(&mut self.items).into_iter().map(Open::score).collect()));
        }
        self.losses = Some(Losses::new(queries.into_iter().flatten().collect(), self.cfg_scale, self.mask));
        Ok(None)
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
