//! The worker thread: receive, drop who left, admit, one step for all, tell everyone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use steerling::canvas::CanvasId;
use steerling::{Canvas, Denoiser, Error, GenerateParams, Result};

use super::fault::{Fault, Record};
use super::job::{Failure, Job};
use super::pace::Pace;
use super::schedule::{Admission, Budget, Schedule};
use super::shared::Shared;
use super::task::{Slice, Task};
use super::turns::{Turn, Turns};
use super::{Loaded, Model, Phase, cost, name};

/// Attempts to load the model again after a failure, before the worker gives up and the process ends.
const RELOADS: u32 = 3;

/// What the worker is told.
pub(super) enum Command {
    /// A new job.
    Job(Box<Job>),
    /// Work that is not a generation.
    Task(Box<dyn Task>),
    /// No more jobs come; those that are not finished by then fail.
    Drain {
        /// The end of the grace.
        until: Instant,
    },
}

pub(super) struct Worker<B> {
    build: B,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    schedule: Schedule<Job>,
    /// Tasks, of which one has a slice each round.
    tasks: Turns<Box<dyn Task>>,
    drain_until: Option<Instant>,
    pace: Pace,
    /// Of the last step.
    last_rows: usize,
    /// Halved when the device runs out of memory.
    most_active: usize,
    faults: Record,
}

/// Why serving ended.
enum End {
    Stopped,
    /// The model is to be loaded again.
    Broken,
    /// It has been loaded again too often.
    Hopeless(String),
}

