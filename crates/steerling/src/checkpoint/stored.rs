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

    /// What this crate reads of GGUF's types, by the format's number.
    pub(super) fn of_gguf(number: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::Quantized(Kind::Q8_0), Self::Quantized(Kind::Q4K)]
            .into_iter()
            .find(|stored| stored.gguf_number() == number)
    }

    /// GGUF's number of the type.
    pub(super) fn gguf_number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::BF16 => 30,
            Self::Quantized(Kind::Q8_0) => 8,
            Self::Quantized(Kind::Q4K) => 12,
        }
    }

    /// What GGUF calls a type that this crate does not read.
    pub(super) fn gguf_name(number: u32) -> String {
        let names = [(2, "Q4_0"), (3, "Q4_1"), (6, "Q5_0"), (7, "Q5_1"), (9, "Q8_1"), (10, "Q2_K"), (11, "Q3_K")];
        let more =
            [(13, "Q5_K"), (14, "Q6_K"), (15, "Q8_K"), (24, "I8"), (25, "I16"), (26, "I32"), (27, "I64"), (28, "F64")];
        let name = names.iter().chain(&more).find(|(known, _)| *known == number);
        name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
    }

    /// The same as candle has it.
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
