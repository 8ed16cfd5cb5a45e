//! Nothing is done for a request before it is admitted, and what is under way holds its slots until its last byte.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};
use steerling_server::config::ServiceOptions;

use crate::support::{Events, Script, Server, nano_catalog, options, refusal};

fn one_slot() -> ServiceOptions {
    ServiceOptions { max_batch: 1, max_queue: 0, ..options() }
}

fn slow() -> Script {
    let script = Script::default();
    script.step_ms.store(20, SeqCst);
    script
}

#[tokio::test]
async fn a_full_server_turns_work_away_before_it_is_planned() {
    let server = Server::start(one_slot(), slow()).await;
    // Each would be rejected for what is in it once that has been tokenized.
    let long = "word ".repeat(3000);
    let posts = [
        ("/generate", json!({"prompt": long})),
        ("/steer", json!({"prompt": long, "steering": {"amplify": [{"concept": 1}]}})),
        ("/attribute", json!({"prompt": long})),
        ("/score", json!({"items": [{"context": long, "continuation": "a"}]})),
        ("/embed", json!({"inputs": long})),
        ("/concepts/detect", json!({"text": long})),
        ("/concepts/contrast", json!({"a": [long], "b": [long]})),
        ("/tokenize", json!({"text": long})),
        ("/detokenize", json!({"ids": vec![5; 5000]})),
        ("/v1/completions", json!({"model": "fake", "prompt": long})),
        ("/v1/chat/completions", json!({"model": "fake", "messages": [{"role": "user", "content": long}]})),
        ("/v1/embeddings", json!({"model": "fake", "input": long})),
    ];
    let gets = ["", "?q=a", "/1/group", "/1/tokens", "/1/neighbors"].map(|path| format!("/concepts{path}"));
    let running = server.open_stream(1000).await;
    for (path, body) in &posts {
        let response = server.post(path, body).await;
        assert!(response.headers().contains_key("retry-after"), "{path}");
        assert_eq!(response.status(), 429, "{path}");
    }
    for path in &gets {
        assert_eq!(server.get(path).await.status(), 429, "{path}");
    }
    // What costs next to nothing needs no slot.
    assert_eq!(server.post("/tokenize", &json!({"text": "a few words"})).await.status(), 200);
    assert_eq!(server.post("/detokenize", &json!({"ids": [5, 6]})).await.status(), 200);
    assert_eq!(server.get("/info").await.status(), 200);
    drop(running);
    server.until("the slot to be free", async || server.metric("steerling_places_used").await == 0.0).await;
    for (path, body) in &posts {
        let expected = if path.ends_with("tokenize") { 200..=200 } else { 400..=501 };
        let status = server.post(path, body).await.status();
        assert!(expected.contains(&status.as_u16()) && status != 429, "{path} {status}");
    }
    server.until("the slots to be free", async || server.metric("steerling_places_used").await == 0.0).await;
}

#[tokio::test]
async fn each_client_that_is_turned_away_is_told_a_later_time() {
    let server = Server::start(one_slot(), slow()).await;
    let _running = server.open_stream(1000).await;
    let mut told: Vec<u64> = Vec::new();
    for _ in 0..4 {
        let response = server.generate(json!({"prompt": "a", "max_new_tokens": 2})).await;
        told.push(response.headers()["retry-after"].to_str().unwrap().parse().unwrap());
    }
    assert!(told.is_sorted_by(|a, b| a < b) && told[3] <= 60, "{told:?}");
}

#[tokio::test]
async fn work_that_follows_a_generation_holds_its_slot() {
    let server = Server::nano(one_slot()).await;
    let body = json!({"prompt": [261, 3, 182], "max_new_tokens": 64, "stream": true,
        "inputs": {"method": "integrated_gradients", "n_steps": 512}});
    let mut events = Events::new(server.post("/attribute", &body).await);
    assert_eq!(events.next().await.unwrap().name, "start");
    let gradients = r#"steerling_slices_total{kind="attribute"}"#;
    server.until("the first gradients", async || server.metric(gradients).await > 0.0).await;
    assert_eq!(server.load().await, (0, 0), "the generation has ended");
    assert_eq!(server.metric("steerling_places_used").await, 1.0);
    let small = json!({"inputs": "a"});
    assert_eq!(refusal(server.post("/embed", &small).await).await.0, 429);
    drop(events);
    server.until("the slot to be free", async || server.post("/embed", &small).await.status() == 200).await;
}

