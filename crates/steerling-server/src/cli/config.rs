//! `steerling config`

use clap::Args;
use steerling_server::config::{self, ServeOptions};

use super::Configured;
use super::output::emit;

/// Print the configuration that `serve` would have with the same flags, environment and file.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Print the documented configuration file, with every key at its default, instead
    #[arg(long)]
    pub(crate) template: bool,
    #[command(flatten)]
    pub(crate) options: ServeOptions,
}

/// Prints what came out, without what is secret.
pub(crate) fn run(Configured { options, settings, file }: &Configured) -> anyhow::Result<()> {
    emit(&config::show(settings, options, file))?;
    Ok(())
}

/// Prints the file to start from.
pub(crate) fn template() -> anyhow::Result<()> {
    emit(&config::template())?;
    Ok(())
}
