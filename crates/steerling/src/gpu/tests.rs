//! Each kernel on the host against the plain computation.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::decode::Sampler;
use crate::kernels::attention::HeadShape;
use crate::kernels::softmax::{entropies, row_stats};
use crate::kernels::testing::{assert_close, numbers};
use crate::params::GenerateParams;

#[path = "../../tests/gpu/host.rs"]
mod compiled;

fn tensor(values: &[f32], shape: impl Into<Shape>, dtype: DType) -> Tensor {
    compiled::compile();
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn words(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// The numbers of a tensor.
fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What the type makes of a number.
fn stored(x: f32, dtype: DType) -> f64 {
    f64::from(if dtype == DType::BF16 { bf16::from_f32(x).to_f32() } else { x })
}

/// A unit in the last place, relative, with some room for float32 sums.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::BF16 { 1.0 / 128.0 } else { 1e-5 }
}

fn types() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norms_agree_with_double_precision(rows in 1usize..4, width in 1usize..700, adds: bool, dtype in types(), seed: u64) {
        let (x, weight, residual) = (numbers(seed, rows * width), numbers(seed ^ 1, width), numbers(seed ^ 2, rows * width));
        let residual_tensor = tensor(&residual, (rows, width), dtype);
        let out = rms_norm(
            &tensor(&x, (rows, width), dtype),
            &tensor(&weight, width, DType::F32),
            adds.then_some(&residual_tensor),
            1e-5,
        ).unwrap();
        let expected: Vec<f64> = x.chunks(width).zip(residual.chunks(width)).flat_map(|(x, residual)| {
            let x: Vec<f64> = x.iter().map(|x| stored(*x, dtype)).collect();
            let scale = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
            let one = |i: usize| x[i] / scale * f64::from(weight[i]) + if adds { stored(residual[i], dtype) } else { 0.0 };
            (0..width).map(one).collect::<Vec<_>>()
        }).collect();
        assert_close(&values(&out), &expected, 2.0 * tolerance(dtype));
    }

    #[test]
    fn the_gated_activation_agrees_with_double_precision(rows in 1usize..4, width in 1usize..600, dtype in types(), seed: u64) {
        let x: Vec<f32> = numbers(seed, rows * 2 * width).iter().map(|x| 8.0 * x).collect();
        let out = swiglu(&tensor(&x, (rows, 2 * width), dtype)).unwrap();
        let expected: Vec<f64> = x.chunks(2 * width).flat_map(|row| {
            let (up, gate) = row.split_at(width);
            let one = |(up, gate): (&f32, &f32)| {
                let gate = stored(*gate, dtype);
                gate / (1.0 + (-gate).exp()) * stored(*up, dtype)
            };
            up.iter().zip(gate).map(one).collect::<Vec<_>>()
        }).collect();
        // The product of two numbers of the type.
        let largest = expected.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        assert_close(&values(&out), &expected, tolerance(dtype).max(1e-6 * largest));
    }

    #[test]
    fn rows_are_gathered_and_added_to(rows in 1usize..6, width in 1usize..300, dtype in types(), seed: u64) {
        let table = tensor(&numbers(seed, 7 * width), (7, width), dtype);
        let ids: Vec<u32> = (0..rows as u32).map(|i| (i * 5 + seed as u32 % 7) % 7).collect();
        let found = gather_rows(&table, &words(&ids)).unwrap();
        prop_assert_eq!(values(&found), values(&table.index_select(&words(&ids), 0).unwrap()));
        let (x, vector) = (tensor(&numbers(seed ^ 1, 7 * width), (7, width), DType::F32), numbers(seed ^ 2, width));
        let before = values(&x);
        add_to_rows(&x, &tensor(&vector, width, DType::F32), &words(&[1, 4])).unwrap();
        for (i, (after, before)) in values(&x).chunks(width).zip(before.chunks(width)).enumerate() {
            let added = |j: usize| if i == 1 || i == 4 { before[j] + vector[j] } else { before[j] };
            prop_assert_eq!(after, (0..width).map(added).collect::<Vec<_>>());
        }
    }

    /// Against the CPU's kernel, which has its own tests; places of padding stay as they were.
    #[test]
    fn queries_keys_and_values_are_those_of_the_cpu(
        kv in 1usize..3, share in 1usize..3, half in 1usize..40, norms: bool, rotates: bool, clips: bool, seed: u64,
    ) {
        use crate::kernels::pointwise::{self, Qkv, QkvParams};
        let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: 2 * half, page: 3 };
        let (hd, rows) = (shape.head_dim, 5);
        let qkv = numbers(seed, rows * (shape.n_head + 2 * kv) * hd);
        let (q_weight, k_weight) = (numbers(seed ^ 1, hd), numbers(seed ^ 2, hd));
        let (cos, sin) = (numbers(seed ^ 3, 9 * half), numbers(seed ^ 4, 9 * half));
        let positions = [8u32, 0, 3, 4, 1];
        let of_rows = |table: &[f32]| positions.iter().flat_map(|p| table[*p as usize * half..][..half].to_vec()).collect::<Vec<_>>();
        let (row_cos, row_sin) = (of_rows(&cos), of_rows(&sin));
        let params = QkvParams {
            clip: clips.then_some(0.5),
            norm: norms.then_some((q_weight.as_slice(), k_weight.as_slice(), 1e-5)),
            rotary: rotates.then_some((row_cos.as_slice(), row_sin.as_slice())),
        };
        let (mut q, mut k, mut v) = (vec![0.0; rows * shape.n_head * hd], vec![0.0; rows * kv * hd], vec![0.0; rows * kv * hd]);
        pointwise::qkv_prepare(&shape, &params, &qkv, Qkv { q: &mut q, k: &mut k, v: &mut v });

        let pool = || tensor(&vec![7.0; 4 * kv * 3 * hd], (4, kv, 3, hd), DType::F32);
        let (keys, found_values) = (pool(), pool());
        let (q_weight, k_weight) = (tensor(&q_weight, hd, DType::F32), tensor(&k_weight, hd, DType::F32));
        let (cos, sin) = (tensor(&cos, (9, half), DType::F32), tensor(&sin, (9, half), DType::F32));
        let preparation = Preparation {
            rotary: rotates.then_some((&cos, &sin)),
            norm: norms.then_some((&q_weight, &k_weight, 1e-5)),
            clip: clips.then_some(0.5),
        };
        let places = [4u32, 0, u32::MAX, 11, 7];
        let at = (&words(&positions), &words(&places));
        let pages = Pages { keys: &keys, values: &found_values, shape: &shape };
        let qkv = tensor(&qkv, (rows, qkv.len() / rows), DType::F32);
        let queries = qkv_prepare(&qkv, &preparation, at, &pages).unwrap();
        let exact = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        assert_close(&values(&queries), &exact(&q), 1e-5);
        for (pool, expected) in [(&keys, &k), (&found_values, &v)] {
            let mut wanted = vec![7.0; 4 * kv * 3 * hd];
            for (row, place) in places.iter().enumerate().filter(|(_, place)| **place != u32::MAX) {
                for group in 0..kv {
                    let to = ((*place as usize / 3 * kv + group) * 3 + *place as usize % 3) * hd;
                    wanted[to..][..hd].copy_from_slice(&expected[(row * kv + group) * hd..][..hd]);
                }
            }
            assert_close(&values(pool), &exact(&wanted), 1e-5);
        }
    }

    #[test]
    fn attention_agrees_with_double_precision(
        (kv, share, width, page) in (1usize..3, 1usize..3, prop_oneof![Just(64usize), Just(128), 1usize..70], prop_oneof![Just(64usize), Just(16), 1usize..80]),
        sizes in prop::collection::vec((1usize..80, 0usize..4), 1..3), dtype in types(), seed: u64,
    ) {
        let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: width, page };
        let mut described = (Vec::new(), Vec::new());
        let (mut row, mut next) = (0, 1u32);
        let mut blocks = Vec::new();
        for (rows, before) in sizes {
            let rows = rows.min(page);
            let pages: Vec<u32> = (0..=before as u32).map(|i| next + before as u32 - i).collect();
            next += before as u32 + 1;
            let keys = before * page + rows;
            described.0.extend([row, rows, described.1.len(), keys].map(|n| n as u32));
            described.1.extend(&pages);
            blocks.push((row, rows, pages, keys));
            row += rows;
        }
        let pool = next as usize * kv * page * width;
        // Large enough that some keys stand out.
        let q: Vec<f32> = numbers(seed, row * shape.n_head * width).iter().map(|x| 3.0 * x).collect();
        let (k, v) = (numbers(seed ^ 1, pool), numbers(seed ^ 2, pool));
        let dims = (next as usize, kv, page, width);
        let (keys, found_values) = (tensor(&k, dims, dtype), tensor(&v, dims, dtype));
        let most_keys = blocks.iter().map(|block| block.3).max().unwrap();
        let device_blocks = Blocks { blocks: words(&described.0).reshape((blocks.len(), 4)).unwrap(), pages: words(&described.1), most_keys };
        let pages = Pages { keys: &keys, values: &found_values, shape: &shape };
        let out = values(&attend(&tensor(&q, (row, shape.n_head * width), dtype), &device_blocks, &pages).unwrap());
        for (first, rows, pages, keys) in &blocks {
            for r in *first..first + rows {
                for head in 0..shape.n_head {
                    let at = (r * shape.n_head + head) * width;
                    let key_at = |key: usize| ((pages[key / page] as usize * kv + head / share) * page + key % page) * width;
                    let dot = |key: usize| (0..width).map(|i| stored(q[at + i], dtype) * stored(k[key_at(key) + i], dtype)).sum::<f64>();
                    let scores: Vec<f64> = (0..*keys).map(|key| (dot(key) / (width as f64).sqrt()).exp()).collect();
                    let total: f64 = scores.iter().sum();
                    let of = |i: usize| scores.iter().enumerate().map(|(key, s)| s * stored(v[key_at(key) + i], dtype)).sum::<f64>() / total;
                    let expected: Vec<f64> = (0..width).map(of).collect();
                    assert_close(&out[at..][..width], &expected, tolerance(dtype));
                }
            }
        }
    }

    #[test]
    fn the_largest_are_those_of_the_cpu(n in 1usize..3000, padding in 0usize..40, k in 1usize..70, coarse: bool, dtype in types(), seed: u64) {
        let k = k.min(n);
        // Rounded values tie, which the index decides.
        let rows: Vec<f32> = numbers(seed, 3 * (n + padding)).iter().map(|x| if coarse { (4.0 * x).round() } else { 20.0 * x }).collect();
        let rows = tensor(&rows, (3, n + padding), dtype);
        let found = top_k(&rows, n, k, false, 15.0).unwrap();
        for (row, found) in values(&rows).chunks(n + padding).zip(found) {
            let clamped: Vec<f32> = row[..n].iter().map(|x| x.clamp(-15.0, 15.0)).collect();
            prop_assert_eq!(found, crate::kernels::topk::top_k(&clamped, k));
        }
    }

    /// Statistics and draws of rows with bans, penalties, suppression and guidance against the sampler of the CPU. Where the draw
    /// falls within rounding of the border of two tokens, either may come.
    #[test]
    fn tokens_are_those_of_the_cpu(
        vocab in 5usize..2500, sampling in 0u8..3, guided: bool, suppresses: bool, spread in 0.5f32..20.0, top_p in 0.05f32..1.0, seed: u64,
    ) {
        let rows = 4usize;
        let logits: Vec<f32> = numbers(seed, 2 * rows * vocab).iter().map(|x| spread * x).collect();
        let suppression: Vec<f32> = numbers(seed ^ 1, vocab).iter().map(|x| x.max(0.0)).collect();
        let columns: Vec<u32> = (0..vocab as u32).step_by(3).collect();
        let banned = [0u32, 2, 4];
        let params = GenerateParams {
            temperature: if sampling == 0 { 0.0 } else { 0.8 }, use_entropy_sampling: sampling == 2, top_p, ..GenerateParams::default()
        };
        let sampler = Sampler::new(&params);
        let uniforms: Vec<f64> = numbers(seed ^ 2, rows).iter().map(|x| f64::from(x.abs())).collect();
        let plans: Vec<RowPlan> = (0..rows as u32).map(|row| RowPlan {
            conditional: row,
            guidance: guided.then_some((row + rows as u32, 1.5)),
            suppression: suppresses.then_some(0),
            penalised: (0..columns.len() as u32, 1.3),
            banned,
            sampling: sampler.on_device(),
            uniform: uniforms[row as usize],
            group: 0..rows as u32,
            drawn: 3,
        }).collect();
        let suppressions = tensor(&suppression, (1, vocab), DType::F32);
        let device_logits = tensor(&logits, (2 * rows, vocab), DType::F32);
        let results = choose(&device_logits, &plans, suppresses.then_some(&suppressions), columns.clone()).unwrap();

        let (conditional, unconditional) = logits.split_at(rows * vocab);
        let raw: Vec<f32> = conditional.iter().zip(unconditional).map(|(c, u)| if guided { u + 1.5 * (c - u) } else { *c }).collect();
        let mut edited = raw.clone();
        for row in edited.chunks_mut(vocab) {
            for (i, x) in row.iter_mut().enumerate() {
                *x -= if suppresses { suppression[i] } else { 0.0 };
                if columns.contains(&(i as u32)) {
                    *x = if *x > 0.0 { *x / 1.3 } else { *x * 1.3 };
                }
                if banned.contains(&(i as u32)) {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
        let stats = row_stats(&edited, vocab);
        let expected_entropies = entropies(&edited, &stats);
        let mut drawn = 0;
        for (row, result) in results.iter().enumerate() {
            let (edited, stats) = (&edited[row * vocab..][..vocab], &stats[row]);
            prop_assert_eq!(result.max, stats.max);
            assert_close(&[result.sum_exp, result.entropy], &[stats.sum_exp.into(), expected_entropies[row].into()], 1e-4);
            let surer = results.iter().filter(|other| other.sum_exp < result.sum_exp).count();
            if surer >= 3 {
                continue;
            }
            drawn += 1;
            prop_assert_eq!(result.decision_logit, edited[result.id as usize]);
            assert_close(&[result.target_logit], &[raw[row * vocab + result.id as usize].into()], 1e-6);
            let around = [-1e-4, 0.0, 1e-4].map(|off| sampler.draw(edited, stats, (uniforms[row] + off).clamp(0.0, 1.0 - 1e-9)));
            prop_assert!(around.contains(&result.id), "{} is none of {:?}", result.id, around);
        }
        prop_assert_eq!(drawn, 3);
    }
}

#[test]
fn a_logit_that_is_no_finite_number_shows() {
    let vocab = 200;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut logits = numbers(1, 2 * vocab);
        logits[vocab + 77] = bad;
        let plan = |row| RowPlan {
            conditional: row,
            guidance: None,
            suppression: None,
            penalised: (0..0, 1.0),
            banned: [0, 1, 2],
            sampling: Draw::Entropy { top_p: 0.9 },
            uniform: 0.5,
            group: 0..2,
            drawn: 2,
        };
        let results = choose(&tensor(&logits, (2, vocab), DType::F32), &[plan(0), plan(1)], None, Vec::new()).unwrap();
        assert!(results[0].sum_exp.is_finite());
        assert!(!results[1].sum_exp.is_finite(), "{bad}: {results:?}");
    }
}

#[test]
fn a_launch_with_other_arguments_than_the_kernel_has_is_refused() {
    let x = tensor(&[1.0], 1, DType::F32);
    let refused = |launch: Launch| launch.run().unwrap_err().to_string();
    assert!(refused(Launch::new("penalise", [1, 1, 1], 32).read(&x)).contains("another number of arguments"));
    assert!(refused(Launch::new("no_kernel", [1, 1, 1], 32).read(&x)).contains("no such kernel"));
    assert!(refused(Launch::new("penalise", [1, 1, 1], 33).read(&x)).contains("whole warps"));
}
