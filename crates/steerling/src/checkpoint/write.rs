//! Random weights -> a model directory in the released flat layout.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::{Expected, Progress, Synthetic, expected};
use crate::{Error, Result};

impl Synthetic {
    /// Writes `config.json`, `tokenizer_config.json` and the weights: one `model.safetensors`, or shards of at most
    /// `shard_bytes` each (a larger tensor gets a shard of its own) with their index. One tensor at a time is in memory.
    /// `config.json` comes last, so that a directory left by an interrupted run does not look like a model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the directory already holds a model; [`Error::Io`].
    pub fn write_to(&self, dir: &Path, shard_bytes: u64, progress: Progress<'_>) -> Result<()> {
        for name in ["config.json", "model.safetensors", "model.safetensors.index.json"] {
            if dir.join(name).exists() {
                let message = format!("already holds {name}; choose an empty directory");
                return Err(Error::Checkpoint { path: dir.to_owned(), message });
            }
        }
        std::fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let report = RefCell::new(Report { done: 0, total: self.total_bytes(), progress });
        let shards = self.shards(shard_bytes);
        let mut weight_map = BTreeMap::new();
        let count = shards.len();
        for (i, shard) in shards.into_iter().enumerate() {
            let file = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            weight_map.extend(shard.iter().map(|t| (t.name.clone(), file.clone())));
            self.write_shard(&dir.join(&file), shard, &report)?;
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": self.total_bytes() }, "weight_map": weight_map });
            write_json(&dir.join("model.safetensors.index.json"), &index)?;
        }
        let tokenizer_config = dir.join("tokenizer_config.json");
        write_json(&tokenizer_config, &self.tokenizer_config())?;
        // The safetensors crate makes files that only their owner can read: a model directory is for everyone whom
        // the user's umask lets read.
        for file in weight_map.values().collect::<BTreeSet<_>>() {
            let path = dir.join(file);
            std::fs::metadata(&tokenizer_config)
                .and_then(|like| std::fs::set_permissions(&path, like.permissions()))
                .map_err(|source| Error::Io { path, source })?;
        }
        let mut config = self.config().to_json_flat();
        config["torch_dtype"] = match self.safetensors_dtype() {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        }
        .into();
        write_json(&dir.join("config.json"), &config)
    }

    /// Tensors grouped in order, each group of at most `shard_bytes` unless it is a single tensor.
    fn shards(&self, shard_bytes: u64) -> Vec<Vec<Expected>> {
        let mut shards: Vec<Vec<Expected>> = Vec::new();
        let mut room = 0;
        for tensor in expected(self.config()) {
            let bytes = (tensor.elements() * self.dtype().size_in_bytes()) as u64;
            match shards.last_mut() {
                Some(shard) if bytes <= room => shard.push(tensor),
                _ => {
                    shards.push(vec![tensor]);
                    room = shard_bytes;
                }
            }
            room = room.saturating_sub(bytes);
        }
        shards
    }

    fn write_shard(&self, path: &Path, tensors: Vec<Expected>, report: &RefCell<Report<'_>>) -> Result<()> {
        let views = tensors.into_iter().map(|tensor| (tensor.name.clone(), Lazy { synthetic: self, tensor, report }));
        // Other loaders insist on being told that row-major tensors are meant.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.to_owned(), source },
            other => Error::Checkpoint { path: path.to_owned(), message: other.to_string() },
        })
    }

    fn safetensors_dtype(&self) -> Dtype {
        self.dtype().into()
    }

    pub(super) fn tokenizer_config(&self) -> Value {
        let mut map = self.config().special_ids_json();
        map.insert("encoding_name".to_owned(), "cl100k_base".into());
        map.insert("tokenizer_class".to_owned(), "SteerlingTokenizer".into());
        Value::Object(map)
    }
}

/// How far the writing has come.
struct Report<'p> {
    done: u64,
    total: u64,
    progress: Progress<'p>,
}

/// A tensor whose values are made when the writer gets to it.
struct Lazy<'s, 'p> {
    synthetic: &'s Synthetic,
    tensor: Expected,
    report: &'s RefCell<Report<'p>>,
}

impl View for Lazy<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.synthetic.safetensors_dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.synthetic.bytes(&self.tensor.name).expect("the tensor is in the list this one came from");
        let report = &mut *self.report.borrow_mut();
        report.done += bytes.len() as u64;
        (report.progress)(report.done, report.total);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.elements() * self.synthetic.dtype().size_in_bytes()
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|source| Error::Io { path: path.to_owned(), source })
}
