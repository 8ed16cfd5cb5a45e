//! Random weights of any configuration: for tests and measurements.
//!
//! Every row is a function of (seed, name of the tensor, row), so that rows can be made in any order and in parallel,
//! and what is written to disk is bit for bit what is made in memory. Only integers and correctly rounded float
//! operations take part: the values are the same on every machine.
//!
//! Except on a GPU, which draws the matrices itself, in seconds instead of minutes for billions of weights: of the same
//! means and deviations, but other values.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::view::{row_len, rows};
use super::{StoredType, expected, file_name, tensor_error};
use crate::config::Config;
use crate::{Error, Result};

/// Random weights of a configuration; values exist only while they are looked at.
#[derive(Debug)]
pub struct Synthetic {
    config: Config,
    seed: u64,
    dtype: DType,
    /// Name in the file -> shape.
    tensors: BTreeMap<String, Vec<usize>>,
}

impl Synthetic {
    /// Weights of `config`, rounded to `dtype` (F32, F16 or BF16).
    ///
    /// # Errors
    /// [`Error::Invalid`] for another type.
    pub fn new(config: Config, seed: u64, dtype: DType) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::invalid("dtype", format!("found {dtype:?}, expected F32, F16 or BF16")));
        }
        let tensors = expected(&config).into_iter().map(|t| (t.name, t.shape)).collect();
        Ok(Self { config, seed, dtype, tensors })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The type that values are rounded to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same as a type of files.
    pub(super) fn stored(&self) -> StoredType {
        match self.dtype {
            DType::F16 => StoredType::F16,
            DType::BF16 => StoredType::BF16,
            _ => StoredType::F32,
        }
    }

    /// Bytes of all tensors when written.
    pub fn total_bytes(&self) -> u64 {
        self.config.param_count() * self.dtype.size_in_bytes() as u64
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the configuration has no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        let shape = self.tensors.get(file_name(&self.config, name)).map(Vec::as_slice);
        shape.ok_or_else(|| tensor_error(name, Path::new("random weights"), "no tensor of this configuration"))
    }

    /// A whole tensor. Matrices for a GPU are drawn there and have values of their own.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the configuration has no such tensor; [`Error::Device`].
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = self.shape(name)?;
        let tensor = match shape.len() > 1 && !device.is_cpu() {
            true => self.draw(name, device)?,
            false => Tensor::from_raw_buffer(&self.bytes(name)?, self.dtype, shape, device)?,
        };
        Ok(tensor.to_dtype(dtype)?)
    }

    /// A whole tensor made by the random numbers of `device`: by seed and name, except on the CPU, where candle's have
    /// no seed.
    fn draw(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = self.shape(name)?;
        let name = file_name(&self.config, name);
        if !device.is_cpu() {
            device.set_seed(self.seed ^ fnv1a(name))?;
        }
        let (mean, deviation) = distribution(name, shape, &self.config);
        Ok(Tensor::randn(mean, deviation, shape, device)?.to_dtype(self.dtype)?)
    }

    /// One row in float32; rows are the first dimension of a matrix, a vector is one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the configuration has no such tensor.
    ///
    /// # Panics
    /// If `out` is not as long as a row.
    pub fn fill_row(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        self.rows(name)?.fill(row, out);
        Ok(())
    }

    /// A whole tensor as it is written: little-endian, row-major, in the stored type.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let shape = self.shape(name)?;
        let (len, size) = (row_len(shape), self.dtype.size_in_bytes());
        let source = self.rows(name)?;
        let mut bytes = vec![0; rows(shape) * len * size];
        bytes.par_chunks_mut(len * size).enumerate().for_each_init(
            || vec![0f32; len],
            |values, (row, out)| {
                source.fill(row, values);
                encode(self.dtype, values, out);
            },
        );
        Ok(bytes)
    }

    fn rows(&self, name: &str) -> Result<RowSource> {
        let shape = self.shape(name)?;
        let name = file_name(&self.config, name);
        let (mean, deviation) = distribution(name, shape, &self.config);
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(name).to_le_bytes());
        Ok(RowSource { key, dtype: self.dtype, row_len: row_len(shape), mean, deviation })
    }
}

/// What the rows of one tensor are made from.
struct RowSource {
    key: [u8; 32],
    dtype: DType,
    row_len: usize,
    mean: f32,
    deviation: f32,
}

impl RowSource {
    fn fill(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.row_len, "values asked for, of a row's");
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(row as u64);
        // The sum of four uniform 16-bit numbers is close to normal, and unlike the usual ways needs no logarithm.
        // Its mean is 2 * 65535, its standard deviation 65536 / sqrt(3).
        let factor = self.deviation * (3f32.sqrt() / 65536.0);
        let mut bits = [0u8; 512];
        for values in out.chunks_mut(bits.len() / 8) {
            let bits = &mut bits[..8 * values.len()];
            rng.fill_bytes(bits);
            for (value, bits) in values.iter_mut().zip(bits.as_chunks::<8>().0) {
                let sum: i32 = bits.as_chunks().0.iter().map(|pair| i32::from(u16::from_le_bytes(*pair))).sum();
                *value = self.mean + factor * (sum - 2 * 65535) as f32;
            }
        }
        match self.dtype {
            DType::BF16 => out.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
            DType::F16 => out.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
            _ => {}
        }
    }
}

