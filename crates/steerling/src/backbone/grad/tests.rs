//! Values and gradients against candle's own operations in double precision.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::*;
use crate::backbone::ops::QkvForm;
use crate::backbone::rotary::rotate;
use crate::kernels::attention::HeadShape;
use crate::kernels::testing::{assert_close, numbers};

const EPS: f64 = 1e-5;

fn wide(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

/// Compares `ours` (kernels, float32) and `theirs` (elementary, float64) of the same inputs: what they give and, with a
/// random gradient of it, the gradients of all inputs.
fn compare(inputs: &[Tensor], seed: u64, ours: impl Fn(&[Tensor]) -> Tensor, theirs: impl Fn(&[Tensor]) -> Tensor) {
    let run = |inputs: Vec<Tensor>, f: &dyn Fn(&[Tensor]) -> Tensor| {
        let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|x| x.as_tensor().clone()).collect();
        let y = f(&tensors);
        let pull = Tensor::from_vec(numbers(seed, y.elem_count()), y.dims(), &Device::Cpu).unwrap();
        let pull = pull.to_dtype(y.dtype()).unwrap();
        let grads = (&y * pull).unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = vec![y];
        all.extend(tensors.iter().map(|x| grads.get(x).expect("every input has a gradient").clone()));
        all
    };
    let found = run(inputs.to_vec(), &ours);
    let expected = run(inputs.iter().map(wide).collect(), &theirs);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.dims(), expected.dims());
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_close(&found, &expected, 2e-5);
    }
}

fn random(seed: u64, dims: &[usize]) -> Tensor {
    Tensor::from_vec(numbers(seed, dims.iter().product()), dims, &Device::Cpu).unwrap()
}

fn norm_of(x: &Tensor, weight: &[f32]) -> Tensor {
    let weight = wide(&Tensor::new(weight, &Device::Cpu).unwrap());
    let scale = (x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + EPS).unwrap().sqrt().unwrap();
    x.broadcast_div(&scale).unwrap().broadcast_mul(&weight).unwrap()
}

fn silu(x: &Tensor) -> Tensor {
    (x / (x.neg().unwrap().exp().unwrap() + 1.0).unwrap()).unwrap()
}

/// Queries, keys and values `[B, T, heads, hd]` of `[B, T, (H + 2 G) hd]`.
fn parts(qkv: &Tensor, shape: &HeadShape) -> [Tensor; 3] {
    let (b, t, _) = qkv.dims3().unwrap();
    let HeadShape { n_head: h, n_kv_heads: g, head_dim: hd, .. } = *shape;
    [(0, h), (h, g), (h + g, g)].map(|(from, heads)| {
        let part = qkv.narrow(2, from * hd, heads * hd).unwrap().contiguous().unwrap();
        part.reshape((b, t, heads, hd)).unwrap()
    })
}

/// As one vector, as the kernels hold them.
fn joined(parts: &[Tensor]) -> Tensor {
    Tensor::cat(&parts.iter().map(|part| part.flatten_all().unwrap()).collect::<Vec<_>>(), 0).unwrap()
}

