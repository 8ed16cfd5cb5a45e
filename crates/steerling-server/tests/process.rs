//! The program as an operator and a client with `curl` meet it: a real process, a real socket, real signals.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use steerling::{Catalog, Config, Tokenizer};
use steerling_server::demo::{DEMO, NOTICE};

/// A checkpoint whose context has room for generations that take long.
static LONG: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("long");
    _ = std::fs::remove_dir_all(&dir);
    let mut synthesize = Command::new(env!("CARGO_BIN_EXE_steerling"));
    let output = synthesize.args(["synthesize", "--preset", "tiny", "--out"]).arg(&dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    dir
});

/// A server that ends with the test.
struct Server {
    process: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// On the model with the long context.
    fn start(flags: &[&str]) -> Self {
        Self::start_alone(&[&["--model", LONG.to_str().unwrap()], flags].concat())
    }

    /// Starts it on a free port and waits until it is ready.
    fn start_alone(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_steerling"))
            .args(["serve", "--port", "0", "--log-format", "json", "--device", "cpu"])
            .args(flags)
            .env_remove("STEERLING_MODEL")
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Whichever stream the log goes to, the first line with an address tells the port.
        let (tell, told) = std::sync::mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(process.stdout.take().unwrap()), Box::new(process.stderr.take().unwrap())];
        for stream in streams {
            let (tell, log) = (tell.clone(), log.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    log.lock().unwrap().push_str(&format!("{line}\n"));
                    if let Some(at) = line.find("127.0.0.1:") {
                        let address: String = line[at..].chars().take_while(|c| !matches!(c, '"' | ' ')).collect();
                        _ = tell.send(address);
                    }
                }
            });
        }
        let address = told.recv_timeout(Duration::from_secs(20)).expect("the log tells the address");
        let server = Self { process, address, log };
        let started = Instant::now();
        while server.curl(&["-sf", "-o", "/dev/null"], "/health/ready", None).wait().unwrap().code() != Some(0) {
            assert!(started.elapsed() < Duration::from_secs(60), "not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The first line of the log that holds all of `texts`, waited for.
    fn line(&self, texts: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(line) = log.lines().find(|line| texts.iter().all(|text| line.contains(text))) {
                return line.to_owned();
            }
            assert!(started.elapsed() < Duration::from_secs(20), "no {texts:?} in\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn curl(&self, flags: &[&str], path: &str, body: Option<&str>) -> Child {
        let mut command = Command::new("curl");
        command.args(flags).arg(format!("http://{}{path}", self.address)).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(body) = body {
            command.args(["-H", "content-type: application/json", "-d", body]);
        }
        command.spawn().expect("curl is installed")
    }

    fn get(&self, path: &str) -> Value {
        let output = self.curl(&["-s"], path, None).wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let output = self.curl(&["-s"], path, Some(&body.to_string())).wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn info(&self) -> Value {
        self.get("/info")
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The exit code, once it has left by itself.
    fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(30), "still running");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A stream read with `curl -N`.
struct Stream {
    curl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Stream {
    fn open(server: &Server, max_new_tokens: usize) -> Self {
        let body = format!(r#"{{"prompt":"Once","max_new_tokens":{max_new_tokens},"seed":3,"stream":true}}"#);
        let mut curl = server.curl(&["-sN"], "/generate", Some(&body));
        let lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        Self { curl, lines }
    }

    /// The name of the next event.
    fn event(&mut self) -> Option<String> {
        let mut names = self.lines.by_ref().map_while(Result::ok);
        names.find_map(|line| line.strip_prefix("event: ").map(str::to_owned))
    }

    /// The names of all events that are left.
    fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.event()).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        _ = self.curl.kill();
        _ = self.curl.wait();
    }
}

#[test]
fn a_stream_read_with_curl_has_one_start_blocks_and_one_end() {
    let server = Server::start(&[]);
    let events = Stream::open(&server, 7).rest();
    assert_eq!(events.first().map(String::as_str), Some("start"));
    assert_eq!(events.iter().filter(|e| *e == "block").count(), 7);
    assert_eq!(events.last().map(String::as_str), Some("done"));
    assert_eq!(events.len(), 9);
}

#[test]
fn a_client_that_leaves_frees_its_rows() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, 4000);
    assert_eq!(stream.event().as_deref(), Some("start"));
    assert_eq!(stream.event().as_deref(), Some("block"));
    assert_eq!(server.info()["load"]["active"], 1);
    drop(stream);
    let left = Instant::now();
    while server.info()["load"]["active"] != 0 {
        assert!(left.elapsed() < Duration::from_secs(5), "the rows of a client that left are still computed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn operators_may_have_a_port_of_their_own() {
    let mut server = Server::start(&["--admin-port", "0"]);
    let line: serde_json::Value = serde_json::from_str(&server.line(&["admin_address"])).unwrap();
    let admin = line["fields"]["admin_address"].as_str().unwrap().to_owned();
    let users = std::mem::replace(&mut server.address, admin);
    assert_ne!(users, server.address);
    let get = |path: &str| {
        let output = server.curl(&["-s", "-w", "%{http_code}"], path, None).wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(get("/health/live").ends_with("200"));
    assert!(get("/health/ready").ends_with("200"));
    let metrics = get("/metrics");
    assert!(metrics.contains("steerling_ready 1\n") && metrics.ends_with("200"), "{metrics}");
    let nothing = get("/info");
    assert!(nothing.contains("not_found") && nothing.ends_with("404"), "{nothing}");
}

#[test]
fn the_admin_port_has_the_limits_of_the_main_one_and_answers_to_allowed_hosts() {
    let flags = ["--admin-port", "0", "--header-timeout-seconds", "1", "--allowed-hosts", "prometheus.example"];
    let mut server = Server::start(&flags);
    let line: Value = serde_json::from_str(&server.line(&["admin_address"])).unwrap();
    server.address = line["fields"]["admin_address"].as_str().unwrap().to_owned();
    let status = |host: &str, path: &str| {
        let host = format!("host: {host}");
        let flags = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &host];
        String::from_utf8(server.curl(&flags, path, None).wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(status("prometheus.example:9090", "/metrics"), "200");
    assert_eq!(status("evil.example", "/metrics"), "403");
    assert_eq!(status("10.0.0.7:9090", "/health/ready"), "200", "probes ask by address");
    let mut slow = TcpStream::connect(&server.address).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let read = slow.read_to_end(&mut Vec::new());
    assert!(read.is_ok(), "the connection is held: {read:?}");
}

#[test]
fn the_log_names_the_callers_trace() {
    let server = Server::start(&[]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
    server.curl(&["-s", "-H", &header], "/generate", Some(r#"{"prompt":"x","max_new_tokens":2}"#)).wait().unwrap();
    let line: serde_json::Value = serde_json::from_str(&server.line(&[trace])).unwrap();
    assert_eq!(line["span"]["trace_id"], trace);
    assert_eq!(line["span"]["parent_id"], "00f067aa0ba902b7");
    server.line(&[r#""outcome":"ok""#, trace]);
}

#[test]
fn a_full_server_says_when_to_come_back() {
    let server = Server::start(&["--max-batch", "1", "--max-queue", "0"]);
    let mut running = Stream::open(&server, 4000);
    assert_eq!(running.event().as_deref(), Some("start"));
    let flags = ["-s", "-D", "-", "-o", "/dev/null"];
    let refused = server.curl(&flags, "/generate", Some(r#"{"prompt":"x"}"#)).wait_with_output().unwrap();
    let head = String::from_utf8(refused.stdout).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 429"), "{head}");
    let seconds = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a retry-after header");
    assert!(seconds.trim().parse::<u64>().unwrap() >= 1, "{head}");
}

#[test]
fn large_likelihoods_are_computed_in_bounded_memory_beside_a_generation() {
    let server = Server::start_alone(&["--max-score-positions", "100000000000"]);
    let resident = || {
        let output = server.curl(&["-s"], "/metrics", None).wait_with_output().unwrap();
        let metrics = String::from_utf8(output.stdout).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        line.parse::<f64>().unwrap() as i64
    };
    // 900 items of 4,096 rows each: 3 GB if all their masks were drawn before the first is computed.
    let text = "The chef stirred the soup ".repeat(30);
    let items = vec![json!({"context": "", "continuation": text}); 900];
    let mut body = json!({"items": items, "method": "monte_carlo", "samples": 4096, "batch": 4096});
    let post = |body: &Value, name: &str| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, body.to_string()).unwrap();
        server.curl(&["-s", "-o", "/dev/null", "-w", "%{http_code}"], "/score", Some(&format!("@{}", file.display())))
    };
    let status = |request: Child| String::from_utf8(request.wait_with_output().unwrap().stdout).unwrap();
    // What a single one of its kind needs is part of the beginning.
    let small = json!({"items": [{"context": "", "continuation": text}], "method": "monte_carlo", "samples": 64});
    assert_eq!(status(post(&small, "small.json")), "200");
    let generation = json!({"prompt": "The chef", "max_new_tokens": 64, "seed": 1});
    let alone = server.post("/generate", &generation);
    let before = resident();

    body["timeout_ms"] = json!(8000);
    let mut requests: Vec<Child> = (0..4).map(|i| post(&body, &format!("large-{i}.json"))).collect();
    let mut most = 0;
    assert_eq!(server.post("/generate", &generation)["token_ids"], alone["token_ids"]);
    while requests.iter_mut().any(|request| request.try_wait().unwrap().is_none()) {
        most = most.max(resident() - before);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(most < 256 << 20, "resident memory grew by {} MiB", most >> 20);
    for request in requests {
        assert_eq!(status(request), "504");
    }

    // By default so large a request is told what it needs.
    let server = Server::start_alone(&[]);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large-0.json");
    let body = format!("@{}", file.display());
    let output = server.curl(&["-s"], "/score", Some(&body)).wait_with_output().unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    let details = &error["error"]["details"];
    assert!(details["needed"].as_u64() > details["available"].as_u64(), "{error}");
}

#[test]
fn sigterm_lets_a_stream_finish_and_leaves_with_success() {
    let mut server = Server::start(&["--drain-seconds", "60"]);
    let mut stream = Stream::open(&server, 120);
    assert_eq!(stream.event().as_deref(), Some("start"));
    server.signal("TERM");
    assert_eq!(stream.rest().last().map(String::as_str), Some("done"));
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_stream_that_outlasts_the_drain_ends_with_an_error_event() {
    let mut server = Server::start(&["--drain-seconds", "1"]);
    let mut stream = Stream::open(&server, 4000);
    assert_eq!(stream.event().as_deref(), Some("start"));
    server.signal("TERM");
    let events = stream.rest();
    assert_eq!(events.last().map(String::as_str), Some("error"));
    assert!(!events.contains(&"done".to_owned()));
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut server = Server::start(&["--drain-seconds", "60"]);
    let mut stream = Stream::open(&server, 4000);
    assert_eq!(stream.event().as_deref(), Some("start"));
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    server.signal("INT");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn without_a_model_the_embedded_demo_is_served_and_says_what_it_is() {
    let config = Config::from_dir(DEMO).unwrap();
    let (tokenizer, catalog) =
        (Tokenizer::for_checkpoint(DEMO, &config).unwrap(), Catalog::open(DEMO, &config).unwrap());
    let server = Server::start_alone(&[]);
    let info = server.info();
    let model = &info["model"];
    assert_eq!((&model["name"], &model["synthetic"]), (&json!("steerling-demo"), &json!(false)));
    assert_eq!((&model["vocab_size"], &model["parameters"]), (&json!(config.vocab_size), &json!(config.param_count())));
    assert_eq!(info["limits"]["context"], json!(config.context));
    assert_eq!(info["warnings"], json!([NOTICE]));
    let log = server.log.lock().unwrap().clone();
    assert!(log.contains(NOTICE) && log.contains("embedded:steerling-demo"), "{log}");

    for (query, total) in [("", catalog.len()), ("&head=known", catalog.known_len())] {
        let listed = server.get(&format!("/concepts?limit=1{query}"));
        assert_eq!((&listed["total"], &listed["items"][0]["id"]), (&json!(total), &json!(0)));
        assert_eq!(listed["items"][0]["name"], json!(catalog.get(0).unwrap().name));
    }
    assert!(catalog.labelled() > 0 && catalog.known_len() > 0 && catalog.unknown_len() > 0);

    let ids = [config.vocab_size as u32 / 2, config.vocab_size as u32 / 3];
    let body = json!({"prompt": ids, "max_new_tokens": config.diff_block_size + 3, "seed": 1});
    let result = server.post("/generate", &body);
    assert_eq!((&result["model"], &result["prompt_tokens"]), (&json!("steerling-demo"), &json!(2)));
    assert_eq!(result["warnings"], json!([]));
    let ids: Vec<u32> = serde_json::from_value(result["token_ids"].clone()).unwrap();
    assert!(!ids.is_empty() && ids.len() <= config.diff_block_size + 3, "{result}");
    assert_eq!(result["text"], json!(tokenizer.decode(&ids, true)));
    assert_eq!(server.post("/generate", &body)["token_ids"], result["token_ids"]);
}

/// What the server calls its model, everywhere where it does.
fn names(server: &Server, asked: &str) -> Vec<Value> {
    let escaped = asked.replace('/', "%2F");
    let completion = server.post("/v1/completions", &json!({"model": asked, "prompt": "The", "max_tokens": 1}));
    vec![
        server.info()["model"]["name"].clone(),
        server.get("/v1/models")["data"][0]["id"].clone(),
        server.get(&format!("/v1/models/{asked}"))["id"].clone(),
        server.get(&format!("/v1/models/{escaped}"))["id"].clone(),
        completion["model"].clone(),
        server.post("/generate", &json!({"prompt": "The", "max_new_tokens": 1}))["model"].clone(),
        server.post("/embed", &json!({"inputs": "The"}))["model"].clone(),
        server.post("/concepts/detect", &json!({"text": "The"}))["model"].clone(),
    ]
}

#[test]
fn the_served_name_is_the_one_that_is_set_in_every_answer() {
    let name = "our-lab/steerling";
    let server = Server::start_alone(&["--served-model-name", name]);
    assert!(names(&server, name).iter().all(|found| found == name), "{:?}", names(&server, name));
    assert_eq!(server.post("/v1/embeddings", &json!({"model": "steerling", "input": "The"}))["model"], name);
}

#[test]
fn a_snapshot_in_the_cache_of_a_hub_is_called_as_its_repository() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot =
        cache.path().join("models--guidelabs--steerling-demo/snapshots/0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "concept_labels.parquet"] {
        std::fs::copy(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/steerling-demo")).join(file),
            snapshot.join(file),
        )
        .unwrap();
    }
    let server = Server::start_alone(&["--model", snapshot.to_str().unwrap()]);
    let name = "guidelabs/steerling-demo";
    assert!(names(&server, name).iter().all(|found| found == name), "{:?}", names(&server, name));
}

#[test]
fn a_name_that_no_request_can_repeat_is_refused() {
    for name in ["", " a", "a\n"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_steerling")).args(["serve", "--served-model-name", name]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{name:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--served-model-name"), "{output:?}");
    }
}

#[test]
fn a_directory_that_is_no_checkpoint_ends_the_process_with_the_reason() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_steerling"))
        .args(["serve", "--port", "0", "--model"])
        .arg(empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"), "{output:?}");
}
