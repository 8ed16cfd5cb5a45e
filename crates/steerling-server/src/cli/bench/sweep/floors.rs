//! How long a step takes at least: its weights are read once, and its products computed.

use serde::Serialize;
use steerling::checkpoint::{Form, Kind, expected};
use steerling::device::Speeds;
use steerling::{Config, ModelInfo};

/// What a step reads and multiplies with, and how fast the device can.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Bounds {
    /// Bytes a second, by a copy within the memory of the device.
    pub(super) bytes_per_second: f64,
    /// Floating-point operations a second, by a large product in the type that the model computes in.
    pub(super) operations_per_second: f64,
    /// Weights of the layers, which every row is multiplied with.
    layer_weights: u64,
    /// Weights of the output head, which only masked rows are multiplied with.
    head_weights: u64,
    /// Bytes of both in memory: what a step reads, however few its rows.
    pub(super) weight_bytes: u64,
}

/// What bounds a step from below.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Floors {
    /// Seconds to read the weights.
    pub(super) memory_seconds: f64,
    /// Of the median step.
    pub(super) memory_share: f64,
    /// Seconds to multiply them with the rows.
    pub(super) compute_seconds: f64,
    /// Of the median step.
    pub(super) compute_share: f64,
}

impl Bounds {
    /// Those of a model.
    pub(super) fn new(info: &ModelInfo, speeds: &Speeds) -> Self {
        let Config { vocab_size, n_embd, .. } = info.config;
        let matrices: Vec<(usize, usize)> = expected(&info.config)
            .into_iter()
            .filter(|tensor| tensor.name.contains("blocks."))
            .filter_map(|tensor| Some((*tensor.shape.first()?, *tensor.shape.get(1)?)))
            .collect();
        let layer_weights = matrices.iter().map(|(out, inn)| (out * inn) as u64).sum();
        let head_weights = (vocab_size * n_embd) as u64;
        // As if all were in the form that most are in.
        let form = match info.weights.as_str() {
            "f32" => Form::F32,
            "q8_0" => Form::Quantized(Kind::Q8_0),
            "q4_k" => Form::Quantized(Kind::Q4K),
            _ => Form::Bf16,
        };
        Self {
            bytes_per_second: speeds.bandwidth,
            operations_per_second: speeds.throughput,
            layer_weights,
            head_weights,
            weight_bytes: matrices.into_iter().chain([(vocab_size, n_embd)]).map(|matrix| form.bytes(matrix)).sum(),
        }
    }

    /// Seconds to read the weights once.
    pub(super) fn memory_seconds(&self) -> f64 {
        self.weight_bytes as f64 / self.bytes_per_second
    }

    /// Those of steps of so many rows, of which so many are masked, that take `seconds`.
    pub(super) fn floors(&self, rows: f64, masked_rows: f64, seconds: f64) -> Floors {
        let operations = 2.0 * (rows * self.layer_weights as f64 + masked_rows * self.head_weights as f64);
        let (memory_seconds, compute_seconds) = (self.memory_seconds(), operations / self.operations_per_second);
        Floors {
            memory_seconds,
            memory_share: memory_seconds / seconds,
            compute_seconds,
            compute_share: compute_seconds / seconds,
        }
    }
}
