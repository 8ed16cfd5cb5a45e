//! Quantized blocks as they lie in GGUF files.
//!
//! `Q8_0`: 32 weights share a factor `d`, `w = d q`. `Q4_K`: 256 weights share two factors, 32 of them a scale `s` and
//! a minimum `m` of 6 bits, `w = d s q - d_min m` with `q` of 4 bits.

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::{Error, Result};

/// Weights that share a scale.
pub(super) const SUB: usize = 32;
/// Weights of a `Q4_K` block.
pub(super) const SUPER: usize = 256;
const Q8_0_BYTES: usize = 2 + SUB;
const Q4K_BYTES: usize = 4 + 12 + SUPER / 2;

/// How weights are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 8 bits and a factor for 32 weights.
    Q8_0,
    /// 4 bits, a scale and a minimum for 32 weights, factors for 256.
    Q4K,
}

impl Kind {
    /// Weights of a block; rows are whole blocks.
    pub fn block(self) -> usize {
        match self {
            Self::Q8_0 => SUB,
            Self::Q4K => SUPER,
        }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "q8_0" => Ok(Self::Q8_0),
            "q4_k" => Ok(Self::Q4K),
            _ => Err(Error::invalid("type", format!("`{text}` is not q8_0 or q4_k"))),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        })
    }
}

/// Bytes of a row of `len` weights, a multiple of [`Kind::block`].
pub fn row_bytes(kind: Kind, len: usize) -> usize {
    match kind {
        Kind::Q8_0 => len / SUB * Q8_0_BYTES,
        Kind::Q4K => len / SUPER * Q4K_BYTES,
    }
}

/// The weights of a row in float32.
///
/// # Panics
/// If `bytes` is not as long as a row of `to.len()` weights.
pub fn row_f32(kind: Kind, bytes: &[u8], to: &mut [f32]) {
    assert!(to.len().is_multiple_of(kind.block()), "{} weights are no whole blocks of {kind:?}", to.len());
    assert_eq!(bytes.len(), row_bytes(kind, to.len()), "bytes of a row of {} in {kind:?}", to.len());
    match kind {
        Kind::Q8_0 => {
            for ((factor, quants), to) in q8_0_blocks(bytes).zip(to.chunks_mut(SUB)) {
                for (x, q) in to.iter_mut().zip(quants) {
                    *x = factor * f32::from(q.cast_signed());
                }
            }
        }
        Kind::Q4K => {
            for (block, to) in q4k_blocks(bytes).zip(to.chunks_mut(SUPER)) {
                let subs = to.chunks_mut(SUB).zip(block.quants.chunks(SUB)).zip(&block.scales);
                for ((to, quants), scales) in subs {
                    let [scale, min] = [0, 1].map(|i| block.factors[i] * f32::from(scales[i]));
                    for (x, q) in to.iter_mut().zip(quants) {
                        *x = scale * f32::from(*q) - min;
                    }
                }
            }
        }
    }
}

/// The blocks of a row: factor and whole numbers, which are signed.
pub(super) fn q8_0_blocks(row: &[u8]) -> impl Iterator<Item = (f32, &[u8])> + '_ {
    row.as_chunks::<Q8_0_BYTES>().0.iter().map(|bytes| (half_at(bytes, 0), &bytes[2..]))
}

/// A `Q4_K` block, taken apart.
pub(super) struct Q4KBlock {
    /// Of the scales and of the minima.
    pub(super) factors: [f32; 2],
    /// Scale and minimum of 32 weights each.
    pub(super) scales: [[u8; 2]; SUPER / SUB],
    /// 4 bits each.
    pub(super) quants: [u8; SUPER],
}

/// The blocks of a row.
pub(super) fn q4k_blocks(row: &[u8]) -> impl Iterator<Item = Q4KBlock> + '_ {
    row.as_chunks::<Q4K_BYTES>().0.iter().map(|bytes| {
        let packed = &bytes[4..16];
        // The first four pairs have a byte each for scale and minimum; the upper two bits of those hold what is
        // missing of the last four, whose lower four bits share a byte.
        let scales = std::array::from_fn(|s| match s {
            0..4 => [packed[s] & 63, packed[s + 4] & 63],
            _ => {
                let low = packed[s + 4];
                [low & 15 | packed[s - 4] >> 6 << 4, low >> 4 | packed[s] >> 6 << 4]
            }
        });
        let quants = std::array::from_fn(|i| {
            // 32 bytes hold 64 weights: the first 32 in their lower halves, the others in the upper ones.
            let byte = bytes[16 + i / 64 * 32 + i % 32];
            if i % 64 < 32 { byte & 15 } else { byte >> 4 }
        });
        Q4KBlock { factors: [half_at(bytes, 0), half_at(bytes, 2)], scales, quants }
    })
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::kernels::testing::numbers;

    #[test]
    fn rows_are_read_bit_for_bit_as_their_writer_reads_them() {
        for (kind, dtype) in [(Kind::Q8_0, GgmlDType::Q8_0), (Kind::Q4K, GgmlDType::Q4K)] {
            let weights = Tensor::from_vec(numbers(7, 3 * 512), (3, 512), &Device::Cpu).unwrap();
            let written = QTensor::quantize(&weights, dtype).unwrap();
            let expected = written.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let bytes = written.data().unwrap();
            let mut row = vec![0.0; 512];
            for (bytes, expected) in bytes.chunks_exact(row_bytes(kind, 512)).zip(expected) {
                row_f32(kind, bytes, &mut row);
                assert_eq!(row, expected, "{kind:?}");
            }
        }
    }
}
