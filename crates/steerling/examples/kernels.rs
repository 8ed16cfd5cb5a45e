//! Speed of the processor kernels on this machine: `cargo run --release -p steerling --example kernels`.
#![expect(clippy::print_stdout, reason = "a report for the terminal")]

use std::hint::black_box;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use rayon::ThreadPool;
use steerling::kernels::attention::{BlockQuery, HeadShape, paged_attention};
use steerling::kernels::matmul::{Dot, Kind, PackedMatrix};
use steerling::kernels::pointwise::{Qkv, QkvParams, qkv_prepare, rms_norm, swiglu};
use steerling::kernels::softmax::row_stats;
use steerling::kernels::topk::top_k;

/// Best of several runs, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < 0.25 || best.is_infinite() {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn main() {
    let pools = [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads start"));
    products(&pools);
    attention(&pools);
    row_functions(&pools);
}

/// Seconds on one thread and on two.
fn timed(pools: &[ThreadPool; 2], mut f: impl FnMut() + Send) -> [f64; 2] {
    [0, 1].map(|i| best(|| pools[i].install(&mut f)))
}

fn products(pools: &[ThreadPool; 2]) {
    println!("products, GFLOP/s on one thread and on two (candle: on its own threads)");
    println!("  f32: weights in float32; bf16: the same product from bfloat16; then by the instructions for it");
    for (k, n) in [(1024, 1536), (1024, 4096), (1024, 8192), (4096, 1024), (4096, 4096), (1024, 100_281)] {
        let weight = numbers(n * k);
        let packed = PackedMatrix::pack(&weight, n, k);
        let fill = |i: usize, row: &mut [f32]| row.copy_from_slice(&weight[i * k..][..k]);
        let halves = PackedMatrix::pack_bf16_with(n, k, None, fill);
        let dots: Vec<(Dot, PackedMatrix)> =
            Dot::all().into_iter().map(|dot| (dot, PackedMatrix::pack_bf16_with(n, k, Some(dot), fill))).collect();
        let rows = Tensor::from_slice(&weight, (n, k), &Device::Cpu).expect("weight");
        let quantized = [(Kind::Q8_0, GgmlDType::Q8_0), (Kind::Q4K, GgmlDType::Q4K)].map(|(kind, dtype)| {
            let blocks = QTensor::quantize(&rows, dtype).expect("blocks");
            let ours = PackedMatrix::pack_quantized(kind, (n, k), &blocks.data().expect("bytes"));
            (kind, ours, QMatMul::from_qtensor(blocks).expect("a matrix"))
        });
        let dense = Tensor::from_vec(weight, (n, k), &Device::Cpu).and_then(|w| w.t()?.contiguous()).expect("weight");
        for m in [64, 128] {
            let (x, mut out, mut gx) = (numbers(m * k), vec![0.0; m * n], vec![0.0; m * k]);
            let rate = |seconds: f64| 2e-9 * (m * k * n) as f64 / seconds;
            let forward = timed(pools, || packed.matmul(&x, black_box(&mut out))).map(rate);
            let back = timed(pools, || packed.matmul_transposed(&out, black_box(&mut gx))).map(rate);
            let tensor = Tensor::from_slice(&x, (m, k), &Device::Cpu).expect("input");
            let candle = rate(best(|| drop(black_box(tensor.matmul(&dense).expect("product")))));
            print!("m {m:3} k {k:4} n {n:6}: f32 {:4.0} {:4.0}, ", forward[0], forward[1]);
            println!("transposed {:4.0} {:4.0}, candle {candle:4.0}", back[0], back[1]);
            let of =
                |matrix: &PackedMatrix, out: &mut [f32]| timed(pools, || matrix.matmul(&x, black_box(out))).map(rate);
            let [one, two] = of(&halves, &mut out);
            print!("    bf16 {one:4.0} {two:4.0}");
            for (dot, matrix) in &dots {
                let [one, two] = of(matrix, &mut out);
                print!(", {dot:?} {one:4.0} {two:4.0}");
            }
            for (kind, ours, theirs) in &quantized {
                let ours = of(ours, &mut out);
                let theirs = rate(best(|| drop(black_box(theirs.forward(&tensor).expect("product")))));
                print!(", {kind} {:4.0} {:4.0}, candle {theirs:4.0}", ours[0], ours[1]);
            }
            println!();
        }
    }
}

fn attention(pools: &[ThreadPool; 2]) {
    let shape = HeadShape { n_head: 16, n_kv_heads: 4, head_dim: 64, page: 64 };
    let (rows, keys) = (128, 1056_usize);
    let pages: Vec<u32> = (0..keys.div_ceil(shape.page) as u32).collect();
    let pool = numbers(pages.len() * shape.n_kv_heads * shape.page * shape.head_dim);
    let (q, mut out) = (numbers(rows * 1024), vec![0.0; rows * 1024]);
    let blocks = [0, 64].map(|row| BlockQuery { row, rows: 64, pages: &pages, keys });
    let times = timed(pools, || paged_attention(&shape, &q, &pool, &pool, &blocks, black_box(&mut out)));
    let [one, two] = times.map(|seconds| 4e-9 * (rows * keys * 1024) as f64 / seconds);
    println!("attention, {rows} rows x {keys} keys: {one:.0} {two:.0} GFLOP/s, {:.2} ms on one thread", 1e3 * times[0]);
}

fn row_functions(pools: &[ThreadPool; 2]) {
    let report = |name: &str, numbers: usize, times: [f64; 2]| {
        let [one, two] = times.map(|seconds| 1e-9 * numbers as f64 / seconds);
        println!("{name}: {one:.2} {two:.2} billion numbers/s, {:.3} ms on one thread", 1e3 * times[0]);
    };
    let (m, inter) = (128, 4096);
    let (fc, mut act) = (numbers(m * 2 * inter), vec![0.0; m * inter]);
    report("swiglu 128 x 4096", m * inter, timed(pools, || swiglu(&fc, inter, black_box(&mut act))));
    let mut normed = vec![0.0; m * inter];
    let norm = timed(pools, || rms_norm(&act, &fc[..inter], 1e-5, black_box(&mut normed)));
    report("rms_norm 128 x 4096", m * inter, norm);
    let shape = HeadShape { n_head: 16, n_kv_heads: 4, head_dim: 64, page: 64 };
    let (weight, angles) = (numbers(64), numbers(m * 32));
    let params = QkvParams { clip: Some(0.9), norm: Some((&weight, &weight, 1e-5)), rotary: Some((&angles, &angles)) };
    let [mut q, mut k, mut v] = [1024, 256, 256].map(|width| vec![0.0; m * width]);
    let prepare = timed(pools, || {
        qkv_prepare(&shape, &params, &fc[..m * 1536], Qkv { q: &mut q, k: &mut k, v: black_box(&mut v) });
    });
    report("qkv_prepare 128 x 1536", m * 1536, prepare);
    let width = 100_281;
    let logits = numbers(64 * width);
    report("row_stats 64 x 100281", 64 * width, timed(pools, || drop(black_box(row_stats(&logits, width)))));
    for (width, k) in [(33_732, 32), (101_196, 128)] {
        let best = timed(pools, || {
            for row in logits[..60 * width].chunks(width) {
                black_box(top_k(row, k));
            }
        });
        report(&format!("top_k {k} of 60 x {width} (never shared)"), 60 * width, best);
    }
}
