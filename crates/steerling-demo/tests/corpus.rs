//! The command that writes documents.

use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use steerling_demo::concepts::CONCEPTS;
use steerling_demo::corpus::document;

#[test]
fn documents_are_written_one_a_line_with_the_labels_of_each_sentence() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steerling-demo"));
    let output = command.args(["corpus", "--documents", "5", "--seed", "9"]).output().unwrap();
    assert!(output.status.success());
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut lines = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let written: Value = serde_json::from_str(line).unwrap();
        let document = document(&mut rng);
        assert_eq!(written["chunks"].as_array().unwrap().len(), document.chunks.len());
        for (n, chunk) in document.chunks.iter().enumerate() {
            for (k, sentence) in chunk.sentences.iter().enumerate() {
                let written = &written["chunks"][n][k];
                assert_eq!(written["text"], sentence.text);
                let names: Vec<&str> = sentence.concepts.iter().map(|id| CONCEPTS[id].name).collect();
                assert_eq!(written["concepts"], serde_json::json!(names));
            }
        }
        lines += 1;
    }
    assert_eq!(lines, 5);
}

/// Far more documents than fit a pipe, written to one whose reader has left.
#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("steerling-demo"));
    command.args(["corpus", "--documents", "18446744073709551615"]).stdout(std::io::pipe().unwrap().1);
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while process.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    _ = process.kill();
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));

    let mut failing = std::process::Command::new(assert_cmd::cargo::cargo_bin!("steerling-demo"));
    failing.args(["evaluate", "--model", "/nowhere"]).stderr(std::io::pipe().unwrap().1);
    assert_eq!(failing.status().unwrap().code(), Some(1), "it fails, and does not panic");
}
