//! The report, as JSON and for people.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use steerling::ModelInfo;

use super::decoding::{self, Compared};
use super::explain::{self, Explained};
use super::memory::Peaks;
use super::steps::{self, Run};
use super::sweep::{self, Sweep};

/// What is measured.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    model: String,
    parameters: u64,
    device: String,
    dtype: String,
    /// Type in which most weights lie in memory.
    weights: String,
    threads: usize,
    load_seconds: f64,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    /// Of `runs`, of `decoding` and of `explained`; none if the prompts are texts.
    pub(super) prompt_tokens: Option<usize>,
    pub(super) max_new_tokens: Option<usize>,
    pub(super) runs: Vec<Run>,
    /// What decoding methods cost, if they are compared; there are no `runs` then.
    pub(super) decoding: Vec<Compared>,
    /// What explanations cost, if asked for.
    pub(super) explained: Option<Explained>,
    /// The whole table, if it is measured; there is nothing of the above then.
    pub(super) sweep: Option<&'a Sweep>,
    #[serde(flatten)]
    pub(super) peaks: Option<Peaks>,
}

impl Head {
    /// Of a loaded model.
    pub(super) fn new(info: &ModelInfo, load_seconds: f64) -> Self {
        Self {
            model: info.name.clone(),
            parameters: info.parameters,
            device: info.device.clone(),
            dtype: info.dtype.clone(),
            weights: info.weights.clone(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            load_seconds,
        }
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        format!(
            "{} ({:.1} M parameters) on {} in {}, weights in {}, {} threads, loaded in {:.1} s\n",
            self.model,
            self.parameters as f64 / 1e6,
            self.device,
            self.dtype,
            self.weights,
            self.threads,
            self.load_seconds
        )
    }
}

impl<'a> Report<'a> {
    /// Nothing is found yet.
    pub(super) fn new(head: &'a Head) -> Self {
        Self {
            head,
            prompt_tokens: None,
            max_new_tokens: None,
            runs: Vec::new(),
            decoding: Vec::new(),
            explained: None,
            sweep: None,
            peaks: None,
        }
    }

    /// Writes it as JSON.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Everything that was not printed as it came.
    pub(super) fn rest(&self) -> String {
        let mut text = String::new();
        if let Some(new) = self.max_new_tokens {
            let prompt = self.prompt_tokens.map_or_else(String::new, |prompt| format!("prompt {prompt}, "));
            text += &format!("{prompt}{new} new tokens\n");
        }
        if !self.runs.is_empty() {
            text += &steps::table(&self.runs);
        }
        if !self.decoding.is_empty() {
            text += &decoding::table(&self.decoding);
        }
        text.extend(self.explained.as_ref().map(explain::table));
        text.extend(self.sweep.map(sweep::rest));
        if let Some(peak) = self.peaks.as_ref().and_then(|peaks| peaks.peak_memory_mib) {
            text += &format!("\npeak memory {peak} MiB\n");
        }
        if let Some(peak) = self.peaks.as_ref().and_then(|peaks| peaks.peak_device_memory_mib) {
            text += &format!("peak memory of the device {peak} MiB\n");
        }
        text
    }
}
