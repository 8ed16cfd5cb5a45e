//! The file of the audit log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use super::Counts;

/// Writes whole lines at the end of a file, whichever file has its name.
pub(super) struct Writer {
    path: PathBuf,
    /// None after it could not be opened.
    file: Option<File>,
    /// A line was cut short, by a full disk for example: the next one begins on a line of its own.
    torn: bool,
    /// The last line was dropped; the reason is in the log.
    failing: bool,
    counts: Counts,
}

impl Writer {
    pub(super) fn open(path: PathBuf, counts: Counts) -> io::Result<Self> {
        let file = Some(open(&path)?);
        Ok(Self { path, file, torn: false, failing: false, counts })
    }

    /// Writes a line, or counts it as dropped.
    pub(super) fn write(&mut self, line: &[u8]) {
        match self.try_write(line) {
            Ok(()) => {
                if std::mem::replace(&mut self.failing, false) {
                    tracing::warn!(path = %self.path.display(), "the audit log is written again");
                }
                self.counts.written.increment(1);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(path = %self.path.display(), %error, "the audit log cannot be written: lines are dropped");
                }
                self.counts.dropped.increment(1);
            }
        }
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_none_or(|file| !is_at(file, &self.path)) {
            self.file = None;
            self.file = Some(open(&self.path)?);
            self.torn = false;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        // One call for the line: what others append stands before or behind it.
        match file.write(line)? {
            n if n == line.len() => Ok(()),
            _ => {
                self.torn = true;
                Err(io::ErrorKind::WriteZero.into())
            }
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

/// Whether the file still has this name: after a rotation another one has, or none.
#[cfg(unix)]
fn is_at(file: &File, path: &PathBuf) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &PathBuf) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::Counter;

    fn writer(path: PathBuf) -> Writer {
        Writer::open(path, Counts { written: Counter::noop(), dropped: Counter::noop() }).unwrap()
    }

    #[test]
    fn a_rotated_file_is_left_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit"), dir.path().join("audit.1"));
        let mut log = writer(path.clone());
        log.write(b"one\n");
        std::fs::rename(&path, &old).unwrap();
        log.write(b"two\n");
        std::fs::remove_file(&path).unwrap();
        log.write(b"three\n");
        assert_eq!(std::fs::read(&old).unwrap(), b"one\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_and_what_comes_later_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, real) = (dir.path().join("audit"), dir.path().join("real"));
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = writer(path.clone());
        log.write(b"lost\n");
        assert!(log.failing);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        log.write(b"kept\n");
        assert!(!log.failing);
        assert_eq!(std::fs::read(&real).unwrap(), b"kept\n");
    }
}
