//! Raw bytes of a tensor, and their conversion to float32 a row at a time.

use candle_core::{Device, Tensor};

use super::StoredType;
use crate::Result;
use crate::kernels::matmul;

/// A tensor as it lies in its file: nothing copied, nothing converted.
#[derive(Debug, Clone, Copy)]
pub struct RawView<'a> {
    /// How its numbers are stored.
    pub stored: StoredType,
    /// Linear weights are `[out, in]`.
    pub shape: &'a [usize],
    /// Little-endian, row-major, of any alignment.
    pub bytes: &'a [u8],
}

impl RawView<'_> {
    /// Number of rows: the first dimension of a matrix; a vector is one row.
    pub fn rows(&self) -> usize {
        rows(self.shape)
    }

    /// Values per row.
    pub fn row_len(&self) -> usize {
        row_len(self.shape)
    }

    /// The tensor on a device, in the type of the file; in float32 if it is quantized there.
    pub(super) fn tensor(&self, device: &Device) -> Result<Tensor> {
        if let Some(dtype) = self.stored.float() {
            return Ok(Tensor::from_raw_buffer(self.bytes, dtype, self.shape, device)?);
        }
        let mut values = vec![0f32; self.rows() * self.row_len()];
        for (row, values) in values.chunks_mut(self.row_len()).enumerate() {
            row_f32(self, row, values);
        }
        Ok(Tensor::from_vec(values, self.shape, device)?)
    }
}

/// Rows of a shape: the first dimension of a matrix; a vector is one row.
pub(super) fn rows(shape: &[usize]) -> usize {
    if shape.len() < 2 { 1 } else { shape[0] }
}

/// Values in a row of a shape.
pub(super) fn row_len(shape: &[usize]) -> usize {
    if shape.len() < 2 { shape.iter().product() } else { shape[1..].iter().product() }
}

/// Converts row `row` of `view` to float32.
///
/// # Panics
/// If the row does not exist or `out` is not as long as a row.
pub fn row_f32(view: &RawView<'_>, row: usize, out: &mut [f32]) {
    let len = view.row_len();
    assert!(row < view.rows() && out.len() == len, "row {row} of {:?} into {} values", view.shape, out.len());
    let row_bytes = view.stored.row_bytes(len);
    to_f32(view.stored, &view.bytes[row * row_bytes..][..row_bytes], out);
}

/// Little-endian numbers to float32; exact, as all types fit into it.
fn to_f32(stored: StoredType, bytes: &[u8], out: &mut [f32]) {
    let pairs = bytes.as_chunks::<2>().0.iter();
    match stored {
        StoredType::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        StoredType::BF16 => out.iter_mut().zip(pairs).for_each(|(o, b)| *o = half::bf16::from_le_bytes(*b).to_f32()),
        StoredType::F16 => out.iter_mut().zip(pairs).for_each(|(o, b)| *o = half::f16::from_le_bytes(*b).to_f32()),
        StoredType::Quantized(kind) => matmul::row_f32(kind, bytes, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_float_type_convert_exactly_at_any_alignment() {
        let values = [1.5f32, -2.0, 0.25, 65504.0, -0.0, 3.140625];
        for stored in [StoredType::F32, StoredType::F16, StoredType::BF16] {
            let encode = |v: f32| match stored {
                StoredType::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
                StoredType::BF16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
                _ => v.to_le_bytes().to_vec(),
            };
            let mut bytes = vec![0xff]; // shifts everything to an odd address
            bytes.extend(values.iter().flat_map(|v| encode(*v)));
            let view = RawView { stored, shape: &[2, 3], bytes: &bytes[1..] };
            let mut row = [0f32; 3];
            row_f32(&view, 1, &mut row);
            let expected =
                if stored == StoredType::BF16 { [65536.0, -0.0, 3.140625] } else { [65504.0, -0.0, 3.140625] };
            assert_eq!(row, expected, "{stored}");
        }
    }
}
