//! `steerling download` against a small hub on loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod answers;
mod hub;
mod redirects;

use std::process::{Command, Output};

use hub::{COMMIT, Hub, Mood, WEIGHTS, download};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_checkpoint_is_fetched_verified_and_usable_and_a_second_time_nothing_is_fetched() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(COMMIT), "{}", stderr(&output));
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", WEIGHTS, "tokenizer.json"]);
    assert!(!dir.path().join("outside.json").exists());
    assert!(!std::fs::symlink_metadata(out.join(WEIGHTS)).unwrap().is_symlink());
    for name in &names {
        assert!(std::fs::read(out.join(name)).unwrap() == hub.files[name], "{name}");
    }
    let inspected = Command::new(env!("CARGO_BIN_EXE_steerling")).arg("inspect").arg(&out).output().unwrap();
    assert!(inspected.status.success(), "{}", stderr(&inspected));
    hub.asked();
    let again = hub.download(&out);
    assert!(again.status.success() && stderr(&again).contains("already there, verified"), "{}", stderr(&again));
    assert_eq!(hub.starts(), [0; 0]);
}

#[test]
fn what_was_interrupted_goes_on_where_it_ended() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    hub.mood(Mood::Breaks { after: 100_000, times: 2 });
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hub.starts(), [0, 100_000, 200_000], "within one run");
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);

    let out = dir.path().join("another");
    hub.mood(Mood::Breaks { after: 10_000, times: usize::MAX });
    let output = hub.download(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("run the command again"), "{}", stderr(&output));
    assert!(!out.join(WEIGHTS).exists(), "half a file is not shown as one");
    let last = hub.starts().last().unwrap() + 10_000;
    hub.mood(Mood::Well);
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hub.starts(), [last], "by another run");
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);
}

#[test]
fn a_file_that_is_not_what_the_hub_says_is_refused_and_fetched_anew() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    hub.mood(Mood::Corrupts);
    let output = hub.download(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("model.safetensors: what came is not what the hub says"), "{}", stderr(&output));
    assert!(!out.join(WEIGHTS).exists());
    hub.mood(Mood::Well);
    assert!(hub.download(&out).status.success());
    let mut damaged = hub.files[WEIGHTS].clone();
    damaged[5] ^= 1;
    std::fs::write(out.join(WEIGHTS), damaged).unwrap();
    assert!(hub.download(&out).status.success());
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS], "found by its checksum");
}

#[test]
fn a_hub_that_sends_everything_whatever_was_asked_for_is_understood() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    hub.mood(Mood::Breaks { after: 10_000, times: usize::MAX });
    assert_eq!(hub.download(&out).status.code(), Some(1));
    hub.mood(Mood::IgnoresRanges);
    let output = hub.download(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(std::fs::read(out.join(WEIGHTS)).unwrap() == hub.files[WEIGHTS]);
}

#[test]
fn two_downloads_into_one_directory_do_not_mix() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".download")).unwrap();
    let held = std::fs::File::create(dir.path().join(".download/lock")).unwrap();
    held.try_lock().unwrap();
    let output = hub.download(dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another download is under way"), "{}", stderr(&output));
    drop(held);
    assert!(hub.download(dir.path()).status.success());
}

#[test]
fn what_cannot_be_asked_for_is_told_with_what_to_do() {
    let hub = Hub::start();
    let dir = tempfile::tempdir().unwrap();
    let run = |repo: &str, endpoint: &str| {
        let output = download(repo, endpoint).arg("--out").arg(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    assert!(run("owner/other", &hub.url).contains("the hub has no owner/other at revision main"));
    // Nobody listens there.
    let offline = run("owner/nano", "http://127.0.0.1:9");
    assert!(offline.contains("Is this machine online?"), "{offline}");
    for repo in ["nano", "/nano", "owner/", "owner/nano/x", "owner/..", ""] {
        assert!(run(repo, &hub.url).contains("owner and name"), "{repo}");
    }
    for endpoint in ["hub", "ftp://127.0.0.1", "http://"] {
        assert!(run("owner/nano", endpoint).contains("HF_ENDPOINT"), "{endpoint}");
    }
    let mut command = download("owner/nano", &hub.url);
    let output = command.arg("--out").arg(dir.path()).env("HF_TOKEN", "two\nlines").output().unwrap();
    assert!(stderr(&output).contains("HF_TOKEN has characters that no header can carry"), "{}", stderr(&output));
}
