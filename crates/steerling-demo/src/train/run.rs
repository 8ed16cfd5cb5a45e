//! The training loop: every step, each worker writes its share of the batch and computes its gradients.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use super::batch::Batch;
use super::data::Writer;
use super::lift::Lift;
use super::loss::{self, Loss, Phase};
use super::model::{Params, demo_config};
use super::{export, tokenizer};

/// How to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Where the checkpoint goes.
    pub out: PathBuf,
    /// Updates of the weights.
    pub steps: usize,
    /// Go on after so many of them with the weights in `out`; the optimizer's moments begin anew.
    pub resume: Option<usize>,
    /// Sequences of a step.
    pub batch: usize,
    /// Their positions.
    pub length: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Same seed, same model (on the same processor and number of threads).
    pub seed: u64,
    /// Workers; each computes its share of a batch on one thread.
    pub threads: usize,
}

/// Shares of the training at which something begins or ends.
const TEACHER_HOLDS: f64 = 0.15;
const TEACHER_HALVES: f64 = 0.5;
const TEACHER_ENDS: f64 = 0.75;
const STEERING_FROM: f64 = 0.3;
/// From then on every so many steps is one of steered texts.
const STEERING_EVERY: usize = 3;
/// Now and then sequences as long as the context, so that no distance is new to the model.
const LONG_EVERY: usize = 16;
/// Positions of a steered text: a prompt, what is generated from it, and the rest of its block.
const STEERED_LENGTH: usize = 96;
const WARM_UP: f64 = 100.0;
const LAST_RATE: f64 = 0.02;
const LARGEST_GRADIENT: f64 = 1.0;
const WEIGHT_DECAY: f64 = 0.05;

/// Given every update's number and losses.
pub type Record<'a> = &'a mut dyn FnMut(usize, &[(&str, f32)]) -> Result<()>;

