//! Links of the documentation lead somewhere.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README, CHANGELOG, the model's card and all pages.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let others = ["README.md", "CHANGELOG.md", "models/steerling-demo/README.md"].map(|name| root().join(name));
    others.into_iter().chain(docs).collect()
}

/// The lines outside of fenced code.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Targets of `[text](target)`, those of pictures included.
fn links(text: &str) -> Vec<&str> {
    let of_line = |line| -> Vec<&str> {
        let mut rest: &str = line;
        let mut found = Vec::new();
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, after)) = behind.split_once(')') else { break };
            found.push(target.split(' ').next().unwrap());
            rest = after;
        }
        found
    };
    lines(text).flat_map(of_line).collect()
}

/// What a heading is called in a link: lower case, without punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> Vec<String> {
    let headings = lines(text).filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Why a link leads nowhere.
fn broken(page: &Path, target: &str) -> Option<String> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return None;
    }
    let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    if !path.exists() {
        return Some(format!("{}: there is no {target}", page.display()));
    }
    let missing = !wanted.is_empty() && !anchors(&fs::read_to_string(&path).unwrap()).contains(&wanted.to_owned());
    missing.then(|| format!("{}: no heading for {target}", page.display()))
}

#[test]
fn links_and_anchors_of_all_pages_lead_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let targets = links(&text);
        seen += targets.len();
        let broken: Vec<String> = targets.iter().filter_map(|target| broken(&page, target)).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
    assert!(seen > 30, "{seen} links");
}

#[test]
fn every_page_of_the_documentation_is_linked_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let linked = links(&readme);
    for page in pages().iter().filter(|page| page.parent() == Some(&root().join("docs"))) {
        let name = format!("docs/{}", page.file_name().unwrap().to_str().unwrap());
        assert!(linked.iter().any(|target| target.split('#').next() == Some(&name)), "nothing leads to {name}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_noticed() {
    let readme = root().join("README.md");
    assert_eq!(links("a [b](c.md#d) `x` ![e](f.png \"g\")\n```\n[h](i)\n```\n"), ["c.md#d", "f.png"]);
    assert_eq!(anchor(" `decision_logit` vs. Target, 2 "), "decision_logit-vs-target-2");
    for wrong in ["docs/nothing.md", "#nothing", "docs/performance.md#nothing"] {
        assert!(broken(&readme, wrong).is_some(), "{wrong}");
    }
}
