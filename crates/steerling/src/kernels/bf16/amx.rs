//! The product by `tdpbf16ps`: tiles of 16 x 16 pairs, in registers of 1 KiB.
//!
//! Two tiles of rows times two of columns are four of sums: 32 rows and one panel. A pass over a panel's depth goes
//! through all rows, so that its weights are read from the first-level cache but once.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::LazyLock;

use pulp::Arch;
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

use super::{Product, rounded};
use crate::kernels::scratch::{Scratch, scratch};
use crate::kernels::tile::NR;

/// Rows, and lines of pairs, of a tile.
const TILE: usize = 16;
/// Rows that are multiplied at a time: two tiles of them.
const ROWS: usize = 2 * TILE;
/// Blocks of one pass over a panel: 32 KiB of weights, which stay in the first-level cache.
const DEPTH: usize = 16;

/// 32 numbers of 32 rows: two tiles one below the other.
type Block = [[u16; 2 * TILE]; ROWS];
/// 32 rows of a panel's sums: the tiles of the first 16 rows, left and right, then of the others.
type Sums = [[[f32; TILE]; TILE]; 4];
/// The weights of a panel that a block is multiplied with: two tiles side by side.
type Lines = [[u32; NR]; TILE];

/// Whether [`multiply`] may be called where `arch` is used.
pub(super) fn available(arch: Arch) -> bool {
    static PERMITTED: LazyLock<bool> = LazyLock::new(|| detected() && permitted());
    matches!(arch, Arch::V4(_)) && *PERMITTED
}

/// Whether the processor has tiles, and products of bfloat16 on them.
fn detected() -> bool {
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES_AND_BF16 == TILES_AND_BF16
}

/// Asks Linux for the tiles, for this process: it keeps their 8 KiB only for threads that use them. Refused by kernels
/// before 5.16, by those that do not know the tiles, and by sandboxes.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this request of the system call reads and writes no memory.
    #[expect(unsafe_code, reason = "a system call")]
    let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    refused == 0
}

/// Rows `[m, k]` as blocks `[m / 32][k / 32]`, padded with zeros.
pub(super) fn pack(x: &[f32], k: usize) -> Scratch {
    let len = k.div_ceil(2 * TILE) * size_of::<Block>() / size_of::<f32>();
    let mut packed = scratch(x.len().div_ceil(ROWS * k) * len);
    let arch = Arch::new();
    packed.par_chunks_mut(len).zip(x.par_chunks(ROWS * k)).for_each(|(blocks, rows)| {
        arch.dispatch(|| pack_rows(rows, k, cast_slice_mut(blocks)));
    });
    packed
}

#[inline(always)]
fn pack_rows(rows: &[f32], k: usize, blocks: &mut [Block]) {
    let round = |x: f32| rounded(x) as u16;
    for (i, row) in rows.chunks(k).enumerate() {
        let (whole, rest) = row.as_chunks();
        for (block, x) in blocks.iter_mut().zip(whole) {
            block[i] = x.map(round);
        }
        if let Some(block) = blocks.get_mut(whole.len()) {
            block[i] = std::array::from_fn(|j| rest.get(j).copied().map_or(0, round));
        }
    }
    for block in blocks {
        block[rows.len() / k..].fill([0; 2 * TILE]);
    }
}

/// Computes a task.
///
/// # Panics
/// If the tiles are not available, or the panels do not hold bfloat16.
pub(super) fn multiply(product: Product) {
    let Product { panels, k, packed, panel, mut rows } = product;
    let blocks = k.div_ceil(2 * TILE);
    let packed: &[Block] = cast_slice(packed);
    let width = rows.first().map_or(0, |row| row.len());
    let tiles = Tiles::configure();
    let mut sums = scratch(width.div_ceil(NR) * rows.len().div_ceil(ROWS) * size_of::<Sums>() / size_of::<f32>());
    let sums: &mut [Sums] = cast_slice_mut(&mut sums);
    for from in (0..blocks).step_by(DEPTH) {
        let to = blocks.min(from + DEPTH);
        for (p, sums) in sums.chunks_mut(rows.len().div_ceil(ROWS)).enumerate() {
            let pairs = panels.pairs(panel + p, k).expect("panels of bfloat16");
            let pairs = &pairs[from * TILE..pairs.len().min(to * TILE)];
            for (a, sums) in packed.chunks(blocks).zip(sums) {
                tiles.accumulate(&a[from..to], pairs, sums, from == 0);
            }
        }
    }
    for (p, sums) in sums.chunks(rows.len().div_ceil(ROWS)).enumerate() {
        for (i, row) in rows.iter_mut().enumerate() {
            let [left, right] = [0, 1].map(|side| sums[i / ROWS][i % ROWS / TILE * 2 + side][i % TILE]);
            let mut line = [0.0; NR];
            line[..TILE].copy_from_slice(&left);
            line[TILE..].copy_from_slice(&right);
            match row[p * NR..].first_chunk_mut::<NR>() {
                // Of a length that is known, so that this is no call.
                Some(out) => *out = line,
                None => row[p * NR..].copy_from_slice(&line[..width - p * NR]),
            }
        }
    }
}

