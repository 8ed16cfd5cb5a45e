use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::kernels::every_arch;
use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

fn naive(x: &[f32], weight: &[f32], k: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    x.chunks(k).flat_map(|x| weight.chunks(k).map(move |w| dot(x, w))).collect()
}

fn transposed(weight: &[f32], k: usize) -> Vec<f32> {
    (0..k).flat_map(|i| weight.iter().skip(i).step_by(k).copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_agree_with_double_precision(m in 1usize..20, k in 1usize..600, n in 1usize..100, seed: u64) {
        let (weight, x, gy) = (numbers(seed, n * k), numbers(seed ^ 1, m * k), numbers(seed ^ 2, m * n));
        let packed = PackedMatrix::pack(&weight, n, k);
        let (forward, backward) = (naive(&x, &weight, k), naive(&gy, &transposed(&weight, k), n));
        for arch in every_arch() {
            let (mut y, mut gx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
            packed.matmul_on(arch, &x, &mut y);
            packed.matmul_transposed_on(arch, &gy, &mut gx);
            assert_close(&y, &forward, 2e-5);
            assert_close(&gx, &backward, 2e-5);
        }
    }
}

/// The same weights in every form that a matrix may have, rounded as each form rounds them.
fn every_form(weight: &[f32], n: usize, k: usize) -> Vec<(&'static str, PackedMatrix)> {
    let fill = |i: usize, row: &mut [f32]| row.copy_from_slice(&weight[i * k..][..k]);
    let mut forms =
        vec![("f32", PackedMatrix::pack_with(n, k, fill)), ("bf16", PackedMatrix::pack_bf16_with(n, k, None, fill))];
    for (name, dot) in [("bf16 by vectors", Dot::Vector), ("bf16 by tiles", Dot::Tile)] {
        forms.push((name, PackedMatrix::pack_bf16_with(n, k, Some(dot), fill)));
    }
    for (name, kind, dtype) in [("q8_0", Kind::Q8_0, GgmlDType::Q8_0), ("q4_k", Kind::Q4K, GgmlDType::Q4K)] {
        if k.is_multiple_of(kind.block()) {
            let rows = Tensor::from_slice(weight, (n, k), &Device::Cpu).unwrap();
            let bytes = QTensor::quantize(&rows, dtype).unwrap();
            forms.push((name, PackedMatrix::pack_quantized(kind, (n, k), &bytes.data().unwrap())));
        }
    }
    forms
}

/// The weight that a form stands for.
fn widened(matrix: &PackedMatrix) -> Vec<f32> {
    let mut weight = vec![0.0; matrix.rows_in * matrix.cols_out];
    for (i, row) in weight.chunks_mut(matrix.rows_in).enumerate() {
        matrix.row(i, row);
    }
    weight
}

#[test]
fn every_form_computes_with_exactly_the_weights_it_stands_for() {
    // Several passes over the depth, several panels, a panel that is not full, tiles that are not full.
    for (m, k, n) in [(9, 768, 77), (3, 301, 40)] {
        let (weight, x, gy) = (numbers(1, n * k), numbers(2, m * k), numbers(3, m * n));
        for (name, form) in every_form(&weight, n, k) {
            let plain = PackedMatrix::pack(&widened(&form), n, k);
            for arch in every_arch() {
                let product = |matrix: &PackedMatrix| {
                    let (mut y, mut gx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                    matrix.matmul_on(arch, &x, &mut y);
                    matrix.matmul_transposed_on(arch, &gy, &mut gx);
                    (y, gx)
                };
                let ((y, gx), (expected, expected_gx)) = (product(&form), product(&plain));
                assert_eq!(gx, expected_gx, "{name}, {arch:?}");
                assert_eq!(y == expected, form.dot_on(arch, Direction::Forward).is_none(), "{name}, {arch:?}");
            }
        }
    }
}

#[test]
fn quantized_weights_are_those_of_the_file() {
    let (n, k) = (40, 512);
    for (kind, dtype) in [(Kind::Q8_0, GgmlDType::Q8_0), (Kind::Q4K, GgmlDType::Q4K)] {
        let rows = Tensor::from_vec(numbers(1, n * k), (n, k), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&rows, dtype).unwrap();
        let expected = blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let packed = PackedMatrix::pack_quantized(kind, (n, k), &blocks.data().unwrap());
        assert_eq!(widened(&packed), expected, "{kind}");
    }
}

#[test]
fn forms_are_as_far_from_the_weights_as_their_bits_say() {
    let (n, k) = (40, 512);
    let weight = numbers(1, n * k);
    let largest =
        |form: &PackedMatrix| widened(form).iter().zip(&weight).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let found: Vec<(&str, f32, usize)> =
        every_form(&weight, n, k).iter().map(|(name, form)| (*name, largest(form), form.bytes())).collect();
    // Weights lie between -1 and 1; of 40 rows, 64 are stored. Steps of 1/127 are rounded by half of one, and the
    // largest weight by as much as its factor, a float16; steps of 2/15 likewise, of which scales of 6 bits make more.
    let limits = [0.0, 2f32.powi(-9), 2f32.powi(-9), 2f32.powi(-9), 0.5 / 127.0 + 2f32.powi(-11), 1.0 / 15.0 * 1.35];
    let bits = [32.0, 16.0, 16.0, 16.0, 9.0, 4.75];
    for ((name, error, bytes), (limit, bits)) in found.into_iter().zip(limits.into_iter().zip(bits)) {
        assert!(error <= limit, "{name}: {error}, expected at most {limit}");
        assert_eq!(bytes as f64, 64.0 * k as f64 * bits / 8.0, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Rounding the input moves each of its numbers by 2^-8 of itself at most, and a sum of k products is off by at
    /// most (k + 1) 2^-23 of the sum of their sizes, each product and each addition being rounded once.
    #[test]
    fn products_of_bfloat16_are_within_the_bound_of_its_rounding(
        m in 1usize..70, k in 1usize..1200, n in 1usize..70, scale in -20i32..20, seed: u64,
    ) {
        let scale = 2f32.powi(scale);
        let mut weight = numbers(seed, n * k);
        weight.iter_mut().for_each(|w| *w = half::bf16::from_f32(*w).to_f32());
        let x: Vec<f32> = numbers(seed ^ 1, m * k).iter().map(|x| x * scale).collect();
        let exact = naive(&x, &weight, k);
        let sizes = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let size = naive(&sizes(&x), &sizes(&weight), k);
        for dot in [Dot::Vector, Dot::Tile] {
            let fill = |i: usize, row: &mut [f32]| row.copy_from_slice(&weight[i * k..][..k]);
            let packed = PackedMatrix::pack_bf16_with(n, k, Some(dot), fill);
            for arch in every_arch() {
                let rounding = if packed.dot_on(arch, Direction::Forward).is_some() { 2f64.powi(-8) } else { 0.0 };
                let mut y = vec![f32::NAN; m * n];
                packed.matmul_on(arch, &x, &mut y);
                for ((y, exact), size) in y.iter().zip(&exact).zip(&size) {
                    let error = (f64::from(*y) - exact).abs();
                    let bound = (rounding + (k + 1) as f64 * 2f64.powi(-23)) * size + 1e-30;
                    prop_assert!(error <= bound, "{y}, expected {exact} within {bound}, {dot:?}, {arch:?}");
                }
            }
        }
    }
}

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn the_instructions_are_used_where_the_processor_has_them() {
    let weight = numbers(1, 64);
    let fill = |i: usize, row: &mut [f32]| row.copy_from_slice(&weight[i * 8..][..8]);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    for (dot, flag) in [(Dot::Vector, "avx512_bf16"), (Dot::Tile, "amx_bf16")] {
        let packed = PackedMatrix::pack_bf16_with(8, 8, Some(dot), fill);
        let there = cpu.split_whitespace().any(|word| word == flag);
        assert_eq!(packed.dot_on(Arch::new(), Direction::Forward), there.then_some(dot));
        assert_eq!(packed.dot_on(Arch::Scalar, Direction::Forward), None);
        assert_eq!(packed.dot_on(Arch::new(), Direction::Transposed), None);
        assert_eq!(Dot::all().contains(&dot), there);
    }
    if Dot::all().contains(&Dot::Tile) {
        assert_eq!(Dot::fastest(), Some(Dot::Tile));
    }
    let exact = PackedMatrix::pack_bf16_with(8, 8, None, fill);
    assert_eq!(exact.dot_on(Arch::new(), Direction::Forward), None);
}

#[test]
fn the_instructions_take_numbers_below_the_normal_range_for_zero() {
    for dot in Dot::all() {
        let packed = PackedMatrix::pack_bf16_with(1, 2, Some(dot), |_, row| row.fill(1.0));
        let mut y = [f32::NAN; 2];
        packed.matmul(&[1e-39, 0.0, 2e-38, 0.0], &mut y);
        assert_eq!(y, [0.0, half::bf16::from_f32(2e-38).to_f32()], "{dot:?}");
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    let (n, most) = (77, 300);
    for k in [300, 768] {
        for (name, packed) in every_form(&numbers(1, n * k), n, k) {
            same_bits_alone_and_in_company(name, &packed, most);
        }
    }
}

fn same_bits_alone_and_in_company(name: &str, packed: &PackedMatrix, most: usize) {
    let (k, n) = (packed.rows_in, packed.cols_out);
    let (x, gy) = (numbers(2, most * k), numbers(3, most * n));
    for arch in every_arch() {
        let (mut y, mut gx) = (vec![0.0; most * n], vec![0.0; most * k]);
        packed.matmul_on(arch, &x, &mut y);
        packed.matmul_transposed_on(arch, &gy, &mut gx);
        for m in [1, 2, 3, 7, 8, 9, 64, 129] {
            // The last m rows: their places in the tiles differ, too.
            let from = most - m;
            for (part, back) in on_one_and_two_threads(|| {
                let (mut part, mut back) = (vec![0.0; m * n], vec![0.0; m * k]);
                packed.matmul_on(arch, &x[from * k..], &mut part);
                packed.matmul_transposed_on(arch, &gy[from * n..], &mut back);
                (part, back)
            }) {
                assert_eq!(part, y[from * n..], "{name}: {m} rows, {arch:?}");
                assert_eq!(back, gx[from * k..], "{name}: {m} gradient rows, {arch:?}");
            }
        }
    }
}

#[test]
fn weight_rows_come_back_unchanged() {
    let (k, n) = (19, 70);
    let weight = numbers(4, n * k);
    let packed = PackedMatrix::pack_with(n, k, |i, row| row.copy_from_slice(&weight[i * k..][..k]));
    let x = numbers(5, k);
    let products = naive(&x, &weight, k);
    let mut row = vec![0.0; k];
    for (i, expected) in weight.chunks(k).enumerate() {
        packed.row(i, &mut row);
        assert_eq!(row, expected);
        assert_close(&[packed.dot_row(i, &x)], &products[i..=i], 1e-6);
    }
}

#[test]
fn empty_shapes_give_zeros() {
    let mut out = [f32::NAN; 6];
    PackedMatrix::pack(&[], 3, 0).matmul(&[], &mut out);
    assert_eq!(out, [0.0; 6]);
    PackedMatrix::pack(&numbers(1, 6), 3, 2).matmul(&[], &mut []);
}
