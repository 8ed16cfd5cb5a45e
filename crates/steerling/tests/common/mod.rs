//! Recorded checkpoints, and copies of them to break.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A directory of the recorded files.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The directories of all recorded variants.
pub(crate) fn variants() -> Vec<PathBuf> {
    let mut dirs: Vec<_> = std::fs::read_dir(golden("variants")).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    dirs
}

/// The configuration file of a recorded directory.
pub(crate) fn config_json(name: &str) -> Value {
    config_json_of(&golden(name))
}

/// The configuration file of a directory.
pub(crate) fn config_json_of(dir: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

/// Writes `config.json` into a directory.
pub(crate) fn write_config(dir: &Path, json: &Value) {
    std::fs::write(dir.join("config.json"), json.to_string()).unwrap();
}

/// A copy of a recorded checkpoint's configuration and weights.
pub(crate) fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let bytes = std::fs::read(golden(name).join(file)).unwrap();
        std::fs::write(dir.path().join(file), bytes).unwrap();
    }
    dir
}
