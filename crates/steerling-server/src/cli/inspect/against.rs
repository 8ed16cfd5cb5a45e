//! `steerling inspect --against`: how far a model's answers are from those of the one it was made from.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use steerling::fidelity::{Fidelity, Readings};
use steerling::{DtypeChoice, ModelDir, ModelSource, Runtime, RuntimeOptions};
use steerling_server::config::model_dir;

use crate::cli::progress;

/// What both models read, every second token masked.
const TEXTS: [&str; 8] = [
    "The chef stirred the soup in the kitchen while the guests waited for their dinner.",
    "In winter the river freezes, and the children walk across it on their way to school.",
    "The doctor said that the patient should rest for a week and drink plenty of water.",
    "A small rocket carried the telescope into orbit, where it took pictures of distant stars.",
    "The court decided that the contract was void because nobody had signed the last page.",
    "She planted tomatoes behind the house, and in August there were more than she could eat.",
    "Interest rates rose again, so fewer families could pay for a house of their own.",
    "The old captain looked at the map, laughed, and told the crew to turn the ship around.",
];

/// Which model to compare with, and how.
#[derive(Debug, clap::Args)]
pub(super) struct AgainstArgs {
    /// Also compute predictions, and compare them with those of this checkpoint in float32
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Type to compute the inspected model in: auto, f32, bf16 or f16
    #[arg(long, default_value_t, requires = "against")]
    dtype: DtypeChoice,
}

/// What was compared, and what came out.
pub(super) struct Compared {
    reference: String,
    /// In which type the weights lay in memory, of the reference and of the inspected model.
    weights: [String; 2],
    fidelity: Fidelity,
}

impl AgainstArgs {
    /// Compares `dir` if that is asked for. One model at a time is in memory.
    ///
    /// # Errors
    /// If a model cannot be loaded or computed, or they are not of one configuration.
    pub(super) fn compare(&self, dir: &ModelDir) -> Result<Option<Compared>> {
        let Some(reference) = self.against.as_deref() else { return Ok(None) };
        let reference = model_dir(Some(reference));
        let load = |dir: &ModelDir, dtype| -> Result<Runtime> {
            let options = RuntimeOptions { dtype, ..RuntimeOptions::default() };
            Ok(progress::load(&ModelSource::from(dir.clone()), &options)?)
        };
        let (sequences, expected, config, weights) = {
            let mut runtime = load(&reference, DtypeChoice::F32)?;
            let sequences = sequences(&runtime)?;
            let readings = Readings::of(&mut runtime, &sequences, None)?;
            (sequences, readings, runtime.info().config.clone(), runtime.info().weights.clone())
        };
        let mut runtime = load(dir, self.dtype)?;
        ensure!(runtime.info().config == config, "{dir} and {reference} have different configurations");
        let found = Readings::of(&mut runtime, &sequences, Some(&expected))?;
        Ok(Some(Compared {
            reference: reference.to_string(),
            weights: [weights, runtime.info().weights.clone()],
            fidelity: expected.against(&found),
        }))
    }
}

/// The texts as ids, with masks.
fn sequences(runtime: &Runtime) -> Result<Vec<Vec<u32>>> {
    let mask = runtime.info().config.special.mask;
    let masked = |text: &&str| -> Result<Vec<u32>> {
        let ids = runtime.tokenizer().encode(text)?;
        Ok(ids.into_iter().enumerate().map(|(i, id)| if i % 2 == 1 { mask } else { id }).collect())
    };
    TEXTS.iter().map(masked).collect()
}

impl Compared {
    /// Labels and values.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let Fidelity { positions, argmax_agreement, kl, known_overlap, unknown_overlap, attribution_error } =
            &self.fidelity;
        let percent = |share: &f64| format!("{:.2} %", 100.0 * share);
        let or_none = |share: &Option<f64>| share.as_ref().map_or("none".to_owned(), percent);
        let [reference, inspected] = &self.weights;
        [
            ("compared with", format!("{}, weights in {reference}; here in {inspected}", self.reference)),
            ("positions", format!("{positions} masked ones of {} texts", TEXTS.len())),
            ("same best token", percent(argmax_agreement)),
            ("divergence of predictions", format!("{kl:.2e} nats")),
            ("same known concepts", or_none(known_overlap)),
            ("same unknown concepts", or_none(unknown_overlap)),
            ("error of contributions", or_none(attribution_error)),
        ]
        .map(|(label, value)| (label.to_owned(), value))
        .into()
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let Fidelity { positions, argmax_agreement, kl, known_overlap, unknown_overlap, attribution_error } =
            &self.fidelity;
        json!({
            "against": self.reference,
            "weights": self.weights[1],
            "against_weights": self.weights[0],
            "positions": positions,
            "argmax_agreement": argmax_agreement,
            "kl_nats": kl,
            "known_overlap": known_overlap,
            "unknown_overlap": unknown_overlap,
            "attribution_error": attribution_error,
        })
    }
}
