//! A model on its device together with its pages: the real [`Denoiser`].

mod choose;
mod drafts;
mod evaluate;
mod lane;
mod load;
mod row_cost;
mod sequence;
mod worth;

pub use evaluate::{Evaluation, Probe};
pub use load::{DeviceChoice, DtypeChoice, Model, ModelInfo, ModelSource, RuntimeOptions};
pub use row_cost::{RowCost, StepTime};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;

use crate::attribute::TokenAttribution;
use crate::attribute::inputs::GradientBudget;
use crate::backbone::{KvPool, PagedBatch};
use crate::cache::{ChainKey, PageId, PageTable, PageUse};
use crate::canvas::{Canvas, CanvasId, CanvasSpec, Commit};
use crate::catalog::Catalog;
use crate::checkpoint::Progress;
use crate::profile::Part;
use crate::steer::WeightEdit;
use crate::{Denoiser, Error, Limits, Result, Tokenizer, device, pages_needed, rows_needed, scratch};
use drafts::State;
use sequence::{Room, Sequence, Span, Waits};
use worth::{Beside, Worth};

/// A model, its pages, and the sequences admitted to it.
pub struct Runtime {
    model: Model,
    pool: KvPool,
    table: PageTable,
    sequences: HashMap<CanvasId, Sequence>,
    /// Kept from step to step: tens of megabytes that need not be mapped anew.
    logits: Vec<f32>,
    /// The same on a device whose kernels choose there, `[.., V]`.
    device_logits: Option<Tensor>,
    /// As is what a step is planned in.
    plan: Plan,
    /// Rows of a forward of an [`Evaluation`], unless a single sequence cannot be cut.
    slice_rows: usize,
    /// Rows of a forward of an [`Evaluation`] that memory is there for.
    most_slice_rows: usize,
    /// What gradients may take.
    gradients: GradientBudget,
    /// Rows of a step.
    step_rows: usize,
    /// Whether the last step had no room for any prompt, although prompts waited.
    prompts_waited: bool,
    worth: Worth,
}

/// Rows of a forward of an [`Evaluation`] beside short steps, at least: fewer would cost more than they spare.
const FEWEST_SLICE_ROWS: usize = 64;

/// What the next forward computes, and for whom.
#[derive(Default)]
struct Plan {
    rows: PagedBatch,
    /// One for each canvas of the batch.
    spans: Vec<Span>,
    /// The states whose logits it yields, in the order of their rows: those of the canvases, then guessed ones.
    states: Vec<State>,
    /// What it would be without the guessed ones.
    beside: Beside,
    /// Pages of the guessed ones, for this forward alone.
    draft_pages: Vec<PageId>,
    /// Blocks that this forward finishes.
    pending: HashSet<ChainKey>,
}

impl Runtime {
    /// Loads a model and sets its pages aside. `progress` is told bytes done and in total.
    ///
    /// # Errors
    /// If the checkpoint is refused, the device fails, or the page budget does not hold one whole context.
    pub fn load(source: &ModelSource, options: &RuntimeOptions, progress: Progress) -> Result<Self> {
        Self::new(Model::load(source, options, progress)?, options)
    }

