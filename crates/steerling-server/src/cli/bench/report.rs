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
    #[expect(clippy::print_stdout, reason = "the report is the command's output")]
    pub(super) fn print(&self) {
        println!(
            "{} ({:.1} M parameters) on {} in {}, weights in {}, {} threads, loaded in {:.1} s",
            self.model,
            self.parameters as f64 / 1e6,
            self.device,
            self.dtype,
            self.weights,
            self.threads,
            self.load_seconds
        );
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
    #[expect(clippy::print_stdout, reason = "the report is the command's output")]
    pub(super) fn print(&self) {
        if let Some(new) = self.max_new_tokens {
            let prompt = self.prompt_tokens.map_or_else(String::new, |prompt| format!("prompt {prompt}, "));
            println!("{prompt}{new} new tokens");
        }
        if !self.runs.is_empty() {
            steps::print(&self.runs);
        }
        if !self.decoding.is_empty() {
            decoding::print(&self.decoding);
        }
        if let Some(explained) = &self.explained {
            explain::print(explained);
        }
        if let Some(sweep) = self.sweep {
            sweep::print(sweep);
        }
        let Some(Peaks { peak_memory_mib, peak_device_memory_mib }) = self.peaks else { return };
        if let Some(peak) = peak_memory_mib {
            println!("\npeak memory {peak} MiB");
        }
        if let Some(peak) = peak_device_memory_mib {
            println!("peak memory of the device {peak} MiB");
        }
    }
}
