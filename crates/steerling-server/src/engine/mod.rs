//! The engine: a handle for many tasks, one worker thread that owns the model and its device.

mod departures;
mod fault;
mod job;
mod mailbox;
mod pace;
mod schedule;
mod shared;
mod task;
mod worker;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use steerling::cache::PageUse;
use steerling::canvas::CanvasId;
use steerling::catalog::Catalog;
use steerling::{Canvas, Denoiser, Generation, Limits, ModelInfo, Result, Runtime, Tokenizer, pages_needed};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use job::{Clock, Job};
use schedule::Cost;
use shared::Shared;
use task::{Task, Work};
use worker::{Command, Worker};

use crate::metrics::Metrics;

pub use fault::Fault;
pub use job::{Failure, Finished, Timings};
pub use mailbox::{Message, Receiver, merge};
pub use schedule::Priority;
pub use task::WorkKind;

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
        let least = limits.prefill_rows + limits.canvas.block_size;
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
    /// Queue and batch are full.
    Overloaded {
        /// When a place is likely to be free.
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
        /// Rows that a step may have beside those of prompts.
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

    /// Has `work` done on the model, between the steps of generations: it is called again and again until it has the
    /// answer, and should do no more at a time than a step takes.
    ///
    /// # Errors
    /// At once if it cannot be taken; nothing waits for a place. The future yields the failure of the work itself.
    pub fn run<T, F>(
        &self,
        kind: WorkKind,
        deadline: Instant,
        work: F,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        let mut places = self.reserve(1)?;
        let permit = places.permits.split(1);
        let (task, answer) = Work::new(work, kind, deadline, permit);
        places.start(task)?;
        Ok(until(deadline, answer))
    }

    /// Sets aside `n` places in queue and batch, so that what a request needs in turn cannot be refused half-way.
    ///
    /// # Errors
    /// If there are not as many free, or no jobs are taken.
    pub fn reserve(&self, n: usize) -> Result<Places, SubmitError> {
        self.check_open()?;
        let permits = u32::try_from(n).ok().and_then(|n| self.shared.places.clone().try_acquire_many_owned(n).ok());
        match permits {
            Some(permits) => Ok(Places { engine: self.clone(), permits }),
            None => Err(SubmitError::Overloaded { retry_after: self.shared.retry_after(n) }),
        }
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
        self.shared.in_flight().saturating_sub(self.shared.active())
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

/// Places in queue and batch that a request holds.
pub struct Places {
    engine: EngineHandle,
    permits: OwnedSemaphorePermit,
}

impl Places {
    /// Hands in a generation, to be finished by `deadline`, in one of the places.
    ///
    /// # Errors
    /// If it cannot be taken.
    pub fn submit(
        &mut self,
        generation: Generation,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Receiver, SubmitError> {
        self.engine.check_size(&generation)?;
        let overloaded = || SubmitError::Overloaded { retry_after: self.engine.shared.retry_after(1) };
        let permit = self.permits.split(1).ok_or_else(overloaded)?;
        let (mailbox, receiver) = mailbox::mailbox(deadline);
        let job = Job {
            generation,
            mailbox,
            permit,
            priority,
            deadline,
            clock: Clock::new(Instant::now()),
            block_ended: false,
            outcome: None,
            span: tracing::Span::current(),
        };
        self.engine.send(Command::Job(Box::new(job)))?;
        Ok(receiver)
    }

    /// As [`EngineHandle::run`], for a request that has its places already, or had them: it takes none.
    ///
    /// # Errors
    /// If the worker is gone. The future yields the failure of the work itself.
    pub fn run<T, F>(
        &self,
        kind: WorkKind,
        deadline: Instant,
        work: F,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        let (task, answer) = Work::new(work, kind, deadline, None);
        self.start(task)?;
        Ok(until(deadline, answer))
    }

    fn start(&self, task: impl Task + 'static) -> Result<(), SubmitError> {
        self.engine.send(Command::Task(Box::new(task)))
    }
}

/// The answer, or the deadline even if the worker is in the middle of a long step.
async fn until<T>(deadline: Instant, answer: oneshot::Receiver<Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout_at(deadline.into(), answer).await {
        // A worker that is gone without an answer has failed.
        Ok(answer) => answer.unwrap_or(Err(Failure::Internal)),
        Err(_) => Err(Failure::Deadline),
    }
}

/// Attention blocks of a sequence that a step computes at most, once its prompt is done: those that a generation block
/// touches, and the one before, once more, when it is finished.
const BLOCKS_OF_STEP: usize = 3;

/// What a generation needs at its worst. Guessed steps are no part of it: they take what the jobs of a step leave of its
/// rows, and pages that are not set aside.
fn cost(canvas: &Canvas) -> Cost {
    let pages = pages_needed(canvas);
    let sequences = pages / canvas.num_attention_blocks().max(1);
    let blocks = canvas.num_attention_blocks().min(BLOCKS_OF_STEP);
    Cost { pages, rows: sequences * blocks * canvas.block_size() }
}

/// Names a canvas in logs.
fn name(id: CanvasId) -> String {
    format!("{id:?}")
}
