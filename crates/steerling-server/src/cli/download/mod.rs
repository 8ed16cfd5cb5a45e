//! `steerling download`: a model from a hub into a directory. Nothing else in this program downloads.

mod verify;

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

/// Attempts for each file; each goes on where the one before ended.
const RETRIES: usize = 5;
/// Where parts of files are kept until they are whole and verified.
const PARTIAL: &str = ".download";
/// What a checkpoint is made of. Weights in other formats are left.
const WANTED: [&str; 6] = ["json", "safetensors", "parquet", "jinja", "txt", "md"];

/// Fetch a model from a model hub into a directory.
///
/// Every file is verified against the checksum that the hub gives. What was interrupted goes on where it ended when the
/// command is run again. HF_ENDPOINT names another hub, HF_TOKEN is sent to it.
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

/// Fetches what is missing.
pub(crate) fn run(args: &DownloadArgs) -> Result<()> {
    let name = args.repo.rsplit('/').next().unwrap_or_default();
    if args.repo.split('/').count() != 2 || name.is_empty() || args.repo.starts_with('/') {
        bail!("`{}` is no repository: owner and name are expected, such as guidelabs/steerling-8b", args.repo);
    }
    let out = args.out.clone().unwrap_or_else(|| name.into());
    let partial = out.join(PARTIAL);
    std::fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    let partial = partial.canonicalize()?;
    let api = api(&partial)?;
    let explain = |error: ApiError| explain(&error, &args.repo, &args.revision);
    let revision = |revision: &str| Repo::with_revision(args.repo.clone(), RepoType::Model, revision.to_owned());
    let info = api.repo(revision(&args.revision)).info().map_err(explain)?;
    // A branch may move meanwhile, the commit does not.
    let repo = api.repo(revision(&info.sha));
    let names: Vec<String> =
        info.siblings.into_iter().map(|file| file.rfilename).filter(|name| is_wanted(name)).collect();
    if !names.iter().any(|name| name == "config.json") {
        bail!("{} at {} has no config.json: it is no checkpoint", args.repo, info.sha);
    }
    for name in &names {
        fetch(&api, &repo, name, &out).map_err(|error| match error.downcast::<ApiError>() {
            Ok(error) => explain(error).context(name.clone()),
            Err(error) => error,
        })?;
    }
    std::fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
    eprintln!("{} at {}: {} files, verified, in {}", args.repo, info.sha, names.len(), out.display());
    eprintln!("steerling serve --model {}", out.display());
    Ok(())
}

fn api(partial: &Path) -> Result<Api> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned());
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let builder = ApiBuilder::new().with_endpoint(endpoint.trim_end_matches('/').to_owned());
    Ok(builder.with_token(token).with_cache_dir(partial.to_owned()).with_retries(RETRIES).build()?)
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

/// Fetches a file unless it is there already, and verifies it.
fn fetch(api: &Api, repo: &ApiRepo, name: &str, out: &Path) -> Result<()> {
    let place = out.join(name);
    let etag = api.metadata(&repo.url(name))?.etag().to_owned();
    if place.is_file() && verify::matches(&place, &etag)? {
        eprintln!("{name}: already there, verified");
        return Ok(());
    }
    // The hub's name for the content, behind a link with the file's name.
    let blob = repo.download(name)?.canonicalize()?;
    if !verify::matches(&blob, &etag)? {
        std::fs::remove_file(&blob)?;
        bail!("{name}: what came is not what the hub says it is (checksum {etag}); it was deleted, try again");
    }
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::rename(&blob, &place).with_context(|| place.display().to_string())
}

/// What to do about a failed request.
fn explain(error: &ApiError, repo: &str, revision: &str) -> anyhow::Error {
    let text = error.to_string();
    let status = |code: &str| text.contains(&format!("http status: {code}"));
    let advice = if status("401") || status("403") {
        format!("{repo} needs a token with access to it: set HF_TOKEN")
    } else if status("404") {
        format!("the hub has no {repo} at revision {revision}")
    } else {
        "the hub was not reached, or the connection broke; what was fetched is kept, run the command again. \
         Is this machine online? HF_ENDPOINT names another hub"
            .to_owned()
    };
    anyhow::anyhow!("{advice} ({text})")
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
