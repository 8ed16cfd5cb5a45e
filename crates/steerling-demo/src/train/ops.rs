//! The operations of a layer with gradients of inputs and norm weights: on the processor by the model crate's kernels,
//! elsewhere by candle's own operations. Both are tested against each other.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};
use steerling::kernels::attention::{BlockQuery, HeadShape, paged_attention, write_page_rows};
use steerling::kernels::grad::attention::{QkvRows, attention_backward};
use steerling::kernels::grad::{qkv_prepare_backward, rms_norm_backward, swiglu_backward};
use steerling::kernels::pointwise::{self, Qkv, QkvParams};
use steerling::kernels::softmax;

/// Epsilon of every norm.
pub(super) const EPS: f32 = 1e-5;

/// What attention needs to know of `B` sequences of `T` positions.
#[derive(Clone)]
pub(super) struct Heads {
    pub(super) shape: HeadShape,
    /// Queries, keys and values are clamped to `[-clip, clip]`.
    pub(super) clip: f32,
    pub(super) b: usize,
    pub(super) t: usize,
    /// Cosines and sines of the positions of one sequence, `[T, hd / 2]` each.
    pub(super) rotary: Arc<[Vec<f32>; 2]>,
}

/// The numbers of contiguous float32 tensors on the processor.
fn read<R, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let tensors = tensors.map(Tensor::contiguous);
    let mut held = Vec::with_capacity(N);
    for tensor in &tensors {
        held.push(tensor.as_ref().map_err(|error| candle_core::Error::msg(error.to_string()))?.storage_and_layout());
    }
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        let Storage::Cpu(storage) = &**storage else { bail!("a processor kernel was given another device's tensor") };
        *slice = numbers(storage, layout)?;
    }
    Ok(f(slices))
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("a kernel needs contiguous numbers"),
    }
}

fn like(x: &Tensor, numbers: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(numbers, x.shape(), x.device())
}

/// `x * rsqrt(mean(x^2) + eps) * weight` over the last dimension: `x` `[.., D]`, `weight` `[D]`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.apply_op2(weight, RmsNorm) } else { elementary::rms_norm(x, weight) }
}

struct RmsNorm;

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (numbers(x, lx)?, numbers(w, lw)?);
        let mut y = vec![0f32; x.len()];
        pointwise::rms_norm(x, w, EPS, &mut y);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gx, gw) = read([x, weight, grad], |[x, w, gy]| {
            let mut gx = vec![0f32; x.len()];
            rms_norm_backward(x, gy, w, EPS, &mut gx);
            let mut gw = vec![0f32; w.len()];
            for (x, gy) in x.chunks(w.len()).zip(gy.chunks(w.len())) {
                add_weight_gradient(&mut gw, x, gy, rms_scale(x));
            }
            (gx, gw)
        })?;
        Ok((Some(like(x, gx)?), Some(like(weight, gw)?)))
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn rms_scale(x: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for x in x.chunks(16) {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
    }
    1.0 / (sums.iter().sum::<f32>() / x.len() as f32 + EPS).sqrt()
}

fn add_weight_gradient(gw: &mut [f32], x: &[f32], gy: &[f32], scale: f32) {
    gw.iter_mut().zip(x).zip(gy).for_each(|((gw, x), gy)| *gw += gy * x * scale);
}

/// `silu(gate) * up` for rows of `up` then `gate`: `[.., 2 I]` to `[.., I]`.
pub(super) fn swiglu(fc: &Tensor) -> Result<Tensor> {
    if fc.device().is_cpu() { fc.apply_op1(SwiGlu) } else { elementary::swiglu(fc) }
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, fc: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let fc = numbers(fc, layout)?;
        let (rows, width) = layout.shape().dims2()?;
        let mut out = vec![0f32; fc.len() / 2];
        pointwise::swiglu(fc, width / 2, &mut out);
        Ok((CpuStorage::F32(out), (rows, width / 2).into()))
    }

    fn bwd(&self, fc: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let inter = out.dim(D::Minus1)?;
        let gradient = read([fc, grad], |[fc, grad]| {
            let mut gfc = fc.to_vec();
            swiglu_backward(&mut gfc, grad, inter);
            gfc
        })?;
        Ok(Some(like(fc, gradient)?))
    }
}

impl Heads {
    fn rows(&self) -> usize {
        self.b * self.t
    }

    /// Block-causal attention of the joint projection `[B T, (H + 2 G) hd]`, with q and k normed by weights `[hd]`:
    /// `[B T, H hd]`.
    pub(super) fn attention(&self, qkv: &Tensor, q_norm: &Tensor, k_norm: &Tensor) -> Result<Tensor> {
        if !qkv.device().is_cpu() {
            return elementary::attention(self, qkv, q_norm, k_norm);
        }
        qkv.apply_op3(q_norm, k_norm, Prepare(self.clone()))?.apply_op1(Attend(self.clone()))
    }

