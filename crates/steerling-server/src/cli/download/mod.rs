//! `steerling download`: a model from a hub into a directory. Nothing else in this program downloads.

mod failure;
mod hub;
mod verify;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use url::Url;

use super::{note, progress};
use failure::Failure;
use hub::Hub;

/// Where parts of files are kept until they are whole and verified.
const PARTIAL: &str = ".download";
/// What a checkpoint is made of. Weights in other formats are left.
const WANTED: [&str; 6] = ["json", "safetensors", "parquet", "jinja", "txt", "md"];
/// The largest list of files that a hub may send, in bytes.
const LIST_BYTES: u64 = 64 << 20;

/// Fetch a model from a model hub into a directory.
///
/// Every file is verified against the checksum that the hub gives. What was interrupted goes on where it ended when the
/// command is run again. HF_ENDPOINT names another hub, HF_TOKEN is sent to it, and to no host that it redirects to.
#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// Owner and name, such as guidelabs/steerling-8b
    repo: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// Directory for the files; without it, one with the name of the repository
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a hub says of a repository.
#[derive(Debug, Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Fetches what is missing.
pub(crate) fn run(args: &DownloadArgs) -> Result<()> {
    let (owner, name) = args.repo.split_once('/').unwrap_or_default();
    let is_part = |part: &str| !part.is_empty() && !part.contains('/') && ![".", ".."].contains(&part);
    if !is_part(owner) || !is_part(name) {
        bail!("`{}` is no repository: owner and name are expected, such as guidelabs/steerling-8b", args.repo);
    }
    let hub = Hub::from_env()?;
    let out = args.out.clone().unwrap_or_else(|| name.into());
    let partial = out.join(PARTIAL);
    std::fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    // Held until the end.
    let _lock = lock(&partial.join("lock"))?;
    let explain = |failure: Failure| failure.explain(&hub, &args.repo, &args.revision);
    let url = hub.url(["api", "models", owner, name, "revision", &args.revision]);
    let Listing { sha, siblings } = hub.persist(|| list(&hub, &url)).map_err(explain)?;
    let names: Vec<String> = siblings.into_iter().map(|file| file.rfilename).filter(|name| is_wanted(name)).collect();
    if !names.iter().any(|name| name == "config.json") {
        bail!("{} at {sha} has no config.json: it is no checkpoint", args.repo);
    }
    for file in &names {
        // A branch may move meanwhile, the commit does not.
        let url = hub.url([owner, name, "resolve", &sha].into_iter().chain(file.split('/')));
        let fetch = Fetch { hub: &hub, url: &url, name: file, partial: &partial };
        fetch.place_at(&out.join(file)).map_err(|failure| explain(failure).context(file.clone()))?;
    }
    std::fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
    note(format_args!("{} at {sha}: {} files, verified, in {}", args.repo, names.len(), out.display()));
    note(format_args!("steerling serve --model {}", out.display()));
    Ok(())
}

/// Two that write the same parts would damage them.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!("{}: another download is under way there", path.display()),
        // A file system without locks.
        Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// The files of a repository.
fn list(hub: &Hub, url: &Url) -> Result<Listing, Failure> {
    let mut answer = hub.get(url, None)?;
    let body = answer.response.body_mut().with_config().limit(LIST_BYTES).read_to_vec();
    let body = body.map_err(|error| Failure::passing(format!("{url}: the list of files broke off: {error}")))?;
    Ok(serde_json::from_slice(&body).with_context(|| format!("{url}: the answer is no list of files"))?)
}

/// Files of a checkpoint, by names that stay within the directory.
fn is_wanted(name: &str) -> bool {
    let path = Path::new(name);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(part) if !part.as_encoded_bytes().starts_with(b".")));
    let kind = path.extension().and_then(|kind| kind.to_str());
    inside && (kind.is_some_and(|kind| WANTED.contains(&kind)) || name == "LICENSE")
}

/// One file of a repository.
struct Fetch<'a> {
    hub: &'a Hub,
    url: &'a Url,
    name: &'a str,
    /// The directory of the parts.
    partial: &'a Path,
}

impl Fetch<'_> {
    /// Fetches the file unless it is there already, and verifies it.
    fn place_at(&self, place: &Path) -> Result<(), Failure> {
        let Self { hub, name, .. } = self;
        let answer = hub.persist(|| hub.get(self.url, Some("bytes=0-0")))?;
        let checksum = answer.checksum().ok_or_else(|| {
            Failure::lasting("the hub gives neither a SHA-256 nor a git object id: nothing to verify with".to_owned())
        })?;
        let size = answer.extent().1;
        drop(answer);
        if place.is_file() && verify::matches(place, &checksum)? {
            note(format_args!("{name}: already there, verified"));
            return Ok(());
        }
        let part = self.partial.join(&checksum);
        hub.persist(|| self.rest(&part, size))?;
        if !verify::matches(&part, &checksum)? {
            std::fs::remove_file(&part)?;
            return Err(Failure::lasting(format!(
                "what came is not what the hub says it is (checksum {checksum}); it was deleted, try again"
            )));
        }
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(std::fs::rename(&part, place).with_context(|| place.display().to_string())?)
    }

    /// Fetches what a part of the file lacks.
    fn rest(&self, part: &Path, size: Option<u64>) -> Result<(), Failure> {
        let context = || part.display().to_string();
        let mut file = File::options().create(true).append(true).open(part).with_context(context)?;
        let mut done = file.metadata()?.len();
        if size.is_some_and(|size| done > size) {
            file.set_len(0)?;
            done = 0;
        }
        if size == Some(done) {
            return Ok(());
        }
        let mut answer = self.hub.get(self.url, Some(&format!("bytes={done}-")))?;
        let (start, told_size) = answer.extent();
        let size = size.or(told_size);
        match answer.response.status().as_u16() {
            // The file ends where the part does.
            416 => return Ok(()),
            206 if start == done => {}
            206 => {
                return Err(Failure::passing(format!("asked for bytes from {done}, the hub sent those from {start}")));
            }
            // All of it, whatever was asked for.
            _ => {
                file.set_len(0)?;
                done = 0;
            }
        }
        let mut bar = progress::bar(self.name);
        let mut reader = answer.response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        let broken = |done: u64, why: &str| {
            let size = size.map(|size| format!(" of {size}")).unwrap_or_default();
            Failure::passing(format!("the connection broke after {done}{size} bytes{why}"))
        };
        loop {
            bar(done, size.unwrap_or(done));
            match reader.read(&mut buffer) {
                Ok(0) if size.is_some_and(|size| done < size) => return Err(broken(done, "")),
                Ok(0) => return Ok(()),
                Ok(n) => file.write_all(&buffer[..n]).with_context(context)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(done, &format!(" ({error})"))),
            }
            done = file.metadata()?.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_checkpoint_inside_the_directory_are_wanted() {
        for name in ["config.json", "model-00001-of-00002.safetensors", "assets/concepts.parquet", "LICENSE"] {
            assert!(is_wanted(name), "{name}");
        }
        for name in ["../config.json", "/etc/x.json", ".git/x.json", "pytorch_model.bin", "a/../../x.json", "run.py"] {
            assert!(!is_wanted(name), "{name}");
        }
    }
}
