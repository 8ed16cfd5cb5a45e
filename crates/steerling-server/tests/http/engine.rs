//! Load, cancellation, deadlines, failures and shutdown with a fake denoiser over a real socket.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::support::{Events, Script, Server, options, refusal};
use serde_json::json;
use steerling_server::config::ServiceOptions;

fn slow(step_ms: usize) -> Script {
    let script = Script::default();
    script.step_ms.store(step_ms, SeqCst);
    script
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_rows_within_a_step() {
    let server = Server::start(options(), slow(20)).await;
    let events = server.open_stream(1000).await;
    assert_eq!(server.load().await, (1, 0));
    let steps = server.script.steps.load(SeqCst);
    drop(events);
    server.until_load((0, 0)).await;
    // The step under way when the socket closed, and one for the news to arrive.
    assert!(server.script.steps.load(SeqCst) - steps <= 3, "{}", server.script.steps.load(SeqCst) - steps);
    assert_eq!(server.script.released.load(SeqCst), 2, "the warm-up and the cancelled job");
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_gives_its_place_back() {
    let server = Server::start(ServiceOptions { max_batch: 1, max_queue: 1, ..options() }, slow(10)).await;
    let _running = server.open_stream(1000).await;
    let waiting = server.generate(json!({"prompt": "a", "max_new_tokens": 10}));
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err());
    server.until_load((1, 0)).await;
}

#[tokio::test]
async fn a_full_server_answers_429_and_says_when_to_come_again() {
    let server = Server::start(ServiceOptions { max_batch: 1, max_queue: 1, ..options() }, slow(10)).await;
    let running = server.open_stream(1000).await;
    let url = format!("{}/generate", server.url);
    let request = server.client.post(url).json(&json!({"prompt": "a", "max_new_tokens": 3}));
    let waiting = tokio::spawn(request.send());
    server.until_load((1, 1)).await;
    let response = server.generate(json!({"prompt": "a", "max_new_tokens": 3, "stream": true})).await;
    let retry_after: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after));
    let (status, error) = refusal(response).await;
    assert_eq!((status, &error["code"]), (429, &json!("overloaded")));
    // The waiting one is served once there is room.
    drop(running);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    server.until_load((0, 0)).await;
}

#[tokio::test]
async fn jobs_share_steps_and_one_without_room_waits() {
    let server = Server::start(options(), slow(5)).await;
    let (one, other) = tokio::join!(server.open_stream(100), server.open_stream(100));
    server.until_load((2, 0)).await;
    drop((one, other));
    server.until_load((0, 0)).await;
    server.script.alone.store(true, SeqCst);
    let first = server.open_stream(1000).await;
    let body = json!({"prompt": "a", "max_new_tokens": 2});
    let second = tokio::spawn(server.client.post(format!("{}/generate", server.url)).json(&body).send());
    server.until_load((1, 1)).await;
    drop(first);
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_reader_that_stalls_neither_stops_nor_loses_its_generation() {
    let server = Server::start(options(), Script::default()).await;
    let mut stalled = server.open_stream(900).await;
    // Its neighbour is served meanwhile.
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 50})).await.status(), 200);
    server.until_load((0, 0)).await;
    let events = stalled.rest().await;
    assert_eq!(events.last().unwrap().name, "done");
    assert_eq!(events.last().unwrap().data["completion_tokens"], 900);
}

#[tokio::test]
async fn a_deadline_is_504_before_the_start_and_an_error_event_after_it() {
    let timeout = Duration::from_millis(300);
    let server = Server::start(ServiceOptions { max_batch: 1, timeout, ..options() }, slow(10)).await;
    let mut running = server.open_stream(1000).await;
    let waiting = tokio::spawn({
        let body = json!({"prompt": "a", "max_new_tokens": 1000, "stream": true});
        server.client.post(format!("{}/generate", server.url)).json(&body).send()
    });
    let events = running.rest().await;
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["code"]), ("error", &json!("deadline_exceeded")));
    assert_eq!(events.iter().filter(|event| event.name == "error" || event.name == "done").count(), 1);
    // The other one got the batch when the first was over, so its own deadline ends it later.
    let mut second = Events::new(waiting.await.unwrap().unwrap());
    assert_eq!(second.rest().await.last().unwrap().name, "error");

    // Whole answers, and streams that never left the queue.
    let (status, error) = refusal(server.generate(json!({"prompt": "a", "max_new_tokens": 1000})).await).await;
    assert_eq!((status, &error["code"]), (504, &json!("deadline_exceeded")));
}

