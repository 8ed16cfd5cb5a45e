//! From a directory, from embedded files, or from nothing but a seed, to a model on its device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::backbone::{Backbone, Compute};
use crate::catalog::Catalog;
use crate::checkpoint::{Form, Progress, Reader, Synthetic, Weights};
use crate::concepts::ConceptHeads;
use crate::config::{Config, Preset};
use crate::steer::WeightEdit;
use crate::{EmbeddedDir, Error, ModelDir, Result, Tokenizer, scratch};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A checkpoint directory in the released layout.
    Directory(PathBuf),
    /// The same files, compiled into the program.
    Embedded(EmbeddedDir),
    /// Random weights: right in size and speed, noise as text.
    Synthetic {
        /// The size.
        preset: Preset,
        /// Same seed, same weights; on a GPU, which makes its own, others than on the CPU.
        seed: u64,
    },
}

impl From<ModelDir> for ModelSource {
    fn from(dir: ModelDir) -> Self {
        match dir {
            ModelDir::Disk(dir) => Self::Directory(dir),
            ModelDir::Embedded(dir) => Self::Embedded(dir),
        }
    }
}

/// The device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok();
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(number)
                .map(Self::Cuda)
                .ok_or_else(|| Error::invalid("device", format!("`{text}` is not auto, cpu, cuda or cuda:N"))),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl DeviceChoice {
    fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if !cuda_present() => Ok(Device::Cpu),
            Self::Auto => Ok(Device::new_cuda(0)?),
            Self::Cuda(_) if !cfg!(feature = "cuda") => {
                Err(Error::Unsupported(format!("device {self}: this build has no CUDA; build with `--features cuda`")))
            }
            Self::Cuda(_) if !cuda_present() => {
                Err(Error::Unsupported(format!("device {self}: no NVIDIA driver (libcuda) on this machine")))
            }
            Self::Cuda(n) => Ok(Device::new_cuda(n)?),
        }
    }
}

/// Whether this build has CUDA and this machine a driver: asking candle without one panics.
fn cuda_present() -> bool {
    #[cfg(feature = "cuda")]
    #[expect(unsafe_code, reason = "only opens the driver's library, which any program that uses CUDA does")]
    // SAFETY: loading libcuda runs its initialisers, and nothing else of it is called.
    unsafe {
        candle_core::cuda_backend::cudarc::driver::sys::is_culib_present()
    }
    #[cfg(not(feature = "cuda"))]
    {
        false
    }
}

/// The type to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// float32 on the CPU, with weights no larger than in their file; bfloat16 on a GPU.
    #[default]
    Auto,
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl FromStr for DtypeChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(Error::invalid("dtype", format!("`{text}` is not auto, f32, bf16 or f16"))),
        }
    }
}

impl fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The device to compute on.
    pub device: DeviceChoice,
    /// The type to compute in.
    pub dtype: DtypeChoice,
    /// Bytes for pages of keys and values.
    pub kv_bytes: u64,
    /// Bytes that the gradients of an input attribution may take; `None` is a quarter of the memory that the machine, the
    /// container or the GPU has.
    pub gradient_bytes: Option<u64>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { device: DeviceChoice::Auto, dtype: DtypeChoice::Auto, kv_bytes: 2 << 30, gradient_bytes: None }
    }
}

impl RuntimeOptions {
    /// Device and type, resolved on this machine.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn compute(&self) -> Result<Compute> {
        let device = self.device.device()?;
        let dtype = match self.dtype {
            DtypeChoice::Auto if device.is_cpu() => DType::F32,
            DtypeChoice::Auto | DtypeChoice::Bf16 => DType::BF16,
            DtypeChoice::F32 => DType::F32,
            DtypeChoice::F16 => DType::F16,
        };
        Ok(Compute { device, dtype, gpu_on_host: false })
    }
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name of its directory, of the embedded files, or of its preset.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// Number of weights.
    pub parameters: u64,
    /// Where it computes: `cpu`, `cuda:0`.
    pub device: String,
    /// In which type: `f32`, `bf16`, `f16`.
    pub dtype: String,
    /// In which type most of its weights lie in memory: `f32`, `bf16`, `f16`, `q8_0`, `q4_k`.
    pub weights: String,
    /// Random weights, whose text is noise.
    pub synthetic: bool,
    /// Its files are compiled into the program.
    pub embedded: bool,
}

