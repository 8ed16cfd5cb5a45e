//! A short soak of the whole program: mixed traffic, clients that misbehave or hold connections, steps that fail, a drain
//! in the middle.
//! The long one is the same with more seconds; see `docs/reliability.md`.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds of load: `STEERLING_SOAK_SECONDS`, or a short run, in which each process still has thirds of twenty seconds.
fn seconds() -> u64 {
    std::env::var("STEERLING_SOAK_SECONDS").map_or(120, |seconds| seconds.parse().unwrap())
}

fn serve(port: u16) -> (Child, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_steerling"))
        .args(["serve", "--device", "cpu", "--log-format", "json", "--port", &port.to_string()])
        .arg("--model")
        .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens/nano"))
        // Pages for a few sequences only, so that jobs wait and cached pages are evicted.
        .args(["--kv-cache-mib", "1", "--max-batch", "16", "--max-queue", "16", "--drain-seconds", "5"])
        .args(["--inject-faults", "1009", "--max-faults", "100000"])
        // Clients that hold connections find the ends of their time within the run.
        .args(["--header-timeout-seconds", "6", "--body-timeout-seconds", "3", "--write-timeout-seconds", "3"])
        // The first backtrace reads the program's symbols into memory, which is no leak.
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| line.find("127.0.0.1:").map(|at| line[at..].split('"').next().unwrap().to_owned()))
        .expect("the log tells the address");
    // The rest of the log is read, so that the server never waits for a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (process, address)
}

fn wait_until_ready(address: &str) {
    let started = Instant::now();
    let url = format!("http://{address}/health/ready");
    while !Command::new("curl").args(["-sf", "-o", "/dev/null", &url]).status().unwrap().success() {
        assert!(started.elapsed() < Duration::from_secs(60), "not ready");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_soak_with_faults_and_a_drain_leaves_nothing_behind() {
    let (mut first, address) = serve(0);
    wait_until_ready(&address);
    let json = tempfile::NamedTempFile::new().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_steerling"))
        .args(["bench", "--soak", "--allow-faults", "--allow-restart", "--concurrency", "12"])
        .args(["--url", &format!("http://{address}"), "--seconds", &seconds().to_string(), "--json"])
        .arg(json.path())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(seconds() / 2));
    let pid = first.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    assert!(first.wait().unwrap().success(), "a drain is no failure");
    let (mut second, _) = serve(address.rsplit(':').next().unwrap().parse().unwrap());
    let verdict = bench.wait().unwrap();
    second.kill().unwrap();
    second.wait().unwrap();
    let report = std::fs::read_to_string(json.path()).unwrap();
    assert!(verdict.success(), "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["soak"]["passed"], true);
    for kind in report["kinds"].as_array().unwrap() {
        assert!(kind["ok"].as_u64().unwrap() > 0, "{kind}");
    }
    let failures = report["total"]["failures"].as_object().unwrap();
    assert!(failures.contains_key("error internal") || failures.contains_key("status 500"), "no fault: {failures:?}");
}
