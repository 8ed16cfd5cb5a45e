//! Weights, vocabulary and labels as a checkpoint directory in the released layout.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Tensor};
use safetensors::tensor::TensorView;
use tokenizers::Tokenizer;

use super::labels;
use super::model::Params;

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
        .map(|(name, tensor, bytes)| {
            Ok((name, TensorView::new(safetensors::Dtype::F16, tensor.dims().to_vec(), bytes)?))
        })
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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use steerling::{Model, ModelSource, RuntimeOptions};

    use super::super::data::Writer;
    use super::super::model::demo_config;
    use super::super::tokenizer;
    use super::*;
    use crate::concepts::CONCEPTS;

    /// What the trainer computes is what the library makes of the exported checkpoint.
    #[test]
    fn exported_checkpoint_is_the_trained_model() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer::train().unwrap();
        let params = Params::new(demo_config(), 3, &Device::Cpu).unwrap();
        write(&params, &tokenizer, dir.path()).unwrap();
        let source = ModelSource::Directory(dir.path().to_owned());
        let model = Model::load(&source, &RuntimeOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(model.info().config, demo_config());

        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut ids = Writer { tokenizer: &tokenizer }.documents(90, &mut rng).unwrap().ids;
        ids.iter_mut().skip(40).step_by(2).for_each(|id| *id = params.config.special.mask);
        let embeddings = model.backbone().embed(&ids).unwrap().unsqueeze(0).unwrap();
        let ours = params.hidden(&Tensor::new(ids, &Device::Cpu).unwrap(), (1, 90), None).unwrap();
        let theirs = model.backbone().forward_plain(&embeddings, &[], &mut |_, _| {}).unwrap().squeeze(0).unwrap();
        let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // The weights were rounded to half precision.
        assert!(difference < 0.02, "{difference}");
    }

    #[test]
    fn labels_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let params = Params::new(demo_config(), 3, &Device::Cpu).unwrap();
        write(&params, &tokenizer::train().unwrap(), dir.path()).unwrap();
        let catalog = steerling::Catalog::open(dir.path(), &demo_config()).unwrap();
        for (id, concept) in CONCEPTS.iter().enumerate() {
            let found = catalog.get(id as u32).unwrap();
            assert_eq!((found.name, found.description), (concept.name, concept.description));
            assert_eq!(found.flags, concept.flags);
            let group: Vec<u32> = crate::concepts::group_of(id).iter().map(|id| id as u32).collect();
            let mut named = catalog.group(id as u32);
            named.sort_unstable();
            assert_eq!(named, group);
        }
    }
}
