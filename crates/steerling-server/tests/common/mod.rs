//! What several tests of the whole program share.

use std::process::{Command, Stdio};

/// The program with arguments and without input, in a directory that has no configuration, and without settings from the
/// environment.
pub(crate) fn steerling(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steerling"));
    command.args(args).current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STEERLING_")) {
        command.env_remove(name);
    }
    command
}
