//! The types that tensors may have in files.

use std::fmt;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

use crate::kernels::matmul::{Kind, row_bytes};

/// The type of a tensor in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of weights with common factors; in GGUF files only.
    Quantized(Kind),
}

impl StoredType {
    /// What this crate reads of safetensors' types.
    pub(super) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// What this crate reads of GGUF's types.
    pub(super) fn of_gguf(dtype: GgmlDType) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::Quantized(Kind::Q8_0), Self::Quantized(Kind::Q4K)]
            .into_iter()
            .find(|stored| stored.gguf() == dtype)
    }

    /// The same in GGUF's words.
    pub(super) fn gguf(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::BF16 => GgmlDType::BF16,
            Self::Quantized(Kind::Q8_0) => GgmlDType::Q8_0,
            Self::Quantized(Kind::Q4K) => GgmlDType::Q4K,
        }
    }

    /// The float type, unless weights are quantized.
    pub fn float(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::Quantized(_) => None,
        }
    }

    /// Weights that are stored together: rows are whole blocks.
    pub fn block(self) -> usize {
        match self {
            Self::Quantized(kind) => kind.block(),
            _ => 1,
        }
    }

    /// Bytes of a row of `len` weights.
    pub fn row_bytes(self, len: usize) -> usize {
        match (self, self.float()) {
            (Self::Quantized(kind), _) => row_bytes(kind, len),
            (_, dtype) => len * dtype.map_or(0, |dtype| dtype.size_in_bytes()),
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Quantized(Kind::Q8_0) => "Q8_0",
            Self::Quantized(Kind::Q4K) => "Q4_K",
        })
    }
}
