//! What operators see and set: metrics, health, deadlines, faults.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::support::{Events, Script, Server, options, refusal};
use serde_json::{Value, json};
use steerling_server::ServeError;
use steerling_server::config::{Active, ServiceOptions};

fn slow(step_ms: usize) -> Script {
    let script = Script::default();
    script.step_ms.store(step_ms, SeqCst);
    script
}

fn requests(endpoint: &str, outcome: &str) -> String {
    format!(r#"steerling_requests_total{{endpoint="{endpoint}",outcome="{outcome}"}}"#)
}

#[tokio::test]
async fn requests_are_counted_by_endpoint_and_outcome_when_their_answer_ends() {
    let server = Server::start(options(), slow(10)).await;
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(server.metric(&requests("/generate", "ok")).await, 0.0);

    let mut stream = server.open_stream(20).await;
    // The one that asks is in flight too.
    assert_eq!(server.metric("steerling_requests_in_flight").await, 2.0);
    assert_eq!(server.metric(&requests("/generate", "ok")).await, 0.0, "it has not ended");
    assert_eq!(server.metric(r#"steerling_jobs{state="active"}"#).await, 1.0);
    assert_eq!(server.metric("steerling_places_used").await, 1.0);
    stream.rest().await;
    server.until("the count", async || server.metric(&requests("/generate", "ok")).await == 1.0).await;

    let cancelled = server.open_stream(1000).await;
    drop(cancelled);
    server.until("the count", async || server.metric(&requests("/generate", "cancelled")).await == 1.0).await;
    server.generate(json!({"prompt": "a", "max_new_tokens": 0})).await;
    assert_eq!(server.metric(&requests("/generate", "refused")).await, 1.0);
    let late = json!({"prompt": "a", "max_new_tokens": 900, "timeout_ms": 50, "stream": true});
    Events::new(server.generate(late).await).rest().await;
    server.until("the count", async || server.metric(&requests("/generate", "deadline")).await == 1.0).await;
    server.get("/nothing").await;
    assert_eq!(server.metric(&requests("unmatched", "refused")).await, 1.0);
    assert_eq!(server.metric(&requests("/health/ready", "ok")).await, 1.0, "the test waited for it");
    assert!(server.metric(r#"steerling_request_seconds_count{endpoint="/generate"}"#).await >= 4.0);

    server.until_load((0, 0)).await;
    assert!(server.metric("steerling_tokens_committed_total").await >= 20.0);
    assert!(server.metric("steerling_step_seconds_count").await >= 20.0);
    assert_eq!(server.metric("steerling_tokens_per_forward_count").await, 1.0);
    assert_eq!(server.metric("steerling_time_to_first_block_seconds_count").await, 3.0);
    assert_eq!(server.metric("steerling_places_used").await, 0.0);
    assert_eq!(server.metric("steerling_requests_in_flight").await, 1.0);
}

#[tokio::test]
async fn a_request_may_ask_for_less_time_than_the_server_allows_but_not_for_more() {
    let timeout = Duration::from_secs(2);
    let server = Server::start(ServiceOptions { timeout, ..options() }, slow(10)).await;
    for (timeout_ms, limit) in [(0, "below the minimum of 1"), (2001, "1..=2000")] {
        let body = json!({"prompt": "a", "timeout_ms": timeout_ms, "stream": true});
        let (status, error) = refusal(server.generate(body).await).await;
        assert_eq!((status, &error["param"]), (422, &json!("timeout_ms")));
        assert!(error["message"].as_str().unwrap().contains(limit), "{error}");
    }
    let started = Instant::now();
    let body = json!({"prompt": "a", "max_new_tokens": 900, "timeout_ms": 100});
    let (status, error) = refusal(server.generate(body).await).await;
    assert_eq!((status, &error["code"]), (504, &json!("deadline_exceeded")));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 3, "timeout_ms": 2000})).await.status(), 200);
}

#[tokio::test]
async fn a_deadline_is_kept_in_the_middle_of_a_step() {
    let server = Server::start(options(), slow(1500)).await;
    let started = Instant::now();
    let body = json!({"prompt": "a", "max_new_tokens": 9, "timeout_ms": 100, "stream": true});
    let events = Events::new(server.generate(body).await).rest().await;
    assert_eq!(events.last().unwrap().data["error"]["code"], "deadline_exceeded");
    assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
    server.until_load((0, 0)).await;
}

#[tokio::test]
async fn a_step_that_does_not_end_makes_the_server_unready_but_not_dead() {
    let stall = Duration::from_millis(200);
    let server = Server::start(ServiceOptions { stall, ..options() }, slow(0)).await;
    server.script.step_ms.store(1500, SeqCst);
    let stream = server.open_stream(1).await;
    drop(stream);
    let (_one, ()) = tokio::join!(server.generate(json!({"prompt": "a", "max_new_tokens": 2})), async {
        server.until_status("/health/ready", 503).await;
        let (_, error) = refusal(server.get("/health/ready").await).await;
        assert!(error["message"].as_str().unwrap().contains("busy"), "{error}");
        assert_eq!(server.get("/health/live").await.status(), 200);
        assert_eq!(server.metric("steerling_ready").await, 0.0);
    });
    server.until_status("/health/ready", 200).await;
}

#[tokio::test]
async fn logits_that_are_no_numbers_cost_their_own_generation_only() {
    let script = slow(20);
    script.non_finite_at.store(4, SeqCst);
    let server = Server::start(options(), script).await;
    let mut hit = server.open_stream(30).await;
    let mut neighbour = server.open_stream(30).await;
    let last = hit.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["code"]), ("error", &json!("internal")));
    assert!(last.data["error"]["message"].as_str().unwrap().contains("finite"), "{}", last.data);
    let last = neighbour.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), &last.data["completion_tokens"]), ("done", &json!(30)));
    assert_eq!(server.script.loads.load(SeqCst), 1, "the model stays");
    assert_eq!(server.metric(r#"steerling_faults_total{kind="non_finite"}"#).await, 1.0);
    server.until("the count", async || server.metric(&requests("/generate", "failed")).await == 1.0).await;
    assert_eq!(server.metric(r#"steerling_kv_pages{state="active"}"#).await, 0.0);
}

#[tokio::test]
async fn a_device_without_memory_serves_fewer_at_once_from_then_on() {
    let script = slow(5);
    script.no_memory_at.store(10, SeqCst);
    let server = Server::start(options(), script).await;
    let mut stream = server.open_stream(100).await;
    let last = stream.rest().await.pop().unwrap();
    assert!(last.data["error"]["message"].as_str().unwrap().contains("memory"), "{}", last.data);
    server.until_status("/health/ready", 200).await;
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 3})).await.status(), 200);
    assert_eq!(server.metric(r#"steerling_faults_total{kind="out_of_memory"}"#).await, 1.0);
    assert_eq!(server.metric("steerling_active_limit").await, 2.0, "half of four");
    assert_eq!(server.metric("steerling_model_loads_total").await, 2.0);
}

#[tokio::test]
async fn a_fault_spares_those_who_wait() {
    let script = slow(10);
    script.fail_at.store(8, SeqCst);
    let server = Server::start(ServiceOptions { max_batch: 1, ..options() }, script).await;
    let mut hit = server.open_stream(100).await;
    let body = json!({"prompt": "a", "max_new_tokens": 3});
    let waiting = tokio::spawn(server.client.post(format!("{}/generate", server.url)).json(&body).send());
    server.until_load((1, 1)).await;
    let events = hit.rest().await;
    assert_eq!(events.last().unwrap().name, "error");
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["completion_tokens"], 3);
}