#[tokio::test]
async fn a_slot_is_free_when_the_answer_has_been_read() {
    let server = Server::nano(one_slot()).await;
    for i in 0..20 {
        let plain = json!({"prompt": [1, 2, 3], "max_new_tokens": 3, "stream": i % 2 == 0});
        let bodies = [
            ("/generate", plain.clone()),
            ("/attribute", plain),
            ("/embed", json!({"inputs": "a"})),
            ("/score", json!({"items": [{"context": "a", "continuation": " b"}], "samples": 2})),
            ("/v1/completions", json!({"model": "steerling", "prompt": [1, 2], "max_tokens": 2, "stream": i % 2 == 0})),
        ];
        for (path, body) in &bodies {
            let response = server.post(path, body).await;
            assert_eq!(response.status(), 200, "{path}, round {i}");
            response.bytes().await.unwrap();
        }
        let mut events =
            Events::new(server.generate(json!({"prompt": [1], "max_new_tokens": 2, "stream": true})).await);
        while events.next().await.unwrap().name != "done" {}
        // The end of the stream has not been read yet.
        assert_eq!(server.post("/embed", &json!({"inputs": "a"})).await.status(), 200, "round {i}");
    }
}

#[tokio::test]
async fn likelihoods_beyond_the_limit_are_rejected_with_what_they_need_and_what_there_is() {
    let server = Server::nano(ServiceOptions { max_score_positions: 1000, ..options() }).await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["limits"]["max_score_positions"], json!(1000));
    let request = |samples: usize| json!({"items": [{"context": "", "continuation": "3 4 5"}], "method": "monte_carlo", "samples": samples});
    let scored: Value = server.post("/score", &request(10)).await.json().await.unwrap();
    let tokens = scored["results"][0]["tokens"].as_u64().unwrap();
    // One row a token tells whether the continuation is greedy.
    let most = 1000 / tokens - tokens;
    assert_eq!(server.post("/score", &request(most as usize)).await.status(), 200);
    let (status, error) = refusal(server.post("/score", &request(most as usize + 1)).await).await;
    assert_eq!((status, &error["code"], &error["param"]), (422, &json!("invalid_request"), &json!("items")));
    let needed = (most + 1 + tokens) * tokens;
    assert_eq!(error["details"], json!({"needed": needed, "available": 1000}));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&needed.to_string()) && message.contains("--max-score-positions"), "{message}");
}

#[tokio::test]
async fn a_request_may_search_for_64_concepts() {
    let server = Server::nano(options()).await;
    let catalog = nano_catalog();
    let name = catalog.iter().find(|concept| concept.flags.steerable).unwrap().name.to_owned();
    let search = |n: usize| vec![json!({"search": name}); n];
    let steering = |searches: usize| {
        let entry = |concept: Value| json!({"concept": concept});
        let concepts = search(searches);
        let (suppressed, injected) = concepts.split_at(32);
        json!({"suppress_logits": suppressed.iter().cloned().map(entry).collect::<Vec<_>>(),
            "inject": [{"concepts": injected, "target": 0.1}]})
    };
    let native = |searches| json!({"prompt": [1, 2], "max_new_tokens": 2, "steering": steering(searches)});
    let openai =
        |searches| json!({"model": "steerling", "prompt": [[1], [2]], "max_tokens": 2, "steering": steering(searches)});
    for path in ["/generate", "/steer", "/attribute", "/v1/completions"] {
        let body = |searches| if path.starts_with("/v1") { openai(searches) } else { native(searches) };
        assert_eq!(server.post(path, &body(64)).await.status(), 200, "{path}");
        let response = server.post(path, &body(65)).await;
        assert!(response.status().is_client_error(), "{path}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("65") && message.contains("64"), "{path} {message}");
        assert_eq!(error["error"]["param"], json!("steering"));
    }
}