    fn split<'a>(&self, flat: &'a mut [f32]) -> Qkv<'a> {
        let (q, kv) = flat.split_at_mut(self.rows() * self.shape.n_head * self.shape.head_dim);
        let (k, v) = kv.split_at_mut(self.rows() * self.shape.n_kv_heads * self.shape.head_dim);
        Qkv { q, k, v }
    }
}

/// Clamps, norms and rotates; gives all queries, then all keys, then all values, in the order of the rows.
struct Prepare(Heads);

impl Prepare {
    fn with_params<R>(&self, norms: [&[f32]; 2], f: impl FnOnce(&QkvParams) -> R) -> R {
        let [cos, sin] = &*self.0.rotary;
        let [cos, sin] = [cos, sin].map(|table| table.repeat(self.0.b));
        f(&QkvParams { clip: Some(self.0.clip), norm: Some((norms[0], norms[1], EPS)), rotary: Some((&cos, &sin)) })
    }

    /// The gradient of a norm's weight from that of the rotated heads: rotated back, times the normed heads.
    fn weight_gradient(&self, x: &[f32], width: usize, from: usize, grad: &[f32], heads: usize) -> Vec<f32> {
        let hd = self.0.shape.head_dim;
        let [cos, sin] = &*self.0.rotary;
        let (mut gw, mut clamped, mut gy) = (vec![0f32; hd], vec![0f32; hd], vec![0f32; hd]);
        for (row, (x, grad)) in x.chunks(width).zip(grad.chunks(heads * hd)).enumerate() {
            let at = row % self.0.t * (hd / 2);
            let (cos, sin) = (&cos[at..][..hd / 2], &sin[at..][..hd / 2]);
            for (x, grad) in x[from..].chunks(hd).zip(grad.chunks(hd)) {
                clamped.iter_mut().zip(x).for_each(|(to, x)| *to = x.clamp(-self.0.clip, self.0.clip));
                let (first, second) = grad.split_at(hd / 2);
                let (to_first, to_second) = gy.split_at_mut(hd / 2);
                for i in 0..hd / 2 {
                    to_first[i] = first[i] * cos[i] + second[i] * sin[i];
                    to_second[i] = second[i] * cos[i] - first[i] * sin[i];
                }
                add_weight_gradient(&mut gw, &clamped, &gy, rms_scale(&clamped));
            }
        }
        gw
    }
}

impl CustomOp3 for Prepare {
    fn name(&self) -> &'static str {
        "qkv-prepare"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        l1: &Layout,
        q: &CpuStorage,
        l2: &Layout,
        k: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = numbers(qkv, l1)?;
        let mut out = vec![0f32; qkv.len()];
        self.with_params([numbers(q, l2)?, numbers(k, l3)?], |params| {
            pointwise::qkv_prepare(&self.0.shape, params, qkv, self.0.split(&mut out));
        });
        let len = out.len();
        Ok((CpuStorage::F32(out), len.into()))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        q_norm: &Tensor,
        k_norm: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let shape = &self.0.shape;
        let (h, g, hd) = (shape.n_head, shape.n_kv_heads, shape.head_dim);
        let (gx, gq, gk) = read([qkv, q_norm, k_norm, grad], |[x, q, k, grad]| {
            let mut gx = vec![0f32; x.len()];
            self.with_params([q, k], |params| {
                qkv_prepare_backward(shape, params, x, QkvRows::of(shape, grad), &mut gx);
            });
            let rows = QkvRows::of(shape, grad);
            // The heads of q stand before `h * hd` in each row, those of k before `(h + g) * hd`.
            let width = (h + 2 * g) * hd;
            let gq = self.weight_gradient(x, width, 0, rows.q, h);
            let gk = self.weight_gradient(x, width, h * hd, rows.k, g);
            (gx, gq, gk)
        })?;
        Ok((Some(like(qkv, gx)?), Some(like(q_norm, gq)?), Some(like(k_norm, gk)?)))
    }
}

struct Attend(Heads);

