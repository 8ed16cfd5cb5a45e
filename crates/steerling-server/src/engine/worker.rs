//! The worker thread: receive, drop who left, admit, one step for all, tell everyone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use steerling::{Canvas, Denoiser, GenerateParams, Result};

use super::job::{Failure, Job};
use super::schedule::{Admission, Schedule};
use super::shared::Shared;
use super::task::{Slice, Task};
use super::{Loaded, Model, Phase, name};

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
    /// Tasks, each of which gets one slice a round.
    tasks: VecDeque<Box<dyn Task>>,
    drain_until: Option<Instant>,
}

/// Why serving ended.
enum End {
    Stopped,
    Broken,
}

impl<D, B> Worker<B>
where
    D: Denoiser,
    B: Fn() -> Result<Loaded<D>>,
{
    pub(super) fn new(build: B, shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let schedule = Schedule::new(shared.options.max_batch);
        Self { build, shared, commands, schedule, tasks: VecDeque::new(), drain_until: None }
    }

    pub(super) fn run(mut self) {
        let mut attempts = 1;
        let end = loop {
            match self.load(attempts) {
                Ok(denoiser) => match self.serve(denoiser) {
                    End::Stopped => break Phase::Stopped,
                    End::Broken => attempts = RELOADS,
                },
                Err(message) => break Phase::Failed(message),
            }
        };
        let failure = || if end == Phase::Stopped { Failure::ShuttingDown } else { Failure::Internal };
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        let left = self.schedule.remove(|_| true);
        left.waiting.into_iter().chain(left.active).for_each(|job| job.fail(failure()));
        self.tasks.drain(..).for_each(|mut task| task.fail(failure()));
        self.shared.phase.send_replace(end);
    }

    /// Builds the denoiser and lets it take one step, so that whoever is told "ready" finds it warm.
    fn load(&mut self, attempts: u32) -> Result<D, String> {
        self.shared.phase.send_replace(Phase::Loading);
        let mut attempt = 1;
        loop {
            let message = match catch_unwind(AssertUnwindSafe(|| self.build_and_warm_up())) {
                Ok(Ok(denoiser)) => {
                    self.shared.phase.send_replace(Phase::Ready);
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

    fn build_and_warm_up(&self) -> Result<D> {
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
        tracing::info!(
            model = %info.name, device = %info.device, dtype = %info.dtype, parameters = info.parameters,
            seconds = started.elapsed().as_secs_f64(), "model ready"
        );
        self.shared.model.get_or_init(|| Arc::new(Model { info, tokenizer, catalog, limits }));
        Ok(denoiser)
    }

    fn serve(&mut self, mut denoiser: D) -> End {
        while self.receive() {
            let message = match catch_unwind(AssertUnwindSafe(|| self.tick(&mut denoiser))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panic: {}", panic_message(&*panic)),
            };
            let failed = self.schedule.remove_active(|_| true);
            tracing::error!(error = %message, failed = failed.len(), "a step failed: loading the model again");
            // Not ready before anyone is told, so that a retry finds an honest answer.
            self.shared.phase.send_replace(Phase::Loading);
            self.shared.set_active(0);
            failed.into_iter().for_each(|job| job.fail(Failure::Internal));
            self.tasks.drain(..).for_each(|mut task| task.fail(Failure::Internal));
            // A broken device may fail again while its memory is given back.
            if catch_unwind(AssertUnwindSafe(|| drop(denoiser))).is_err() {
                tracing::error!("the failed model could not be dropped cleanly");
            }
            return End::Broken;
        }
        End::Stopped
    }

    /// Takes in what has arrived, blocking while there is nothing to do. Whether to go on.
    fn receive(&mut self) -> bool {
        if self.schedule.is_empty() && self.tasks.is_empty() {
            self.shared.set_active(0);
            if self.drain_until.is_some() {
                return false;
            }
            match self.commands.recv() {
                Ok(command) => self.take(command),
                Err(mpsc::RecvError) => return false,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        true
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Job(job) => self.schedule.push(*job),
            Command::Task(task) => self.tasks.push_back(task),
            Command::Drain { until } => self.drain_until = Some(until),
        }
    }

    fn tick(&mut self, denoiser: &mut D) -> Result<()> {
        self.sweep(denoiser, Instant::now());
        self.admit(denoiser);
        self.advance_tasks(denoiser);
        let mut batch: Vec<&mut Canvas> =
            self.schedule.active_mut().iter_mut().map(|job| &mut job.generation.canvas).collect();
        if batch.is_empty() {
            return Ok(());
        }
        denoiser.step(&mut batch)?;
        self.publish(denoiser, Instant::now());
        Ok(())
    }

    /// One slice of the task whose turn it is, so that running generations keep their pace; of every task if none runs.
    fn advance_tasks(&mut self, denoiser: &mut D) {
        let slices = if self.schedule.active_len() > 0 { 1 } else { self.tasks.len() };
        for _ in 0..slices {
            let Some(mut task) = self.tasks.pop_front() else { break };
            match task.advance(denoiser.runtime()) {
                Slice::Done => {}
                Slice::More => self.tasks.push_back(task),
                Slice::Blocked if self.schedule.active_len() > 0 => self.tasks.push_back(task),
                // Against its contract, an empty model has no room: waiting would be for ever.
                Slice::Blocked => task.fail(Failure::Internal),
            }
        }
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
        self.shared.set_active(self.schedule.active_len());
        for job in removed.waiting.into_iter().chain(removed.active) {
            if job.mailbox.is_closed() {
                tracing::debug!(job = name(job.id()), "cancelled: nobody reads");
            }
            let failure = if job.deadline <= now { Failure::Deadline } else { Failure::ShuttingDown };
            job.fail(failure);
        }
    }

    fn admit(&mut self, denoiser: &mut D) {
        let now = Instant::now();
        loop {
            let admitted = self.schedule.admit(|job| {
                if !denoiser.admit(&mut job.generation.canvas)? {
                    return Ok(Admission::NoRoom);
                }
                job.start(now);
                Ok(Admission::Admitted)
            });
            match admitted {
                Ok(()) => break,
                Err((job, error)) => job.fail(Failure::Refused(error)),
            }
        }
        self.shared.set_active(self.schedule.active_len());
        // Against its contract, an empty denoiser refuses a job that was not too large: waiting would be for ever.
        if self.schedule.active_len() == 0
            && let Some(job) = self.schedule.pop_waiting()
        {
            tracing::error!(job = name(job.id()), "an empty device has no room for this job");
            job.fail(Failure::Internal);
        }
    }

    fn publish(&mut self, denoiser: &mut D, now: Instant) {
        let batch = self.schedule.active_len();
        let finished = self.schedule.remove_active(|job| job.after_step(now));
        finished.iter().for_each(|job| denoiser.release(job.id()));
        self.shared.set_active(self.schedule.active_len());
        for job in finished {
            self.shared.record(now - job.clock.admitted.unwrap_or(now), batch);
            job.finish(now);
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
