//! `steerling openapi`

use std::io::Write;

/// Prints the document.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(steerling_server::openapi::document().as_bytes())?)
}
