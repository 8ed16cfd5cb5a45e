//! The engine: a handle for many tasks, one worker thread that owns the model and its device.

mod job;
mod mailbox;
mod schedule;
mod shared;
mod task;
mod worker;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use steerling::canvas::CanvasId;
use steerling::catalog::Catalog;
use steerling::{Denoiser, Generation, Limits, ModelInfo, Result, Runtime, Tokenizer, pages_needed};
use tokio::sync::{OwnedSemaphorePermit, watch};

use job::{Clock, Job};
use shared::Shared;
use task::Work;
use worker::{Command, Worker};

pub use job::{Failure, Finished, Timings};
pub use mailbox::{Message, Receiver, merge};

/// How many generations the engine takes.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Generations that run at once.
    pub max_batch: usize,
    /// Generations that wait.
    pub max_queue: usize,
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
    /// The model is not loaded yet.
    NotReady,
    /// No new jobs are taken.
    ShuttingDown,
    /// Queue and batch are full.
    Overloaded {
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// It would not even fit alone.
    TooLarge {
        /// Pages of keys and values that it needs.
        needed: usize,
        /// Pages that there are.
        available: usize,
    },
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
    /// # Errors
    /// When the operating system gives no thread.
    pub fn spawn<D, B>(options: EngineOptions, build: B) -> std::io::Result<Self>
    where
        D: Denoiser + 'static,
        B: Fn() -> Result<Loaded<D>> + Send + 'static,
    {
        let (commands, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new(options));
        let worker = Worker::new(build, shared.clone(), receiver);
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || worker.run())?;
        Ok(Self { shared, commands })
    }

    /// Hands in a generation, to be finished by `deadline`.
    ///
    /// # Errors
    /// At once if it cannot be taken; nothing waits for a place in the queue.
    pub fn submit(&self, generation: Generation, deadline: Instant) -> Result<Receiver, SubmitError> {
        self.check_open()?;
        self.check_size(&generation)?;
        self.reserve(1)?.submit(generation, deadline)
    }

    /// Has `work` done on the model, between the steps of generations: it is called again and again until it has the
    /// answer, and should do no more at a time than a step takes.
    ///
    /// # Errors
    /// At once if it cannot be taken; nothing waits for a place. The future yields the failure of the work itself.
    pub fn run<T, F>(
        &self,
        deadline: Instant,
        work: F,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        let mut places = self.reserve(1)?;
        let permit = places.permits.split(1);
        places.start(deadline, work, permit)
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
            None => Err(SubmitError::Overloaded { retry_after: self.shared.retry_after() }),
        }
    }

    /// Refuses while nothing is taken.
    fn check_open(&self) -> Result<(), SubmitError> {
        if self.is_draining() {
            return Err(SubmitError::ShuttingDown);
        }
        if self.is_ready() { Ok(()) } else { Err(SubmitError::NotReady) }
    }

    /// Refuses a generation that would not even fit alone.
    fn check_size(&self, generation: &Generation) -> Result<(), SubmitError> {
        let model = self.model().ok_or(SubmitError::NotReady)?;
        let needed = pages_needed(&generation.canvas);
        if needed > model.limits.pages {
            return Err(SubmitError::TooLarge { needed, available: model.limits.pages });
        }
        Ok(())
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
        *self.shared.phase.borrow() == Phase::Ready && !self.is_draining()
    }

    /// Whether the engine is on its way to its end.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Generations that run.
    pub fn active(&self) -> usize {
        self.shared.active()
    }

    /// Generations that wait.
    pub fn queued(&self) -> usize {
        self.shared.in_flight().saturating_sub(self.shared.active())
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
    pub fn submit(&mut self, generation: Generation, deadline: Instant) -> Result<Receiver, SubmitError> {
        self.engine.check_size(&generation)?;
        let overloaded = || SubmitError::Overloaded { retry_after: self.engine.shared.retry_after() };
        let permit = self.permits.split(1).ok_or_else(overloaded)?;
        let (mailbox, receiver) = mailbox::mailbox();
        let clock = Clock::new(Instant::now());
        let job = Job { generation, mailbox, permit, deadline, clock, outcome: None };
        self.engine.commands.send(Command::Job(Box::new(job))).map_err(|_| SubmitError::NotReady)?;
        Ok(receiver)
    }

    /// As [`EngineHandle::run`], for a request that has its places already, or had them: it takes none.
    ///
    /// # Errors
    /// If the worker is gone. The future yields the failure of the work itself.
    pub fn run<T, F>(
        &self,
        deadline: Instant,
        work: F,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        self.start(deadline, work, None)
    }

    fn start<T, F>(
        &self,
        deadline: Instant,
        work: F,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<impl Future<Output = Result<T, Failure>> + use<T, F>, SubmitError>
    where
        T: Send + 'static,
        F: FnMut(&mut Runtime) -> Result<Option<T>> + Send + 'static,
    {
        let (task, answer) = Work::new(work, deadline, permit);
        self.engine.commands.send(Command::Task(Box::new(task))).map_err(|_| SubmitError::NotReady)?;
        // A worker that is gone without an answer has failed.
        Ok(async { answer.await.unwrap_or(Err(Failure::Internal)) })
    }
}

/// Names a canvas in logs.
fn name(id: CanvasId) -> String {
    format!("{id:?}")
}
