//! Weights -> one GGUF file with fewer bits, and all that a model directory holds.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::gguf::{ARCHITECTURE, FILES};
use super::gguf_header::{ALIGNMENT, STRING, U32};
use super::{Expected, Progress, StoredType, Weights, expected};
use crate::kernels::matmul::Kind;
use crate::{Error, Result};

/// Weights that are encoded before they are written.
const AT_ONCE: usize = 1 << 22;

/// How the matrices of a model are stored. Vectors (norms, biases) stay in float32: a ten-thousandth of the file.
///
/// A matrix whose rows are no whole blocks of its type has 8 bits, or else 16: the type that it has, float16 instead of
/// float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Linear layers.
    pub linear: Kind,
    /// The embedding, and the output head with it or apart.
    pub vocabulary: Kind,
    /// Concept heads; `None` for 16 bits.
    pub heads: Option<Kind>,
}

impl Recipe {
    /// What was found to be worth its bytes (`docs/quantization.md`) when linear layers are of `kind`: a vocabulary of 8
    /// bits, through which every logit and every contribution goes, and concept heads of 16.
    pub fn of(kind: Kind) -> Self {
        Self { linear: kind, vocabulary: Kind::Q8_0, heads: None }
    }

    /// How a tensor is stored.
    fn stored(&self, name: &str, shape: &[usize], original: StoredType) -> StoredType {
        let &[_, width] = shape else { return StoredType::F32 };
        let wanted = match name {
            _ if name.starts_with("known_head.") || name.starts_with("unknown_head.") => self.heads,
            _ if name.ends_with("tok_emb.weight") || name.ends_with("lm_head.weight") => Some(self.vocabulary),
            _ => Some(self.linear),
        };
        let kinds = wanted.into_iter().flat_map(|kind| [kind, Kind::Q8_0]);
        let half = if original == StoredType::BF16 { StoredType::BF16 } else { StoredType::F16 };
        kinds.into_iter().find(|kind| width.is_multiple_of(kind.block())).map_or(half, StoredType::Quantized)
    }
}

impl Weights {
    /// Writes these weights to one GGUF file, with the configuration, the tokenizer and the
    /// labels of the directory they come from. Some rows at a time are in memory. The file has its name only once it is
    /// complete.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is there already, or if these weights are quantized; those of
    /// [`Weights::fill_row`]; [`Error::Io`].
    pub fn quantize_to(&self, path: &Path, name: &str, recipe: Recipe, progress: Progress<'_>) -> Result<()> {
        let refuse = |message: &str| Error::Checkpoint { path: path.to_owned(), message: message.to_owned() };
        if path.exists() {
            return Err(refuse("already exists; choose another name"));
        }
        let mut tensors = Vec::new();
        for tensor in expected(self.config()) {
            let original = self.stored(&tensor.name)?;
            if original.float().is_none() {
                return Err(refuse("the weights are quantized already; quantize those they were made from"));
            }
            let stored = recipe.stored(&tensor.name, &tensor.shape, original);
            tensors.push(Planned { tensor, stored });
        }
        let partial = path.with_extension("gguf.partial");
        let io = |source| Error::Io { path: partial.clone(), source };
        let mut out = BufWriter::new(File::create(&partial).map_err(io)?);
        let header = header(&self.small_files()?, name, recipe.linear, &tensors);
        out.write_all(&header).map_err(io)?;
        let total = tensors.iter().map(Planned::bytes).sum();
        let mut done = 0;
        for planned in &tensors {
            let rows_at_once = (AT_ONCE / planned.row_len()).max(1);
            for from in (0..planned.rows()).step_by(rows_at_once) {
                let rows = from..planned.rows().min(from + rows_at_once);
                for row in self.encoded(planned, rows)? {
                    out.write_all(&row).map_err(io)?;
                    done += row.len() as u64;
                }
                progress(done, total);
            }
            out.write_all(&vec![0; padding(planned.bytes())]).map_err(io)?;
        }
        out.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    }

    /// The small files of the model by name; those of random weights are made up, like them.
    fn small_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        match self {
            Self::Files(checkpoint) => FILES
                .iter()
                .filter(|(name, _)| checkpoint.dir().contains(name))
                .map(|(name, _)| Ok((*name, checkpoint.dir().read(name)?.to_vec())))
                .collect(),
            Self::Random(synthetic) => Ok(vec![
                ("config.json", self.config().to_json_flat().to_string().into_bytes()),
                ("tokenizer_config.json", synthetic.tokenizer_config().to_string().into_bytes()),
            ]),
        }
    }

    /// Rows of a tensor as they are stored.
    fn encoded(&self, planned: &Planned, rows: Range<usize>) -> Result<Vec<Vec<u8>>> {
        rows.into_par_iter()
            .map(|row| {
                let mut values = vec![0f32; planned.row_len()];
                self.fill_row(&planned.tensor.name, row, &mut values)?;
                encode(planned.stored, values)
            })
            .collect()
    }
}

/// A tensor and how it will be stored.
struct Planned {
    tensor: Expected,
    stored: StoredType,
}

impl Planned {
    fn rows(&self) -> usize {
        super::view::rows(&self.tensor.shape)
    }

    fn row_len(&self) -> usize {
        super::view::row_len(&self.tensor.shape)
    }

    fn bytes(&self) -> u64 {
        (self.rows() * self.stored.row_bytes(self.row_len())) as u64
    }
}

/// Numbers as they are stored.
fn encode(stored: StoredType, values: Vec<f32>) -> Result<Vec<u8>> {
    Ok(match stored {
        StoredType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        StoredType::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        StoredType::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        StoredType::Quantized(_) => {
            let len = values.len();
            QTensor::quantize(&Tensor::from_vec(values, len, &Device::Cpu)?, stored.gguf())?.data()?.into_owned()
        }
    })
}

fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(ALIGNMENT) - bytes) as usize
}

/// Everything before the first tensor, as the GGUF specification (version 3) has it.
fn header(files: &[(&str, Vec<u8>)], name: &str, kind: Kind, tensors: &[Planned]) -> Vec<u8> {
    // What other tools call files that are mostly of this type.
    let file_type: u32 = match kind {
        Kind::Q8_0 => 7,
        Kind::Q4K => 14,
    };
    let mut strings = vec![("general.architecture", ARCHITECTURE.to_owned()), ("general.name", name.to_owned())];
    for (file, bytes) in files {
        let Some((_, key)) = FILES.iter().find(|(name, _)| name == file) else { continue };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) if file.ends_with(".json") => text.to_owned(),
            _ => BASE64_STANDARD.encode(bytes),
        };
        strings.push((key, text));
    }
    let numbers = [("general.file_type", file_type), ("general.quantization_version", 2)];
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(((strings.len() + numbers.len()) as u64).to_le_bytes());
    for (key, text) in &strings {
        push_string(&mut out, key);
        out.extend(STRING.to_le_bytes());
        push_string(&mut out, text);
    }
    for (key, number) in numbers {
        push_string(&mut out, key);
        out.extend(U32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    let mut offset = 0u64;
    for planned in tensors {
        push_string(&mut out, &planned.tensor.name);
        out.extend((planned.tensor.shape.len() as u32).to_le_bytes());
        for dim in planned.tensor.shape.iter().rev() {
            out.extend((*dim as u64).to_le_bytes());
        }
        out.extend(planned.stored.gguf_number().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += planned.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len() + padding(out.len() as u64), 0);
    out
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