#[tokio::test]
async fn a_model_that_fails_again_and_again_ends_the_process_with_the_reason() {
    let script = Script::default();
    script.fail_from.store(0, SeqCst);
    let server = Server::start(ServiceOptions { max_faults: 1, ..options() }, script).await;
    let ask = async || server.generate(json!({"prompt": "a", "max_new_tokens": 3})).await;
    assert_eq!(refusal(ask().await).await.0, 500);
    server.until_status("/health/ready", 200).await;
    assert_eq!(refusal(ask().await).await.0, 500);
    let ended = tokio::time::timeout(Duration::from_secs(15), server.task).await;
    let Err(ServeError::Load(message)) = ended.unwrap().unwrap() else { panic!("it ended well") };
    assert!(message.contains("too often") && message.contains("the script says so"), "{message}");
}

#[tokio::test]
async fn generations_beyond_the_limit_of_a_step_take_turns_by_blocks() {
    let server = Server::start(ServiceOptions { max_active: Active::AtMost(1), ..options() }, slow(5)).await;
    // Blocks of eight: three each. Whoever has finished one waits for the other.
    let (mut one, mut other) = tokio::join!(server.open_stream(24), server.open_stream(24));
    let (one, other) = tokio::join!(one.rest(), other.rest());
    for events in [&one, &other] {
        assert_eq!(events.last().unwrap().name, "done");
    }
    assert_eq!(server.metric("steerling_step_sequences_sum").await, 48.0, "one a step");
    assert_eq!(server.metric("steerling_step_seconds_count").await, 48.0);
}

