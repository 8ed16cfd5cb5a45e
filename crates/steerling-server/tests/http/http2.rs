//! The same over HTTP/2, where many requests share a connection.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::{Raw, Script, Server, configured, options};
use axum::body::Bytes;
use axum::http::Request;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use serde_json::{Value, json};
use steerling_server::config::{GuardOptions, ServiceOptions};
use tokio::net::TcpStream;

fn slow() -> Script {
    let script = Script::default();
    script.step_ms.store(20, SeqCst);
    script
}

/// A client whose streams take `window` bytes before it has to give leave for more.
async fn connect(server: &Server, window: u32) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let (client, connection) = Builder::new().initial_window_size(window).handshake(socket).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

async fn post(client: &mut SendRequest<Bytes>, host: &str, path: &str, body: &Value) -> (u16, RecvStream) {
    let request = Request::post(format!("http://{host}{path}")).header("content-type", "application/json");
    let (answer, mut sender) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sender.send_data(body.to_string().into(), true).unwrap();
    let answer = answer.await.unwrap();
    (answer.status().as_u16(), answer.into_body())
}

/// The whole body.
async fn read(body: &mut RecvStream) -> String {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend(piece);
    }
    String::from_utf8(bytes).unwrap()
}

fn long() -> Value {
    json!({"prompt": "a", "max_new_tokens": 1000, "stream": true})
}

#[tokio::test]
async fn streams_share_a_connection_and_one_that_is_reset_frees_its_generation() {
    let server = Server::start(options(), slow()).await;
    let mut client = connect(&server, 1 << 20).await;
    let (status, mut first) = post(&mut client, "localhost", "/generate", &long()).await;
    assert_eq!(status, 200);
    assert!(first.data().await.unwrap().unwrap().starts_with(b"event: start"));
    let (_, second) = post(&mut client, "localhost", "/generate", &long()).await;
    server.until_load((2, 0)).await;
    // Dropping it sends a reset.
    drop(first);
    server.until_load((1, 0)).await;
    drop(second);
    server.until_load((0, 0)).await;
    let short = json!({"prompt": "a", "max_new_tokens": 3});
    let (status, mut body) = post(&mut client, "localhost", "/generate", &short).await;
    let answer: Value = serde_json::from_str(&read(&mut body).await).unwrap();
    assert_eq!((status, &answer["completion_tokens"]), (200, &json!(3)), "the connection goes on");
}

#[tokio::test]
async fn a_stream_without_a_reader_is_given_up_and_its_neighbours_go_on() {
    let guard = GuardOptions { write_timeout: Duration::from_millis(700), ..Default::default() };
    let server = Server::start(ServiceOptions { guard, ..options() }, slow()).await;
    let mut client = connect(&server, 600).await;
    let (status, stalled) = post(&mut client, "localhost", "/generate", &long()).await;
    assert_eq!(status, 200);
    let (_, mut neighbour) =
        post(&mut client, "localhost", "/generate", &json!({"prompt": "a", "max_new_tokens": 150, "stream": true}))
            .await;
    server.until_load((2, 0)).await;
    let read = tokio::spawn(async move { read(&mut neighbour).await });
    // The other one takes three seconds, this one would take twenty.
    server.until_load((1, 0)).await;
    assert!(!read.is_finished(), "the stream that is not read has ended first");
    assert!(read.await.unwrap().contains("event: done"));
    drop(stalled);
}

#[tokio::test]
async fn an_answer_of_which_nothing_is_read_does_not_hold_its_connection() {
    let short = Duration::from_millis(500);
    let guard = GuardOptions { write_timeout: short, header_timeout: short, ..Default::default() };
    let server = Server::start(ServiceOptions { guard, ..options() }, Script::default()).await;
    let mut client = connect(&server, 0).await;
    let text = json!({"text": "a"});
    let (status, _one) = post(&mut client, "localhost", "/tokenize", &text).await;
    assert_eq!(status, 200);
    let request = Request::get("http://localhost/openapi.json").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let _two = answer.await.unwrap();
    let connections = r#"steerling_connections{port="main"}"#;
    server.until("the connection to end", async || server.metric(connections).await == 1.0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_however_often_it_pings() {
    let guard = GuardOptions { header_timeout: Duration::from_millis(500), ..Default::default() };
    let server = Server::start(ServiceOptions { guard, ..options() }, Script::default()).await;
    let mut raw = Raw::connect(&server).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let ping = *b"\0\0\x08\x06\0\0\0\0\0pingpong";
    server.until("the connection to end", async || raw.send(ping).await.is_err()).await;
}

#[tokio::test]
async fn the_limits_of_bodies_and_hosts_hold() {
    let guard = GuardOptions { body_timeout: Duration::from_millis(500), ..Default::default() };
    let server = Server::start(configured("", guard), Script::default()).await;
    let mut client = connect(&server, 1 << 20).await;
    let large = json!({"text": "x".repeat(options().max_body_bytes)});
    let (status, mut body) = post(&mut client, "localhost", "/tokenize", &large).await;
    assert_eq!(status, 413);
    assert!(read(&mut body).await.contains("max_body_bytes"));
    let (status, mut body) = post(&mut client, "evil.example", "/tokenize", &json!({"text": "a"})).await;
    assert_eq!(status, 403);
    assert!(read(&mut body).await.contains("allowed_hosts"));
    let request = Request::post("http://localhost/tokenize").header("content-type", "application/json");
    let (answer, mut sender) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sender.send_data("{".into(), false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 408);
}
