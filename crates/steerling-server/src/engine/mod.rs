//! The engine: a handle for many tasks, one worker thread that owns the model and its device.

mod fault;
mod job;
mod mailbox;
mod pace;
mod retry;
mod schedule;
mod shared;
mod task;
#[cfg(test)]
mod tests;
mod ticket;
mod turns;
mod worker;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use steerling::cache::PageUse;
use steerling::canvas::CanvasId;
use steerling::catalog::Catalog;
use steerling::{
    Canvas, Denoiser, Generation, Limits, ModelInfo, Result, Runtime, Tokenizer, pages_needed, rows_needed,
};
use tokio::sync::watch;

use schedule::Cost;
use shared::Shared;
use worker::{Command, Worker};

use crate::metrics::Metrics;

pub use fault::Fault;
pub use job::{Failure, Finished, Timings};
pub use mailbox::{Message, Receiver, merge};
pub use schedule::Priority;
pub use task::WorkKind;
pub use ticket::{Permit, Ticket};

/// How many generations the engine takes.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Generations that are under way at once, each with its pages.
    pub max_batch: usize,
    /// Generations that wait.
    pub max_queue: usize,
    /// Generations that share a step; `None` measures how many are worth it. The others take turns, block by block.
    pub max_active: Option<usize>,
    /// Rows of a step, those of prompts included.
    pub max_rows: usize,
    /// Failed steps within ten minutes that are answered by loading the model again; one more ends the worker.
    pub max_faults: usize,
    /// Time without a sign of the worker, while there is work, after which it is no longer ready.
    pub stall: Duration,
}

impl EngineOptions {
    /// Rejects what leaves no room for any generation on a device with these limits.
    ///
    /// # Errors
    /// Naming the flag, its value and the limit.
    pub(crate) fn check(&self, limits: &Limits) -> Result<()> {
        // A step computes whole attention blocks.
        let least = limits.canvas.block_size;
        if self.max_rows >= least {
            return Ok(());
        }
        let message = format!("{} is below the minimum of {least} for this model", self.max_rows);
        Err(steerling::Error::invalid("--max-rows", message))
    }
}

/// A denoiser as it comes from its builder, with what the world may know of it.
pub struct Loaded<D> {
    /// Stays on the worker thread.
    pub denoiser: D,
    /// Name, sizes, device.
    pub info: ModelInfo,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// What the concepts are called; empty for a model without any.
    pub catalog: Arc<Catalog>,
}

impl From<Runtime> for Loaded<Runtime> {
    fn from(runtime: Runtime) -> Self {
        Self {
            info: runtime.info().clone(),
            tokenizer: runtime.tokenizer().clone(),
            catalog: runtime.catalog().clone(),
            denoiser: runtime,
        }
    }
}

/// What the world may know of a loaded model.
#[derive(Debug)]
pub struct Model {
    /// Name, sizes, device.
    pub info: ModelInfo,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// What the concepts are called; empty for a model without any.
    pub catalog: Arc<Catalog>,
    /// What the denoiser can take.
    pub limits: Limits,
}

/// Where the engine stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The model is being loaded, or loaded again after a failure.
    Loading,
    /// Jobs are taken.
    Ready,
    /// The model could not be loaded; the worker has ended.
    Failed(String),
    /// The worker has ended.
    Stopped,
}

/// Why a job was not taken.
#[derive(Debug)]
pub enum SubmitError {
    /// Why no jobs are taken at the moment.
    NotReady(NotReady),
    /// No new jobs are taken.
    ShuttingDown,
    /// All slots of queue and batch are held.
    Overloaded {
        /// When one is likely to be free for this client.
        retry_after: Duration,
    },
    /// It would not even fit alone.
    TooManyPages {
        /// Pages of keys and values that it needs.
        needed: usize,
        /// Pages that there are.
        available: usize,
    },
    /// Its steps would be too large even alone.
    TooManyRows {
        /// Rows of one of its steps.
        needed: usize,
        /// Rows that a step may have.
        available: usize,
    },
}

/// Why no jobs are taken at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The model is being loaded, for the first time or again after a failed step.
    Loading,
    /// The worker has work and has not come round to it for too long.
    Stalled,
    /// The worker has ended.
    Stopped,
}

