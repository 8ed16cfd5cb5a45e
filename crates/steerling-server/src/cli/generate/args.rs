//! The flags of `steerling generate`: the fields of `POST /generate`, and where the model is.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result};
use clap::ValueEnum;
use steerling::params::{Align, Decoding, EotMode};
use steerling::tokenizer::Message;
use steerling::{Denoiser, GenerateParams, Runtime, Tokenizer};
use steerling_server::config::ModelOptions;

use crate::cli::note;

/// Generate text.
///
/// On a terminal the block being unmasked is shown in place; anywhere else nothing but the text is printed, as it
/// becomes final. Warnings, the seed and the speed go to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    /// Text to continue; `-` or none reads standard input (one line break at its end is dropped)
    prompt: Option<String>,

    /// Tokens to generate [default: 1024, or what the context has room for]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Denoising steps over all blocks, from 1 to the number of tokens [default: one a token]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Divides the logits, 0 is argmax; only with --no-entropy-sampling [default: 1.2]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Nucleus mass, 0 to 1 [default: 0.8]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Makes tokens that are present already less likely (above 1)
    #[arg(long, value_name = "R", default_value_t = 1.1, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Sample at --temperature instead of one taken from the entropy of each prediction
    #[arg(long)]
    no_entropy_sampling: bool,
    /// Classifier-free guidance; 0 is off
    #[arg(long, value_name = "SCALE", default_value_t = 0.0, allow_negative_numbers = true)]
    cfg_scale: f32,
    /// Key of all random draws, an integer of 64 bits with a sign or without [default: drawn, and printed]
    #[arg(long, allow_negative_numbers = true, value_parser = seed)]
    seed: Option<u64>,
    /// End after the block with this token id, the text before it; repeatable
    #[arg(long = "stop-token", value_name = "ID", value_delimiter = ',')]
    stop_tokens: Vec<u32>,
    /// End before this text; repeatable
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Which positions a step commits: confidence, threshold=P or threshold=P/MOST, factor=F, entropy_bound=NATS,
    /// lossless or lossless=DRAFTS; all but the first and the last take as many steps as the predictions allow
    #[arg(long, value_name = "METHOD", default_value_t = Decoding::Confidence)]
    decoding: Decoding,
    /// Where generation blocks are cut
    #[arg(long, value_enum, default_value_t = AlignFlag::Reference)]
    align: AlignFlag,
    /// What a committed <|eot_id|> does [default: fill]
    #[arg(long, value_enum)]
    eot: Option<EotFlag>,
    /// Send the prompt as one user message to a chat model
    #[arg(long)]
    chat: bool,
    /// Print the answer of POST /generate as JSON instead of the text
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Add all commits in order to the JSON
    #[arg(long, requires = "json")]
    pub(in crate::cli) return_trace: bool,

    // Last, as the heading holds for all flags behind it.
    #[command(flatten, next_help_heading = "Model")]
    pub(in crate::cli) model: ModelOptions,
}

/// Where generation blocks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AlignFlag {
    /// Counted from the end of the prompt, as the reference package does
    Reference,
    /// At attention blocks: fewer rows a step
    Block,
}

/// What a committed `<|eot_id|>` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EotFlag {
    /// Positions before it are still filled
    Fill,
    /// Stop at once
    Reference,
}

impl GenerateArgs {
    /// Refuses what is wrong with any model, before one is loaded.
    ///
    /// # Errors
    /// Naming the field, the value and the limit.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        Ok(self.given(0, GenerateParams::default().max_new_tokens).validate(usize::MAX)?)
    }

    /// The text to continue.
    ///
    /// # Errors
    /// If standard input cannot be read or is not UTF-8.
    pub(in crate::cli) fn prompt(&self) -> Result<String> {
        match self.prompt.as_deref() {
            None | Some("-") => {}
            Some(text) => return Ok(text.to_owned()),
        }
        let mut input = std::io::stdin().lock();
        if input.is_terminal() {
            note("reading the prompt from standard input; Ctrl-D ends it");
        }
        let mut text = String::new();
        input.read_to_string(&mut text).context("cannot read the prompt from standard input")?;
        let end = text.strip_suffix('\n').map_or(text.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
        text.truncate(end);
        Ok(text)
    }

    /// The ids of the prompt, or of a chat with it as the only message.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(in crate::cli) fn encode(&self, tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
        if !self.chat {
            return Ok(tokenizer.encode(prompt)?);
        }
        Ok(tokenizer.chat(&[Message { role: "user".to_owned(), content: prompt.to_owned() }])?)
    }

    /// The parameters for a prompt, and what of them has no effect.
    ///
    /// # Errors
    /// If the context has no room after the prompt.
    pub(in crate::cli) fn params(&self, ids: &[u32], runtime: &Runtime) -> Result<(GenerateParams, Vec<String>)> {
        let context = runtime.limits().canvas.context;
        let room = context.saturating_sub(ids.len());
        anyhow::ensure!(room > 0, "the prompt of {} tokens fills the context of {context} positions", ids.len());
        let usual = GenerateParams::default().max_new_tokens;
        // Small numbers, so that the seed can be typed again.
        let seed = self.seed.unwrap_or_else(|| rand::random::<u32>().into());
        let params = self.given(seed, usual.min(room));
        let mut warnings = Vec::from_iter(self.model.notice());
        let mut warn = |unheeded: bool, text: String| warnings.extend(unheeded.then_some(text));
        warn(
            self.max_new_tokens.is_none() && room < usual,
            format!("--max-new-tokens is {room}: the context has {context} positions, the prompt {} tokens", ids.len()),
        );
        let entropy = params.use_entropy_sampling;
        warn(entropy && self.temperature.is_some(), "--temperature has no effect without --no-entropy-sampling".into());
        let greedy = !entropy && params.temperature == 0.0;
        warn(greedy && self.top_p.is_some(), "--top-p has no effect at temperature 0".into());
        warn(greedy && self.seed.is_some(), "--seed has no effect at temperature 0".into());
        let chat_model = runtime.limits().canvas.special.chat.is_some();
        warn(self.eot.is_some() && !chat_model, "--eot has no effect: this checkpoint has no <|eot_id|>".into());
        Ok((params, warnings))
    }

    fn given(&self, seed: u64, max_new_tokens: usize) -> GenerateParams {
        let usual = GenerateParams::default();
        GenerateParams {
            max_new_tokens: self.max_new_tokens.unwrap_or(max_new_tokens),
            steps: self.steps,
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_p: self.top_p.unwrap_or(usual.top_p),
            repetition_penalty: self.repetition_penalty,
            use_entropy_sampling: !self.no_entropy_sampling,
            cfg_scale: self.cfg_scale,
            seed,
            stop_tokens: self.stop_tokens.clone(),
            stop: self.stop.clone(),
            decoding: self.decoding,
            align: match self.align {
                AlignFlag::Reference => Align::Reference,
                AlignFlag::Block => Align::Block,
            },
            eot: match self.eot {
                None | Some(EotFlag::Fill) => EotMode::Fill,
                Some(EotFlag::Reference) => EotMode::Reference,
            },
        }
    }
}

/// A seed as requests write it: a negative one is the key of its two's complement.
fn seed(text: &str) -> Result<u64, String> {
    let signed = text.parse::<i64>().map(|seed| seed as u64);
    signed.or_else(|_| text.parse()).map_err(|_| format!("`{text}` is no integer of 64 bits"))
}
