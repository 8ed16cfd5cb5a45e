//! The documented file, written from the flags: it cannot fall behind them.

use std::fmt::Write;

use super::file::{Key, keys};
use super::settings::toml_value;

const HEAD: &str = "\
# Configuration of `steerling serve`. Every key has three spellings: `max_batch` in this file, STEERLING_MAX_BATCH in
# the environment, --max-batch as a flag. A flag wins over the environment, the environment over the file, the file over
# the default. `steerling config` prints what comes out, `steerling doctor` checks it against this machine.
#
# This file is read where the server is started in the directory above it, or with --config FILE. Behind each # without
# a blank stands a key with its default, or an example where there is none. Unknown keys are refused.
";

const TABLES: &str = r##"
# API keys. With at least one, every path but /health/live, /health/ready, the page at /, /docs and /openapi.json wants
# one of them, as `Authorization: Bearer KEY`. `steerling key NAME` makes a key and prints its table: only the SHA-256 of
# the key is kept.
# Scopes: generate (/generate, /steer, /v1/completions, /v1/chat/completions), explain (/attribute, /embed, /score,
# /concepts, /v1/embeddings), admin (/metrics, and all others); without `scopes`, all of them. /attribute without a trace
# generates and needs both generate and explain. `max_concurrent`: requests under way at once; without it, no limit of its own.
# In the environment: STEERLING_API_KEY is one key, in clear, with all scopes. STEERLING_API_KEYS is a list of
# NAME:SCOPES:SHA256, separated by blanks, scopes by `+`.
#[api_keys.alice]
#sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
#scopes = ["generate", "explain"]
#max_concurrent = 4

# Policies: what is always steered, and what is refused. One is named by `policy` above and holds for every generation,
# others by the field `policy` of a request and hold beside it. `steering` is that of a request to /steer. A request that
# steers a concept which a policy steers is refused. `refuse`: generations whose prompt has this concept with at least
# this weight (0 to 1), as `over` says: "mean" over its tokens (the default), or "max". A concept that the model does not
# have keeps the server from starting.
#[policies.calm]
#steering = { suppress = [{ concept = { name = "Pirate speech" }, strength = 20.0 }] }
#refuse = [{ concept = { name = "Weather" }, threshold = 0.5, over = "max" }]
"##;

/// The file as it is shipped.
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    for Key { name, arg } in keys() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let list = arg.get_value_delimiter().is_some();
        let value = match (name.as_str(), defaults.is_empty()) {
            (_, false) => toml_value(&defaults, list),
            (name, true) => toml_value(&[example(name)], list),
        };
        // Writing to a string does not fail.
        _ = write!(text, "\n{}\n#{name} = {value}\n", wrapped(&help));
    }
    text + TABLES
}

/// What a key without a default may look like.
fn example(name: &str) -> &'static str {
    match name {
        "model" => "/models/steerling-8b",
        "gradient_mib" => "8192",
        "served_model_name" => "guidelabs/steerling-8b",
        "admin_port" => "9090",
        "admin_host" => "127.0.0.1",
        "tls_cert" => "/etc/steerling/tls.crt",
        "tls_key" => "/etc/steerling/tls.key",
        "cors_origins" => "https://example.org",
        "allowed_hosts" => "steer.example.org",
        "policy" => "calm",
        "audit_log" => "/var/log/steerling/audit.jsonl",
        other => unreachable!("{other} has neither a default nor an example"),
    }
}

/// The help as comment lines of at most 118 characters.
fn wrapped(help: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in help.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > 118) {
            lines.push("#".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}