/// The tile registers of this thread, all of 16 rows of 64 bytes, until it is dropped.
struct Tiles {
    /// They belong to the thread.
    _not_send: PhantomData<*const ()>,
}

impl Tiles {
    /// # Panics
    /// If the tiles are not available.
    fn configure() -> Self {
        /// What `ldtilecfg` reads.
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        assert!(available(Arch::new()), "a processor and a system with AMX");
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(size_of::<[u32; TILE]>() as u16);
        rows[..8].fill(TILE as u8);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the processor has the instruction and the system permits it, as was asserted. It reads 64 bytes, which
        // are a valid configuration: palette 1 is eight registers of up to 16 rows of up to 64 bytes. No code but this
        // module's uses the registers.
        #[expect(unsafe_code, reason = "there are no stable functions for tiles")]
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags, readonly));
        }
        Self { _not_send: PhantomData }
    }

    /// `sums (+)= a * pairs`, `pairs` being padded with zeros if they end within the last block. With `first` the old
    /// content of `sums` is ignored.
    ///
    /// Every sum is one chain of operations over the blocks, so that its bits do not depend on the tile it sits in.
    fn accumulate(&self, a: &[Block], pairs: &[[u32; NR]], sums: &mut Sums, first: bool) {
        let (whole, rest) = pairs.as_chunks::<TILE>();
        let (a, last) = a.split_at(whole.len());
        self.accumulate_whole(a, whole, sums, first);
        if !rest.is_empty() {
            let mut lines = [[0; NR]; TILE];
            lines[..rest.len()].copy_from_slice(rest);
            self.accumulate_whole(last, &[lines], sums, first && whole.is_empty());
        }
    }

    #[inline]
    fn accumulate_whole(&self, a: &[Block], b: &[Lines], sums: &mut Sums, first: bool) {
        assert_eq!(a.len(), b.len(), "blocks of rows and of weights");
        if a.is_empty() {
            return;
        }
        // SAFETY: the instructions are there and the tiles are configured: both is what `self` stands for. `a` and `b`
        // are followed for as many blocks as both have, at least one: 2 KiB each, of which a tile takes 16 rows of 64
        // bytes, that is all of it, in rows that are 64 bytes (`a`) and 128 bytes (`b`) apart. `sums` is four tiles of
        // 1 KiB, borrowed to be written. Tile registers used are named; no instruction needs an alignment.
        #[expect(unsafe_code, reason = "there are no stable functions for tiles")]
        unsafe {
            asm!(
                "test {first:e}, {first:e}",
                "jnz 2f",
                "tileloadd tmm0, [{c} + {a_row}]",
                "tileloadd tmm1, [{c} + {a_row} + 1024]",
                "tileloadd tmm2, [{c} + {a_row} + 2048]",
                "tileloadd tmm3, [{c} + {a_row} + 3072]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a} + {a_row}]",
                "tileloadd tmm6, [{b} + {b_row}]",
                "tileloadd tmm7, [{b} + {b_row} + 64]",
                "tileloadd tmm5, [{a} + {a_row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {blocks}",
                "jnz 3b",
                "tilestored [{c} + {a_row}], tmm0",
                "tilestored [{c} + {a_row} + 1024], tmm1",
                "tilestored [{c} + {a_row} + 2048], tmm2",
                "tilestored [{c} + {a_row} + 3072], tmm3",
                first = in(reg) u32::from(first),
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                c = in(reg) &raw mut *sums,
                blocks = inout(reg) a.len() => _,
                a_row = in(reg) size_of::<[u16; 2 * TILE]>(),
                b_row = in(reg) size_of::<[u32; NR]>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction is there, since the tiles were configured. It takes no operand and leaves only them
        // changed.
        #[expect(unsafe_code, reason = "there are no stable functions for tiles")]
        unsafe {
            asm!("tilerelease", options(nomem, nostack, preserves_flags));
        }
    }
}
