//! What `steerling serve` can be told: flags, or `STEERLING_*` in the environment.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use steerling::{DeviceChoice, DtypeChoice, ModelDir, ModelSource, RuntimeOptions};

use crate::demo::{DEMO, NOTICE};
use crate::engine::EngineOptions;

/// Everything `serve` needs.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    /// Which model, and how it is computed.
    #[command(flatten)]
    pub model: ModelOptions,
    /// Address to listen on
    #[arg(long, env = "STEERLING_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "STEERLING_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Port for health and metrics alone, beside the main one, which has them too; 0 takes a free one
    #[arg(long, env = "STEERLING_ADMIN_PORT")]
    pub admin_port: Option<u16>,
    /// Address of the admin port; that of the main one if absent
    #[arg(long, env = "STEERLING_ADMIN_HOST", requires = "admin_port")]
    pub admin_host: Option<IpAddr>,
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
    #[arg(long, env = "STEERLING_KV_CACHE_MIB", default_value_t = 2048, value_name = "MIB")]
    pub kv_cache_mib: u64,
}

/// What the service takes and for how long.
#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// Generations under way at once, each with its pages of keys and values
    #[arg(long, env = "STEERLING_MAX_BATCH", default_value_t = 32, value_parser = at_least_one)]
    pub max_batch: usize,
    /// Generations that share a step, or `auto`: as many as measured step times say are worth it, 8 at least. The others
    /// take turns, block by block
    #[arg(long, env = "STEERLING_MAX_ACTIVE", default_value = "auto", value_parser = active)]
    pub max_active: Active,
    /// Rows of a step, those of prompts included; a generation whose steps are larger is refused
    #[arg(long, env = "STEERLING_MAX_ROWS", default_value_t = 8192)]
    pub max_rows: usize,
    /// Generations that wait; further ones are answered with 429
    #[arg(long, env = "STEERLING_MAX_QUEUE", default_value_t = 64)]
    pub max_queue: usize,
    /// Longest time from request to end of the answer, in seconds
    #[arg(long = "timeout-seconds", env = "STEERLING_TIMEOUT_SECONDS", default_value = "600", value_parser = seconds)]
    pub timeout: Duration,
    /// Time that open generations get after SIGTERM or SIGINT, in seconds
    #[arg(long = "drain-seconds", env = "STEERLING_DRAIN_SECONDS", default_value = "30", value_parser = seconds)]
    pub drain: Duration,
    /// Failed steps within ten minutes that are answered by loading the model again; one more ends the process
    #[arg(long, env = "STEERLING_MAX_FAULTS", default_value_t = 5)]
    pub max_faults: usize,
    /// Time in one step after which the server calls itself not ready, in seconds
    #[arg(long = "stall-seconds", env = "STEERLING_STALL_SECONDS", default_value = "60", value_parser = seconds)]
    pub stall: Duration,
    /// Largest request body, in bytes
    #[arg(long, env = "STEERLING_MAX_BODY_BYTES", default_value_t = 1 << 20)]
    pub max_body_bytes: usize,
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
        RuntimeOptions { device: self.device, dtype: self.dtype, kv_bytes: self.kv_cache_mib.saturating_mul(1 << 20) }
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
        number => at_least_one(number).map(Active::AtMost),
    }
}

/// The directory of a model; the demo inside the program if none is given.
pub fn model_dir(directory: Option<&Path>) -> ModelDir {
    directory.map_or_else(|| DEMO.into(), ModelDir::from)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 is below the minimum of 1".to_owned()),
        Ok(n) => Ok(n),
        Err(error) => Err(error.to_string()),
    }
}

/// Seconds, with decimals; at most a century, so that a deadline can always be computed.
fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 3.2e9;
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if !(0.0..=MOST).contains(&seconds) {
        return Err(format!("{text} is outside 0..={MOST}"));
    }
    Ok(Duration::from_secs_f64(seconds))
}
