//! `steerling key`

use clap::Args;
use steerling_server::auth::{Scope, new_key};

use super::output::{Reader, emit, emit_to_stderr};

/// Make an API key: the key itself, which is shown only now, and the table that lets the server know it.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Name of the key, for logs
    name: String,
    /// What the key may be used for: generate, explain, admin; all of them if absent
    #[arg(long, value_delimiter = ',', value_parser = scope)]
    scopes: Vec<Scope>,
}

/// The key goes to standard error, so that `>> config/steerling.toml` does not keep it.
pub(crate) fn run(KeyArgs { name, scopes }: &KeyArgs) -> anyhow::Result<()> {
    let (key, sha256) = new_key();
    let scopes = if scopes.is_empty() { &Scope::ALL } else { &scopes[..] };
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    // The table is useless if the key itself could not be shown.
    if emit_to_stderr(&format!("{key}\n"))? == Reader::Gone {
        return Ok(());
    }
    emit(&format!("\n[api_keys.{name:?}]\nsha256 = \"{sha256}\"\nscopes = {scopes:?}\n"))?;
    Ok(())
}

fn scope(text: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is none of generate, explain, admin"))
}
