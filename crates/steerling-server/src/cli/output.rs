//! Standard output of the commands.

use std::io::{self, Write};

use anyhow::Result;

/// Writes to standard output at once. Whether the reader is still there is its own business: `| head` is no error.
///
/// # Errors
/// If the output cannot be written for any other reason, such as a full disk.
pub(crate) fn emit(text: &str) -> Result<Reader> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}

/// Whether somebody still reads standard output.
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
