//! The commands of operators: configuration, doctor, keys, and what the log may hold.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::steerling;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The line of `steerling config` about a key.
fn line(shown: &str, key: &str) -> String {
    let found = shown.lines().find(|line| line.trim_start_matches("# ").starts_with(&format!("{key} ")));
    found.unwrap_or_else(|| panic!("no {key} in\n{shown}")).to_owned()
}

#[test]
fn a_flag_wins_over_the_environment_the_environment_over_the_file_and_the_file_over_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.toml");
    std::fs::write(
        &file,
        "max_queue = 1\nmax_batch = 1\nport = 1\ntimeout_seconds = 2.5\nlog_format = 'json'\n\
         cors_origins = ['https://a.example', 'https://b.example']\naudit_prompts = false\n",
    )
    .unwrap();
    let mut command = steerling(&["config", "--config", file.to_str().unwrap(), "--port", "3"]);
    let shown = stdout(&command.env("STEERLING_MAX_BATCH", "2").env("STEERLING_PORT", "2").output().unwrap());
    for (key, expected) in [
        ("max_rows", "max_rows = 8192  # default"),
        ("max_queue", "max_queue = 1  # file"),
        ("max_batch", "max_batch = 2  # environment"),
        ("port", "port = 3  # flag"),
        ("timeout_seconds", "timeout_seconds = 2.5  # file"),
        ("log_format", "log_format = \"json\"  # file"),
        ("cors_origins", "cors_origins = [\"https://a.example\", \"https://b.example\"]  # file"),
        ("host", "host = \"127.0.0.1\"  # default"),
        ("model", "# model is not set"),
    ] {
        assert_eq!(line(&shown, key), expected);
    }
    // What is shown is a file that gives the same again.
    std::fs::write(&file, &shown).unwrap();
    let again = stdout(&steerling(&["config", "--config", file.to_str().unwrap()]).output().unwrap());
    assert_eq!(line(&again, "max_batch"), "max_batch = 2  # file");
    assert_eq!(line(&again, "port"), "port = 3  # file");
}

