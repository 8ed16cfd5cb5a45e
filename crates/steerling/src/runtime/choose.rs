//! From the logits of a forward to what each canvas commits.

use candle_core::Tensor;

use super::drafts::{self, State};
use super::worth::Beside;
use super::{Runtime, not_admitted};
use crate::Result;
use crate::canvas::{Canvas, Choice};
use crate::decode::{DevicePlan, Predictions};
use crate::gpu::{self, RowResult};
use crate::profile::Part;

/// Where the rows of a forward's states are, state by state.
enum Logits<'a> {
    Host {
        rest: &'a mut [f32],
        vocab: usize,
    },
    /// What the device made of them.
    Device(&'a [RowResult]),
}

impl Runtime {
    /// What each canvas commits, step by step, from the logits of the forward: the step of its own state, and those of the
    /// guessed states that it has come to by then.
    pub(super) fn choose(
        &mut self,
        batch: &[&mut Canvas],
        states: &[State],
        beside: Beside,
    ) -> Result<Vec<Vec<Vec<Choice>>>> {
        let vocab = self.model.info().config.vocab_size;
        let profile = self.model.backbone().profile();
        let mut steps: Vec<Vec<Vec<Choice>>> = vec![Vec::new(); batch.len()];
        let guesses: Vec<usize> =
            states.iter().map(|state| drafts::wanted(state.of(batch), state, &self.worth, beside)).collect();
        let results = match self.device_logits.take() {
            Some(logits) => Some(profile.time(Part::Sampling, || on_device(batch, states, &guesses, &logits))?),
            None => None,
        };
        let mut logits = match &results {
            Some(results) => Logits::Device(results),
            None => Logits::Host { rest: &mut self.logits, vocab },
        };
        let mut of_one = |(state, guesses): (&State, &usize)| -> Result<()> {
            let rows = logits.take(state);
            let taken = &mut steps[state.canvas];
            let canvas = state.of(batch);
            if let Some(draft) = &state.draft {
                let Some(right) = draft.verify(taken) else { return Ok(()) };
                self.worth.verified(right);
                if !right {
                    return Ok(());
                }
            }
            let predictions = match rows {
                Logits::Host { rest, vocab } => {
                    let (conditional, unconditional) = rest.split_at_mut(state.masked.len() * vocab);
                    let unconditional = state.guided.then_some(&*unconditional);
                    Predictions::read(canvas, &state.masked, conditional, unconditional)?
                }
                Logits::Device(results) => Predictions::from_device(canvas, &state.masked, results)?,
            };
            taken.push(predictions.choices());
            let sequence = self.sequences.get_mut(&canvas.id()).ok_or_else(|| not_admitted(canvas))?;
            sequence.guess(canvas.step() + 1, predictions.guesses(*guesses));
            Ok(())
        };
        profile.time(Part::Sampling, || states.iter().zip(&guesses).try_for_each(&mut of_one))?;
        Ok(steps)
    }
}

impl<'a> Logits<'a> {
    /// The rows of the next state.
    fn take(&mut self, state: &State) -> Logits<'a> {
        match self {
            Self::Host { rest, vocab } => {
                let (own, after) = std::mem::take(rest).split_at_mut(state.rows() * *vocab);
                *rest = after;
                Logits::Host { rest: own, vocab: *vocab }
            }
            Self::Device(results) => {
                let (own, after) = results.split_at(state.masked.len());
                *results = after;
                Logits::Device(own)
            }
        }
    }
}

/// What the device makes of all states, whether or not their canvases come to them: the only wait for it in a step.
fn on_device(batch: &[&mut Canvas], states: &[State], guesses: &[usize], logits: &Tensor) -> Result<Vec<RowResult>> {
    let mut plan = DevicePlan::default();
    let mut first = 0;
    for (state, guesses) in states.iter().zip(guesses) {
        plan.push(state.of(batch), &state.masked, first, *guesses);
        first += state.rows();
    }
    let vocab = logits.dim(1)?;
    let suppressions = match plan.suppressions.len() / vocab {
        0 => None,
        count => Some(Tensor::from_vec(plan.suppressions, (count, vocab), logits.device())?),
    };
    gpu::choose(logits, &plan.rows, suppressions.as_ref(), plan.columns)
}
