//! What `steerling serve` can be told, in three spellings of one name: `--max-batch`, `STEERLING_MAX_BATCH`, and
//! `max_batch` in a file. A flag wins over the environment, the environment over the file, the file over the default.

mod environment;
mod file;
mod host;
mod settings;
mod template;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use clap::{ArgAction, Args, ValueEnum};
use steerling::{DeviceChoice, DtypeChoice, ModelDir, ModelSource, RuntimeOptions};

use crate::auth::{AllowedHost, Keys};
use crate::demo::{DEMO, NOTICE};
use crate::engine::EngineOptions;
use crate::policy::Policies;

pub use environment::{DEFAULT_FILE, Secrets, unknown_variables};
pub use file::ConfigFile;
pub use host::Host;
pub use settings::{Setting, settings, show};
pub use template::template;

use values::{seconds, some_seconds, whole};

/// Time for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest head of a request.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Open connections of a port.
const MAX_CONNECTIONS: usize = 512;
/// Time for the body of a request: 1 MiB needs 140 kbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time in which a client takes nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Limits of the numbers that can be set. Below the first of a pair the server would answer nothing; the second is beyond
/// any use, and small enough that no sum of such numbers overflows.
mod limit {
    use std::ops::RangeInclusive;

    /// Generations under way or sharing a step, and open connections.
    pub(super) const JOBS: RangeInclusive<usize> = 1..=1_000_000;
    /// Generations that wait, and failures.
    pub(super) const COUNT: RangeInclusive<usize> = 0..=1_000_000;
    /// Rows of a step.
    pub(super) const ROWS: RangeInclusive<usize> = 1..=1_000_000_000;
    /// MiB of memory; what the model needs and the machine has is known only when it is loaded.
    pub(super) const MIB: RangeInclusive<u64> = 0..=1 << 30;
    /// Token positions of a request.
    pub(super) const POSITIONS: RangeInclusive<u64> = 1..=1 << 50;
    /// Bytes of a body.
    pub(super) const BODY_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 30;
    /// Bytes of a head; the HTTP library needs the first to read at all.
    pub(super) const HEADER_BYTES: RangeInclusive<usize> = 8 << 10..=1 << 20;
}

/// Everything `serve` needs.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    /// Configuration file, instead of `config/steerling.toml` where that exists in the working directory
    #[arg(long, env = "STEERLING_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which model, and how it is computed.
    #[command(flatten)]
    pub model: ModelOptions,
    /// What answers call the model, and requests may; by default the name of its directory, file or hub repository
    #[arg(long, env = "STEERLING_SERVED_MODEL_NAME", value_name = "NAME", value_parser = model_name)]
    pub served_model_name: Option<String>,
    /// Address to listen on, or a name, all of whose addresses are listened on (`localhost`: IPv4 and IPv6); others than
    /// loopback are reached from outside and need API keys
    #[arg(long, env = "STEERLING_HOST", default_value = "127.0.0.1")]
    pub host: Host,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "STEERLING_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Port for health and metrics alone, beside the main one, which has them too; 0 takes a free one
    #[arg(long, env = "STEERLING_ADMIN_PORT")]
    pub admin_port: Option<u16>,
    /// Address or name of the admin port; that of the main one if absent
    #[arg(long, env = "STEERLING_ADMIN_HOST")]
    pub admin_host: Option<Host>,
    /// What the service takes and for how long.
    #[command(flatten)]
    pub service: ServiceOptions,
    /// Which steps fail.
    #[cfg(feature = "fault-injection")]
    #[command(flatten)]
    pub faults: crate::faults::FaultOptions,
    /// Form of the log lines on standard error; RUST_LOG sets the level
    #[arg(long, env = "STEERLING_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Which model, and how it is computed.
#[derive(Debug, Clone, Args)]
pub struct ModelOptions {
    /// Checkpoint directory or GGUF file; without it, the demo model inside the program
    #[arg(long = "model", env = "STEERLING_MODEL", value_name = "PATH")]
    pub directory: Option<PathBuf>,
    /// auto, cpu or cuda:N
    #[arg(long, env = "STEERLING_DEVICE", default_value_t)]
    pub device: DeviceChoice,
    /// auto, f32, bf16 or f16
    #[arg(long, env = "STEERLING_DTYPE", default_value_t)]
    pub dtype: DtypeChoice,
    /// Memory for keys and values, in MiB
    #[arg(long, env = "STEERLING_KV_CACHE_MIB", default_value_t = 2048, value_name = "MIB", value_parser = whole(limit::MIB))]
    pub kv_cache_mib: u64,
    /// Memory for the gradients of an input attribution, in MiB; a quarter of the memory of the machine, the container or
    /// the GPU if absent. An attribution that needs more is rejected
    #[arg(long, env = "STEERLING_GRADIENT_MIB", value_name = "MIB", value_parser = whole(limit::MIB))]
    pub gradient_mib: Option<u64>,
}

