//! Products of bfloat16 numbers, summed in float32, by instructions made for them, where the processor has one.
//!
//! Both factors are bfloat16, so the input of the product is rounded (a relative error of 2^-8 at most, to nearest);
//! sums, results and everything between products stay in float32. Which instruction it is changes the last bits: each
//! adds in an order of its own, and all of them take numbers below 2^-126 for zero and ignore the rounding mode.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod missing;
#[cfg(target_arch = "x86_64")]
mod pairs;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
use missing as amx;
#[cfg(not(target_arch = "x86_64"))]
use missing as pairs;
use pulp::Arch;

use super::panels::Panels;
use super::scratch::Scratch;

/// An instruction that multiplies bfloat16 numbers and adds float32 ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dot {
    /// `vdpbf16ps` of AVX-512: 16 pairs with 16 pairs.
    Vector,
    /// `tdpbf16ps` of AMX: a tile of 16 x 16 pairs with another.
    Tile,
}

/// One task of a product: some neighbouring panels, all rows.
pub(super) struct Product<'a> {
    /// Of bfloat16.
    pub(super) panels: &'a Panels,
    /// Length of the sums.
    pub(super) k: usize,
    /// What [`Dot::pack`] made of the rows.
    pub(super) packed: &'a [f32],
    /// First output panel.
    pub(super) panel: usize,
    /// The outputs' columns from that panel on, one slice a row.
    pub(super) rows: Vec<&'a mut [f32]>,
}

impl Dot {
    /// Those that this machine can run, the faster one last.
    pub fn all() -> Vec<Self> {
        [Self::Vector, Self::Tile].into_iter().filter(|dot| dot.available(Arch::new())).collect()
    }

    /// The one whose products are the fastest of all on this processor, those in float32 included, if there is one.
    ///
    /// Tiles do five to seven times the work of float32 multiply-adds, as measured. `vdpbf16ps` does twice the work of one: AMD's
    /// processors (Zen 4 and later) take as many of them a second; Intel's take a quarter as many, so that they do half
    /// the work (121 GFLOP/s a core against 242 measured). Told by features and vendor and not by a measurement, so that
    /// the same machine always gives the same numbers.
    pub fn fastest() -> Option<Self> {
        let faster = |dot: &Self| *dot == Self::Tile || pairs::is_fast();
        Self::all().pop().filter(faster)
    }

    /// Whether the instruction may be used where `arch` is: all of them belong to AVX-512 or come with it.
    pub(super) fn available(self, arch: Arch) -> bool {
        match self {
            Self::Vector => pairs::available(arch),
            Self::Tile => amx::available(arch),
        }
    }

    /// Rows `[m, k]` rounded and laid out for [`Dot::multiply`]: bits, not numbers.
    pub(super) fn pack(self, x: &[f32], k: usize) -> Scratch {
        match self {
            Self::Vector => pairs::pack(x, k),
            Self::Tile => amx::pack(x, k),
        }
    }

    /// Computes a task.
    ///
    /// # Panics
    /// If the processor lacks the instruction, or the panels do not hold bfloat16.
    pub(super) fn multiply(self, product: Product) {
        match self {
            Self::Vector => pairs::multiply(product),
            Self::Tile => amx::multiply(product),
        }
    }
}

/// `x` rounded to bfloat16, to nearest, ties to even.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    // A NaN keeps one bit that says so; rounding could carry it to an infinity.
    if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Two numbers rounded, the first in the lower half.
#[inline(always)]
pub(super) fn pair(even: f32, odd: f32) -> u32 {
    rounded(even) | rounded(odd) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let numbers = crate::kernels::testing::numbers(3, 4096);
        let special = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-40, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        // Exactly between two bfloat16 numbers, of which first the even one is below, then above.
        let ties = [0x3f80_8000, 0x3f81_8000].map(f32::from_bits);
        for x in numbers.into_iter().chain(special).chain(ties) {
            assert_eq!(rounded(x), u32::from(half::bf16::from_f32(x).to_bits()), "{x}");
        }
        assert_eq!(pair(1.0, -2.0), 0xc000_3f80);
    }
}