impl<D, B> Worker<B>
where
    D: Denoiser,
    B: Fn() -> Result<Loaded<D>>,
{
    pub(super) fn new(build: B, shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let jobs = shared.options.max_batch.max(1);
        // The device says what it has once it is there.
        let schedule = Schedule::new(Budget { jobs, pages: usize::MAX, rows: usize::MAX });
        let most_active = shared.options.max_active.unwrap_or(jobs).clamp(1, jobs);
        let faults = Record::new(shared.options.max_faults);
        let (tasks, pace) = (Turns::new(), Pace::default());
        Self { build, shared, commands, schedule, tasks, drain_until: None, pace, last_rows: 0, most_active, faults }
    }

    pub(super) fn run(mut self) {
        let mut attempts = 1;
        let end = loop {
            match self.load(attempts) {
                Ok(denoiser) => match self.serve(denoiser) {
                    End::Stopped => break Phase::Stopped,
                    End::Broken => attempts = RELOADS,
                    End::Hopeless(message) => break Phase::Failed(message),
                },
                Err(message) => break Phase::Failed(message),
            }
        };
        self.shared.metrics.engine.ready.set(0.0);
        let failure = || if end == Phase::Stopped { Failure::ShuttingDown } else { Failure::Internal };
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        let left = self.schedule.remove(|_| true);
        left.waiting.into_iter().chain(left.active).for_each(|job| job.fail(failure()));
        self.tasks.drain().for_each(|mut task| task.fail(failure()));
        self.tell_load();
        self.shared.phase.send_replace(end);
    }

    /// Builds the denoiser and lets it take one step, so that whoever is told "ready" finds it warm.
    fn load(&mut self, attempts: u32) -> Result<D, String> {
        self.enter(Phase::Loading);
        let mut attempt = 1;
        loop {
            let message = match catch_unwind(AssertUnwindSafe(|| self.build_and_warm_up())) {
                Ok(Ok(denoiser)) => {
                    self.shared.metrics.engine.model_loads.increment(1);
                    self.enter(Phase::Ready);
                    return Ok(denoiser);
                }
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panic: {}", panic_message(&*panic)),
            };
            tracing::error!(attempt, error = %message, "the model could not be loaded");
            if attempt >= attempts {
                return Err(message);
            }
            std::thread::sleep(Duration::from_secs(1 << attempt.min(5)));
            attempt += 1;
        }
    }

    fn enter(&self, phase: Phase) {
        self.shared.metrics.engine.ready.set(f64::from(phase == Phase::Ready));
        self.shared.phase.send_replace(phase);
    }

    fn build_and_warm_up(&mut self) -> Result<D> {
        let started = Instant::now();
        let Loaded { mut denoiser, info, tokenizer, catalog } = (self.build)()?;
        let limits = denoiser.limits();
        let params = GenerateParams { max_new_tokens: 1, ..GenerateParams::default() };
        let mut canvas = Canvas::new(&[0], params, &limits.canvas)?;
        denoiser.admit(&mut canvas)?;
        while canvas.finish_reason().is_none() {
            denoiser.step(&mut [&mut canvas])?;
        }
        denoiser.release(canvas.id());
        denoiser.limit_rows(self.shared.options.max_rows);
        tracing::info!(
            model = %info.name, device = %info.device, dtype = %info.dtype, parameters = info.parameters,
            seconds = started.elapsed().as_secs_f64(), "model ready"
        );
        self.schedule.set_budget(self.shared.budget(&limits));
        self.shared.model.get_or_init(|| Arc::new(Model { info, tokenizer, catalog, limits }));
        Ok(denoiser)
    }

    fn serve(&mut self, mut denoiser: D) -> End {
        self.tell_pages(&denoiser);
        self.limit_next();
        while self.receive() {
            let (fault, message) = match catch_unwind(AssertUnwindSafe(|| self.tick(&mut denoiser))) {
                Ok(Ok(())) => continue,
                Ok(Err(Error::NonFinite { canvas, position })) => {
                    self.drop_unusable(&mut denoiser, canvas, position);
                    continue;
                }
                Ok(Err(error)) => (Fault::from(&error), error.to_string()),
                Err(panic) => (Fault::Panic, format!("panic: {}", panic_message(&*panic))),
            };
            self.shared.metrics.engine.fault(fault);
            let failed = self.schedule.remove_active(|_| true);
            tracing::error!(kind = fault.as_str(), error = %message, failed = failed.len(), "a step failed");
            // Not ready before anyone is told, so that a retry finds an honest answer.
            self.enter(Phase::Loading);
            self.tell_load();
            failed.into_iter().for_each(|job| job.fail(Failure::Fault(fault)));
            self.tasks.drain().for_each(|mut task| task.fail(Failure::Fault(fault)));
            // A broken device may fail again while its memory is given back.
            if catch_unwind(AssertUnwindSafe(|| drop(denoiser))).is_err() {
                tracing::error!("the failed model could not be dropped cleanly");
            }
            if self.faults.add(Instant::now()) {
                tracing::error!("too many failed steps within ten minutes: giving up");
                return End::Hopeless(format!("steps failed too often, the last time with: {message}"));
            }
            if fault == Fault::OutOfMemory {
                self.most_active = (self.most_active / 2).max(1);
                tracing::warn!(most_active = self.most_active, "fewer generations share a step from now on");
            }
            return End::Broken;
        }
        End::Stopped
    }

    /// Takes in what has arrived, blocking while there is nothing to do. Whether to go on.
    fn receive(&mut self) -> bool {
        if self.schedule.is_empty() && self.tasks.is_empty() {
            self.tell_load();
            self.shared.beat(true);
            let next = match self.drain_until {
                None => self.commands.recv().ok(),
                Some(until) => self.last_command(until),
            };
            match next {
                Some(command) => self.take(command),
                None => return false,
            }
        }
        self.shared.beat(false);
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        true
    }

    /// While draining: what requests that were admitted still hand in, after their planning or their generation.
    fn last_command(&self, until: Instant) -> Option<Command> {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        while self.shared.expects_work() && Instant::now() < until {
            match self.commands.recv_timeout(LOOK_AGAIN) {
                Ok(command) => return Some(command),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.commands.try_recv().ok()
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Job(job) => {
                let (cost, priority) = (cost(&job.generation.canvas), job.priority);
                self.schedule.push(*job, cost, priority);
            }
            Command::Task(task) => {
                let size = task.size();
                self.tasks.push(task, size);
            }
            Command::Drain { until } => self.drain_until = Some(until),
        }
    }

    fn tick(&mut self, denoiser: &mut D) -> Result<()> {
        self.sweep(denoiser, Instant::now());
        if !self.tasks.needs_room() {
            self.admit(denoiser);
        }
        self.advance_tasks(denoiser);
        let started = Instant::now();
        let mut batch: Vec<&mut Canvas> = self.schedule.running_mut().map(|job| &mut job.generation.canvas).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let before = rows(&batch);
        denoiser.step(&mut batch)?;
        // A step has no part for a canvas whose rows it has no room for.
        let rows: Vec<usize> = rows(&batch).into_iter().zip(before).map(|(after, before)| after - before).collect();
        let (sequences, rows) = (rows.iter().filter(|rows| **rows > 0).count(), rows.iter().sum());
        let now = Instant::now();
        // Before anyone is told, so that whoever reads an end finds its steps counted.
        self.measure(sequences, rows, now - started);
        self.publish(denoiser, now);
        self.limit_next();
        Ok(())
    }

    fn measure(&mut self, sequences: usize, rows: usize, time: Duration) {
        let metrics = &self.shared.metrics.engine;
        metrics.step_seconds.record(time);
        metrics.step_rows.record(rows as f64);
        metrics.step_sequences.record(sequences as f64);
        self.last_rows = rows;
        self.pace.observe(sequences, rows, time.as_secs_f64());
    }

    /// Lets as many sequences share the next step as the steps so far say are worth it.
    fn limit_next(&mut self) {
        let measured = match self.shared.options.max_active {
            Some(_) => None,
            None => self.pace.sequences(),
        };
        let limit = measured.unwrap_or(usize::MAX).min(self.most_active);
        self.shared.metrics.engine.active_limit.set(limit as f64);
        self.schedule.set_limit(limit);
    }

    /// One slice of other work, so that generations keep their pace, and new work is heard of before the next.
    fn advance_tasks(&mut self, denoiser: &mut D) {
        if self.tasks.is_empty() {
            return;
        }
        let beside = self.schedule.active_len() > 0;
        if let Some(runtime) = denoiser.runtime() {
            runtime.share_with(beside.then_some(self.last_rows));
        }
        let metrics = &self.shared.metrics.engine;
        self.tasks.advance(|task| {
            let (kind, started) = (task.kind(), Instant::now());
            let slice = task.advance(denoiser.runtime());
            match slice {
                Slice::Blocked if beside => return Turn::NoRoom,
                // Against its contract, an empty model has no room: waiting would be for ever.
                Slice::Blocked => task.fail(Failure::Internal),
                Slice::Failed(fault) => metrics.fault(fault),
                Slice::More | Slice::Done => {}
            }
            metrics.slice(kind, started.elapsed());
            if matches!(slice, Slice::More) { Turn::More } else { Turn::Done }
        });
    }

    /// Ends jobs that nobody waits for, or whose time is up.
    fn sweep(&mut self, denoiser: &mut D, now: Instant) {
        let shutting_down = self.drain_until.is_some_and(|until| until <= now);
        self.tasks.retain_mut(|task| {
            let late = task.deadline() <= now;
            if late || shutting_down {
                task.fail(if late { Failure::Deadline } else { Failure::ShuttingDown });
            }
            !task.is_closed()
        });
        let removed = self.schedule.remove(|job| shutting_down || job.deadline <= now || job.mailbox.is_closed());
        removed.active.iter().for_each(|job| denoiser.release(job.id()));
        if !removed.active.is_empty() {
            self.tell_pages(denoiser);
        }
        self.tell_load();
        for job in removed.waiting.into_iter().chain(removed.active) {
            if job.mailbox.is_closed() {
                job.span.in_scope(|| tracing::debug!(job = name(job.id()), "cancelled: nobody reads"));
            }
            let failure = if job.deadline <= now { Failure::Deadline } else { Failure::ShuttingDown };
            job.fail(failure);
        }
    }

    fn admit(&mut self, denoiser: &mut D) {
        let now = Instant::now();
        loop {
            let metrics = &self.shared.metrics.engine;
            let admitted = self.schedule.admit(|job| {
                if !denoiser.admit(&mut job.generation.canvas)? {
                    return Ok(Admission::NoRoom);
                }
                metrics.queue_seconds.record(now - job.clock.submitted);
                job.start(now);
                Ok(Admission::Admitted)
            });
            match admitted {
                Ok(()) => break,
                Err((job, error)) => job.fail(Failure::Refused(error)),
            }
        }
        self.tell_load();
        // Against its contract, an empty denoiser refuses a job that was not too large: waiting would be for ever.
        if self.schedule.active_len() == 0
            && let Some(job) = self.schedule.pop_waiting()
        {
            tracing::error!(job = name(job.id()), "an empty device has no room for this job");
            job.fail(Failure::Internal);
        }
    }

    fn publish(&mut self, denoiser: &mut D, now: Instant) {
        let metrics = &self.shared.metrics.engine;
        for job in self.schedule.running_mut() {
            let waiting = job.clock.first_commit.is_none();
            let tokens = job.after_step(now);
            metrics.tokens.increment(tokens as u64);
            if let Some(first) = job.clock.first_commit.filter(|_| waiting) {
                metrics.first_block_seconds.record(first - job.clock.submitted);
            }
        }
        self.schedule.rotate(|job| job.block_ended);
        let finished = self.schedule.remove_active(|job| job.outcome.is_some());
        finished.iter().for_each(|job| denoiser.release(job.id()));
        self.tell_load();
        self.tell_pages(denoiser);
        for job in finished {
            let canvas = &job.generation.canvas;
            let metrics = &self.shared.metrics.engine;
            metrics.tokens_per_forward.record(canvas.usage.tokens_per_forward(canvas.commits().len()));
            metrics.prefix_blocks.increment((canvas.prompt_len() / canvas.block_size()) as u64);
            metrics.prefix_hits.increment(canvas.usage.cached_blocks as u64);
            job.finish(now);
        }
    }

    /// Ends the one generation whose logits cannot be used; its neighbours' step is taken again without it.
    fn drop_unusable(&mut self, denoiser: &mut D, canvas: CanvasId, position: usize) {
        self.shared.metrics.engine.fault(Fault::NonFinite);
        for job in self.schedule.remove_active(|job| job.id() == canvas) {
            job.span.in_scope(|| tracing::error!(position, "the logits are not finite numbers"));
            denoiser.release(job.id());
            self.tell_pages(denoiser);
            let steered = job.generation.canvas.steering().is_some();
            job.fail(Failure::NonFinite { steered });
        }
    }

    fn tell_load(&self) {
        let (active, waiting) = (self.schedule.active_len(), self.schedule.waiting_len());
        self.shared.set_active(active);
        self.shared.metrics.engine.jobs_active.set(active as f64);
        self.shared.metrics.engine.jobs_waiting.set(waiting as f64);
    }

    fn tell_pages(&self, denoiser: &D) {
        let pages = denoiser.page_use();
        self.shared.set_page_use(pages);
        self.shared.metrics.engine.pages(&pages, denoiser.limits().page_bytes);
    }
}

/// Rows that each of these canvases has cost so far.
fn rows(batch: &[&mut Canvas]) -> Vec<usize> {
    batch.iter().map(|canvas| canvas.usage.rows).collect()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