#[test]
fn the_usual_file_is_read_where_it_lies_and_what_is_wrong_in_a_file_is_told_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("config")).unwrap();
    let usual = dir.path().join("config/steerling.toml");
    std::fs::write(&usual, "max_queue = 5").unwrap();
    let run = |args: &[&str]| steerling(args).current_dir(dir.path()).output().unwrap();
    assert_eq!(line(&stdout(&run(&["config"])), "max_queue"), "max_queue = 5  # file");
    for (content, reason) in [
        ("max_quue = 5", "unknown key `max_quue`; is `max_queue` meant?"),
        ("max_queue = 'many'", "'many'"),
        ("max_batch = 0", "0 is below the minimum of 1"),
        ("log_format = 'xml'", "text, json"),
        ("policy = 'calm'", "there is no [policies.calm]"),
        ("tls_cert = 'x'", "tls_cert needs tls_key"),
        ("audit_prompts = true", "audit_prompts needs audit_log"),
        ("admin_host = '127.0.0.1'", "admin_host needs admin_port"),
        ("[api_keys.a]\nsha256 = 'abc'", "api_keys.a: `sha256` is not 64 hexadecimal digits"),
        ("cors_origins = 'example.org'", "neither `*` nor an origin"),
        ("allowed_hosts = ['localhost', 'http://example.org']", "without scheme and port"),
        ("max_connections = 0", "0 is below the minimum of 1"),
        ("body_timeout_seconds = 0", "0 is below the minimum of 0.001"),
        ("write_timeout_seconds = -1", "-1 is below the minimum of 0.001"),
    ] {
        std::fs::write(&usual, content).unwrap();
        for command in ["serve", "config"] {
            let output = run(&[command]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{content}: {error}");
            assert!(error.contains(reason), "{content}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let doctor = run(&["doctor"]);
        assert_eq!(doctor.status.code(), Some(1));
        assert!(text(&doctor.stdout).contains("FAIL  configuration"), "{}", text(&doctor.stdout));
    }
    let missing = run(&["config", "--config", "nowhere.toml"]);
    assert!(text(&missing.stderr).contains("nowhere.toml"), "{}", text(&missing.stderr));
}

#[test]
fn the_help_and_the_shipped_file_have_the_same_keys_and_words() {
    let help = stdout(&steerling(&["serve", "--help"]).env("COLUMNS", "4000").output().unwrap());
    let shipped = include_str!("../../../config/steerling.toml");
    assert_eq!(stdout(&steerling(&["config", "--template"]).output().unwrap()), shipped);
    let shown = stdout(&steerling(&["config"]).output().unwrap());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut keys = 0;
    for line in shown.lines().filter(|line| line.contains(" = ") || line.ends_with("is not set")) {
        let key = line.trim_start_matches("# ").split(' ').next().unwrap();
        keys += 1;
        let flag = format!("--{} ", key.replace('_', "-"));
        assert!(help.contains(&flag), "{flag} in\n{help}");
        assert!(help.contains(&format!("[env: STEERLING_{}=", key.to_uppercase())), "{key} in\n{help}");
        // The comment above the key is the flag's help.
        let above = shipped.split(&format!("\n#{key} = ")).next().unwrap().rsplit("\n\n").next().unwrap();
        let comment = words(&above.replace("\n# ", " ").replace("# ", ""));
        assert!(words(&help).contains(&comment), "{comment}");
    }
    assert!(keys > 20, "{shown}");
}

#[test]
fn secrets_are_neither_shown_nor_logged() {
    let secret = "a-secret-of-the-environment";
    let shown = stdout(&steerling(&["config"]).env("STEERLING_API_KEY", secret).output().unwrap());
    assert!(shown.contains("[api_keys.\"default\"]  # environment") && !shown.contains(secret), "{shown}");
    let help = stdout(&steerling(&["serve", "--help"]).env("STEERLING_API_KEY", secret).output().unwrap());
    assert!(!help.contains(secret));
    let short = steerling(&["config"]).env("STEERLING_API_KEY", "hunter2").output().unwrap();
    assert!(!short.status.success() && !text(&short.stderr).contains("hunter2"), "{}", text(&short.stderr));
}

#[test]
fn a_made_key_opens_a_server_that_was_told_its_table() {
    let output = steerling(&["key", "alice", "--scopes", "explain"]).output().unwrap();
    let (key, table) = (text(&output.stderr), stdout(&output));
    assert!(key.starts_with("sk-") && key.trim().len() > 40 && !table.contains(key.trim()), "{table}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    std::fs::write(&file, table).unwrap();
    let server = Serving::start(steerling(&["serve", "--config", file.to_str().unwrap()]));
    let bearer = format!("authorization: Bearer {}", key.trim());
    let status =
        |flags: &[&str], path: &str| server.curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], flags].concat(), path);
    assert_eq!(status(&[], "/concepts"), "401");
    assert_eq!(status(&["-H", &bearer], "/concepts"), "200");
    assert_eq!(status(&["-H", &bearer], "/metrics"), "403");
    assert_eq!(status(&[], "/health/ready"), "200");
    let health = |port: &str| steerling(&["health", "--port", port]).output().unwrap();
    assert!(health(server.address.rsplit(':').next().unwrap()).status.success(), "a probe needs no key");
    // Nobody listens there.
    assert_eq!(health("9").status.code(), Some(1));
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    let taken = steerling(&["doctor", "--port", &port]).output().unwrap();
    assert_eq!(taken.status.code(), Some(1));
    let shown = text(&taken.stdout);
    assert!(shown.contains("FAIL  port") && shown.contains("set port to another one"), "{shown}");
    drop(free);
    let well =
        stdout(&steerling(&["doctor", "--port", &port, "--device", "cpu", "--kv-cache-mib", "64"]).output().unwrap());
    assert!(!well.contains("FAIL") && well.contains("ok    memory"), "{well}");
    for (flags, what, advice) in [
        (&["--model", "/nowhere"][..], "model", "steerling download"),
        (&["--model", "/nowhere.gguf"], "model", "no such directory or file"),
        (&["--device", "cuda:99"], "device", "--device cpu"),
        (&["--kv-cache-mib", "99999999"], "memory", "lower kv_cache_mib"),
        (&["--audit-log", "/nowhere/audit"], "audit log", "directory must exist"),
        (&["--tls-cert", "/nowhere/c", "--tls-key", "/nowhere/k"], "tls", "able to read"),
    ] {
        let output = steerling(&[&["doctor", "--port", "0"], flags].concat()).output().unwrap();
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        let line = shown.lines().find(|line| line.starts_with("FAIL")).unwrap();
        assert!(line.contains(what) && line.contains(advice), "{line}");
    }
    let open = stdout(&steerling(&["doctor", "--port", "0", "--host", "0.0.0.0"]).output().unwrap());
    assert!(open.contains("warn  access"), "{open}");
}

/// The doctor and `inspect` speak of memory with one arithmetic, of directories and of GGUF files.
#[test]
fn the_doctor_counts_memory_as_inspect_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    stdout(
        &steerling(&["synthesize", "--preset", "tiny", "--dtype", "bf16", "--out", &path("bf16")]).output().unwrap(),
    );
    stdout(&steerling(&["quantize", "--type", "q8_0", "--out", &path("x.gguf"), &path("bf16")]).output().unwrap());
    for model in ["bf16", "x.gguf"] {
        let inspected = stdout(&steerling(&["inspect", "--json", &path(model)]).output().unwrap());
        let memory = &serde_json::from_str::<serde_json::Value>(&inspected).unwrap()["memory"]["f32"];
        let number = |key: &str| memory[key].as_u64().unwrap();
        let (pages, positions, process) = (64 << 20, 100 * number("scratch_bytes_per_position"), 256 << 20);
        let needed = indicatif::BinaryBytes(number("weight_bytes") + pages + positions + process);
        let flags = ["--model", &path(model), "--device", "cpu", "--kv-cache-mib", "64", "--max-rows", "100"];
        let shown = stdout(&steerling(&[&["doctor", "--port", "0"], &flags[..]].concat()).output().unwrap());
        assert!(shown.contains("ok    model"), "{shown}");
        assert!(shown.contains(&format!("ok    memory         {needed} are needed")), "{needed}: {shown}");
    }
}

