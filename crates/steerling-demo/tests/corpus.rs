//! The command that writes documents.

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