    /// Sets pages aside for a loaded model.
    ///
    /// # Errors
    /// If the device fails, or the page budget does not hold one whole context.
    pub fn new(model: Model, options: &RuntimeOptions) -> Result<Self> {
        let (config, compute) = (&model.info().config, model.backbone().compute());
        let page_bytes = KvPool::page_bytes(config, compute);
        let pages = usize::try_from(options.kv_bytes / page_bytes).unwrap_or(usize::MAX).min(u32::MAX as usize - 1);
        let context = config.context.div_ceil(config.diff_block_size);
        if pages < context {
            return Err(Error::Invalid {
                field: "kv_bytes".into(),
                message: format!(
                    "{} bytes hold {pages} pages of {page_bytes} bytes; one sequence of the whole context needs {context}",
                    options.kv_bytes
                ),
            });
        }
        let pool = KvPool::new(config, compute, pages)?;
        let bytes = options.gradient_bytes.unwrap_or_else(|| device::gradient_bytes(&compute.device));
        let gradients = GradientBudget::new(bytes, config, compute);
        let slice_rows = scratch::forward_rows(config);
        Ok(Self {
            model,
            pool,
            table: PageTable::new(pages),
            sequences: HashMap::new(),
            logits: Vec::new(),
            device_logits: None,
            plan: Plan::default(),
            slice_rows,
            most_slice_rows: slice_rows,
            gradients,
            step_rows: usize::MAX,
            prompts_waited: false,
            worth: Worth::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// From now on other work takes turns with steps of about `rows` rows, and its forwards are to be no longer;
    /// `None` if it has the device for itself.
    pub fn share_with(&mut self, rows: Option<usize>) {
        let most = self.most_slice_rows;
        self.slice_rows = rows.map_or(most, |rows| rows.clamp(FEWEST_SLICE_ROWS.min(most), most));
    }

    /// What gradients may take.
    pub fn gradients(&self) -> &GradientBudget {
        &self.gradients
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.model.tokenizer()
    }

    /// What the model's concepts are called.
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.model.catalog()
    }

    /// Does `work`, whose products share themselves out one after another, on a thread of the pool that computes them.
    /// Any other thread would hand each product over and sleep until it is told that it is done, which takes longer than
    /// a product of a small model. A device that computes by itself is not handed from thread to thread.
    pub(crate) fn in_pool<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        match self.model.backbone().compute().device.is_cpu() {
            true => rayon::scope(|_| work(self)),
            false => work(self),
        }
    }

    fn block_size(&self) -> usize {
        self.model.info().config.diff_block_size
    }

    fn mask(&self) -> u32 {
        self.model.info().config.special.mask
    }

    /// Plans a step: which blocks of whom are computed. Never more rows than a step may have; at least one canvas
    /// takes part.
    fn plan(&mut self, batch: &mut [&mut Canvas], plan: &mut Plan) -> Result<()> {
        let order = self.order(batch)?;
        let Plan { rows, spans, states, pending, .. } = plan;
        rows.clear();
        spans.clear();
        spans.resize_with(batch.len(), Span::default);
        states.clear();
        pending.clear();
        let mut room = Room::of(self.step_rows, batch);
        let (mut prompts, mut prompts_wait) = (0, false);
        for n in order {
            let canvas = &mut *batch[n];
            let sequence = self.sequences.get_mut(&canvas.id()).ok_or_else(|| not_admitted(canvas))?;
            let is_prompt = canvas.commits().is_empty();
            let turn = match sequence.take_turn(canvas, &mut self.table, &room) {
                Ok(turn) => turn,
                Err(Waits::Rows) => {
                    sequence.waited += 1;
                    prompts_wait |= is_prompt;
                    continue;
                }
                Err(Waits::Prompts) => continue,
            };
            let keys = sequence.pending_keys(canvas, &self.table, turn.blocks);
            if keys.iter().any(|key| pending.contains(key)) {
                // Another sequence computes the same block in this step: wait, and share it.
                continue;
            }
            room.spend(canvas, &turn);
            pending.extend(keys);
            sequence.waited = 0;
            prompts += usize::from(is_prompt);
            let (span, masked) = sequence.plan(canvas, &mut self.table, rows, turn);
            spans[n] = span;
            if !masked.is_empty() {
                states.push(State { canvas: n, masked, guided: canvas.params().cfg_scale > 0.0, draft: None });
            }
        }
        self.prompts_waited = prompts_wait && prompts == 0;
        self.plan_drafts(batch, plan);
        Ok(())
    }

    /// In which order the canvases of a step take their rows. Those past their prompts come first, those that have waited
    /// longest before the others; prompts come in the order of the batch, and first in every other step if those leave
    /// them no rows. So each is served after as many steps as there are canvases, twice over, at the latest.
    fn order(&self, batch: &[&mut Canvas]) -> Result<Vec<usize>> {
        let mut order = Vec::with_capacity(batch.len());
        for (n, canvas) in batch.iter().enumerate() {
            let sequence = self.sequences.get(&canvas.id()).ok_or_else(|| not_admitted(canvas))?;
            let is_prompt = canvas.commits().is_empty();
            let waited = if is_prompt { 0 } else { sequence.waited };
            order.push((is_prompt != self.prompts_waited, std::cmp::Reverse(waited), n));
        }
        order.sort_unstable();
        Ok(order.into_iter().map(|(_, _, n)| n).collect())
    }

    fn step_by(&mut self, batch: &mut [&mut Canvas], plan: &mut Plan) -> Result<()> {
        let start = Instant::now();
        self.plan(batch, plan)?;
        let hidden = self.forward(batch, &plan.rows, &plan.states);
        self.drop_drafts(plan);
        let hidden = hidden?;
        let Plan { rows, spans, states, beside, .. } = plan;
        // All choices before the first commit: a canvas whose logits are unusable does not spoil the step of others.
        let steps = self.choose(batch, states, *beside)?;
        for ((canvas, span), steps) in batch.iter_mut().zip(spans.iter()).zip(&steps) {
            let sequence = self.sequences.get_mut(&canvas.id()).ok_or_else(|| not_admitted(canvas))?;
            sequence.finish_blocks(canvas, &mut self.table, span);
            canvas.usage.accepted += steps.len().saturating_sub(1);
            steps.iter().for_each(|choices| canvas.commit(choices));
        }
        let profile = self.model.backbone().profile();
        profile.time(Part::Attribution, || self.attribute(batch, &hidden, states))?;
        self.worth.observe(rows.ids.len(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the rows of all states and returns the hidden states of their masked rows `[N, D]`; `self.logits`, or
    /// `self.device_logits`, then holds their logits, state by state.
    fn forward(&mut self, batch: &[&mut Canvas], rows: &PagedBatch, states: &[State]) -> Result<Tensor> {
        let hidden = self.model.backbone().forward_paged(rows, &mut self.pool)?;
        if rows.selected.is_empty() {
            self.logits.clear();
            self.device_logits = None;
            return Ok(hidden);
        }
        let composed = self.composed(batch, &hidden, states)?;
        let backbone = self.model.backbone();
        backbone.profile().time(Part::LmHead, || match backbone.compute().has_gpu_kernels() {
            true => backbone.lm_head().forward(&composed).map(|logits| self.device_logits = Some(logits)),
            false => self.model.logits(&composed, &mut self.logits),
        })?;
        Ok(hidden)
    }

    /// What the output head reads, each canvas with its own edits of concept weights.
    fn composed(&self, batch: &[&mut Canvas], hidden: &Tensor, states: &[State]) -> Result<Tensor> {
        if batch.iter().all(|canvas| canvas.set_weights().is_empty()) {
            return self.model.composed(hidden, &[]);
        }
        let mut parts = Vec::with_capacity(states.len());
        let mut row = 0;
        for state in states {
            let part = hidden.narrow(0, row, state.rows())?;
            parts.push(self.model.composed(&part, batch[state.canvas].set_weights())?);
            row += state.rows();
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Attributes the commits of this step to concepts: the heads are evaluated once for all canvases that edit the
    /// same concept weights, most often none.
    fn attribute(&self, batch: &mut [&mut Canvas], hidden: &Tensor, states: &[State]) -> Result<()> {
        struct Target {
            canvas: usize,
            row: u32,
            commit: Commit,
        }
        let mut groups: Vec<(Vec<WeightEdit>, Vec<Target>)> = Vec::new();
        let mut first_row = 0;
        for state in states {
            let canvas = &batch[state.canvas];
            if canvas.wants_attribution() {
                let new = &canvas.commits()[canvas.attributions().len()..];
                // A guessed state that the canvas has not come to has no commits of its step.
                let step = match &state.draft {
                    Some(draft) => draft.canvas.step(),
                    None => new.first().map_or(0, |commit| commit.step),
                };
                let targets = new.iter().filter(|commit| commit.step == step).map(|commit| {
                    let at = state.masked.binary_search(&commit.position).expect("only masked positions are committed");
                    Target { canvas: state.canvas, row: (first_row + at) as u32, commit: *commit }
                });
                match groups.iter_mut().find(|(edits, _)| edits == canvas.set_weights()) {
                    Some((_, group)) => group.extend(targets),
                    None => groups.push((canvas.set_weights().to_vec(), targets.collect())),
                }
            }
            first_row += state.rows();
        }
        for (edits, targets) in groups.iter().filter(|(_, targets)| !targets.is_empty()) {
            let rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
            let tokens: Vec<u32> = targets.iter().map(|target| target.commit.id).collect();
            let rows = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
            let contributions = self.model.contributions(&rows, &tokens, edits)?;
            for (target, contributions) in targets.iter().zip(contributions) {
                batch[target.canvas].attribute(TokenAttribution::of(&target.commit, contributions));
            }
        }
        Ok(())
    }
}

impl Denoiser for Runtime {
    fn limits(&self) -> Limits {
        let (config, compute) = (&self.model.info().config, self.model.backbone().compute());
        Limits {
            canvas: CanvasSpec::of(config),
            pages: self.table.page_use().total,
            page_bytes: KvPool::page_bytes(config, compute),
            gradients: self.gradients,
        }
    }

    fn admit(&mut self, canvas: &mut Canvas) -> Result<bool> {
        let needed = rows_needed(canvas);
        if needed > self.step_rows {
            return Err(Error::TooLarge {
                field: "max_rows".into(),
                message: format!("a step of this generation computes {needed} rows, {} are allowed", self.step_rows),
                needed: needed as u64,
                available: self.step_rows as u64,
            });
        }
        if !self.table.reserve(pages_needed(canvas)) {
            return Ok(false);
        }
        let sequence = Sequence::start(canvas, &mut self.table);
        self.sequences.insert(canvas.id(), sequence);
        Ok(true)
    }

    fn step(&mut self, batch: &mut [&mut Canvas]) -> Result<()> {
        let mut plan = std::mem::take(&mut self.plan);
        let result = self.in_pool(|runtime| runtime.step_by(batch, &mut plan));
        self.plan = plan;
        result
    }

    fn limit_rows(&mut self, rows: usize) {
        self.step_rows = rows;
    }

    fn release(&mut self, id: CanvasId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            sequence.release(&mut self.table);
        }
    }

    fn page_use(&self) -> PageUse {
        self.table.page_use()
    }

    fn runtime(&mut self) -> Option<&mut Runtime> {
        Some(self)
    }
}

fn not_admitted(canvas: &Canvas) -> Error {
    Error::Unsupported(format!("canvas {:?} was not admitted", canvas.id()))
}
