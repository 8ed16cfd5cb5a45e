//! Who gets in: keys, scopes, limits, browsers, TLS.

use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::support::{Events, Raw, Script, Server, configured, options, refusal};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use steerling_server::auth::new_key;
use steerling_server::config::{GuardOptions, ServiceOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is served without a key: nothing of it holds a secret or does anything.
const OPEN: [&str; 7] =
    ["/health/live", "/health/ready", "/", "/assets/{file}", "/docs", "/docs/{file}", "/openapi.json"];

/// A server with a key for each line `name = [scopes]`, and the keys.
async fn guarded<const N: usize>(tables: [&str; N], script: Script) -> (Server, [String; N]) {
    let made = tables.map(|table| (table, new_key()));
    let toml: String = made
        .iter()
        .enumerate()
        .map(|(i, (table, (_, hash)))| format!("[api_keys.k{i}]\nsha256 = '{hash}'\n{table}\n"))
        .collect();
    let server = Server::start(configured(&toml, GuardOptions::default()), script).await;
    (server, made.map(|(_, (key, _))| key))
}

impl Server {
    async fn ask(&self, method: &str, path: &str, key: &str) -> Response {
        let method: Method = method.to_uppercase().parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(key);
        let body = json!({"prompt": "a", "max_new_tokens": 2});
        request.json(&body).send().await.unwrap()
    }
}

#[tokio::test]
async fn without_a_valid_key_every_described_path_but_health_and_the_pages_answers_401() {
    let (server, [key]) = guarded([""], Script::default()).await;
    let document: Value = serde_json::from_str(steerling_server::openapi::document()).unwrap();
    let mut refused = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let concrete = path.replace("{id}", "1").replace("{file}", "x");
            for sent in ["", "sk-wrong", &key[1..]] {
                let response = server.ask(method, &concrete, sent).await;
                if OPEN.contains(&path.as_str()) {
                    assert_ne!(response.status(), 401, "{method} {path}");
                    continue;
                }
                assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"steerling\"", "{method} {path}");
                // Under /v1 the body has another shape, the status is the same.
                assert_eq!(response.status(), 401, "{method} {path}");
                if !path.starts_with("/v1") {
                    assert_eq!(refusal(response).await.1["code"], "unauthorized");
                }
                refused += 1;
            }
            assert_ne!(server.ask(method, &concrete, &key).await.status(), 401, "{method} {path}");
        }
    }
    assert!(refused > 40, "{refused}");
    for page in ["/", "/docs", "/docs/docs.js", "/openapi.json"] {
        assert_eq!(server.get(page).await.status(), 200, "{page} holds no secret");
    }
    assert_eq!(server.get("/nothing").await.status(), 401, "nor does it say what is not there");
    assert_eq!(server.ask("get", "/nothing", &key).await.status(), 404);
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say() {
    let tables = ["scopes = ['generate']", "scopes = ['explain']", "scopes = ['admin']"];
    let (server, [generate, explain, admin]) = guarded(tables, Script::default()).await;
    for (method, path, opens) in [
        ("post", "/generate", &generate),
        ("post", "/embed", &explain),
        ("get", "/concepts", &explain),
        ("get", "/metrics", &admin),
    ] {
        for key in [&generate, &explain, &admin] {
            let response = server.ask(method, path, key).await;
            if key == opens {
                assert!(![401, 403].contains(&response.status().as_u16()), "{path}: {}", response.status());
                continue;
            }
            let (status, error) = refusal(response).await;
            assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{path}");
            assert!(error["message"].as_str().unwrap().contains("scope"), "{error}");
        }
    }
    for key in [&generate, &explain, &admin] {
        assert_eq!(server.ask("get", "/info", key).await.status(), 200);
    }
}