impl CustomOp1 for Attend {
    fn name(&self) -> &'static str {
        "block-causal-attention"
    }

    fn cpu_fwd(&self, prepared: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Heads { shape, b, t, .. } = &self.0;
        let HeadShape { n_head, n_kv_heads, head_dim, page } = *shape;
        let QkvRows { q, k, v } = QkvRows::of(shape, numbers(prepared, layout)?);
        let per_sequence = t.div_ceil(page);
        let pages: Vec<u32> = (0..(b * per_sequence) as u32).collect();
        let places: Vec<(u32, u32)> =
            (0..b * t).map(|row| ((row / t * per_sequence + row % t / page) as u32, (row % t % page) as u32)).collect();
        let [k, v] = [k, v].map(|rows| {
            let mut pool = vec![0f32; pages.len() * n_kv_heads * page * head_dim];
            write_page_rows(shape, rows, &places, &mut pool);
            pool
        });
        let blocks: Vec<BlockQuery> = (0..b * per_sequence)
            .map(|n| {
                let (sequence, block) = (n / per_sequence, n % per_sequence);
                BlockQuery {
                    row: sequence * t + block * page,
                    rows: page.min(t - block * page),
                    pages: &pages[sequence * per_sequence..][..block + 1],
                    keys: (*t).min((block + 1) * page),
                }
            })
            .collect();
        let mut out = vec![0f32; q.len()];
        paged_attention(shape, q, &k, &v, &blocks, &mut out);
        Ok((CpuStorage::F32(out), (b * t, n_head * head_dim).into()))
    }

    fn bwd(&self, prepared: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Heads { shape, t, .. } = &self.0;
        let gradient = read([prepared, grad], |[prepared, grad]| {
            let mut out = vec![0f32; prepared.len()];
            attention_backward(shape, *t, QkvRows::of(shape, prepared), grad, self.0.split(&mut out));
            out
        })?;
        Ok(Some(like(prepared, gradient)?))
    }
}

/// `-log softmax(logits)[target]` of every row: `[N, V]` to `[N]`.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    if logits.device().is_cpu() {
        return logits.apply_op1(CrossEntropy(targets.into()));
    }
    elementary::cross_entropy(logits, targets)
}

struct CrossEntropy(Arc<[u32]>);

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = numbers(logits, layout)?;
        let (rows, width) = layout.shape().dims2()?;
        let stats = softmax::row_stats(logits, width);
        let losses = stats.iter().zip(&*self.0).enumerate();
        let losses = losses
            .map(|(row, (stats, target))| stats.sum_exp.ln() + stats.max - logits[row * width + *target as usize]);
        Ok((CpuStorage::F32(losses.collect()), rows.into()))
    }

    fn bwd(&self, logits: &Tensor, _losses: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = logits.dim(1)?;
        let gradient = read([logits, grad], |[logits, grad]| {
            let stats = softmax::row_stats(logits, width);
            let mut out = vec![0f32; logits.len()];
            for (row, out) in out.chunks_mut(width).enumerate() {
                softmax::exp_shifted(&logits[row * width..][..width], stats[row].max, out);
                let scale = grad[row] / stats[row].sum_exp;
                out.iter_mut().for_each(|p| *p *= scale);
                out[self.0[row] as usize] -= grad[row];
            }
            out
        })?;
        Ok(Some(like(logits, gradient)?))
    }
}

/// The same by candle's operations, for other devices and as the kernels' measure.
pub(super) mod elementary {
    use candle_core::{D, DType, Result, Tensor};

    use super::{EPS, Heads};