/// Values that already are of the type, into their bytes.
fn encode(dtype: DType, values: &[f32], out: &mut [u8]) {
    let pairs = out.as_chunks_mut::<2>().0.iter_mut();
    match dtype {
        DType::BF16 => values.iter().zip(pairs).for_each(|(v, o)| *o = bf16::from_f32(*v).to_le_bytes()),
        DType::F16 => values.iter().zip(pairs).for_each(|(v, o)| *o = f16::from_f32(*v).to_le_bytes()),
        _ => values.iter().zip(out.as_chunks_mut().0).for_each(|(v, o)| *o = v.to_le_bytes()),
    }
}

/// Mean and standard deviation of a tensor's values.
///
/// Linear layers keep the size of what passes through them. `ln_f` gives hidden states of mean square 1, so an output
/// head of deviation `4 / sqrt(D)` gives logits of deviation 4: a clear best token and no ties. The concept
/// predictors and query projections give logits of deviation 1 to 1.5, which keeps the best of them where sigmoids can be told apart.
fn distribution(name: &str, shape: &[usize], config: &Config) -> (f32, f32) {
    let per_input = |gain: f32| gain / (row_len(shape) as f32).sqrt();
    let (owner, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let part = owner.rsplit('.').next().unwrap_or(owner);
    let deviation = match part {
        _ if kind == "bias" => 0.02,
        "ln_1" | "ln_2" | "ln_f" | "q_norm" | "k_norm" => return (1.0, 0.05),
        "tok_emb" | "lm_head" => 4.0 / (config.n_embd as f32).sqrt(),
        "concept_embedding" => 0.15,
        "embedding_coef" => 0.1,
        "concept_predictor" | "predictor_up" => per_input(1.5),
        // Scores are the query's products with embeddings divided by `sqrt(D)`, which have a tenth of its deviation.
        "concept_query_projection" => per_input(10.0),
        _ => per_input(1.0),
    };
    (0.0, deviation)
}

/// The 64-bit FNV-1a hash, which unlike the standard library's is the same in every release.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn tiny(seed: u64, dtype: DType) -> Synthetic {
        Synthetic::new(Config::preset(Preset::Tiny), seed, dtype).unwrap()
    }

    fn row(weights: &Synthetic, name: &str, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; row_len(weights.shape(name).unwrap())];
        weights.fill_row(name, row, &mut out).unwrap();
        out
    }

    #[test]
    fn values_depend_on_seed_name_and_row_and_on_nothing_else() {
        let weights = tiny(1, DType::F32);
        let name = "transformer.blocks.0.attn.c_proj.weight";
        let first = row(&weights, name, 3);
        row(&weights, name, 9);
        assert_eq!(row(&weights, name, 3), first);
        assert_ne!(row(&weights, name, 4), first);
        assert_ne!(row(&weights, "transformer.blocks.1.attn.c_proj.weight", 3), first);
        assert_ne!(row(&tiny(2, DType::F32), name, 3), first);
    }

    #[test]
    fn values_are_the_same_in_every_release() {
        let first = row(&tiny(1, DType::F32), "transformer.tok_emb.weight", 0);
        assert_eq!(first[..3], PINNED);
    }

    /// A change here makes every recorded measurement on synthesised models incomparable.
    const PINNED: [f32; 3] = [-0.148365, -0.17690177, -0.16369861];

    /// Made by the seed, or drawn by a device.
    #[test]
    fn values_have_the_mean_and_deviation_asked_for() {
        let weights = tiny(7, DType::F32);
        for (name, mean, deviation) in [
            ("transformer.tok_emb.weight", 0.0, 4.0 / 128f64.sqrt()),
            ("transformer.blocks.2.mlp.c_proj.weight", 0.0, 1.0 / 512f64.sqrt()),
            ("known_head.concept_predictor.weight", 0.0, 1.5 / 128f64.sqrt()),
        ] {
            let made: Vec<f32> = (0..128).flat_map(|i| row(&weights, name, i)).collect();
            let drawn = weights.draw(name, &Device::Cpu).unwrap();
            assert_eq!(drawn.dims(), weights.shape(name).unwrap());
            for values in [made, drawn.flatten_all().unwrap().to_vec1().unwrap()] {
                let n = values.len() as f64;
                let found = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let spread = (values.iter().map(|v| (f64::from(*v) - found).powi(2)).sum::<f64>() / n).sqrt();
                assert!((found - mean).abs() < 5.0 * deviation / n.sqrt(), "{name}: mean {found}");
                assert!((spread / deviation - 1.0).abs() < 0.03, "{name}: deviation {spread}, expected {deviation}");
            }
        }
        let norm = row(&weights, "transformer.ln_f.weight", 0);
        assert!(norm.iter().all(|v| (0.8..1.2).contains(v)) && norm.iter().any(|v| *v != 1.0));
    }

    #[test]
    fn rows_and_whole_tensors_agree_in_every_type() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let weights = tiny(3, dtype);
            let name = "unknown_head.predictor_up.weight";
            let tensor = weights.load(name, DType::F32, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(tensor.len(), 768);
            for (i, values) in tensor.iter().enumerate() {
                assert_eq!(&row(&weights, name, i), values, "{dtype:?} row {i}");
            }
        }
    }

    #[test]
    fn types_without_fractions_are_refused() {
        let error = Synthetic::new(Config::preset(Preset::Tiny), 0, DType::U8).unwrap_err();
        assert!(error.to_string().contains("found U8, expected F32, F16 or BF16"), "{error}");
    }
}
