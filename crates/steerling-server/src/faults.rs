//! Faults on purpose, for tests of the whole program: never part of an ordinary build.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use steerling::cache::PageUse;
use steerling::canvas::CanvasId;
use steerling::{Canvas, Denoiser, Error, Limits, Result, Runtime};

/// Which steps fail.
#[derive(Debug, Clone, Copy, Args)]
pub struct FaultOptions {
    /// Every so many steps one fails: a panic, an error, no memory, logits that are no numbers, in turn; 0 for none
    #[arg(long, env = "STEERLING_INJECT_FAULTS", default_value_t = 0)]
    pub inject_faults: u64,
}

/// Steps so far, over all loads of the model.
#[derive(Debug, Clone, Default)]
pub struct StepCount(Arc<AtomicU64>);

/// A denoiser some of whose steps fail.
pub struct Faulty<D> {
    /// The real one.
    pub inner: D,
    /// Which steps fail.
    pub options: FaultOptions,
    /// Steps so far.
    pub steps: StepCount,
}

impl<D: Denoiser> Denoiser for Faulty<D> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn admit(&mut self, canvas: &mut Canvas) -> Result<bool> {
        self.inner.admit(canvas)
    }

    fn step(&mut self, batch: &mut [&mut Canvas]) -> Result<()> {
        let (step, every) = (self.steps.0.fetch_add(1, Ordering::Relaxed) + 1, self.options.inject_faults);
        // The warm-up is no step of a request.
        let warm_up = batch.iter().all(|canvas| canvas.params().max_new_tokens == 1);
        if every == 0 || warm_up || !step.is_multiple_of(every) {
            return self.inner.step(batch);
        }
        let device = |message: &str| Err(candle_core::Error::Msg(format!("injected: {message}")).into());
        match step / every % 4 {
            0 => panic!("injected"),
            1 => device("the device failed"),
            2 => device("out of memory"),
            _ => Err(Error::NonFinite { canvas: batch[0].id(), position: 0 }),
        }
    }

    fn limit_rows(&mut self, rows: usize) {
        self.inner.limit_rows(rows);
    }

    fn release(&mut self, id: CanvasId) {
        self.inner.release(id);
    }

    fn page_use(&self) -> PageUse {
        self.inner.page_use()
    }

    fn runtime(&mut self) -> Option<&mut Runtime> {
        self.inner.runtime()
    }
}
