//! `steerling openapi`

use super::output::emit;

/// Prints the document.
pub(crate) fn run() -> anyhow::Result<()> {
    emit(steerling_server::openapi::document()).map(drop)
}