/// The parts of a model directory. Labels that cannot be used are refused here, not after minutes of loading weights.
fn open(dir: &ModelDir) -> Result<(String, Weights, Tokenizer, Catalog)> {
    let weights = Weights::open(dir)?;
    let tokenizer = Tokenizer::for_checkpoint(dir, weights.config())?;
    let catalog = Catalog::open(dir, weights.config())?;
    Ok((dir.name(), weights, tokenizer, catalog))
}

/// A model on its device.
pub struct Model {
    info: ModelInfo,
    tokenizer: Tokenizer,
    backbone: Backbone,
    heads: Option<ConceptHeads>,
    catalog: Arc<Catalog>,
    weight_bytes: u64,
}

impl Model {
    /// Loads a model. `progress` is told bytes done and in total.
    ///
    /// # Errors
    /// If the checkpoint is refused or the device fails.
    pub fn load(source: &ModelSource, options: &RuntimeOptions, progress: Progress) -> Result<Self> {
        let compute = options.compute()?;
        let (name, weights, tokenizer, catalog) = match source {
            ModelSource::Directory(dir) => open(&dir.into())?,
            ModelSource::Embedded(dir) => open(&(*dir).into())?,
            ModelSource::Synthetic { preset, seed } => {
                let config = Config::preset(*preset);
                let tokenizer = Tokenizer::cl100k(config.special)?;
                let catalog = Catalog::generated(&config)?;
                let weights = Weights::Random(Synthetic::new(config, *seed, DType::F32)?);
                (format!("synthetic-{preset}"), weights, tokenizer, catalog)
            }
        };
        // Text is split by a regular expression that is compiled at its first use: not in the first request.
        tokenizer.encode("warm")?;
        let model = Self::from_weights(name, &weights, tokenizer, compute, progress)?;
        Ok(Self { catalog: Arc::new(catalog), ..model })
    }

    /// Builds a model from its weights, with generated concept names. `progress` is told bytes done and in total.
    ///
    /// # Errors
    /// If a tensor cannot be read or the device fails.
    pub fn from_weights(
        name: String,
        weights: &Weights,
        tokenizer: Tokenizer,
        compute: Compute,
        progress: Progress,
    ) -> Result<Self> {
        let config = weights.config();
        let catalog = Arc::new(Catalog::generated(config)?);
        let reader = Reader::new(weights, progress);
        let backbone = Backbone::load(&reader, config, &compute)?;
        let heads = ConceptHeads::load(&reader, config, &compute)?;
        let info = ModelInfo {
            name,
            parameters: config.param_count(),
            device: match compute.device.location() {
                candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
                _ => "cpu".into(),
            },
            dtype: compute.dtype.as_str().into(),
            weights: Form::of(weights.stored("transformer.blocks.0.mlp.c_fc.weight")?, &compute).to_string(),
            synthetic: matches!(weights, Weights::Random(_)),
            embedded: matches!(weights, Weights::Files(files) if matches!(files.dir(), ModelDir::Embedded(_))),
            config: config.clone(),
        };
        Ok(Self { info, tokenizer, backbone, heads, catalog, weight_bytes: reader.held() })
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Bytes that its weights take on its device; [`crate::checkpoint::MemoryNeeds`] tells them beforehand.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Its transformer.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// Its concept heads, unless it is a plain backbone.
    pub fn heads(&self) -> Option<&ConceptHeads> {
        self.heads.as_ref()
    }

    /// What its concepts are called; empty for a plain backbone.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What the output head reads for hidden states `[N, D]` after `edits` of concept weights. The concept heads are
    /// evaluated only where they change more than the rounding, a chunk of rows at a time.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for edits without concept heads, [`Error::Device`].
    pub fn composed(&self, hidden: &Tensor, edits: &[WeightEdit]) -> Result<Tensor> {
        match &self.heads {
            Some(heads) if heads.restores(edits) || hidden.dim(0)? == 0 => Ok(hidden.clone()),
            Some(heads) => {
                let rows = scratch::chunk_rows(scratch::head_row(&self.info.config, edits.len()));
                scratch::map_chunks(hidden, rows, |hidden| heads.edited(hidden, edits))
            }
            None if !edits.is_empty() => Err(Error::Unsupported("this checkpoint has no concept heads".into())),
            None => Ok(hidden.clone()),
        }
    }

    /// Logits `[N, V]` in float32 of what the output head reads `[N, D]`, into `out`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn logits(&self, composed: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        self.backbone.lm_head().forward_to_host(composed, out)
    }
}
