//! What decoding methods do to texts, by measures that know nothing of what a text is about.

use anyhow::Result;
use serde::Serialize;
use steerling::score::{ScoreItem, distinct_2, left_to_right};
use steerling::{Canvas, Runtime};

/// The texts of one setting beside those of the first.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quality {
    /// Share of positions that have the first setting's token.
    pub(super) same_tokens: f64,
    /// Of a generated token given all before it, in nats, under the model itself; null without tokens.
    pub(super) loglikelihood_per_token: Option<f64>,
    /// Different pairs of neighbouring tokens, as a share of all; null without pairs.
    pub(super) distinct_2: Option<f64>,
}

impl Quality {
    /// Of finished canvases; `first` are those of the first setting, from the same prompts.
    pub(super) fn measure(runtime: &mut Runtime, first: &[Canvas], canvases: &[Canvas]) -> Result<Self> {
        let generated = |canvas: &Canvas| canvas.ids().len() - canvas.prompt_len();
        let positions: usize = canvases.iter().map(generated).sum();
        let same = first.iter().zip(canvases).map(|(first, canvas)| {
            let behind = canvas.prompt_len();
            let pairs = first.ids()[behind..].iter().zip(&canvas.ids()[behind..]);
            pairs.filter(|(first, id)| first == id).count()
        });
        let texts: Vec<Vec<u32>> = canvases.iter().map(Canvas::output_ids).collect();
        let items = canvases.iter().zip(&texts).map(|(canvas, text)| ScoreItem {
            context: canvas.ids()[..canvas.prompt_len()].to_vec(),
            continuation: text.clone(),
        });
        let scores = left_to_right(runtime, items.collect())?;
        let tokens: usize = scores.iter().map(|score| score.tokens).sum();
        let nats: f64 = scores.iter().map(|score| score.loglikelihood).sum();
        Ok(Self {
            same_tokens: same.sum::<usize>() as f64 / positions as f64,
            loglikelihood_per_token: (tokens > 0).then(|| nats / tokens as f64),
            distinct_2: distinct_2(texts.iter().map(Vec::as_slice)),
        })
    }
}