/// What the service takes and for how long.
#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// Generations under way at once, each with its pages of keys and values
    #[arg(long, env = "STEERLING_MAX_BATCH", default_value_t = 32, value_parser = whole(limit::JOBS))]
    pub max_batch: usize,
    /// Generations that share a step, or `auto`: as many as measured step times say are worth it, 8 at least. The others
    /// take turns, block by block
    #[arg(long, env = "STEERLING_MAX_ACTIVE", default_value = "auto", value_parser = active)]
    pub max_active: Active,
    /// Token positions that a step computes at most, those of prompts and drafts included; a generation that needs more
    /// in one step is rejected
    #[arg(long, env = "STEERLING_MAX_ROWS", default_value_t = 8192, value_parser = whole(limit::ROWS))]
    pub max_rows: usize,
    /// Generations that wait; further ones are answered with 429
    #[arg(long, env = "STEERLING_MAX_QUEUE", default_value_t = 64, value_parser = whole(limit::COUNT))]
    pub max_queue: usize,
    /// Token positions (rows times length) that a request to /score may need; one that needs more is rejected
    #[arg(long, env = "STEERLING_MAX_SCORE_POSITIONS", default_value_t = 1 << 27, value_parser = whole(limit::POSITIONS))]
    pub max_score_positions: u64,
    /// Longest time from request to end of the answer, in seconds
    #[arg(long = "timeout-seconds", env = "STEERLING_TIMEOUT_SECONDS", default_value = "600", value_parser = some_seconds)]
    pub timeout: Duration,
    /// Time that open generations get after SIGTERM or SIGINT, in seconds
    #[arg(long = "drain-seconds", env = "STEERLING_DRAIN_SECONDS", default_value = "30", value_parser = seconds)]
    pub drain: Duration,
    /// Failed steps within ten minutes that are answered by loading the model again; one more ends the process
    #[arg(long, env = "STEERLING_MAX_FAULTS", default_value_t = 5, value_parser = whole(limit::COUNT))]
    pub max_faults: usize,
    /// Time in one step after which the server calls itself not ready, in seconds
    #[arg(long = "stall-seconds", env = "STEERLING_STALL_SECONDS", default_value = "60", value_parser = some_seconds)]
    pub stall: Duration,
    /// Largest request body, in bytes
    #[arg(long, env = "STEERLING_MAX_BODY_BYTES", default_value_t = 1 << 20, value_parser = whole(limit::BODY_BYTES))]
    pub max_body_bytes: usize,
    /// Who may ask, and what is kept of it.
    #[command(flatten)]
    pub guard: GuardOptions,
}

/// Who may ask, for what, over which kind of connection, and what is kept of it.
#[derive(Debug, Clone, Args)]
pub struct GuardOptions {
    /// Certificates of the server in PEM, its own first; with it, connections are TLS
    #[arg(long, env = "STEERLING_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, env = "STEERLING_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Web pages that may ask from a browser, by origin (`https://example.org`), or `*` for all
    #[arg(long, env = "STEERLING_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGINS", value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Time for the head of a request, and for the next one on an open connection, in seconds
    #[arg(long = "header-timeout-seconds", env = "STEERLING_HEADER_TIMEOUT_SECONDS", default_value = "60", value_parser = some_seconds)]
    pub header_timeout: Duration,
    /// Largest head of a request, in bytes; 8192 at least
    #[arg(long, env = "STEERLING_MAX_HEADER_BYTES", default_value_t = MAX_HEADER_BYTES, value_parser = whole(limit::HEADER_BYTES))]
    pub max_header_bytes: usize,
    /// Time for the whole body of a request, in seconds; no more than `timeout-seconds`
    #[arg(long = "body-timeout-seconds", env = "STEERLING_BODY_TIMEOUT_SECONDS", default_value = "60", value_parser = some_seconds)]
    pub body_timeout: Duration,
    /// Time after which an answer is given up whose client takes nothing of it, in seconds
    #[arg(long = "write-timeout-seconds", env = "STEERLING_WRITE_TIMEOUT_SECONDS", default_value = "60", value_parser = some_seconds)]
    pub write_timeout: Duration,
    /// Open connections of each port; beyond them, the connection that has been idle for the longest time is closed, and
    /// while none is idle, new ones wait
    #[arg(long, env = "STEERLING_MAX_CONNECTIONS", default_value_t = MAX_CONNECTIONS, value_parser = whole(limit::JOBS))]
    pub max_connections: usize,
    /// Names and addresses, without ports, that a server without API keys answers to beside loopback and its own `host`,
    /// or `*` for all; the admin port, which has no keys, always needs them
    #[arg(long, env = "STEERLING_ALLOWED_HOSTS", value_delimiter = ',', value_name = "HOSTS")]
    pub allowed_hosts: Vec<AllowedHost>,
    /// Policy that holds for every generation, beside the one that a request names; a `[policies.NAME]` of the file
    #[arg(long, env = "STEERLING_POLICY", value_name = "NAME")]
    pub policy: Option<String>,
    /// File to which a line of JSON is added for every generation: who, when, under which policy, which concepts
    #[arg(long, env = "STEERLING_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Write prompts into the audit log, too
    #[arg(long, env = "STEERLING_AUDIT_PROMPTS", num_args = 0..=1, default_missing_value = "true", default_value_t = false,
        action = ArgAction::Set, value_name = "BOOL")]
    pub audit_prompts: bool,
    /// The API keys of the file and the environment; without any, everybody may do everything.
    #[arg(skip)]
    pub keys: Arc<Keys>,
    /// The addresses that the server listens on; requests for them are its own.
    #[arg(skip)]
    pub listening_hosts: Vec<AllowedHost>,
    /// The policies of the file.
    #[arg(skip)]
    pub policies: Arc<Policies>,
}

