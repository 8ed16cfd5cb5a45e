//! Weights, vocabulary and labels as a checkpoint directory in the released layout.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Tensor};
use safetensors::tensor::TensorView;
use tokenizers::Tokenizer;

use super::model::Params;
use super::labels;

/// Writes the directory, replacing what is there.
pub(super) fn write(params: &Params, tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let tensors = params.tensors(DType::F16)?;
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.flatten_all()?.to_vec1::<half::f16>()?;
            Ok((name, tensor, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        })
        .collect::<Result<_>>()?;
    let views = bytes
        .iter()
        .map(|(name, tensor, bytes)| Ok((name, TensorView::new(safetensors::Dtype::F16, tensor.dims().to_vec(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    // Other loaders insist on being told that row-major tensors are meant.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = safetensors::serialize(views, Some(metadata))?;
    fs::write(dir.join("model.safetensors"), weights)?;
    let mut config = params.config.to_json_flat();
    config["torch_dtype"] = "float16".into();
    fs::write(dir.join("config.json"), serde_json::to_string_pretty(&config)? + "\n")?;
    let vocabulary = tokenizer.to_string(true).map_err(|error| anyhow!("writing the vocabulary: {error}"))?;
    fs::write(dir.join("tokenizer.json"), vocabulary + "\n")?;
    labels::write(&dir.join("concept_labels.parquet"))
}