/// The engine, for those who hand in jobs.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    /// Starts the worker thread, which calls `build` there: once, and again after a failure.
    ///
    /// The worker is one of the threads that share out the model's products, so that it starts each of them at once
    /// instead of handing it over and sleeping until it is done.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn spawn<D, B>(options: EngineOptions, metrics: Arc<Metrics>, build: B) -> std::io::Result<Self>
    where
        D: Denoiser + 'static,
        B: Fn() -> Result<Loaded<D>> + Send + 'static,
    {
        let (commands, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new(options, metrics));
        let worker = Worker::new(build, shared.clone(), receiver);
        let pool = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("engine-{i}")).build();
        let pool = Arc::new(pool.map_err(std::io::Error::other)?);
        // Its threads go with the last handle, so the worker holds one.
        let threads = pool.clone();
        pool.spawn(move || {
            worker.run();
            drop(threads);
        });
        Ok(Self { shared, commands })
    }

    /// Refuses while nothing is taken.
    fn check_open(&self) -> Result<(), SubmitError> {
        if self.is_draining() {
            return Err(SubmitError::ShuttingDown);
        }
        self.readiness().map_err(SubmitError::NotReady)
    }

    /// Refuses a generation that would not even fit alone.
    fn check_size(&self, generation: &Generation) -> Result<(), SubmitError> {
        let model = self.model().ok_or(SubmitError::NotReady(NotReady::Loading))?;
        let (budget, cost) = (self.shared.budget(&model.limits), cost(&generation.canvas));
        if budget.holds(&cost) {
            Ok(())
        } else if cost.pages > budget.pages {
            Err(SubmitError::TooManyPages { needed: cost.pages, available: budget.pages })
        } else {
            Err(SubmitError::TooManyRows { needed: cost.rows, available: budget.rows })
        }
    }

    /// The model, once it has been loaded.
    pub fn model(&self) -> Option<Arc<Model>> {
        self.shared.model.get().cloned()
    }

    /// Follows where the engine stands.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Whether jobs are taken.
    pub fn is_ready(&self) -> bool {
        self.readiness().is_ok() && !self.is_draining()
    }

    /// Whether the model is loaded, has taken its last step well, and the worker comes round to its work.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self) -> Result<(), NotReady> {
        match *self.shared.phase.borrow() {
            Phase::Loading => Err(NotReady::Loading),
            Phase::Failed(_) | Phase::Stopped => Err(NotReady::Stopped),
            Phase::Ready if self.shared.is_stalled() => Err(NotReady::Stalled),
            Phase::Ready => Ok(()),
        }
    }

    /// Whether the worker is there, or has been told to go.
    pub fn is_alive(&self) -> bool {
        self.is_draining() || !matches!(*self.shared.phase.borrow(), Phase::Failed(_) | Phase::Stopped)
    }

    /// The text that collectors read.
    pub fn render_metrics(&self) -> String {
        let metrics = &self.shared.metrics;
        metrics.engine.places_used.set(self.shared.in_flight() as f64);
        metrics.engine.ready.set(f64::from(self.is_ready()));
        metrics.render()
    }

    /// Whether the engine is on its way to its end.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// How the pages were used after the last step.
    pub fn page_use(&self) -> PageUse {
        self.shared.page_use()
    }

    /// Generations that run.
    pub fn active(&self) -> usize {
        self.shared.active()
    }

    /// Generations that wait.
    pub fn queued(&self) -> usize {
        self.shared.waiting()
    }

    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.send(command).map_err(|_| SubmitError::NotReady(NotReady::Stopped))
    }

    /// Takes no new jobs; those in the house may go on for `grace`, then fail. Returns when the worker has ended, or
    /// has not noticed within a few seconds more because it is in the middle of a long step.
    pub async fn drain(&self, grace: Duration) {
        /// A step that is under way when the grace ends.
        const LAST_STEP: Duration = Duration::from_secs(5);
        self.shared.start_draining();
        let mut phase = self.phase();
        // The worker may be gone already; then there is nothing to wait for.
        let _ = self.commands.send(Command::Drain { until: Instant::now() + grace });
        let ended = phase.wait_for(|phase| match phase {
            Phase::Ready => false,
            // Loading cannot be interrupted, and nobody waits for it.
            Phase::Loading => self.shared.in_flight() == 0,
            Phase::Failed(_) | Phase::Stopped => true,
        });
        if tokio::time::timeout(grace + LAST_STEP, ended).await.is_err() {
            tracing::warn!("the worker is still in a step: leaving without it");
        }
    }
}

/// What a generation needs: its pages, and the rows of a step that cannot be divided. Prompts, blocks that are computed
/// again and drafts take what the jobs of a step leave of its rows; the denoiser divides them over several steps, so
/// that no step has more rows than the budget.
fn cost(canvas: &Canvas) -> Cost {
    Cost { pages: pages_needed(canvas), rows: rows_needed(canvas) }
}

/// Names a canvas in logs.
fn name(id: CanvasId) -> String {
    format!("{id:?}")
}
