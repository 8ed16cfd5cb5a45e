//! Block attention over pages of keys and values.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::scratch::scratch;
use super::tile::{MR, NR, tile};
use super::vector::exp_f32s;

/// The heads of an attention layer and the size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, `H`: a multiple of `n_kv_heads`.
    pub n_head: usize,
    /// Heads of keys and values, `G`; query head `h` uses `h / (H/G)`.
    pub n_kv_heads: usize,
    /// Length of one head's vectors, `hd`.
    pub head_dim: usize,
    /// Positions of a page, `S`.
    pub page: usize,
}

/// One attention block of one sequence: its query rows and the pages it sees.
#[derive(Clone, Copy, Debug)]
pub struct BlockQuery<'a> {
    /// The block's first row in the queries and in the output.
    pub row: usize,
    /// Its number of rows; all of them see the same keys.
    pub rows: usize,
    /// The pages of its keys and values, in the order of their positions.
    pub pages: &'a [u32],
    /// Visible keys; they fill `ceil(keys / page)` pages.
    pub keys: usize,
}

/// Attention of every block over its pages, `softmax(q k^T / sqrt(head_dim)) v`.
///
/// `q` and `out` `[rows, H * hd]`; `k_pool` and `v_pool` `[pages, G, S, hd]`. Rows of `out` outside all blocks stay as they are.
///
/// # Panics
/// If a length, a page or a row does not fit the shape, a block has no key, or two blocks share a row.
pub fn paged_attention(
    shape: &HeadShape,
    q: &[f32],
    k_pool: &[f32],
    v_pool: &[f32],
    blocks: &[BlockQuery],
    out: &mut [f32],
) {
    paged_attention_on(Arch::new(), shape, q, k_pool, v_pool, blocks, out);
}

pub(super) fn paged_attention_on(
    arch: Arch,
    shape: &HeadShape,
    q: &[f32],
    k_pool: &[f32],
    v_pool: &[f32],
    blocks: &[BlockQuery],
    out: &mut [f32],
) {
    let HeadShape { n_head, n_kv_heads, head_dim, page } = *shape;
    let width = n_head * head_dim;
    assert!(n_head.is_multiple_of(n_kv_heads), "{n_head} query heads for {n_kv_heads} heads of keys");
    assert_eq!(q.len(), out.len(), "queries and outputs");
    assert!(q.len().is_multiple_of(width), "{} query numbers are no rows of {width}", q.len());
    assert_eq!(k_pool.len(), v_pool.len(), "pools of keys and values");
    let mut rows: Vec<Option<&mut [f32]>> = out.chunks_mut(width).map(Some).collect();
    let mut tasks = Vec::with_capacity(blocks.len() * n_kv_heads);
    for block in blocks {
        assert!(block.keys > 0, "a block without keys");
        assert_eq!(block.pages.len(), block.keys.div_ceil(page), "pages for {} keys", block.keys);
        let mut heads: Vec<Vec<&mut [f32]>> = (0..n_kv_heads).map(|_| Vec::with_capacity(block.rows)).collect();
        for row in &mut rows[block.row..block.row + block.rows] {
            let row = row.take().expect("blocks do not share rows: the caller's contract");
            for (head, segment) in heads.iter_mut().zip(row.chunks_mut(width / n_kv_heads)) {
                head.push(segment);
            }
        }
        tasks.extend(heads.into_iter().enumerate().map(|(kv_head, out)| HeadTask {
            shape: *shape,
            block: *block,
            kv_head,
            q: &q[block.row * width..(block.row + block.rows) * width],
            k_pool,
            v_pool,
            out,
        }));
    }
    tasks.into_par_iter().for_each(|task| arch.dispatch(task));
}

/// One block and one head of keys: `rows * H/G` queries that share their keys.
struct HeadTask<'a> {
    shape: HeadShape,
    block: BlockQuery<'a>,
    kv_head: usize,
    /// The block's rows, all heads.
    q: &'a [f32],
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    /// The outputs of this head's queries, `[H/G * hd]` for each row.
    out: Vec<&'a mut [f32]>,
}