/// What a worker returns: its gradients, and the losses for the record.
type Share = (GradStore, Vec<(&'static str, f32)>);

/// Trains and writes the checkpoint; `record` is given each step's losses.
pub fn train(options: &TrainOptions, device: &Device, record: Record) -> Result<()> {
    let tokenizer = tokenizer::train()?;
    let config = demo_config();
    let lift = Lift::count(&Writer { tokenizer: &tokenizer }, config.vocab_size, device)?;
    let mut params = Params::new(config, options.seed, device)?;
    if options.resume.is_some() {
        params.load(&options.out)?;
    }
    let trainer = Trainer { options, params, tokenizer, lift, device };
    let pools = (0..options.threads)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build())
        .collect::<Result<Vec<_>, _>>()?;
    let mut optimizers = optimizers(&trainer.params, options.threads)?;
    let bar = ProgressBar::new(options.steps as u64);
    let start = Instant::now();
    let first = options.resume.unwrap_or(0);
    bar.set_position(first as u64);
    for step in first..options.steps {
        let shares =
            on_each(&mut pools.iter().enumerate(), |(worker, pool)| pool.install(|| trainer.share(step, worker)))?;
        let (grads, losses) = trainer.total(shares)?;
        on_each(&mut pools.iter().zip(&mut optimizers), |(pool, optimizers)| {
            pool.install(|| {
                optimizers.iter_mut().try_for_each(|optimizer| {
                    optimizer.set_learning_rate(options.rate(step));
                    optimizer.step(&grads)
                })
            })?;
            Ok(())
        })?;
        record(step, &losses)?;
        bar.inc(1);
        if step % 500 == 499 {
            export::write(&trainer.params, &trainer.tokenizer, &options.out)?;
            bar.println(format!("step {step} after {:.0} s: {losses:.3?}", start.elapsed().as_secs_f64()));
        }
    }
    export::write(&trainer.params, &trainer.tokenizer, &options.out)
}

/// Runs `f` on a thread for each of `items`, and returns all results in their order.
fn on_each<T: Send, R: Send>(items: &mut dyn Iterator<Item = T>, f: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(|| f(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Each worker updates its share of the weights, by size; norms do not decay.
fn optimizers(params: &Params, workers: usize) -> Result<Vec<[AdamW; 2]>> {
    let mut shares: Vec<(usize, [Vec<Var>; 2])> = (0..workers).map(|_| Default::default()).collect();
    let mut vars: Vec<&Var> = params.vars().map(|(_, var)| var).collect();
    vars.sort_by_key(|var| std::cmp::Reverse(var.elem_count()));
    for var in vars {
        let least = shares.iter_mut().min_by_key(|share| share.0).context("at least one worker")?;
        least.0 += var.elem_count();
        least.1[usize::from(var.rank() > 1)].push(var.clone());
    }
    let adam =
        |vars, weight_decay| AdamW::new(vars, ParamsAdamW { weight_decay, beta2: 0.98, ..ParamsAdamW::default() });
    shares.into_iter().map(|(_, [norms, matrices])| Ok([adam(norms, 0.0)?, adam(matrices, WEIGHT_DECAY)?])).collect()
}

impl TrainOptions {
    fn done(&self, step: usize) -> f64 {
        step as f64 / self.steps as f64
    }

    /// Linear warm-up, then half a cosine.
    fn rate(&self, step: usize) -> f64 {
        let warm = ((step + 1) as f64 / WARM_UP).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * self.done(step)).cos());
        self.learning_rate * warm * (LAST_RATE + (1.0 - LAST_RATE) * cosine)
    }

    /// The true concepts at first, then ever more often the predicted ones, in the end always.
    fn phase(&self, step: usize) -> Phase {
        let done = self.done(step);
        let teacher = if done < TEACHER_HOLDS {
            1.0
        } else if done < TEACHER_HALVES {
            let along = (done - TEACHER_HOLDS) / (TEACHER_HALVES - TEACHER_HOLDS);
            0.75 + 0.25 * (std::f64::consts::PI * along).cos()
        } else {
            (0.5 * (TEACHER_ENDS - done) / (TEACHER_ENDS - TEACHER_HALVES)).max(0.0)
        };
        Phase { teacher }
    }
}

struct Trainer<'a> {
    options: &'a TrainOptions,
    params: Params,
    tokenizer: Tokenizer,
    lift: Lift,
    device: &'a Device,
}

impl Trainer<'_> {
    /// One worker's part of a step.
    fn share(&self, step: usize, worker: usize) -> Result<Share> {
        let options = self.options;
        let mut rng =
            ChaCha8Rng::seed_from_u64(options.seed.wrapping_mul(1 << 24) + (step * options.threads + worker) as u64);
        let writer = Writer { tokenizer: &self.tokenizer };
        let s = self.params.config.diff_block_size;
        let positions = options.batch * options.length / options.threads;
        let steers = options.done(step) >= STEERING_FROM && step.is_multiple_of(STEERING_EVERY);
        let Loss { total, parts } = if steers {
            let sequences = (0..(positions / STEERED_LENGTH).max(1)).map(|_| writer.steered(STEERED_LENGTH, &mut rng));
            let batch = Batch::new(&sequences.collect::<Result<Vec<_>>>()?, s, self.device, &mut rng)?;
            loss::steered(&self.params, &batch, &self.lift)?
        } else {
            let long = step % LONG_EVERY == LONG_EVERY - 1;
            let length = if long { self.params.config.context } else { options.length };
            let sequences = (0..(positions / length).max(1)).map(|_| writer.documents(length, &mut rng));
            let sequences = sequences.collect::<Result<Vec<_>>>()?;
            let batch = Batch::new(&sequences, s, self.device, &mut rng)?;
            let phase = options.phase(step);
            let teach: Vec<bool> = sequences.iter().map(|_| rng.random_bool(phase.teacher)).collect();
            loss::documents(&self.params, &batch, &self.lift, &teach)?
        };
        Ok((total.backward()?, parts))
    }

    /// The mean of the shares, cut to the largest gradient.
    fn total(&self, shares: Vec<Share>) -> Result<(GradStore, Vec<(&'static str, f32)>)> {
        let n = shares.len() as f64;
        let mut shares = shares.into_iter();
        let (mut grads, mut losses) = shares.next().context("at least one worker")?;
        for (other, parts) in shares {
            for (_, var) in self.params.vars() {
                let sum = match (grads.get(var), other.get(var)) {
                    (Some(a), Some(b)) => (a + b)?,
                    _ => continue,
                };
                grads.insert(var, sum);
            }
            losses.iter_mut().zip(parts).for_each(|(sum, part)| sum.1 += part.1);
        }
        losses.iter_mut().for_each(|(_, loss)| *loss /= n as f32);
        let mut squares = 0.0;
        for (_, var) in self.params.vars() {
            if let Some(grad) = grads.get(var) {
                squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let norm = squares.sqrt() / n;
        losses.push(("gradient", norm as f32));
        let scale = (LARGEST_GRADIENT / norm.max(LARGEST_GRADIENT)) / n;
        for (_, var) in self.params.vars() {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, scaled(&grad, scale)?);
            }
        }
        Ok((grads, losses))
    }
}

fn scaled(grad: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((grad * scale)?)
}
