//! How many connections there are, and how long one may hold what it has.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::support::{Raw, Script, Server, options};
use serde_json::json;
use steerling_server::config::{GuardOptions, ServiceOptions};

const CONNECTIONS: &str = r#"steerling_connections{port="main"}"#;

fn guarded(guard: GuardOptions) -> ServiceOptions {
    ServiceOptions { guard, ..options() }
}

/// Ends with the connection of `server`'s own client, which asks.
async fn until_alone(server: &Server) {
    server.until("the connections to end", async || server.metric(CONNECTIONS).await == 1.0).await;
}

#[tokio::test]
async fn when_all_slots_are_taken_the_longest_idle_connection_makes_room() {
    let guard = GuardOptions { max_connections: 4, ..Default::default() };
    let server = Server::start(guarded(guard), Script::default()).await;
    let mut idle = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::connect(&server).await;
        // Some have begun to ask.
        raw.send(if n % 2 == 0 { "GET /info HT" } else { "" }).await.unwrap();
        idle.push(raw);
    }
    let mut raw = Raw::connect(&server).await;
    raw.send("GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(60), raw.answer()).await.expect("a slot becomes free");
    assert_eq!(answer.0, 200);
    assert!(server.metric(CONNECTIONS).await <= 4.0);
    assert!(idle[0].rest().await.is_empty(), "the first one was closed");
}

#[tokio::test]
async fn connections_with_a_request_keep_their_slots_and_others_wait() {
    let script = Script::default();
    script.step_ms.store(20, SeqCst);
    let guard = GuardOptions { max_connections: 2, ..Default::default() };
    let server = Server::start(guarded(guard), script).await;
    let body = json!({"prompt": "a", "max_new_tokens": 1000, "stream": true}).to_string();
    let head = format!(
        "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut streams = Vec::new();
    for _ in 0..2 {
        // The idle connection of the test's own client makes room.
        let mut raw = Raw::connect(&server).await;
        raw.send(&head).await.unwrap();
        assert_eq!(raw.head().await.0, 200);
        streams.push(raw);
    }
    let mut waiting = Raw::connect(&server).await;
    waiting.send("GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(!waiting.hears(Duration::from_millis(1500)).await, "there is no slot for it");
    streams.pop();
    assert_eq!(waiting.answer().await.0, 200);
    drop(streams);
    server.until_load((0, 0)).await;
}

#[tokio::test]
async fn headers_that_come_byte_by_byte_have_a_deadline_as_a_whole() {
    let guard = GuardOptions { header_timeout: Duration::from_millis(500), ..Default::default() };
    let server = Server::start(guarded(guard), Script::default()).await;
    // HTTP/1.1, and the preface of HTTP/2.
    for text in ["GET /info HTTP/1.1\r\nhost: localhost\r\nx: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut raw = Raw::connect(&server).await;
        raw.send(text).await.unwrap();
        let started = Instant::now();
        while tokio::time::timeout(Duration::from_millis(50), raw.rest()).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "{text:?} is waited for for ever");
            _ = raw.send(if text.starts_with("GET") { "x" } else { "" }).await;
        }
    }
    until_alone(&server).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_loses_its_connection_and_a_slow_one_does_not() {
    let guard = GuardOptions { write_timeout: Duration::from_millis(700), ..Default::default() };
    let server = Server::start(guarded(guard), Script::default()).await;
    // More than both kernels buffer.
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(40);
    let mut stalled = Raw::connect(&server).await;
    stalled.send(&requests).await.unwrap();
    // What is sent to a connection that has ended is an error.
    server.until("the connection to end", async || stalled.send("\r\n").await.is_err()).await;

    let mut slow = Raw::connect(&server).await;
    slow.send(&requests).await.unwrap();
    let started = Instant::now();
    for _ in 0..40 {
        assert_eq!(slow.answer().await.0, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(1400), "it took longer than one that takes nothing may");
}

#[tokio::test]
async fn a_long_answer_that_says_nothing_for_a_while_is_no_stalled_reader() {
    let script = Script::default();
    script.step_ms.store(1200, SeqCst);
    let short = Duration::from_millis(300);
    let guard = GuardOptions { write_timeout: short, header_timeout: short, body_timeout: short, ..Default::default() };
    let server = Server::start(guarded(guard), script).await;
    for stream in [false, true] {
        let answer = server.generate(json!({"prompt": "a", "max_new_tokens": 2, "stream": stream})).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.unwrap().contains("completion_tokens"), "stream: {stream}");
    }
}
