//! From logits to tokens.

use candle_core::{DType, Tensor};

use super::{Launch, threads, unwritten};
use crate::Result;

/// What decides about one row of logits.
#[derive(Debug, Clone)]
pub(crate) struct RowPlan {
    /// Row of the model's logits.
    pub(crate) conditional: u32,
    /// Under guidance: row of the unconditional logits, and what their difference is multiplied with.
    pub(crate) guidance: Option<(u32, f32)>,
    /// Row of the suppression vectors.
    pub(crate) suppression: Option<u32>,
    /// Part of the list of penalised columns, and the repetition penalty.
    pub(crate) penalised: (std::ops::Range<u32>, f32),
    /// Columns that cannot be chosen.
    pub(crate) banned: [u32; 3],
    /// How a token is drawn.
    pub(crate) sampling: Draw,
    /// Number in `[0, 1)` that decides the draw.
    pub(crate) uniform: f64,
    /// Rows of the same sequence.
    pub(crate) group: std::ops::Range<u32>,
    /// Of these the most confident that need a token.
    pub(crate) drawn: u32,
}

/// How a token is drawn from a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Draw {
    /// The largest logit.
    Argmax,
    /// From the nucleus of this mass at this temperature.
    Nucleus { temperature: f32, top_p: f32 },
    /// From the nucleus of this mass at a temperature that follows the entropy.
    Entropy { top_p: f32 },
}

/// What a row came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowResult {
    /// The largest logit.
    pub(crate) max: f32,
    /// `sum exp(logit - max)`; NaN if a logit is not a number or infinite.
    pub(crate) sum_exp: f32,
    /// Of the prediction, in nats.
    pub(crate) entropy: f32,
    /// The drawn token; the largest logit's where none was asked for.
    pub(crate) id: u32,
    /// Its logit after all edits.
    pub(crate) decision_logit: f32,
    /// The model's logit of it, after guidance.
    pub(crate) target_logit: f32,
}

const NONE: u32 = u32::MAX;

impl RowPlan {
    /// In the order of the kernels' `RowPlan`.
    fn words(&self) -> [u32; 18] {
        let (unconditional, strength) = self.guidance.unwrap_or((NONE, 0.0));
        let (columns, penalty) = &self.penalised;
        let (sampling, temperature, top_p) = match self.sampling {
            Draw::Argmax => (0, 0.0, 0.0),
            Draw::Nucleus { temperature, top_p } => (1, temperature, top_p),
            Draw::Entropy { top_p } => (2, 0.0, top_p),
        };
        let [a, b, c] = self.banned;
        // All 53 bits of the number stay.
        let uniform = (self.uniform * 2f64.powi(64)) as u64;
        [
            self.conditional,
            unconditional,
            strength.to_bits(),
            self.suppression.unwrap_or(NONE),
            columns.start,
            columns.end,
            penalty.to_bits(),
            a,
            b,
            c,
            sampling,
            temperature.to_bits(),
            top_p.to_bits(),
            (uniform >> 32) as u32,
            uniform as u32,
            self.group.start,
            self.group.end,
            self.drawn,
        ]
    }
}

/// Words of the kernels' `RowResult`.
const RESULT: usize = 7;

/// What every planned row comes to. `logits` are the model's, `[.., V]`; `suppressions` `[.., V]` in float32, `columns` the
/// lists of penalised columns. Waits for the device.
///
/// # Errors
/// If the device fails.
pub(crate) fn choose(
    logits: &Tensor,
    plans: &[RowPlan],
    suppressions: Option<&Tensor>,
    columns: Vec<u32>,
) -> Result<Vec<RowResult>> {
    /// Blocks of threads of a row where they need nothing of each other.
    const PARTS: usize = 16;
    let (rows, vocab, device, dtype) = (plans.len(), logits.dim(1)?, logits.device(), logits.dtype());
    let penalised = !columns.is_empty();
    let mut words: Vec<u32> = plans.iter().flat_map(RowPlan::words).collect();
    let plan_words = words.len();
    words.extend(columns);
    let all = Tensor::new(words, device)?;
    let (plans, columns) = (all.narrow(0, 0, plan_words)?, all.narrow(0, plan_words, all.dim(0)? - plan_words)?);
    let edited = unwritten((rows, vocab), DType::F32, device)?;
    let results = unwritten((rows, RESULT), DType::U32, device)?;
    Launch::of_type("edit_logits", dtype, [rows, PARTS, 1], threads(vocab, 64, 256))
        .read(logits)
        .read(&plans)
        .read_if(suppressions)
        .write(&edited)
        .number(vocab)
        .run()?;
    if penalised {
        Launch::new("penalise", [rows, 1, 1], 256).read(&plans).read(&columns).write(&edited).number(vocab).run()?;
    }
    Launch::new("row_stats", [rows, 1, 1], threads(vocab, 32, 1024))
        .read(&edited)
        .write(&results)
        .number(vocab)
        .run()?;
    Launch::of_type("draw", dtype, [rows, 1, 1], threads(vocab, 32, 1024))
        .read(logits)
        .read(&plans)
        .read(&edited)
        .write(&results)
        .number(vocab)
        .run()?;
    let words = results.to_vec2::<u32>()?;
    let of = |row: &Vec<u32>| RowResult {
        max: f32::from_bits(row[0]),
        sum_exp: f32::from_bits(row[2]),
        entropy: f32::from_bits(row[3]),
        id: row[4],
        decision_logit: f32::from_bits(row[5]),
        target_logit: f32::from_bits(row[6]),
    };
    Ok(words.iter().map(of).collect())
}
