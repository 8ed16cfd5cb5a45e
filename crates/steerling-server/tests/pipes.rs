//! Commands whose reader has left: they end quietly, with the status that they would have had.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::io::{BufRead, BufReader, PipeWriter};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::steerling;

/// A pipe whose reader has left.
fn closed() -> PipeWriter {
    std::io::pipe().unwrap().1
}

/// Runs a command with the streams closed that are named, and sees that it is quiet on the others.
fn run_with_closed(args: &[&str], streams: &[&str]) -> Output {
    let mut command = steerling(args);
    // Nobody listens there.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if streams.contains(&"stdout") {
        command.stdout(closed());
    }
    if streams.contains(&"stderr") {
        command.stderr(closed());
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!told.contains("panicked") && !told.contains("Broken pipe"), "{args:?}, {streams:?}: {told}");
    output
}

/// Every command that prints, as a table and as JSON, and the status that it ends with.
fn commands(dir: &Path) -> Vec<(Vec<String>, i32)> {
    let path = |name: &str| dir.join(name).display().to_string();
    let short = "--max-new-tokens 12 --seed 1 --device cpu The-chef";
    let small = "bench --device cpu --max-forwards 2";
    let lines = [
        ("--help".to_owned(), 0),
        ("serve --help".to_owned(), 0),
        ("--version".to_owned(), 0),
        ("--no-such-flag".to_owned(), 2),
        ("openapi".to_owned(), 0),
        ("config".to_owned(), 0),
        ("config --template".to_owned(), 0),
        ("doctor --port 0 --device cpu --kv-cache-mib 64".to_owned(), 0),
        ("doctor --port 0 --model /nowhere".to_owned(), 1),
        ("health --port 9".to_owned(), 1),
        ("key alice".to_owned(), 0),
        ("concepts search --limit 3".to_owned(), 0),
        ("concepts search --json cook".to_owned(), 0),
        ("concepts show 0".to_owned(), 0),
        ("concepts show --json 0".to_owned(), 0),
        ("concepts tokens 0".to_owned(), 0),
        ("concepts tokens --json 0".to_owned(), 0),
        ("inspect".to_owned(), 0),
        ("inspect --json --tensors".to_owned(), 0),
        ("inspect --tensors".to_owned(), 0),
        ("inspect /nowhere".to_owned(), 1),
        (format!("inspect {}", dir.display()), 1),
        ("embed The-chef".to_owned(), 0),
        ("embed --json The-chef".to_owned(), 0),
        ("embed --type concepts The-chef".to_owned(), 0),
        (format!("generate {short}"), 0),
        (format!("generate --json --return-trace {short}"), 0),
        (format!("steer --amplify 0 --force --compare {short}"), 0),
        (format!("steer --amplify 0 --force --json {short}"), 0),
        (format!("attribute {short}"), 0),
        (format!("attribute --json {short}"), 0),
        ("synthesize --preset tiny".to_owned(), 0),
        (format!("synthesize --preset tiny --type q8_0 --out {}", path("tiny.gguf")), 0),
        (format!("synthesize --preset tiny --out {}", path("tiny")), 0),
        (format!("quantize --type q8_0 --out {}", path("demo.gguf")), 0),
        (format!("{small} --batch 1,2 --max-new-tokens 4 --explain"), 0),
        (format!("{small} --batch 1 --max-new-tokens 4 --decoding confidence,lossless --rounds 1"), 0),
        (format!("{small} --batch 1 --context 64 --json {}", path("report.json")), 0),
        ("bench --url http://127.0.0.1:9 --seconds 1".to_owned(), 1),
        (format!("download owner/nano --out {}", path("downloaded")), 1),
    ];
    lines.into_iter().map(|(line, status)| (line.split(' ').map(str::to_owned).collect(), status)).collect()
}

#[test]
fn every_command_ends_quietly_when_its_reader_has_left() {
    for streams in [&["stdout"][..], &["stderr"], &["stdout", "stderr"]] {
        let dir = tempfile::tempdir().unwrap();
        for (args, status) in commands(dir.path()) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let output = run_with_closed(&args, streams);
            assert_eq!(output.status.code(), Some(status), "{args:?}, {streams:?}: {output:?}");
        }
    }
}

/// A key that was not seen must not stand in a configuration either.
#[test]
fn the_table_of_a_key_is_printed_only_with_the_key() {
    assert!(run_with_closed(&["key", "alice"], &["stderr"]).stdout.is_empty());
}

/// Minutes of measurements, if they were done.
#[test]
fn bench_measures_for_no_reader_unless_a_report_is_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let long = ["bench", "--device", "cpu", "--preset", "small", "--context", "4096", "--batch", "32"];
    let mut command = steerling(&long);
    let mut process = command.stdout(closed()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if started.elapsed() > Duration::from_secs(120) => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    _ = process.kill();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "it goes on measuring");

    let report = dir.path().join("report.json");
    let short = ["bench", "--device", "cpu", "--batch", "1", "--context", "16,32", "--max-forwards", "1", "--json"];
    run_with_closed(&[&short[..], &[report.to_str().unwrap()]].concat(), &["stdout"]);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["sweep"]["cells"].as_array().unwrap().len(), 2);
    assert!(report["sweep"]["explained"].is_object(), "the last of what is measured: {report}");
}

/// `steerling serve 2>&1 | head -1`
#[test]
fn a_server_whose_log_is_read_no_more_serves_on() {
    let mut command = steerling(&["serve", "--port", "0", "--device", "cpu"]);
    let mut server = command.env("RUST_LOG", "debug").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let address = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it has ended");
        if let Some(at) = line.find("127.0.0.1:") {
            break line[at..].trim().to_owned();
        }
    };
    drop(log);
    let curl = |path: &str, body: &[&str]| {
        let url = format!("http://{address}{path}");
        let command = ["-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}"];
        let output = Command::new("curl").args(command).args(body).arg(url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let started = Instant::now();
    while curl("/health/ready", &[]) != "200" {
        assert!(started.elapsed() < Duration::from_secs(60), "not ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    let body = ["-H", "content-type: application/json", "-d", r#"{"prompt":"The","max_new_tokens":4}"#];
    let wrong = ["-H", "content-type: application/json", "-d", r#"{"prompt":1.5}"#];
    assert_eq!((curl("/generate", &body).as_str(), curl("/generate", &wrong).as_str()), ("200", "422"));
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