impl HeadTask<'_> {
    /// This head's part of page number `p` of the block, `[S, hd]`.
    fn page<'b>(&self, pool: &'b [f32], p: usize) -> &'b [f32] {
        let len = self.shape.page * self.shape.head_dim;
        &pool[(self.block.pages[p] as usize * self.shape.n_kv_heads + self.kv_head) * len..][..len]
    }

    /// The visible keys as tiles of eight, `[tiles][hd][8]`; missing keys are zero.
    #[inline(always)]
    fn pack_keys(&self, tiles: &mut [[f32; MR]]) {
        let hd = self.shape.head_dim;
        for (t, tile) in tiles.chunks_exact_mut(hd).enumerate() {
            if (t + 1) * MR > self.block.keys {
                tile.fill([0.0; MR]);
            }
            for i in 0..MR.min(self.block.keys - t * MR) {
                let key = t * MR + i;
                let page = self.page(self.k_pool, key / self.shape.page);
                let key = &page[key % self.shape.page * hd..][..hd];
                for (line, x) in tile.iter_mut().zip(key) {
                    line[i] = *x;
                }
            }
        }
    }

    /// The visible values as tiles of eight columns, `[tiles][keys][8]`; missing columns are zero.
    #[inline(always)]
    fn pack_values(&self, tiles: &mut [[f32; MR]]) {
        let (hd, keys, page) = (self.shape.head_dim, self.block.keys, self.shape.page);
        for p in 0..self.block.pages.len() {
            let values = self.page(self.v_pool, p);
            let rows = page.min(keys - p * page);
            for (t, tile) in tiles.chunks_exact_mut(keys).enumerate() {
                let columns = t * MR..hd.min((t + 1) * MR);
                for (line, value) in tile[p * page..][..rows].iter_mut().zip(values.chunks_exact(hd)) {
                    let value = &value[columns.clone()];
                    *line = value.try_into().unwrap_or_else(|_| {
                        let mut line = [0.0; MR];
                        line[..value.len()].copy_from_slice(value);
                        line
                    });
                }
            }
        }
    }

    /// Up to 32 queries from number `first` on as the columns of `panel` `[hd][32]`, scaled. A row's heads are neighbours.
    #[inline(always)]
    fn pack_queries(&self, first: usize, panel: &mut [[f32; NR]]) {
        let HeadShape { n_head, n_kv_heads, head_dim, .. } = self.shape;
        let share = n_head / n_kv_heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        for j in 0..NR {
            let query = first + j;
            if query < self.block.rows * share {
                let head = query / share * n_head + self.kv_head * share + query % share;
                for (line, x) in panel.iter_mut().zip(&self.q[head * head_dim..]) {
                    line[j] = x * scale;
                }
            } else {
                panel.iter_mut().for_each(|line| line[j] = 0.0);
            }
        }
    }
}

impl WithSimd for HeadTask<'_> {
    type Output = ();

    /// Everything is held transposed: the queries are lanes, so that the softmax needs no work across lanes.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let HeadShape { n_head, n_kv_heads, head_dim: hd, .. } = self.shape;
        let (keys, share) = (self.block.keys, n_head / n_kv_heads);
        let (key_tiles, value_tiles) = (keys.div_ceil(MR), hd.div_ceil(MR));
        let mut k_buffer = scratch(key_tiles * hd * MR);
        let k = k_buffer.as_chunks_mut::<MR>().0;
        self.pack_keys(k);
        let mut v_buffer = scratch(value_tiles * keys * MR);
        let v = v_buffer.as_chunks_mut::<MR>().0;
        self.pack_values(v);
        let mut q_buffer = scratch(hd * NR);
        let q = q_buffer.as_chunks_mut::<NR>().0;
        let mut score_buffer = scratch(key_tiles * MR * NR);
        let scores = score_buffer.as_chunks_mut::<NR>().0;
        for first in (0..self.block.rows * share).step_by(NR) {
            self.pack_queries(first, q);
            for (scores, k) in scores.as_chunks_mut::<MR>().0.iter_mut().zip(k.chunks_exact(hd)) {
                tile(simd, k, q, scores, true);
            }
            let sums = exponentials(simd, &mut scores[..keys]);
            for (t, v) in v.chunks_exact(keys).enumerate() {
                let mut o = [[0.0; NR]; MR];
                tile(simd, v, &scores[..keys], &mut o, true);
                for j in 0..NR.min(self.block.rows * share - first) {
                    let (row, head) = ((first + j) / share, (first + j) % share);
                    let out = &mut self.out[row][head * hd..][..hd][t * MR..hd.min((t + 1) * MR)];
                    for (out, o) in out.iter_mut().zip(&o) {
                        *out = o[j] / sums[j];
                    }
                }
            }
        }
    }
}

/// Replaces each column of `scores` `[keys][32]` by `exp(score - max)` and returns the columns' sums.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [[f32; NR]]) -> [f32; NR] {
    let mut sums = [0.0; NR];
    for (v, sum) in S::as_mut_simd_f32s(&mut sums).0.iter_mut().enumerate() {
        let mut max = simd.splat_f32s(f32::NEG_INFINITY);
        for line in &*scores {
            max = simd.max_f32s(max, S::as_simd_f32s(line).0[v]);
        }
        for line in &mut *scores {
            let x = &mut S::as_mut_simd_f32s(line).0[v];
            *x = exp_f32s(simd, simd.sub_f32s(*x, max));
            *sum = simd.add_f32s(*sum, *x);
        }
    }
    sums
}