#[test]
fn no_line_of_the_log_holds_a_prompt_or_a_text() {
    let canary = "quetzalcoatl";
    let mut command = steerling(&["serve", "--log-format", "json"]);
    command.env("RUST_LOG", "debug").env("STEERLING_UNKNOWN", "x");
    let mut server = Serving::start(command);
    let json = ["-H", "content-type: application/json", "-d"];
    let post = |path: &str, body: &str| server.curl(&[&json[..], &[body]].concat(), path);
    let body = |more: &str| format!(r#"{{"prompt":"the {canary} stirred","max_new_tokens":4{more}}}"#);
    assert!(post("/generate", &body("")).contains("\"text\""));
    assert!(post("/generate", &body(r#","stream":true"#)).contains("event: done"));
    for refused in [
        post("/generate", &body(r#","max_new_tokens":0"#)),
        post("/generate", &body(&format!(r#","{canary}":1"#))),
        post("/generate", &body(r#","seed":"x""#)),
        post("/generate", &format!(r#"{{"prompt":"{canary}"#)),
        post("/generate", &format!(r#"{{"prompt":{{"{canary}":1}}}}"#)),
        post("/steer", &body(&format!(r#","steering":{{"amplify":[{{"concept":{{"name":"{canary}"}}}}]}}"#))),
        post("/concepts/detect", &format!(r#"{{"text":"{canary}","top_k":0}}"#)),
    ] {
        assert!(refused.contains("error"), "{refused}");
    }
    post("/tokenize", &format!(r#"{{"text":"{canary}"}}"#));
    post("/embed", &format!(r#"{{"inputs":"{canary}"}}"#));
    server.curl(&[], &format!("/concepts?q={canary}"));
    let log = server.end();
    assert!(log.lines().count() > 15 && log.contains("\"answered\""), "{log}");
    assert!(log.contains("STEERLING_UNKNOWN means nothing"), "{log}");
    assert!(!log.to_lowercase().contains(canary), "{}", log.lines().find(|line| line.contains(canary)).unwrap());
}

/// The key goes to the server that is measured, from the flag or the environment, and is never shown.
#[test]
fn load_on_a_guarded_server_takes_its_key_along() {
    let key = "a key that nobody guesses";
    let mut guarded = steerling(&["serve"]);
    guarded.env("STEERLING_API_KEY", key);
    let server = Serving::start(guarded);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let load = |flags: &[&str]| {
        let url = format!("http://{}", server.address);
        let limits = ["--concurrency", "2", "--requests", "4", "--seconds", "60", "--json", json.to_str().unwrap()];
        steerling(&[&["bench", "--url", &url][..], &limits, flags].concat())
    };
    let with_flag = load(&["--api-key", key]).output().unwrap();
    for output in [with_flag, load(&[]).env("STEERLING_API_KEY", key).output().unwrap()] {
        assert!(!stdout(&output).contains(key));
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((&report["total"]["requests"], &report["total"]["ok"]), (&4.into(), &4.into()), "{report}");
    }
    for (flags, reason) in [
        (&[][..], "401 Unauthorized"),
        (&["--api-key", "another key altogether"], "401 Unauthorized"),
        (&["--api-key", "two\nlines"], "--api-key: it has characters that no header can carry"),
    ] {
        let output = load(flags).output().unwrap();
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(reason), "{error}");
    }
}

/// A server under way, on the demo model.
struct Serving {
    process: Child,
    address: String,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .args(["--port", "0", "--device", "cpu"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(process.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let start = log.len();
            assert!(reader.read_line(&mut log).unwrap() > 0, "{log}");
            let line = &log[start..];
            if let Some(at) = line.find("127.0.0.1:") {
                break line[at..].trim().chars().take_while(|c| !matches!(c, '"' | ' ')).collect();
            }
        };
        let log = std::thread::spawn(move || {
            _ = reader.read_to_string(&mut log);
            log
        });
        let server = Self { process, address, log: Some(log) };
        let started = Instant::now();
        while !server.curl(&[], "/health/ready").contains("\"ready\"") {
            assert!(started.elapsed() < Duration::from_secs(60), "not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn curl(&self, flags: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.address);
        text(&Command::new("curl").args(["-s", "--max-time", "60"]).args(flags).arg(url).output().unwrap().stdout)
    }

    /// Ends it; its log.
    fn end(&mut self) -> String {
        _ = Command::new("kill").arg(self.process.id().to_string()).status();
        _ = self.process.wait();
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
