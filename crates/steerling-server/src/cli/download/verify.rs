//! Whether a file is what the hub says it is.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Whether a tag is a checksum that a file can be compared with.
pub(super) fn is_checksum(tag: &str) -> bool {
    [40, 64].contains(&tag.len()) && tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Compares a file with the hub's tag for it: the SHA-256 of a large file, git's object id (SHA-1 of a head and the
/// content) of a small one.
///
/// # Errors
/// If the file cannot be read, or the tag is neither.
pub(super) fn matches(path: &Path, etag: &str) -> Result<bool> {
    let context = || path.display().to_string();
    let mut file = File::open(path).with_context(context)?;
    let hash = match etag.len() {
        64 => {
            let mut hasher = Sha256::new();
            io::copy(&mut file, &mut hasher).with_context(context)?;
            hex(&hasher.finalize())
        }
        40 => {
            let mut hasher = sha1::Sha1::new();
            hasher.update(format!("blob {}\0", file.metadata()?.len()));
            io::copy(&mut file, &mut hasher).with_context(context)?;
            hex(&hasher.finalize())
        }
        _ => anyhow::bail!("the hub's tag `{etag}` is neither a SHA-256 nor a git object id: nothing to verify with"),
    };
    Ok(hash == etag)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_tags_are_compared() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        // As `git hash-object` and `sha256sum` print them.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert!(matches(file.path(), git).unwrap() && matches(file.path(), sha256).unwrap());
        std::fs::write(file.path(), "hellO\n").unwrap();
        assert!(!matches(file.path(), git).unwrap() && !matches(file.path(), sha256).unwrap());
        assert!(matches(file.path(), "abc").is_err());
    }
}