#[tokio::test]
async fn a_generation_whose_steps_are_too_large_is_refused_with_the_reason() {
    let server = Server::start(ServiceOptions { max_rows: 15, ..options() }, Script::default()).await;
    let (status, error) = refusal(server.generate(json!({"prompt": "a", "max_new_tokens": 30})).await).await;
    assert_eq!((status, &error["code"]), (422, &json!("invalid_request")));
    assert!(error["message"].as_str().unwrap().contains("16 rows, the server allows 15"), "{error}");
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 12})).await.status(), 200);
}

#[tokio::test]
async fn low_priority_waits_for_normal_priority() {
    let server = Server::start(ServiceOptions { max_batch: 1, ..options() }, slow(10)).await;
    let running = server.open_stream(1000).await;
    let ask = |priority: &str| {
        let body = json!({"prompt": "a", "max_new_tokens": 10, "priority": priority});
        let request = server.client.post(format!("{}/generate", server.url)).json(&body);
        tokio::spawn(async move {
            assert_eq!(request.send().await.unwrap().status(), 200);
            Instant::now()
        })
    };
    let low = ask("low");
    server.until_load((1, 1)).await;
    let normal = ask("normal");
    server.until_load((1, 2)).await;
    drop(running);
    assert!(normal.await.unwrap() < low.await.unwrap());
}

#[tokio::test]
async fn a_text_is_the_same_alone_and_under_load_in_any_order() {
    let all = ServiceOptions { max_batch: 8, max_queue: 64, ..options() };
    let server = Server::nano(all.clone()).await;
    // Short and long prompts, shared beginnings, guidance, few and many steps, an attribution.
    let bodies: Vec<Value> = (0..50)
        .map(|n: u64| {
            let shared: Vec<u64> = (0..40).map(|i| (i * 7 + 3) % 500).collect();
            let own = (0..n * 3 % 70).map(|i| (i * 11 + n) % 500);
            let prompt: Vec<u64> = if n.is_multiple_of(2) { shared.into_iter().chain(own).collect() } else { own.collect() };
            let steps = if n.is_multiple_of(3) { json!(7) } else { Value::Null };
            json!({"prompt": prompt, "max_new_tokens": 20 + n % 30, "steps": steps, "seed": n,
                "cfg_scale": if n.is_multiple_of(5) { 0.5 } else { 0.0 }, "priority": if n.is_multiple_of(7) { "low" } else { "normal" },
                "attribution": if n % 5 == 1 { json!({"top_known": 2, "top_unknown": 2}) } else { Value::Null }})
        })
        .collect();
    let ask = |server: &Server, body: &Value| {
        let request = server.client.post(format!("{}/generate", server.url)).json(body);
        async move {
            let answer: Value = request.send().await.unwrap().json().await.unwrap();
            assert!(answer["error"].is_null(), "{answer}");
            (answer["text"].clone(), answer["token_ids"].clone(), answer["attribution"].clone())
        }
    };
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(ask(&server, body).await);
    }
    // With cached pages, and without; few in a step, and many.
    let few = Server::nano(ServiceOptions { max_active: Active::AtMost(3), ..all }).await;
    for server in [server, few] {
        let order = (0..bodies.len()).map(|i| i * 37 % bodies.len());
        let answers: Vec<_> = order.map(|i| (i, tokio::spawn(ask(&server, &bodies[i])))).collect();
        for (i, answer) in answers {
            assert_eq!(answer.await.unwrap(), alone[i], "request {i}");
        }
        assert!(server.metric("steerling_prefix_hits_total").await > 0.0);
    }
}
