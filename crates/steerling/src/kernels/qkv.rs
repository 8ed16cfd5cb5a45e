//! From the joint projection to queries, keys and values ready for attention.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::attention::HeadShape;
use super::norm::rms_scale;
use super::rows::PARALLEL_FROM;

/// What happens to queries, keys and values between the projection and attention (`MODEL.md`, section 2).
#[derive(Clone, Copy, Debug, Default)]
pub struct QkvParams<'a> {
    /// Clamp all three to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// RMS norm over `head_dim` of each head of queries and keys: weights `[head_dim]` of q and k, and epsilon.
    pub norm: Option<(&'a [f32], &'a [f32], f32)>,
    /// Half-split rotary embedding of queries and keys: cosines and sines, `[rows, head_dim / 2]` each.
    pub rotary: Option<(&'a [f32], &'a [f32])>,
}

/// The outputs of [`qkv_prepare`].
#[derive(Debug)]
pub struct Qkv<'a> {
    /// Queries `[rows, n_head * head_dim]`.
    pub q: &'a mut [f32],
    /// Keys `[rows, n_kv_heads * head_dim]`.
    pub k: &'a mut [f32],
    /// Values `[rows, n_kv_heads * head_dim]`.
    pub v: &'a mut [f32],
}

/// Splits `qkv` `[rows, (n_head + 2 n_kv_heads) * head_dim]` (q, k, v), clamps, norms and rotates: the order of the model.
///
/// # Panics
/// If a length does not fit the shape, or with rotary embedding `head_dim` is odd.
pub fn qkv_prepare(shape: &HeadShape, params: &QkvParams, qkv: &[f32], out: Qkv) {
    qkv_prepare_on(Arch::new(), shape, params, qkv, out);
}

pub(super) fn qkv_prepare_on(arch: Arch, shape: &HeadShape, params: &QkvParams, qkv: &[f32], out: Qkv) {
    let hd = shape.head_dim;
    let (q_width, kv_width) = (shape.n_head * hd, shape.n_kv_heads * hd);
    let width = q_width + 2 * kv_width;
    let rows = qkv.len() / width;
    assert_eq!(qkv.len(), rows * width, "qkv rows of {width}");
    assert_eq!(out.q.len(), rows * q_width, "q rows of {q_width}");
    assert_eq!(out.k.len(), rows * kv_width, "k rows of {kv_width}");
    assert_eq!(out.v.len(), rows * kv_width, "v rows of {kv_width}");
    if let Some((q, k, _)) = params.norm {
        assert_eq!((q.len(), k.len()), (hd, hd), "norm weights of head_dim {hd}");
    }
    if let Some((cos, sin)) = params.rotary {
        assert!(hd.is_multiple_of(2), "rotary embedding of odd head_dim {hd}");
        assert_eq!((cos.len(), sin.len()), (rows * hd / 2, rows * hd / 2), "rotary rows of {}", hd / 2);
    }
    let row = |(i, ((q, k), (v, qkv))): (usize, Row)| {
        let rotary = params.rotary.map(|(cos, sin)| (&cos[i * hd / 2..][..hd / 2], &sin[i * hd / 2..][..hd / 2]));
        v.copy_from_slice(&qkv[q_width + kv_width..]);
        if let Some(clip) = params.clip {
            v.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
        }
        let norms = params.norm.map_or((None, None), |(q, k, eps)| (Some((q, eps)), Some((k, eps))));
        let heads = |norm| Heads { head_dim: hd, clip: params.clip, norm, rotary };
        arch.dispatch(HeadsRow(heads(norms.0), &qkv[..q_width], q));
        arch.dispatch(HeadsRow(heads(norms.1), &qkv[q_width..q_width + kv_width], k));
    };
    // Several rows a task: a single one is too little work to share.
    let least = PARALLEL_FROM.div_ceil(width);
    (out.q.par_chunks_mut(q_width).zip(out.k.par_chunks_mut(kv_width)))
        .zip(out.v.par_chunks_mut(kv_width).zip(qkv.par_chunks(width)))
        .enumerate()
        .with_min_len(least)
        .for_each(row);
}

type Row<'a> = ((&'a mut [f32], &'a mut [f32]), (&'a mut [f32], &'a [f32]));

#[derive(Clone, Copy)]
struct Heads<'a> {
    head_dim: usize,
    clip: Option<f32>,
    norm: Option<(&'a [f32], f32)>,
    rotary: Option<(&'a [f32], &'a [f32])>,
}

/// All heads of q or of k in one row: parameters, input, output.
struct HeadsRow<'a>(Heads<'a>, &'a [f32], &'a mut [f32]);

