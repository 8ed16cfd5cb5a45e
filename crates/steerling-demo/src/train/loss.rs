//! What training minimises.

use anyhow::Result;
use candle_core::{D, DType, Tensor};

use super::batch::Batch;
use super::lift::Lift;
use super::model::{Injection, Params, unknown};
use super::ops;
use crate::concepts::group_of;

/// Presets of the library.
use steerling::steer::{AMPLIFY_TARGET, SUPPRESS_STRENGTH, SUPPRESS_TARGET};

/// How far training is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    /// How often the true concepts take the place of predicted ones.
    pub(super) teacher: f64,
}

/// A loss and its parts, for the record.
pub(super) struct Loss {
    pub(super) total: Tensor,
    pub(super) parts: Vec<(&'static str, f32)>,
}

impl Loss {
    fn new(terms: Vec<(&'static str, f64, Tensor)>) -> Result<Self> {
        let mut parts = Vec::with_capacity(terms.len());
        let mut total: Option<Tensor> = None;
        for (name, weight, term) in terms {
            parts.push((name, term.to_dtype(DType::F32)?.to_scalar::<f32>()?));
            let term = (term * weight)?;
            total = Some(match total {
                Some(total) => (total + term)?,
                None => term,
            });
        }
        Ok(Self { total: total.expect("there is a term"), parts })
    }
}

/// The losses of a batch of documents. `teach` says for each sequence whether its true concepts are used.
pub(super) fn documents(params: &Params, batch: &Batch, lift: &Lift, teach: &[bool]) -> Result<Loss> {
    let hidden = params.hidden(&batch.input, (batch.b, batch.t), None)?;
    let device = hidden.device();
    let rows = Tensor::from_slice(&batch.rows, batch.rows.len(), device)?;
    let chosen = hidden.index_select(&rows, 0)?;
    let output = params.tokens().t()?;
    let losses = ops::cross_entropy(&chosen.matmul(&output)?, &batch.targets)?;
    let language = (losses * &batch.weights)?.sum_all()?;

    let z = hidden.matmul(params.get("known_head.concept_predictor.weight"))?;
    let presence = presence(&z, batch, lift)?;

    // Without the remainder: every second predicting row, so that the extra logits cost half.
    let half: Vec<u32> = (0..batch.rows.len() as u32).step_by(2).collect();
    let targets: Vec<u32> = half.iter().map(|i| batch.targets[*i as usize]).collect();
    let taught: Vec<f32> =
        half.iter().map(|i| f32::from(u8::from(teach[batch.rows[*i as usize] as usize / batch.t]))).collect();
    let half = Tensor::new(half, device)?;
    let rows = rows.index_select(&half, 0)?;
    let weights = batch.weights.index_select(&half, 0)?;
    let weights = weights.broadcast_div(&weights.sum_all()?)?;
    let chosen = chosen.index_select(&half, 0)?.detach();
    let truth = batch.truth.index_select(&rows, 0)?;
    let predicted = candle_nn::ops::sigmoid(&z.index_select(&rows, 0)?)?;
    let taught = Tensor::from_vec(taught, (targets.len(), 1), device)?;
    let used = (truth.broadcast_mul(&taught)? + predicted.broadcast_mul(&taught.affine(-1.0, 1.0)?)?)?;
    let known = used.matmul(params.concepts())?;
    let found = discovered(params, &chosen)?;
    let explained = (&known + &found)?;
    let losses = ops::cross_entropy(&explained.matmul(&output)?, &targets)?;
    let concepts_alone = (losses * weights)?.sum_all()?;
    let size = chosen.sqr()?.mean_all()?;
    // Weights of concepts are the business of the other losses; their embeddings are to explain what they can.
    let remainder = ((chosen - used.detach().matmul(params.concepts())?)? - &found)?;
    let reconstruction = remainder.sqr()?.mean_all()?.div(&size)?;
    let independence = independence(&known.detach(), &found)?;

    Loss::new(vec![
        ("language", 1.0, language),
        ("presence", 1.0, presence),
        ("concepts_alone", 0.5, concepts_alone),
        ("reconstruction", 0.5, reconstruction),
        ("independence", 1.0, independence),
        ("separation", 2.0, separation(params)?),
        ("expression", 0.1, expression(params, lift)?),
    ])
}

/// Noisy-or per chunk, over its masked positions and over its visible ones: `log P(none) = -sum softplus(z)`.
/// Cross-entropy with the chunk's concepts, presence and absence of each concept weighing the same.
fn presence(z: &Tensor, batch: &Batch, lift: &Lift) -> Result<Tensor> {
    let concepts = lift.frequency.len();
    let mut weights = [Vec::new(), Vec::new()];
    for labels in &batch.labels {
        for (concept, frequency) in lift.frequency.iter().enumerate() {
            let present = labels.contains(concept);
            weights[0].push(if present { (0.5 / frequency).min(20.0) as f32 } else { 0.0 });
            weights[1].push(if present { 0.0 } else { (0.5 / (1.0 - frequency)) as f32 });
        }
    }
    let shape = (batch.labels.len(), concepts);
    let [present, absent] = weights.map(|weights| Tensor::from_vec(weights, shape, z.device()));
    let (present, absent) = (present?, absent?);
    let softplus = (z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let mut total = Tensor::zeros((), DType::F32, z.device())?;
    for pool in &batch.pools {
        // A chunk without a single masked (or visible) position says nothing about what it lacks.
        let any = pool.sum_keepdim(1)?.clamp(0f32, 1f32)?;
        let none = pool.matmul(&softplus)?;
        let some = (none.neg()?.exp()?.affine(-1.0, 1.0)? + 1e-6)?;
        let terms = ((&absent * none)? - (&present * some.log()?)?)?;
        total = (total + terms.broadcast_mul(&any)?.mean_all()?)?;
    }
    Ok(total)
}

/// What the unknown head makes of hidden states `[N, D]`, which get no gradient from it.
fn discovered(params: &Params, hidden: &Tensor) -> Result<Tensor> {
    let get = |name: &str| params.get(&format!("unknown_head.{name}.weight"));
    let z = hidden.matmul(get("predictor_down"))?.matmul(get("predictor_up"))?;
    let kept = kept(&z, unknown(&params.config).and_then(|(head, _)| head.topk).unwrap_or(usize::MAX))?;
    let weights = (candle_nn::ops::sigmoid(&z)? * kept)?;
    Ok(weights.matmul(get("embedding_coef"))?.matmul(&get("embedding_basis").t()?)?)
}

/// 1 at the `k` largest of each row, else 0.
fn kept(z: &Tensor, k: usize) -> Result<Tensor> {
    let width = z.dim(1)?;
    if k >= width {
        return Ok(z.ones_like()?.detach());
    }
    let mut values = z.flatten_all()?.to_vec1::<f32>()?;
    let mut sorted = vec![0f32; width];
    for row in values.chunks_mut(width) {
        sorted.copy_from_slice(row);
        let (_, least, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let least = *least;
        row.iter_mut().for_each(|z| *z = f32::from(u8::from(*z >= least)));
    }
    Ok(Tensor::from_vec(values, z.shape(), z.device())?)
}

/// Squared cross-covariance of two sets of features `[N, D]`, over `D^2`.
fn independence(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (n, d) = a.dims2()?;
    let centred = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(0)?);
    let covariance = (centred(a)?.t()?.matmul(&centred(b)?)? / n as f64)?;
    Ok((covariance.sqr()?.sum_all()? / (d * d) as f64)?)
}

/// Squared cosines of the unknown concepts' embeddings with the known ones', which get no gradient: the unknown head
/// must not say again what a known concept says.
fn separation(params: &Params) -> Result<Tensor> {
    let get = |name: &str| params.get(&format!("unknown_head.{name}.weight"));
    let unknown = unit(&get("embedding_coef").matmul(&get("embedding_basis").t()?)?)?;
    let known = unit(&params.concepts().detach())?;
    Ok(unknown.matmul(&known.t()?)?.sqr()?.sum(1)?.mean_all()?)
}

/// Embeddings of concepts `[N, D]` at length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)?)
}

/// The largest logit that each direction `[N, D]` promotes, `[N, 1]`, without a gradient.
fn peaks(params: &Params, directions: &Tensor) -> Result<Tensor> {
    let peaks = directions.matmul(&params.tokens().t()?)?.max_keepdim(D::Minus1)?;
    Ok(peaks.maximum(1e-6)?.detach())
}

/// A direction of the preset's strength promotes its concept's lifted tokens and no others.
fn expression(params: &Params, lift: &Lift) -> Result<Tensor> {
    let directions = unit(params.concepts())?;
    let logits = directions.matmul(&params.tokens().t()?)?;
    let scaled = logits.broadcast_mul(&(peaks(params, &directions)?.recip()? * f64::from(AMPLIFY_TARGET))?)?;
    let log_p = candle_nn::ops::log_softmax(&scaled, D::Minus1)?;
    Ok((lift.tokens.mul(&log_p)?.sum_all()?.neg()? / lift.frequency.len() as f64)?)
}

/// The losses of a batch of steered texts: the recipes of the presets are injected, and the text is as they promise.
pub(super) fn steered(params: &Params, batch: &Batch, lift: &Lift) -> Result<Loss> {
    let (injection, suppression) = injection(params, batch)?;
    let hidden = params.hidden(&batch.input, (batch.b, batch.t), Some((&injection, &batch.masked)))?;
    let device = hidden.device();
    let rows = Tensor::from_slice(&batch.rows, batch.rows.len(), device)?;
    let chosen = hidden.index_select(&rows, 0)?;
    let sequences: Vec<u32> = batch.rows.iter().map(|row| row / batch.t as u32).collect();
    let sequences = Tensor::new(sequences, device)?;
    let logits = chosen.matmul(&params.tokens().t()?)?;
    let logits = (logits - suppression.index_select(&sequences, 0)?)?;
    let losses = ops::cross_entropy(&logits, &batch.targets)?;
    let language = (losses * &batch.weights)?.sum_all()?;

    // The injected concepts' weights rise at masks: -log sigmoid(z).
    let mut wanted = vec![0f32; batch.b * lift.frequency.len()];
    for (n, recipe) in batch.recipes.iter().enumerate() {
        recipe.amplify.iter().for_each(|id| wanted[n * lift.frequency.len() + id] = 1.0);
    }
    let wanted = Tensor::from_vec(wanted, (batch.b, 1, lift.frequency.len()), device)?;
    let wanted = batch.masked.broadcast_mul(&wanted)?.reshape((batch.b * batch.t, ()))?;
    let z = hidden.matmul(params.get("known_head.concept_predictor.weight"))?.neg()?;
    let unlikely = (z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let raised = (unlikely * &wanted)?.sum_all()?.div(&(wanted.sum_all()? + 1.0)?)?;

    Loss::new(vec![
        ("steered", 1.0, language),
        ("raised", 0.1, raised),
        ("steered_expression", 0.1, expression(params, lift)?),
    ])
}

/// What the recipes of a batch inject, and the logits `[B, V]` that they suppress.
fn injection(params: &Params, batch: &Batch) -> Result<(Injection, Tensor)> {
    let concepts = params.concepts();
    let (count, d) = concepts.dims2()?;
    let device = concepts.device();
    let select = |of: &dyn Fn(usize) -> Vec<usize>| -> Result<Tensor> {
        let mut picks = vec![0f32; batch.b * count];
        for n in 0..batch.b {
            of(n).into_iter().for_each(|id| picks[n * count + id] = 1.0);
        }
        Ok(Tensor::from_vec(picks, (batch.b, count), device)?)
    };
    // Up to two amplified concepts, each with a direction and a strength of its own.
    let mut lower = Tensor::zeros((batch.b, d), DType::F32, device)?;
    for i in 0..2 {
        let picks = select(&|n| batch.recipes[n].amplify.get(i).copied().into_iter().collect())?;
        let any = picks.sum_keepdim(1)?;
        let directions = unit(&picks.matmul(concepts)?)?;
        let alpha = (peaks(params, &directions)?.recip()? * f64::from(AMPLIFY_TARGET))?;
        lower = (lower + directions.broadcast_mul(&(alpha * any)?)?)?;
    }
    let group = select(&|n| batch.recipes[n].suppress.map_or_else(Vec::new, |id| group_of(id).iter().collect()))?;
    let upper = (unit(&group.matmul(concepts)?)? * f64::from(SUPPRESS_TARGET))?;
    let focal = select(&|n| batch.recipes[n].suppress.into_iter().collect())?;
    let promoted = focal.matmul(concepts)?.matmul(&params.tokens().t()?)?.relu()?;
    Ok((Injection { lower, upper }, (promoted * f64::from(SUPPRESS_STRENGTH))?))
}