#[tokio::test]
async fn a_key_that_may_only_explain_writes_no_text() {
    let tables = ["scopes = ['generate']", "scopes = ['explain']", "scopes = ['generate', 'explain']"];
    let (server, [generate, explain, both]) = guarded(tables, Script::default()).await;
    let ask = async |key: &str, path: &str, body: &Value| {
        let request = server.client.post(format!("{}{path}", server.url)).bearer_auth(key);
        request.json(body).send().await.unwrap()
    };
    let trace = json!({"prompt_ids": [1], "seq_length": 3, "commits": []});
    let writing = [
        json!({"prompt": "a", "max_new_tokens": 2}),
        json!({"prompt": "a", "trace": null}),
        json!({}),
        json!({"stream": true}),
    ];
    for body in writing {
        let (status, error) = refusal(ask(&explain, "/attribute", &body).await).await;
        assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{body}");
        assert!(error["message"].as_str().unwrap().contains("`generate`"), "{error}");
        let (status, error) = refusal(ask(&generate, "/attribute", &body).await).await;
        assert_eq!(status, 403, "{body}");
        assert!(error["message"].as_str().unwrap().contains("`explain`"), "{error}");
    }
    for key in [&explain, &both] {
        assert_ne!(ask(key, "/attribute", &json!({"trace": trace})).await.status(), 403);
    }
    // A trace beside a prompt is no way around: it is refused for what it is.
    let both_given = json!({"trace": trace, "prompt": "a", "concepts": null, "inputs": {"method": "occlusion"}});
    let (status, error) = refusal(ask(&explain, "/attribute", &both_given).await).await;
    assert_eq!((status, &error["param"]), (422, &json!("prompt")));
    for path in ["/generate", "/steer", "/v1/completions", "/v1/chat/completions"] {
        assert_eq!(ask(&explain, path, &json!({"prompt": "a"})).await.status(), 403, "{path}");
    }
    assert_eq!(server.script.steps.load(SeqCst), 0, "nothing was written");
    assert_ne!(ask(&both, "/attribute", &json!({"prompt": "a", "max_new_tokens": 2})).await.status(), 403);
}

#[tokio::test]
async fn a_key_has_as_many_requests_under_way_as_it_may_until_their_last_byte() {
    let script = Script::default();
    script.step_ms.store(5, SeqCst);
    let (server, [one, any]) = guarded(["max_concurrent = 1", ""], script).await;
    let body = json!({"prompt": "a", "max_new_tokens": 1000, "stream": true});
    let post = |key: &str| server.client.post(format!("{}/generate", server.url)).bearer_auth(key).json(&body).send();
    let mut stream = Events::new(post(&one).await.unwrap());
    assert_eq!(stream.next().await.unwrap().name, "start");
    let second = post(&one).await.unwrap();
    assert_eq!(second.headers()["retry-after"], "1");
    let (status, error) = refusal(second).await;
    assert_eq!((status, &error["code"]), (429, &json!("overloaded")));
    assert_eq!(server.ask("post", "/generate", &any).await.status(), 200, "others are not touched");
    drop(stream);
    server.until("its place", async || server.ask("post", "/generate", &one).await.status() == 200).await;
    for _ in 0..3 {
        assert_eq!(server.ask("post", "/generate", &one).await.status(), 200, "the place is back each time");
    }
}