impl WithSimd for HeadsRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(heads, x, out) = self;
        for (x, out) in x.chunks_exact(heads.head_dim).zip(out.chunks_exact_mut(heads.head_dim)) {
            out.copy_from_slice(x);
            if let Some(clip) = heads.clip {
                for x in out.iter_mut() {
                    *x = x.clamp(-clip, clip);
                }
            }
            if let Some((weight, eps)) = heads.norm {
                let scale = rms_scale(simd, out, eps);
                for (x, weight) in out.iter_mut().zip(weight) {
                    *x = *x * scale * weight;
                }
            }
            if let Some((cos, sin)) = heads.rotary {
                let (first, second) = out.split_at_mut(heads.head_dim / 2);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;
    use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

    /// One head of q or k in double precision.
    fn head(x: &[f32], clip: Option<f32>, weight: Option<&[f32]>, rotary: Option<(&[f32], &[f32])>) -> Vec<f64> {
        let clip = f64::from(clip.unwrap_or(f32::INFINITY));
        let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x).clamp(-clip, clip)).collect();
        if let Some(weight) = weight {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter_mut().zip(weight).for_each(|(x, w)| *x *= f64::from(*w) / (mean + 1e-5).sqrt());
        }
        if let Some((cos, sin)) = rotary {
            let half = x.len() / 2;
            let turned = |i: usize| {
                let (cos, sin) = (f64::from(cos[i % half]), f64::from(sin[i % half]));
                if i < half { x[i] * cos - x[i + half] * sin } else { x[i] * cos + x[i - half] * sin }
            };
            return (0..2 * half).map(turned).collect();
        }
        x
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn heads_agree_with_double_precision(
            rows in 1usize..5, kv in 1usize..3, share in 1usize..3, half in 1usize..20,
            clip: bool, norm: bool, rotate: bool, seed: u64,
        ) {
            let hd = 2 * half;
            let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: hd, page: 4 };
            let (d, width) = (kv * share * hd, (share + 2) * kv * hd);
            let x = numbers(seed, rows * width);
            let [wq, wk] = [1, 2].map(|i| numbers(seed ^ i, hd));
            let [cos, sin] = [3, 4].map(|i| numbers(seed ^ i, rows * half));
            let params = QkvParams {
                clip: clip.then_some(0.7),
                norm: norm.then_some((&wq, &wk, 1e-5)),
                rotary: rotate.then_some((&cos, &sin)),
            };
            let [mut eq, mut ek, mut ev] = [const { Vec::new() }; 3];
            for (i, row) in x.chunks(width).enumerate() {
                let rotary = rotate.then(|| (&cos[i * half..][..half], &sin[i * half..][..half]));
                for (h, x) in row.chunks(hd).enumerate() {
                    if h < kv * share {
                        eq.extend(head(x, params.clip, norm.then_some(&wq), rotary));
                    } else if h < kv * share + kv {
                        ek.extend(head(x, params.clip, norm.then_some(&wk), rotary));
                    } else {
                        ev.extend(head(x, params.clip, None, None));
                    }
                }
            }
            for arch in every_arch() {
                let [mut q, mut k, mut v] = [rows * d, rows * kv * hd, rows * kv * hd].map(|len| vec![f32::NAN; len]);
                qkv_prepare_on(arch, &shape, &params, &x, Qkv { q: &mut q, k: &mut k, v: &mut v });
                assert_close(&q, &eq, 2e-6);
                assert_close(&k, &ek, 2e-6);
                assert_close(&v, &ev, 0.0);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let shape = HeadShape { n_head: 4, n_kv_heads: 2, head_dim: 22, page: 4 };
        let (rows, width) = (129, 8 * 22);
        let x = numbers(1, rows * width);
        let (weight, cos, sin) = (numbers(2, 22), numbers(3, rows * 11), numbers(4, rows * 11));
        let prepare = |arch, from: usize, rows: usize| {
            let params = QkvParams {
                clip: Some(0.5),
                norm: Some((&weight, &weight, 1e-5)),
                rotary: Some((&cos[from * 11..][..rows * 11], &sin[from * 11..][..rows * 11])),
            };
            let (mut q, mut k, mut v) = (vec![0.0; rows * 88], vec![0.0; rows * 44], vec![0.0; rows * 44]);
            let out = Qkv { q: &mut q, k: &mut k, v: &mut v };
            qkv_prepare_on(arch, &shape, &params, &x[from * width..][..rows * width], out);
            [q, k, v]
        };
        for arch in every_arch() {
            for [q, k, v] in on_one_and_two_threads(|| prepare(arch, 0, rows)) {
                for i in 0..rows {
                    let one = prepare(arch, i, 1);
                    assert_eq!(
                        one,
                        [q[i * 88..][..88].to_vec(), k[i * 44..][..44].to_vec(), v[i * 44..][..44].to_vec()]
                    );
                }
            }
        }
    }
}
