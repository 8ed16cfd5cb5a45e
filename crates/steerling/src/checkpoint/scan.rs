//! Finds the weight files of a directory and compares what they hold with what the configuration demands.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use super::file::WeightFile;
use super::{Checkpoint, expected, file_name, row_f32, tensor_error, wrong_type};
use crate::config::Config;
use crate::{Error, ModelDir, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Everything there is, with everything that is wrong with it.
pub(super) fn scan(dir: ModelDir, config: Config) -> Checkpoint {
    let mut found = Checkpoint {
        dir,
        config,
        files: Vec::new(),
        tensors: BTreeMap::new(),
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let has_index = found.dir.contains(INDEX);
    if let Some(path) = found.dir.single_file().map(Path::to_owned) {
        found.add_container(&path);
    } else if found.dir.contains(SINGLE) {
        if has_index {
            found.notes.push(format!("{SINGLE} is used; {INDEX} beside it is not read"));
        }
        found.add_single();
    } else if has_index {
        match read_index(&found.dir) {
            Ok(weight_map) => found.add_shards(weight_map),
            Err(problem) => found.problems.push(problem),
        }
    } else {
        let message = format!("found neither {SINGLE} nor {INDEX}");
        found.problems.push(Error::Checkpoint { path: found.dir.path(), message });
    }
    // A file that cannot be read makes its tensors missing too; saying so of each would bury the reason.
    let report_missing = found.problems.is_empty();
    found.verify(report_missing);
    found
}

/// Shard file -> names of its tensors.
type WeightMap = BTreeMap<String, Vec<String>>;

fn read_index(dir: &ModelDir) -> Result<WeightMap> {
    let (path, json) = (dir.file(INDEX), dir.read_json(INDEX)?);
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| Error::Checkpoint {
        path: path.clone(),
        message: "expected an object `weight_map`, found none".to_owned(),
    })?;
    let mut shards = WeightMap::new();
    for (name, file) in map {
        let plain = file.as_str().filter(|f| {
            let mut parts = Path::new(f).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        });
        // A path that leaves the directory could map any file of the machine.
        let file = plain.ok_or_else(|| {
            tensor_error(
                name,
                &path,
                format!("found {file} in `weight_map`, expected the name of a file beside the index"),
            )
        })?;
        shards.entry(file.to_owned()).or_default().push(name.clone());
    }
    Ok(shards)
}

impl Checkpoint {
    fn add_container(&mut self, path: &Path) {
        let opened = self.dir.container().and_then(|container| {
            container.ok_or_else(|| Error::Checkpoint { path: path.to_owned(), message: "no longer a file".to_owned() })
        });
        match opened {
            Ok(container) => {
                let (file, problems) = WeightFile::of_container(path, container);
                self.add_only(file);
                self.problems.extend(problems);
            }
            Err(problem) => self.problems.push(problem),
        }
    }

    fn add_only(&mut self, file: WeightFile) {
        self.tensors.extend(file.tensors.keys().map(|name| (name.clone(), 0)));
        self.files.push(file);
    }

    fn add_single(&mut self) {
        match WeightFile::open(&self.dir, SINGLE) {
            Ok(file) => self.add_only(file),
            Err(problem) => self.problems.push(problem),
        }
    }

    fn add_shards(&mut self, weight_map: WeightMap) {
        for (shard, names) in weight_map {
            let path = self.dir.file(&shard);
            if !self.dir.contains(&shard) {
                let message =
                    format!("in `weight_map` of {INDEX} for {} tensors, but the file is missing", names.len());
                self.problems.push(tensor_error(&names[0], &path, message));
                continue;
            }
            let file = match WeightFile::open(&self.dir, &shard) {
                Ok(file) => file,
                Err(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            };
            for name in file.tensors.keys().filter(|name| !names.contains(name)) {
                let message = format!("in this file, but {INDEX} does not map it here");
                self.problems.push(tensor_error(name, &path, message));
            }
            for name in names {
                if file.tensors.contains_key(&name) {
                    self.tensors.insert(name, self.files.len());
                } else {
                    let message = format!("mapped to this file by {}, but not in it", self.dir.file(INDEX).display());
                    self.problems.push(tensor_error(&name, &path, message));
                }
            }
            self.files.push(file);
        }
    }

    /// Missing, mis-shaped, mistyped and unexpected tensors.
    fn verify(&mut self, report_missing: bool) {
        let expected = expected(&self.config);
        let holder = if self.files.len() == 1 { self.files[0].path.clone() } else { self.dir.file(INDEX) };
        let mut extra: BTreeMap<&String, usize> = self.tensors.iter().map(|(name, file)| (name, *file)).collect();
        let mut problems = Vec::new();
        for tensor in &expected {
            let name = tensor.name.as_str();
            extra.remove(&tensor.name);
            let Ok((file, entry)) = self.entry(name) else {
                if report_missing {
                    let message = format!("missing, expected shape {:?}", tensor.shape);
                    problems.push(tensor_error(name, &holder, message));
                }
                continue;
            };
            if entry.shape != tensor.shape {
                let message = format!("found shape {:?}, expected {:?}", entry.shape, tensor.shape);
                problems.push(tensor_error(name, &file.path, message));
            }
            if entry.stored.is_none() {
                problems.push(wrong_type(name, &file.path, &entry.type_name));
            }
        }
        let duplicate_head = file_name(&self.config, "transformer.lm_head.weight");
        for (name, file) in extra {
            let file = &self.files[file];
            if self.config.weight_sharing && name == duplicate_head {
                match self.differs_from_embedding(name) {
                    None => self
                        .notes
                        .push(format!("{name} repeats the embedding and is not read, as weight_sharing is true")),
                    Some(message) => problems.push(tensor_error(name, &file.path, message)),
                }
                continue;
            }
            let message =
                format!("unexpected, with shape {:?}: no tensor of this configuration", file.tensors[name].shape);
            problems.push(tensor_error(name, &file.path, message));
        }
        self.problems.extend(problems);
    }

    /// Why an output head in a tied checkpoint is not simply the embedding again. Looks at 64 rows only: a head that was
    /// trained apart differs in every row.
    fn differs_from_embedding(&self, head: &str) -> Option<String> {
        let (Ok(head), Ok(embedding)) = (self.view(head), self.view("transformer.tok_emb.weight")) else {
            return Some("found a type that cannot be compared with the embedding's".to_owned());
        };
        if head.shape != embedding.shape {
            let (found, expected) = (head.shape, embedding.shape);
            return Some(format!("found shape {found:?}, expected none or the embedding's {expected:?}"));
        }
        let (mut a, mut b) = (vec![0f32; head.row_len()], vec![0f32; head.row_len()]);
        (0..head.rows()).step_by(head.rows().div_ceil(64)).find_map(|row| {
            row_f32(&head, row, &mut a);
            row_f32(&embedding, row, &mut b);
            (a != b && head.stored == embedding.stored)
                .then(|| format!("differs from the embedding in row {row}, while weight_sharing is true"))
        })
    }
}
