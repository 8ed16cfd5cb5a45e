//! The files of a model: in a directory on disk, in one GGUF file, or compiled into the program.

mod diagnose;
mod json;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use serde_json::Value;

use crate::checkpoint::gguf::Container;
use crate::{Error, Result};

pub(crate) use diagnose::text_instead;
pub(crate) use json::parse_json;

/// The file that every model has.
pub(crate) const CONFIG: &str = "config.json";

/// A model directory compiled into the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedDir {
    /// What the model is called.
    pub name: &'static str,
    /// Name and content of each file; the content may have any alignment.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// Where the files of a model lie. Whatever reads a model directory takes either kind, and anything that names a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelDir {
    /// A directory on disk, or a GGUF file with all that a directory holds.
    Disk(PathBuf),
    /// One compiled into the program.
    Embedded(EmbeddedDir),
}

impl ModelDir {
    /// What the model is called: the last component of the path, without a file's extension. A snapshot in the cache of a
    /// hub, `…/models--ORG--NAME/snapshots/COMMIT`, is called `ORG/NAME`.
    pub fn name(&self) -> String {
        match self {
            Self::Disk(dir) => dir
                .canonicalize()
                .ok()
                .and_then(|dir| {
                    let name = if dir.is_file() { dir.file_stem() } else { dir.file_name() };
                    hub_name(&dir).or_else(|| Some(name?.to_string_lossy().into_owned()))
                })
                .unwrap_or_else(|| dir.display().to_string()),
            Self::Embedded(dir) => dir.name.to_owned(),
        }
    }

    /// What errors call the directory: its path, or `embedded:NAME`.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Disk(dir) => dir.clone(),
            Self::Embedded(dir) => format!("embedded:{}", dir.name).into(),
        }
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, file: &str) -> bool {
        match self {
            Self::Disk(dir) if dir.is_file() => matches!(self.packed_file(file), Ok(Some(_))),
            Self::Disk(dir) => dir.join(file).exists(),
            Self::Embedded(dir) => dir.find(file).is_some(),
        }
    }

    /// A file parsed as JSON.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] if it is no JSON.
    pub fn read_json(&self, file: &str) -> Result<Value> {
        parse_json(&self.file(file), &self.read(file)?)
    }

    /// Refuses a place on disk where there is nothing, or a directory that is no model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], which names the command that helps where one does.
    pub fn check(&self) -> Result<()> {
        let unusable = |path: &Path, message| Err(Error::Checkpoint { path: path.to_owned(), message });
        match self {
            Self::Disk(path) if !path.exists() => unusable(path, diagnose::absent(path)),
            Self::Disk(path) if path.is_dir() && !self.contains(CONFIG) => unusable(path, diagnose::no_config(path)),
            _ => Ok(()),
        }
    }

    /// What errors call a file.
    pub(crate) fn file(&self, file: &str) -> PathBuf {
        self.path().join(file)
    }

    /// The content of a small file.
    pub(crate) fn read(&self, file: &str) -> Result<Bytes> {
        match self {
            Self::Disk(dir) if dir.is_file() => self.packed_file(file)?.ok_or_else(|| {
                let source = io::Error::new(io::ErrorKind::NotFound, "not in the metadata of this GGUF file");
                Error::Io { path: self.file(file), source }
            }),
            Self::Disk(dir) => read(&dir.join(file)),
            Self::Embedded(dir) => dir.read(file),
        }
    }

    /// The one file that holds everything, if that is how the model comes.
    pub(crate) fn single_file(&self) -> Option<&Path> {
        match self {
            Self::Disk(path) if path.is_file() => Some(path),
            _ => None,
        }
    }

    /// That file, opened.
    pub(crate) fn container(&self) -> Result<Option<Container>> {
        self.single_file().map(|path| Container::read(path, map(path)?)).transpose()
    }

    fn packed_file(&self, file: &str) -> Result<Option<Bytes>> {
        self.container()?.map_or(Ok(None), |container| container.file(file))
    }

    /// The content of a large file: mapped if it lies on disk, so that nothing is read before it is looked at.
    pub(crate) fn map(&self, file: &str) -> Result<Bytes> {
        match self {
            Self::Disk(dir) => map(&dir.join(file)),
            Self::Embedded(dir) => dir.read(file),
        }
    }
}

/// The repository that a snapshot directory of a hub's cache holds.
fn hub_name(dir: &Path) -> Option<String> {
    let snapshots = dir.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(repository.replacen("--", "/", 1))
}

impl EmbeddedDir {
    fn find(&self, file: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes)
    }

    fn read(&self, file: &str) -> Result<Bytes> {
        self.find(file).map(Bytes::from_static).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::NotFound, "not among the embedded files");
            Error::Io { path: ModelDir::from(*self).file(file), source }
        })
    }
}

/// A file's content.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] for a file that is empty, a Git LFS pointer or a web page.
pub(crate) fn read(path: &Path) -> Result<Bytes> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    checked(path, bytes.into())
}

/// The content of a file, unless it plainly is something else.
fn checked(path: &Path, content: Bytes) -> Result<Bytes> {
    match diagnose::misplaced(&content) {
        Some(message) => Err(Error::Checkpoint { path: path.to_owned(), message: message.to_owned() }),
        None => Ok(content),
    }
}

fn map(path: &Path) -> Result<Bytes> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: mapping is sound as long as nobody shortens or rewrites the file while it is mapped. Checkpoints are
    // written once and then only read; a server that replaces one has to write a new file and rename it. Copying
    // instead would hold 16 GB twice.
    #[expect(unsafe_code, reason = "the only way to map a file; see above for what it relies on")]
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    checked(path, Bytes::from_owner(map))
}

impl<P: AsRef<Path>> From<P> for ModelDir {
    fn from(path: P) -> Self {
        Self::Disk(path.as_ref().to_owned())
    }
}

impl From<EmbeddedDir> for ModelDir {
    fn from(dir: EmbeddedDir) -> Self {
        Self::Embedded(dir)
    }
}

impl From<&ModelDir> for ModelDir {
    fn from(dir: &ModelDir) -> Self {
        dir.clone()
    }
}

impl fmt::Display for ModelDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// Names and sizes: the contents are megabytes.
impl fmt::Debug for EmbeddedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|(name, bytes)| (name, bytes.len()));
        write!(f, "{} ", self.name)?;
        f.debug_map().entries(files).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_a_hubs_cache_is_called_as_its_repository() {
        let root = tempfile::tempdir().unwrap();
        for (path, name) in [
            ("models--guidelabs--steerling-8b/snapshots/0f3c", "guidelabs/steerling-8b"),
            ("models--steerling/snapshots/0f3c", "steerling"),
            ("models--a--b/other/0f3c", "0f3c"),
            ("a--b/snapshots/0f3c", "0f3c"),
            ("plain", "plain"),
        ] {
            let dir = root.path().join(path);
            std::fs::create_dir_all(&dir).unwrap();
            assert_eq!(ModelDir::from(&dir).name(), name);
        }
    }
}
