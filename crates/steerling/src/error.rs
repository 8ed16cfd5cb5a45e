//! The one error type of the crate.

use std::path::PathBuf;

use crate::canvas::CanvasId;

/// What can go wrong in the model crate. Messages are lower-case and name the value and the limit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or mapped.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// `config.json` or `tokenizer_config.json` holds something this crate cannot honour.
    #[error("config key `{key}`: {message}")]
    Config {
        /// The key, dotted when nested (`concept.unknown_topk`).
        key: String,
        /// The value found and what is accepted.
        message: String,
    },
    /// A tensor is missing, unexpected, mis-shaped or unreadable.
    #[error("tensor `{name}` in {file}: {message}")]
    Tensor {
        /// The tensor's name in the checkpoint.
        name: String,
        /// The file that holds it, or should.
        file: PathBuf,
        /// Expected against found.
        message: String,
    },
    /// A checkpoint file or directory is not usable as a whole.
    #[error("{path}: {message}")]
    Checkpoint {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The tokenizer could not be built or cannot encode the input.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A request field is out of range or contradicts another one.
    #[error("`{field}`: {message}")]
    Invalid {
        /// The request field.
        field: String,
        /// The value found and the limit.
        message: String,
    },
    /// The prompt and the tokens to generate do not fit into the context.
    #[error(
        "prompt of {prompt} tokens plus max_new_tokens {max_new_tokens} exceeds the context of {context} positions"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        max_new_tokens: usize,
        /// Positions the model has.
        context: usize,
    },
    /// A request names a concept that the catalogue does not have.
    #[error("`{field}`: {message}")]
    UnknownConcept {
        /// The request field, or the part of the path.
        field: String,
        /// What was looked for, and what exists.
        message: String,
    },
    /// A request names a concept by a name that several concepts have.
    #[error("`{field}`: {message}")]
    AmbiguousConcept {
        /// The request field.
        field: String,
        /// The name and how many concepts have it.
        message: String,
        /// Global ids of the concepts with that name, ascending; at most [`crate::catalog::MAX_CANDIDATES`].
        candidates: Vec<u32>,
    },
    /// A request would steer a concept that is not meant to be steered.
    #[error("`{field}`: concept {id} (`{name}`) is not steerable; `force` steers it anyway")]
    NotSteerable {
        /// The request field.
        field: String,
        /// Global id of the concept.
        id: u32,
        /// Its name.
        name: String,
    },
    /// This checkpoint or build lacks what was asked for.
    #[error("{0}")]
    Unsupported(String),
    /// A request needs more of something than this model may ever give it.
    #[error("`{field}`: {message}")]
    TooLarge {
        /// The request field to reduce.
        field: String,
        /// What is needed, what there is, and what to reduce.
        message: String,
        /// Rows or bytes that are needed.
        needed: u64,
        /// Rows or bytes that there are.
        available: u64,
    },
    /// There is no room now; later there will be.
    #[error("{0}")]
    Busy(String),
    /// A step found logits that are no finite numbers: weights are damaged, or steering is stronger than the numbers
    /// can hold.
    #[error("the logits at position {position} are not finite numbers")]
    NonFinite {
        /// Whose logits.
        canvas: CanvasId,
        /// The first such position.
        position: usize,
    },
    /// An operation on the device failed.
    #[error("device: {0}")]
    Device(#[from] candle_core::Error),
}

impl Error {
    /// Whether the device had no memory for an operation.
    pub fn is_out_of_memory(&self) -> bool {
        // The device's own error types differ from build to build; their text does not.
        let Self::Device(error) = self else { return false };
        let text = error.to_string().to_ascii_lowercase();
        text.contains("out of memory") || text.contains("out_of_memory")
    }

    /// A request field that cannot be honoured.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }

    /// A configuration key that cannot be honoured.
    pub fn config(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config { key: key.into(), message: message.into() }
    }
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
