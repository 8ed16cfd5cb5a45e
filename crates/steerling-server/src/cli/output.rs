//! Standard output and standard error of the commands.
//!
//! A reader that leaves (`steerling … | head -1`) ends a command quietly: the command stops writing and ends with the
//! status that it would have had. Nothing here panics, whatever becomes of the streams.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Result;

/// Writes to standard output at once.
///
/// # Errors
/// If the output cannot be written because of anything but a reader that has left, such as a full disk.
pub(crate) fn emit(text: &str) -> Result<Reader> {
    write(io::stdout().lock(), "standard output", text)
}

/// Writes what the user must not miss to standard error at once.
///
/// # Errors
/// Those of [`emit`].
pub(crate) fn emit_to_stderr(text: &str) -> Result<Reader> {
    write(io::stderr().lock(), "standard error", text)
}

fn write(mut out: impl Write, name: &str, text: &str) -> Result<Reader> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(anyhow::Error::new(error).context(format!("cannot write to {name}"))),
    }
}

/// Writes a line to standard error. A note that cannot be written is lost, and the command goes on.
pub(crate) fn note(line: impl Display) {
    _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether somebody still reads a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// So far.
    Listening,
    /// No more.
    Gone,
}

/// Labels and values in two columns, indented; a value of several lines continues below itself.
pub(crate) fn table(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in rows {
        for (i, line) in value.lines().enumerate() {
            let label = if i == 0 { label } else { "" };
            text.push_str(&format!("  {label:<width$}  {line}\n"));
        }
    }
    text
}