/// Block-causal attention with a mask, `[B, T, H hd]`.
fn attention_of([q, k, v]: [Tensor; 3], page: usize) -> Tensor {
    let (b, t, h, hd) = q.dims4().unwrap();
    let share = h / k.dim(2).unwrap();
    // [B, H, T, hd], keys and values repeated for the query heads of their group.
    let heads: Vec<u32> = (0..h).map(|head| (head / share) as u32).collect();
    let heads = Tensor::new(heads, &Device::Cpu).unwrap();
    let of_heads = |x: Tensor| x.index_select(&heads, 2).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
    let (q, k, v) = (q.transpose(1, 2).unwrap().contiguous().unwrap(), of_heads(k), of_heads(v));
    let sees = |i: usize, j: usize| if i / page >= j / page { 0.0 } else { f64::NEG_INFINITY };
    let mask: Vec<f64> = (0..t * t).map(|n| sees(n / t, n % t)).collect();
    let mask = Tensor::from_vec(mask, (t, t), &Device::Cpu).unwrap();
    let scores = (q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap() / (hd as f64).sqrt()).unwrap();
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
    weights.matmul(&v).unwrap().transpose(1, 2).unwrap().contiguous().unwrap().reshape((b, t, h * hd)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn norms_have_the_gradients_of_their_formulas(m in 1usize..5, d in 1usize..150, seed: u64) {
        let weight: Arc<[f32]> = numbers(seed ^ 1, d).into();
        let (x, out) = (random(seed, &[m, d]), random(seed ^ 2, &[m, d]));
        // A single small number would make the slope of the norm as large as 1 / sqrt(eps).
        let x = (x.sign().unwrap() * 0.1).unwrap().add(&x).unwrap();
        let out = (out.sign().unwrap() * 0.1).unwrap().add(&out).unwrap();
        compare(std::slice::from_ref(&x), seed ^ 3, |x| rms_norm(&x[0], &weight, EPS).unwrap(), |x| norm_of(&x[0], &weight));
        compare(
            &[x, out],
            seed ^ 3,
            |x| add_rms_norm(&x[0], &x[1], &weight, EPS).unwrap(),
            |x| (&x[0] + norm_of(&x[1], &weight)).unwrap(),
        );
    }

    #[test]
    fn the_gated_activation_has_the_gradients_of_its_formula(m in 1usize..5, inter in 1usize..150, seed: u64) {
        let fc = (random(seed, &[m, 2 * inter]) * 6.0).unwrap();
        compare(&[fc], seed ^ 1, |fc| swiglu(&fc[0]).unwrap(), |fc| {
            let (up, gate) = (fc[0].narrow(1, 0, inter).unwrap(), fc[0].narrow(1, inter, inter).unwrap());
            (silu(&gate) * up).unwrap()
        });
    }

    #[test]
    fn preparing_heads_has_the_gradients_of_its_formulas(
        b in 1usize..3, t in 1usize..6, kv in 1usize..3, share in 1usize..3, half in 1usize..20,
        clip: bool, norm: bool, rotates: bool, seed: u64,
    ) {
        let hd = 2 * half;
        let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: hd, page: 4 };
        let [wq, wk] = [1, 2].map(|i| numbers(seed ^ i, hd));
        let [cos, sin] = [3, 4].map(|i| numbers(seed ^ i, t * half));
        let clip = clip.then_some(0.7f32);
        let form = Arc::new(QkvForm { shape, clip, norm: norm.then(|| (wq.clone(), wk.clone(), EPS as f32)) });
        let rotary = rotates.then(|| Arc::new((cos.repeat(b), sin.repeat(b))));
        let sequences = Sequences { b, t, rotary };
        let qkv = random(seed, &[b, t, (share + 2) * kv * hd]);
        let qkv = (qkv.sign().unwrap() * 0.1).unwrap().add(&qkv).unwrap();
        compare(&[qkv], seed ^ 5, |qkv| sequences.prepare(&qkv[0], &form).unwrap(), |qkv| {
            let qkv = match clip {
                Some(clip) => qkv[0].clamp(-f64::from(clip), f64::from(clip)).unwrap(),
                None => qkv[0].clone(),
            };
            let [mut q, mut k, v] = parts(&qkv, &shape);
            if norm {
                (q, k) = (norm_of(&q, &wq), norm_of(&k, &wk));
            }
            if rotates {
                let [cos, sin] = [&cos, &sin].map(|x| wide(&Tensor::from_slice(x, (t, half), &Device::Cpu).unwrap()));
                (q, k) = (rotate(&q, &cos, &sin).unwrap(), rotate(&k, &cos, &sin).unwrap());
            }
            joined(&[q, k, v])
        });
    }

    #[test]
    fn attention_has_the_gradients_of_its_formula(
        b in 1usize..3, t in 1usize..70, page in 1usize..40, kv in 1usize..3, share in 1usize..4, hd in 1usize..40,
        seed: u64,
    ) {
        let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: hd, page };
        let qkv = joined(&parts(&(random(seed, &[b, t, (share + 2) * kv * hd]) * 3.0).unwrap(), &shape));
        let sequences = Sequences { b, t, rotary: None };
        compare(&[qkv], seed ^ 1, |qkv| sequences.attend(&qkv[0], &shape).unwrap(), |qkv| {
            let mut from = 0;
            let parts = [kv * share, kv, kv].map(|heads| {
                let len = b * t * heads * hd;
                from += len;
                qkv[0].narrow(0, from - len, len).unwrap().reshape((b, t, heads, hd)).unwrap()
            });
            attention_of(parts, page)
        });
    }
}

#[test]
fn attention_keeps_its_gradients_over_many_queries_and_keys() {
    // More queries in a block than are worked on together, and more keys than one pass of a product.
    let (b, t, page, hd) = (2, 301, 150, 12);
    let shape = HeadShape { n_head: 2, n_kv_heads: 1, head_dim: hd, page };
    let qkv = [random(1, &[b, t, 2, hd]), random(2, &[b, t, 1, hd]), random(3, &[b, t, 1, hd])];
    let sequences = Sequences { b, t, rotary: None };
    compare(
        &qkv,
        4,
        |qkv| sequences.attend(&joined(qkv), &shape).unwrap(),
        |qkv| attention_of(std::array::from_fn(|i| qkv[i].clone()), page),
    );
}

#[test]
fn the_clamp_lets_gradients_pass_up_to_its_limit() {
    let shape = HeadShape { n_head: 1, n_kv_heads: 1, head_dim: 2, page: 4 };
    let form = Arc::new(QkvForm { shape, clip: Some(0.5), norm: None });
    let qkv = Var::from_vec(vec![0.5f32, -0.5, 0.6, -0.6, 0.4, 7.0], (1, 1, 6), &Device::Cpu).unwrap();
    let prepared = Sequences { b: 1, t: 1, rotary: None }.prepare(qkv.as_tensor(), &form).unwrap();
    let grads = prepared.sum_all().unwrap().backward().unwrap();
    let grad = grads.get(qkv.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(grad, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
}
