//! Files and directories that are not what their names promise, said in words that name the remedy.

use std::path::{Component, Path};

/// How a Git LFS pointer begins, today's and those of its predecessors.
const POINTERS: [&str; 3] =
    ["version https://git-lfs.github.com/", "version https://hawser.", "version http://git-media."];
/// Text files above this size are taken for what they claim to be.
const SHORT: usize = 64 << 10;

/// What a file is instead of what its name says, as the end of a sentence that begins with its path. `None` if the
/// content may be right.
pub(super) fn misplaced(content: &[u8]) -> Option<&'static str> {
    let start = &content[..content.len().min(512)];
    let start = start.strip_prefix(super::json::BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    let begins = |text: &str| start.get(..text.len()).is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()));
    if content.is_empty() {
        Some("is empty: a download or a copy did not finish; fetch the file again")
    } else if POINTERS.into_iter().any(begins) {
        Some(
            "is a Git LFS pointer, not the file: run `git lfs pull` in its directory, or fetch the model with \
             `steerling download`",
        )
    } else if ["<!doctype html", "<html", "<head", "<?xml"].into_iter().any(begins) {
        Some(
            "is a web page, not the file: the server that it was downloaded from answered with a page, often one that \
             asks for a login; fetch the file again",
        )
    } else {
        None
    }
}

/// The beginning of a short text that stands where a binary file should.
pub(crate) fn text_instead(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok().filter(|text| text.len() <= SHORT)?;
    let printable = text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace());
    printable.then(|| format!("it is a text that begins {:?}", text.chars().take(60).collect::<String>()))
}

/// That there is nothing at `path`, and the command that helps if it is the name of a model on the hub.
pub(super) fn absent(path: &Path) -> String {
    match hub_name(path) {
        Some((repo, name)) => format!(
            "no such directory or file here; if it is a model on the hub, `steerling download {repo}` fetches it into \
             `{name}`"
        ),
        None => "no such directory or file".to_owned(),
    }
}

/// Owner and name, and the name alone, if `path` has the form that models have on the hub.
fn hub_name(path: &Path) -> Option<(&str, &str)> {
    let mut parts = path.components();
    let (Some(Component::Normal(_)), Some(Component::Normal(name)), None) = (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let repo = path.to_str()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (repo.chars().all(plain) && !repo.ends_with(".gguf")).then_some((repo.trim_end_matches('/'), name.to_str()?))
}

/// Why a directory without `config.json` is no model, and where one may lie instead.
pub(super) fn no_config(dir: &Path) -> String {
    let message = "holds no config.json, so it is no model directory";
    let mut inside: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    inside.sort();
    if let Some(file) = inside.iter().find(|path| path.extension().is_some_and(|ext| ext == "gguf")) {
        return format!("{message}; name the file itself: {}", file.display());
    }
    let snapshots = std::fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten();
    match snapshots.map(|entry| entry.path()).filter(|path| path.join("config.json").exists()).min() {
        Some(snapshot) => format!("{message}; the model of this cache is {}", snapshot.display()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        assert_eq!(hub_name(Path::new("guidelabs/steerling-8b")), Some(("guidelabs/steerling-8b", "steerling-8b")));
        for path in
            ["/guidelabs/steerling-8b", "./guidelabs/x", "../x", "steerling-8b", "a/b/c", "models/x.gguf", "a b/c"]
        {
            assert_eq!(hub_name(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn only_short_readable_text_is_quoted() {
        assert_eq!(text_instead(b"Access denied\n").unwrap(), "it is a text that begins \"Access denied\\n\"");
        assert_eq!(text_instead(b"GGUF\x03\0\0\0"), None);
        assert_eq!(text_instead(&[0xff; 8]), None);
        assert_eq!(text_instead(&vec![b'a'; SHORT + 1]), None);
    }
}