#[tokio::test]
async fn a_stream_that_never_leaves_the_queue_is_504() {
    let script = slow(0);
    let server = Server::start(ServiceOptions { timeout: Duration::from_millis(150), ..options() }, script).await;
    // The step that is under way lasts longer than the second one may wait.
    server.script.step_ms.store(400, SeqCst);
    let first = tokio::spawn(
        server
            .client
            .post(format!("{}/generate", server.url))
            .json(&json!({"prompt": "a", "max_new_tokens": 9}))
            .send(),
    );
    server.until_load((1, 0)).await;
    let response = server.generate(json!({"prompt": "a", "max_new_tokens": 9, "stream": true})).await;
    let (status, error) = refusal(response).await;
    assert_eq!((status, &error["code"]), (504, &json!("deadline_exceeded")));
    assert_eq!(first.await.unwrap().unwrap().status(), 504);
}

async fn a_failed_step(script: Script) {
    let server = Server::start(options(), script).await;
    let mut stream = server.open_stream(100).await;
    server.script.hold_load.store(true, SeqCst);
    let events = stream.rest().await;
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["code"]), ("error", &json!("internal")));
    assert!(!last.data.to_string().contains("script"), "no detail leaks: {}", last.data);
    assert_eq!(events.iter().filter(|event| event.name == "error" || event.name == "done").count(), 1);

    // Not ready while the model is built again, and open about it.
    assert_eq!(server.get("/health/live").await.status(), 200);
    let (status, error) = refusal(server.get("/health/ready").await).await;
    assert_eq!((status, &error["code"]), (503, &json!("not_ready")));
    let (status, _) = refusal(server.generate(json!({"prompt": "a", "max_new_tokens": 3})).await).await;
    assert_eq!(status, 503);

    server.script.hold_load.store(false, SeqCst);
    server.until_status("/health/ready", 200).await;
    assert_eq!(server.script.loads.load(SeqCst), 2);
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 3})).await.status(), 200);
    assert_eq!(server.load().await, (0, 0));
}

#[tokio::test]
async fn a_panic_in_a_step_ends_the_stream_with_an_error_and_the_model_is_built_again() {
    let script = slow(30);
    script.panic_at.store(5, SeqCst);
    a_failed_step(script).await;
}

#[tokio::test]
async fn an_error_in_a_step_ends_the_stream_with_an_error_and_the_model_is_built_again() {
    let script = slow(30);
    script.fail_at.store(5, SeqCst);
    a_failed_step(script).await;
}

#[tokio::test]
async fn the_server_answers_while_the_model_is_loading() {
    let script = Script::default();
    script.hold_load.store(true, SeqCst);
    let server = Server::start_loading(options(), script).await;
    assert_eq!(server.get("/health/live").await.status(), 200);
    let response = server.get("/health/ready").await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, error) = refusal(response).await;
    assert_eq!((status, &error["code"]), (503, &json!("not_ready")));
    let (status, _) = refusal(server.post("/tokenize", &json!({"text": "a"})).await).await;
    assert_eq!(status, 503);
    server.script.hold_load.store(false, SeqCst);
    server.until_status("/health/ready", 200).await;
}

#[tokio::test]
async fn a_shutdown_lets_open_jobs_finish_and_refuses_new_ones() {
    let mut server = Server::start(options(), slow(10)).await;
    let mut stream = server.open_stream(60).await;
    server.shut_down();
    server.until_status("/health/ready", 503).await;
    let response = server.generate(json!({"prompt": "a", "max_new_tokens": 3})).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, error) = refusal(response).await;
    assert_eq!((status, &error["code"]), (503, &json!("shutting_down")));
    assert_eq!(stream.rest().await.last().unwrap().name, "done");
    assert!(server.task.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_shutdown_ends_what_outlasts_the_grace_with_a_final_event() {
    let drain = Duration::from_millis(200);
    let mut server = Server::start(ServiceOptions { drain, max_batch: 1, ..options() }, slow(10)).await;
    let mut stream = server.open_stream(1000).await;
    let body = json!({"prompt": "a", "max_new_tokens": 3, "stream": true});
    let waiting = tokio::spawn(server.client.post(format!("{}/generate", server.url)).json(&body).send());
    server.until_load((1, 1)).await;
    let told = Instant::now();
    server.shut_down();
    let events = stream.rest().await;
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["code"]), ("error", &json!("shutting_down")));
    let (status, error) = refusal(waiting.await.unwrap().unwrap()).await;
    assert_eq!((status, &error["code"]), (503, &json!("shutting_down")));
    assert!(server.task.await.unwrap().is_ok());
    assert!((drain..Duration::from_secs(4)).contains(&told.elapsed()), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_reader_that_has_stalled() {
    let mut server = Server::start(options(), Script::default()).await;
    let _stalled = server.open_stream(1000).await;
    server.shut_down();
    let ended = tokio::time::timeout(Duration::from_secs(15), server.task).await;
    assert!(ended.unwrap().unwrap().is_ok());
}