impl Default for GuardOptions {
    /// What a server has that is told nothing.
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            cors_origins: Vec::new(),
            header_timeout: HEADER_TIMEOUT,
            max_header_bytes: MAX_HEADER_BYTES,
            body_timeout: BODY_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
            allowed_hosts: Vec::new(),
            policy: None,
            audit_log: None,
            audit_prompts: false,
            keys: Arc::default(),
            listening_hosts: Vec::new(),
            policies: Arc::default(),
        }
    }
}

impl GuardOptions {
    /// The certificate file with its key file, if connections are to be TLS.
    ///
    /// # Errors
    /// If there is one without the other.
    pub fn tls(&self) -> Result<Option<(&Path, &Path)>, String> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err("tls_cert needs tls_key, the private key of the certificate".to_owned()),
            (None, Some(_)) => Err("tls_key needs tls_cert, the certificate of the key".to_owned()),
        }
    }
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ModelOptions {
    /// Where the model's files lie.
    pub fn dir(&self) -> ModelDir {
        model_dir(self.directory.as_deref())
    }

    /// Where the model comes from.
    pub fn source(&self) -> ModelSource {
        self.dir().into()
    }

    /// What the user has to know of a model that was not asked for.
    pub fn notice(&self) -> Option<String> {
        self.directory.is_none().then(|| format!("no --model given: {NOTICE}"))
    }

    /// How it is computed.
    pub fn runtime(&self) -> RuntimeOptions {
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        RuntimeOptions {
            device: self.device,
            dtype: self.dtype,
            kv_bytes: bytes(self.kv_cache_mib),
            gradient_bytes: self.gradient_mib.map(bytes),
        }
    }
}

impl ServiceOptions {
    /// How many generations the engine takes.
    pub fn engine(&self) -> EngineOptions {
        EngineOptions {
            max_batch: self.max_batch,
            max_queue: self.max_queue,
            max_active: match self.max_active {
                Active::Auto => None,
                Active::AtMost(n) => Some(n),
            },
            max_rows: self.max_rows,
            max_faults: self.max_faults,
            stall: self.stall,
        }
    }
}

/// How many generations share a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Active {
    /// As many as are worth it.
    Auto,
    /// So many, at least 1.
    AtMost(usize),
}

fn active(text: &str) -> Result<Active, String> {
    match text {
        "auto" => Ok(Active::Auto),
        number => whole(limit::JOBS)(number).map(Active::AtMost),
    }
}

/// The directory of a model; the demo inside the program if none is given.
pub fn model_dir(directory: Option<&Path>) -> ModelDir {
    directory.map_or_else(|| DEMO.into(), ModelDir::from)
}

/// A name that a request can repeat.
fn model_name(text: &str) -> Result<String, String> {
    match text.trim() == text && !text.is_empty() && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no name: it is empty, or has blanks around it or control characters in it")),
    }
}

/// `*`, or scheme and host as a browser sends them.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let uri = text.parse::<axum::http::Uri>().ok();
    let sane = uri.is_some_and(|uri| uri.scheme().is_some() && uri.authority().is_some() && !text.ends_with('/'));
    match text == "*" || sane {
        true => HeaderValue::from_str(text).map_err(|error| error.to_string()),
        false => Err(format!("`{text}` is neither `*` nor an origin such as https://example.org")),
    }
}