    pub(super) fn rms_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(EPS))?.sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(weight)
    }

    pub(super) fn swiglu(fc: &Tensor) -> Result<Tensor> {
        let inter = fc.dim(D::Minus1)? / 2;
        fc.narrow(D::Minus1, inter, inter)?.silu()? * fc.narrow(D::Minus1, 0, inter)?
    }

    pub(super) fn attention(heads: &Heads, qkv: &Tensor, q_norm: &Tensor, k_norm: &Tensor) -> Result<Tensor> {
        let Heads { shape, clip, b, t, rotary } = heads;
        let (b, t, h, g, hd) = (*b, *t, shape.n_head, shape.n_kv_heads, shape.head_dim);
        let clip = f64::from(*clip);
        let qkv = qkv.clamp(-clip, clip)?;
        let tables = |table: &Vec<f32>| Tensor::from_slice(table, (t, 1, hd / 2), qkv.device())?.to_dtype(qkv.dtype());
        let (cos, sin) = (tables(&rotary[0])?, tables(&rotary[1])?);
        let rotate = |x: Tensor| {
            let (first, second) = (x.narrow(3, 0, hd / 2)?, x.narrow(3, hd / 2, hd / 2)?);
            let turned = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
            Tensor::cat(&[turned, (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?], 3)
        };
        let part = |from: usize, n: usize| qkv.narrow(1, from * hd, n * hd)?.contiguous()?.reshape((b, t, n, hd));
        // Query heads of one group are rows of one product: `[B, G, H/G T, hd]`.
        let q =
            rotate(rms_norm(&part(0, h)?, q_norm)?)?.transpose(1, 2)?.contiguous()?.reshape((b, g, h / g * t, hd))?;
        let k = rotate(rms_norm(&part(h, g)?, k_norm)?)?.transpose(1, 2)?.contiguous()?;
        let v = part(h + g, g)?.transpose(1, 2)?.contiguous()?;
        let s = shape.page;
        let sees = |i: usize, j: usize| if i / s >= j / s { 0f32 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..t * t).map(|n| sees(n / t, n % t)).collect();
        let mask = Tensor::from_vec(mask, (t, t), qkv.device())?.to_dtype(qkv.dtype())?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (hd as f64).sqrt())?;
        let scores = scores.reshape((b, h, t, t))?.broadcast_add(&mask)?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.reshape((b, g, h / g * t, t))?;
        let out = weights.matmul(&v)?.reshape((b, h, t, hd))?;
        out.transpose(1, 2)?.contiguous()?.reshape((b * t, h * hd))
    }

    pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let targets = Tensor::from_slice(targets, (targets.len(), 1), logits.device())?;
        let chosen = logits.gather(&targets, 1)?.squeeze(1)?;
        // Shifted by the largest logit, which has no gradient of its own.
        let max = logits.max_keepdim(D::Minus1)?.detach();
        let sum = logits.broadcast_sub(&max)?.exp()?.sum(D::Minus1)?.log()?;
        debug_assert!(matches!(logits.dtype(), DType::F32 | DType::F64));
        (sum + max.squeeze(1)?)? - chosen
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(seed: u64, dims: &[usize]) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    /// Compares values and all gradients of the kernels (float32) with candle's operations (float64).
    fn compare(inputs: &[Tensor], ours: impl Fn(&[Tensor]) -> Tensor, theirs: impl Fn(&[Tensor]) -> Tensor) {
        let run = |dtype: DType, f: &dyn Fn(&[Tensor]) -> Tensor| -> Vec<Tensor> {
            let vars = inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap());
            let vars: Vec<Tensor> = vars.map(|var| var.as_tensor().clone()).collect();
            let y = f(&vars);
            let pull = random(99, y.dims()).to_dtype(dtype).unwrap();
            let grads = (&y * pull).unwrap().sum_all().unwrap().backward().unwrap();
            let grads = vars.iter().map(|x| grads.get(x).expect("every input has a gradient").clone());
            std::iter::once(y).chain(grads.collect::<Vec<_>>()).collect()
        };
        for (found, expected) in run(DType::F32, &ours).iter().zip(run(DType::F64, &theirs)) {
            assert_eq!(found.dims(), expected.dims());
            let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = expected.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (found, expected) in found.iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 5e-5 * expected.abs().max(1.0), "{found}, expected {expected}");
            }
        }
    }

    #[test]
    fn norm_has_the_gradients_of_its_formula() {
        compare(
            &[random(1, &[7, 40]), random(2, &[40])],
            |x| rms_norm(&x[0], &x[1]).unwrap(),
            |x| elementary::rms_norm(&x[0], &x[1]).unwrap(),
        );
    }

    #[test]
    fn gated_activation_has_the_gradients_of_its_formula() {
        let fc = (random(3, &[5, 72]) * 4.0).unwrap();
        compare(&[fc], |x| swiglu(&x[0]).unwrap(), |x| elementary::swiglu(&x[0]).unwrap());
    }

    #[test]
    fn attention_has_the_gradients_of_its_formula() {
        // The last block is shorter than the others, and some numbers are beyond the clamp.
        let (b, t, hd, page) = (2, 22, 8, 8);
        let shape = HeadShape { n_head: 4, n_kv_heads: 2, head_dim: hd, page };
        let tables = [5, 6].map(|seed| random(seed, &[t * hd / 2]).to_vec1::<f32>().unwrap());
        let heads = Heads { shape, clip: 0.9, b, t, rotary: Arc::new(tables) };
        compare(
            &[random(7, &[b * t, 8 * hd]), random(8, &[hd]), random(9, &[hd])],
            |x| heads.attention(&x[0], &x[1], &x[2]).unwrap(),
            |x| elementary::attention(&heads, &x[0], &x[1], &x[2]).unwrap(),
        );
    }

    #[test]
    fn cross_entropy_has_the_gradient_of_its_formula() {
        let targets = [3, 0, 49, 7];
        let logits = (random(10, &[4, 50]) * 9.0).unwrap();
        compare(
            &[logits],
            |x| cross_entropy(&x[0], &targets).unwrap(),
            |x| elementary::cross_entropy(&x[0], &targets).unwrap(),
        );
    }
}
