//! What a caller may ask of one generation, and the ranges in which it makes sense.

pub use crate::decode::Decoding;
use crate::{Error, Result};

/// Where generation blocks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// Every `diff_block_size` positions from the end of the prompt, as the reference package does.
    #[default]
    Reference,
    /// At the boundaries of attention blocks: half the rows per step when the prompt ends inside a block.
    Block,
}

/// What a committed `<|eot_id|>` does to masked positions before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EotMode {
    /// They are still filled, then generation ends.
    #[default]
    Fill,
    /// Generation stops at once and they stay empty, as in the reference package.
    Reference,
}

/// The parameters of one generation. Defaults are those of the reference package.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateParams {
    /// Positions to generate, at least 1.
    pub max_new_tokens: usize,
    /// Denoising steps over all blocks, `1..=max_new_tokens`; `None` is one token a step. Only for methods that
    /// have a number of steps ([`Decoding::has_steps`]).
    pub steps: Option<usize>,
    /// Divides the logits when entropy sampling is off; 0 is argmax.
    pub temperature: f32,
    /// Nucleus mass in `[0, 1]`.
    pub top_p: f32,
    /// Positive logits of ids already present are divided by this, others multiplied; above 0.
    pub repetition_penalty: f32,
    /// Temperature from the entropy of the prediction.
    pub use_entropy_sampling: bool,
    /// Classifier-free guidance; 0 is off.
    pub cfg_scale: f32,
    /// Key of all random draws.
    pub seed: u64,
    /// Generation ends after the block in which one of these ids stands; the text ends before it.
    pub stop_tokens: Vec<u32>,
    /// Generation ends when one of these strings stands in the final text, which ends before it.
    pub stop: Vec<String>,
    /// Which positions a step commits.
    pub decoding: Decoding,
    /// Where generation blocks are cut.
    pub align: Align,
    /// What a committed `<|eot_id|>` does.
    pub eot: EotMode,
}

impl Default for GenerateParams {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            steps: None,
            temperature: 1.2,
            top_p: 0.8,
            repetition_penalty: 1.1,
            use_entropy_sampling: true,
            cfg_scale: 0.0,
            seed: 0,
            stop_tokens: Vec::new(),
            stop: Vec::new(),
            decoding: Decoding::Confidence,
            align: Align::Reference,
            eot: EotMode::Fill,
        }
    }
}

/// Most stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 8;
/// Most stop ids of one request.
pub const MAX_STOP_TOKENS: usize = 64;

impl GenerateParams {
    /// Refuses values outside their range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field, the value and the limit.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        if self.max_new_tokens == 0 {
            return Err(Error::invalid("max_new_tokens", "0 is below the minimum of 1"));
        }
        if let Some(steps) = self.steps
            && !(1..=self.max_new_tokens).contains(&steps)
        {
            return Err(Error::invalid(
                "steps",
                format!("{steps} is outside 1..={} (max_new_tokens)", self.max_new_tokens),
            ));
        }
        self.decoding.validate()?;
        if let Some(steps) = self.steps.filter(|_| !self.decoding.has_steps()) {
            let method = self.decoding.name();
            return Err(Error::invalid(
                "steps",
                format!(
                    "{steps} steps under decoding method `{method}`, whose steps follow from the predictions; omit it"
                ),
            ));
        }
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("top_p", self.top_p, 0.0, 1.0)?;
        in_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        in_range("cfg_scale", self.cfg_scale, 0.0, 100.0)?;
        if self.stop_tokens.len() > MAX_STOP_TOKENS {
            let n = self.stop_tokens.len();
            return Err(Error::invalid("stop_tokens", format!("{n} entries, at most {MAX_STOP_TOKENS}")));
        }
        if let Some((i, id)) = self.stop_tokens.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(Error::invalid(
                format!("stop_tokens[{i}]"),
                format!("{id} is not below the vocabulary size {vocab_size}"),
            ));
        }
        if self.stop.len() > MAX_STOP_STRINGS {
            let n = self.stop.len();
            return Err(Error::invalid("stop", format!("{n} strings, at most {MAX_STOP_STRINGS}")));
        }
        if let Some(i) = self.stop.iter().position(String::is_empty) {
            return Err(Error::invalid(format!("stop[{i}]"), "an empty string would stop before the first token"));
        }
        Ok(())
    }
}

fn in_range(field: &str, value: f32, low: f32, high: f32) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::invalid(field, format!("{value} is outside {low}..={high}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_numeric_field_is_refused_outside_its_range_by_name() {
        let ok = GenerateParams::default();
        assert!(ok.validate(512).is_ok());
        let bad = [
            ("max_new_tokens", GenerateParams { max_new_tokens: 0, ..ok.clone() }),
            ("steps", GenerateParams { steps: Some(0), ..ok.clone() }),
            ("steps", GenerateParams { steps: Some(1025), ..ok.clone() }),
            ("temperature", GenerateParams { temperature: f32::NAN, ..ok.clone() }),
            ("temperature", GenerateParams { temperature: -0.1, ..ok.clone() }),
            ("top_p", GenerateParams { top_p: 1.01, ..ok.clone() }),
            ("repetition_penalty", GenerateParams { repetition_penalty: 0.0, ..ok.clone() }),
            ("cfg_scale", GenerateParams { cfg_scale: f32::INFINITY, ..ok.clone() }),
            ("stop_tokens[1]", GenerateParams { stop_tokens: vec![1, 512], ..ok.clone() }),
            ("stop", GenerateParams { stop: vec!["x".into(); 9], ..ok.clone() }),
            ("stop[0]", GenerateParams { stop: vec![String::new()], ..ok.clone() }),
            ("decoding.gamma", GenerateParams { decoding: Decoding::EntropyBound { gamma: f32::NAN }, ..ok.clone() }),
            ("steps", GenerateParams { steps: Some(3), decoding: Decoding::Factor { factor: 1.0 }, ..ok.clone() }),
        ];
        for (name, params) in bad {
            match params.validate(512) {
                Err(Error::Invalid { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