#[tokio::test]
async fn other_origins_are_let_in_only_if_configured_and_their_preflight_needs_no_key() {
    // What the official JavaScript client of OpenAI sends.
    let asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count";
    let preflight = async |server: &Server, origin: &str| {
        let request =
            server.client.request(Method::OPTIONS, format!("{}/generate", server.url)).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", asked).send().await.unwrap()
    };
    let server = Server::start(options(), Script::default()).await;
    let response = preflight(&server, "https://example.org").await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert_eq!(response.status(), 405);

    let (_, hash) = new_key();
    let origins = ["https://example.org", "https://example.com"].map(|origin| origin.parse().unwrap());
    let guard = GuardOptions { cors_origins: origins.to_vec(), ..Default::default() };
    let options = configured(&format!("[api_keys.a]\nsha256 = '{hash}'"), guard);
    let server = Server::start(options, Script::default()).await;
    let response = preflight(&server, "https://example.com").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://example.com");
    assert_eq!(response.headers()["access-control-allow-headers"], asked, "origin and key decide, not header names");
    assert!(response.headers()["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    let refused =
        server.client.get(format!("{}/info", server.url)).header("origin", "https://example.org").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.headers()["access-control-allow-origin"],
        "https://example.org",
        "a page must be able to read why"
    );
    assert_eq!(refused.headers()["access-control-expose-headers"], "x-request-id,retry-after");
    let stranger = preflight(&server, "https://example.net").await;
    assert!(!stranger.headers().contains_key("access-control-allow-origin"));

    let guard = GuardOptions { cors_origins: vec!["*".parse().unwrap()], ..Default::default() };
    let server = Server::start(configured("", guard), Script::default()).await;
    let response = preflight(&server, "https://example.net").await;
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["access-control-allow-headers"], asked);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_do_nothing_with_it() {
    let server = Server::start(options(), Script::default()).await;
    for path in ["/info", "/metrics", "/openapi.json", "/health/live", "/nothing"] {
        let response = server.get(path).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert!(header("content-security-policy").contains("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn the_head_of_a_request_is_bounded_in_size_and_time() {
    let guard = GuardOptions { header_timeout: Duration::from_millis(500), ..Default::default() };
    let server = Server::start(ServiceOptions { guard, ..options() }, Script::default()).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let talk = async |text: &str| {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // The server may have closed before it has read everything.
        _ = socket.write_all(text.as_bytes()).await;
        let (started, mut answer) = (Instant::now(), Vec::new());
        _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.expect("it closes");
        (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
    };
    let (answer, _) = talk(&format!("GET /info HTTP/1.1\r\nhost: x\r\nlarge: {}\r\n\r\n", "x".repeat(64 << 10))).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    let (answer, time) = talk("GET /info HTTP/1.1\r\nhost: x\r\n").await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(time < Duration::from_secs(5), "{time:?}");
    let (answer, time) = talk("GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && time < Duration::from_secs(5),
        "an idle connection is closed: {time:?}"
    );
}

#[tokio::test]
async fn with_a_certificate_connections_are_tls_and_streams_work() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let guard = GuardOptions {
        tls_cert: Some(cert.clone()),
        tls_key: Some(key.clone()),
        header_timeout: Duration::from_secs(5),
        ..Default::default()
    };
    let mut server = Server::start_loading(ServiceOptions { guard, ..options() }, Script::default()).await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    let curl = async |more: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["-s", "--max-time", "20", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", "--cacert"])
            .arg(&cert)
            .args(more);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let url = |path: &str| format!("https://localhost:{port}{path}");
    assert!(curl(&["-f", &url("/health/ready")]).await.0);
    let body = r#"{"prompt":"a","max_new_tokens":5,"stream":true}"#;
    let (_, events) = curl(&["-N", "-H", "content-type: application/json", "-d", body, &url("/generate")]).await;
    assert!(events.contains("event: done"), "{events}");
    let plain = server.client.get(format!("{}/health/live", server.url)).send().await;
    assert!(plain.is_err_and(|error| !error.is_status()), "without TLS there is no answer");
    let mut silent = Raw::connect(&server).await;
    assert_eq!(silent.rest().await, "", "a handshake that does not come is not waited for");
    server.shut_down();
    assert!(server.task.await.unwrap().is_ok());

    std::fs::write(&key, "no key").unwrap();
    let guard = GuardOptions { tls_cert: Some(cert.clone()), tls_key: Some(key.clone()), ..Default::default() };
    let broken = Server::start_loading(ServiceOptions { guard, ..options() }, Script::default()).await;
    let error = broken.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("cert.pem"), "{error}");
}