/// Writes `rows` `[n, G * hd]` (keys or values) into `pool` `[pages, G, S, hd]`: row `i` goes to `places[i]`, a page and a slot.
///
/// # Panics
/// If a length or a place does not fit the shape.
pub fn write_page_rows(shape: &HeadShape, rows: &[f32], places: &[(u32, u32)], pool: &mut [f32]) {
    let HeadShape { n_kv_heads, head_dim, page, .. } = *shape;
    assert_eq!(rows.len(), places.len() * n_kv_heads * head_dim, "rows for {} places", places.len());
    for (row, (to_page, slot)) in rows.chunks(n_kv_heads * head_dim).zip(places) {
        let (to_page, slot) = (*to_page as usize, *slot as usize);
        assert!(slot < page, "slot {slot} of a page of {page}");
        for (g, head) in row.chunks(head_dim).enumerate() {
            pool[((to_page * n_kv_heads + g) * page + slot) * head_dim..][..head_dim].copy_from_slice(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;
    use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

    /// Pages 1, 2, ... of a pool whose page 0 belongs to somebody else, filled through `write_page_rows`.
    fn pool(shape: &HeadShape, rows: &[f32], keys: usize) -> (Vec<f32>, Vec<u32>) {
        let count = keys.div_ceil(shape.page);
        let pages: Vec<u32> = (1..=count as u32).rev().collect();
        let mut pool = vec![f32::NAN; (count + 1) * shape.n_kv_heads * shape.page * shape.head_dim];
        let places: Vec<_> = (0..keys).map(|i| (pages[i / shape.page], (i % shape.page) as u32)).collect();
        write_page_rows(shape, rows, &places, &mut pool);
        (pool, pages)
    }

    fn naive(shape: &HeadShape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let hd = shape.head_dim;
        let width = shape.n_kv_heads * hd;
        let mut out = Vec::new();
        for row in q.chunks(shape.n_head * hd) {
            for (h, q) in row.chunks(hd).enumerate() {
                let g = h / (shape.n_head / shape.n_kv_heads) * hd;
                let scores: Vec<f64> = k
                    .chunks(width)
                    .map(|k| q.iter().zip(&k[g..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>())
                    .map(|score| (score / (hd as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = scores.iter().sum();
                out.extend(
                    (0..hd)
                        .map(|d| v.chunks(width).zip(&scores).map(|(v, p)| f64::from(v[g + d]) * p).sum::<f64>() / sum),
                );
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn attention_agrees_with_double_precision(
            kv in 1usize..4, share in 1usize..4, hd in 1usize..40, page in 1usize..14, keys in 1usize..90, rows in 1usize..14, seed: u64,
        ) {
            let shape = HeadShape { n_head: kv * share, n_kv_heads: kv, head_dim: hd, page };
            let q: Vec<f32> = numbers(seed, rows * kv * share * hd).iter().map(|q| 4.0 * q).collect();
            let (k, v) = (numbers(seed ^ 1, keys * kv * hd), numbers(seed ^ 2, keys * kv * hd));
            let expected = naive(&shape, &q, &k, &v);
            let ((k, pages), (v, _)) = (pool(&shape, &k, keys), pool(&shape, &v, keys));
            let block = BlockQuery { row: 0, rows, pages: &pages, keys };
            for arch in every_arch() {
                let mut out = vec![f32::NAN; q.len()];
                paged_attention_on(arch, &shape, &q, &k, &v, &[block], &mut out);
                assert_close(&out, &expected, 1e-5);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let shape = HeadShape { n_head: 6, n_kv_heads: 2, head_dim: 16, page: 12 };
        let (rows, keys) = (12, 37);
        let q = numbers(1, 2 * rows * 96);
        let ((k, pages), (v, _)) =
            (pool(&shape, &numbers(2, keys * 32), keys), pool(&shape, &numbers(3, keys * 32), keys));
        let (first, second) = (
            BlockQuery { row: 0, rows, pages: &pages, keys },
            BlockQuery { row: rows, rows, pages: &pages[..2], keys: 24 },
        );
        for arch in every_arch() {
            let mut whole = vec![0.0; q.len()];
            paged_attention_on(arch, &shape, &q, &k, &v, &[second, first], &mut whole);
            for one in 0..rows {
                for out in on_one_and_two_threads(|| {
                    let mut out = vec![0.0; 96];
                    let block = BlockQuery { row: 0, rows: 1, ..first };
                    paged_attention_on(arch, &shape, &q[one * 96..][..96], &k, &v, &[block], &mut out);
                    out
                }) {
                    assert_eq!(out, whole[one * 96..][..96], "row {one}, {arch:?}");
                }
            }
            let mut alone = vec![0.0; q.len()];
            paged_attention_on(arch, &shape, &q, &k, &v, &[second], &mut alone);
            assert_eq!(alone[rows * 96..], whole[rows * 96..]);
            assert!(alone[..rows * 96].iter().all(|x| *x == 0.0), "rows outside the block were written");
        }
    }
}
