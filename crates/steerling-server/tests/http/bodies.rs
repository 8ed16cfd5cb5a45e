//! Bodies of requests: too large, too slow, encoded, and answers to those who have not sent everything yet.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Raw, Script, Server, configured, options, refusal};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use steerling_server::auth::new_key;
use steerling_server::config::{GuardOptions, ServiceOptions};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Many clients read only after they have sent everything.
#[tokio::test]
async fn a_refusal_can_be_read_by_a_client_that_sends_its_whole_body_first() {
    let open = Server::start(options(), Script::default()).await;
    let (_, hash) = new_key();
    let keyed = configured(&format!("[api_keys.a]\nsha256 = '{hash}'"), GuardOptions::default());
    let keyed = Server::start(keyed, Script::default()).await;
    let json_type = "content-type: application/json\r\n";
    for (server, request, headers, status) in [
        (&open, "POST /generate", json_type, 413),
        (&open, "POST /v1/completions", json_type, 413),
        (&open, "POST /nothing", json_type, 404),
        (&open, "PUT /generate", json_type, 405),
        (&open, "POST /generate", "content-type: text/plain\r\n", 415),
        (&open, "POST /generate", "content-type: application/json\r\ncontent-encoding: br\r\n", 415),
        (&open, "POST /generate", "content-type: application/json\r\nhost: a.example\r\n", 400),
        (&open, "GET /info", "", 200),
        (&keyed, "POST /generate", json_type, 401),
    ] {
        for chunked in [false, true] {
            let mut raw = Raw::connect(server).await;
            let mut piece = vec![b' '; 1 << 20];
            let length = match chunked {
                true => "transfer-encoding: chunked\r\n".to_owned(),
                false => format!("content-length: {}\r\n", 16 << 20),
            };
            if chunked {
                piece = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            }
            raw.send(&format!("{request} HTTP/1.1\r\nhost: localhost\r\n{headers}{length}\r\n")).await.unwrap();
            for n in 0..16 {
                let sent = raw.send(&piece).await;
                assert!(sent.is_ok(), "{request} {status}: {sent:?} after {n} MiB");
            }
            if chunked {
                raw.send("0\r\n\r\n").await.unwrap();
            }
            let (found, _) = raw.answer().await;
            assert_eq!(found, status, "{request} {headers}");
            // All of it was read: the connection goes on.
            raw.send("GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            assert_eq!(raw.answer().await.0, 200, "{request} {headers}");
        }
    }
}

#[tokio::test]
async fn what_a_client_sends_without_end_after_a_refusal_is_read_within_bounds() {
    let server = Server::start(options(), Script::default()).await;
    let mut raw = Raw::connect(&server).await;
    let head = "POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n";
    raw.send(head).await.unwrap();
    let (status, _) = raw.answer().await;
    assert_eq!(status, 404);
    let (piece, mut sent) = (vec![b' '; 1 << 20], 0);
    while raw.send(&piece).await.is_ok() {
        sent += 1;
        assert!(sent < 256, "it reads for ever");
    }
    assert!(sent >= 32, "{sent} MiB");
}

#[tokio::test]
async fn a_body_that_is_too_large_by_its_length_is_refused_before_it_is_asked_for() {
    let server = Server::start(options(), Script::default()).await;
    let head = |length: usize| {
        format!(
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             expect: 100-continue\r\n\r\n"
        )
    };
    let mut raw = Raw::connect(&server).await;
    raw.send(&head(99_999_999)).await.unwrap();
    let (status, body) = raw.answer().await;
    assert_eq!(status, 413, "and no 100 before it");
    let message = body["error"]["message"].as_str().unwrap();
    for part in ["99999999", "65536", "max_body_bytes"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let mut raw = Raw::connect(&server).await;
    raw.send(&head(12)).await.unwrap();
    assert_eq!(raw.head().await.0, 100);
    raw.send(r#"{"text":"a"}"#).await.unwrap();
    assert_eq!(raw.answer().await.0, 200);
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_has_a_deadline_as_a_whole() {
    let with = |body_timeout, timeout| {
        let guard = GuardOptions { body_timeout, ..Default::default() };
        ServiceOptions { guard, timeout, ..options() }
    };
    let (short, long) = (Duration::from_millis(600), Duration::from_secs(60));
    for options in [with(short, long), with(long, short)] {
        let server = Server::start(options, Script::default()).await;
        let mut raw = Raw::connect(&server).await;
        let head = "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n";
        raw.send(head).await.unwrap();
        let started = Instant::now();
        while !raw.hears(Duration::from_millis(50)).await {
            assert!(started.elapsed() < Duration::from_secs(20), "it is read for ever");
            raw.send(" ").await.unwrap();
        }
        let (status, body) = raw.answer().await;
        assert_eq!((status, &body["error"]["code"]), (408, &json!("request_timeout")));
        assert!(body["error"]["message"].as_str().unwrap().contains("body_timeout_seconds"), "{body}");
        assert!(started.elapsed() >= short);
    }
}

#[tokio::test]
async fn the_time_of_a_request_begins_with_its_arrival() {
    let server = Server::start(options(), Script::default()).await;
    let mut raw = Raw::connect(&server).await;
    let body = r#"{"prompt":"a","max_new_tokens":1,"timeout_ms":300}"#;
    let head = format!(
        "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    raw.send(&head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    raw.send(body).await.unwrap();
    let (status, body) = raw.answer().await;
    assert_eq!((status, &body["error"]["code"]), (504, &json!("deadline_exceeded")));
}

#[tokio::test]
async fn gzip_is_decoded_and_other_encodings_are_refused_by_name() {
    let server = Server::start(options(), Script::default()).await;
    let post = async |encoding: &str, body: Vec<u8>| {
        let request = server.client.post(format!("{}/tokenize", server.url)).header("content-type", "application/json");
        request.header("content-encoding", encoding).body(body).send().await.unwrap()
    };
    let plain = br#"{"text":"The chef stirred the"}"#;
    let expected: Value =
        server.post("/tokenize", &json!({"text": "The chef stirred the"})).await.json().await.unwrap();
    let members = [gzip(&plain[..9]), gzip(&plain[9..])].concat();
    for (encoding, body) in
        [("gzip", gzip(plain)), ("GZIP", gzip(plain)), ("x-gzip", members), ("identity", plain.to_vec())]
    {
        let answer: Value = post(encoding, body).await.json().await.unwrap();
        assert_eq!(answer, expected, "{encoding}");
    }
    for encoding in ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1"] {
        let response = post(encoding, gzip(plain)).await;
        assert_eq!(response.headers()["accept-encoding"], "gzip, identity");
        let (status, error) = refusal(response).await;
        assert_eq!((status, &error["code"]), (415, &json!("unsupported_media_type")), "{encoding}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(encoding) && message.contains("gzip and identity"), "{message}");
    }
    for body in [plain.to_vec(), gzip(plain)[..20].to_vec(), [gzip(plain), b"more".to_vec()].concat(), Vec::new()] {
        let (status, error) = refusal(post("gzip", body).await).await;
        assert_eq!((status, &error["code"]), (400, &json!("invalid_json")), "{error}");
    }
    let (status, _) =
        refusal(server.client.post(format!("{}/tokenize", server.url)).body("{}").send().await.unwrap()).await;
    assert_eq!(status, 415);
}

#[tokio::test]
async fn the_limit_of_a_body_holds_before_and_after_decoding() {
    let server = Server::start(options(), Script::default()).await;
    let limit = options().max_body_bytes;
    let post = async |body: Vec<u8>| {
        let request = server.client.post(format!("{}/tokenize", server.url)).header("content-type", "application/json");
        request.header("content-encoding", "gzip").body(body).send().await.unwrap()
    };
    let text = |bytes: usize| format!(r#"{{"text":"{}"}}"#, " ".repeat(bytes - 11)).into_bytes();
    assert_eq!(post(gzip(&text(limit))).await.status(), 200, "exactly as much as there may be");
    // A thousand to one, and members without content, of which there could be any number.
    let bombs = [gzip(&text(limit + 1)), gzip(&vec![b' '; 64 << 20]), gzip(b"").repeat(limit)];
    for bomb in bombs {
        let (status, error) = refusal(post(bomb).await).await;
        assert_eq!((status, &error["code"]), (413, &json!("payload_too_large")));
        assert!(error["message"].as_str().unwrap().contains(&limit.to_string()), "{error}");
    }
}
