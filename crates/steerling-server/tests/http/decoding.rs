//! Decoding methods over HTTP, with the recorded model.

use serde_json::{Value, json};
use steerling_server::config::ServiceOptions;

use crate::support::{Events, Server, options};

/// 40 new tokens behind a prompt of 5, under a method.
fn body(decoding: Value) -> Value {
    json!({"prompt": [5, 6, 7, 8, 9], "max_new_tokens": 40, "seed": 3, "return_trace": true, "decoding": decoding})
}

#[tokio::test]
async fn methods_mix_in_a_batch_and_usage_tells_what_they_took() {
    let server = Server::nano(options()).await;
    let ask = async |decoding: Value| server.generate(body(decoding)).await.json::<Value>().await.unwrap();
    let (plain, lossless, threshold, bound, factor) = tokio::join!(
        ask(json!({"method": "confidence"})),
        ask(json!({"method": "lossless", "drafts": 3})),
        ask(json!({"method": "threshold", "threshold": 0.0, "max_per_step": 4})),
        ask(json!({"method": "entropy_bound", "gamma": 1000})),
        ask(json!({"method": "factor", "factor": 1000})),
    );
    for field in ["text", "token_ids", "trace", "seed", "finish_reason"] {
        assert_eq!(lossless[field], plain[field], "{field}");
    }
    let usage = |answer: &Value, field: &str| answer["usage"][field].as_f64().unwrap();
    assert_eq!((usage(&plain, "forwards"), usage(&plain, "drafts")), (40.0, 0.0));
    assert!(usage(&lossless, "drafts") > 20.0, "{}", lossless["usage"]);
    assert_eq!(usage(&lossless, "forwards") + usage(&lossless, "drafts_accepted"), 40.0);
    // Blocks of 16, 16 and 8 positions, four at a time; and all at once.
    assert_eq!(usage(&threshold, "forwards"), 10.0);
    assert_eq!(usage(&threshold, "tokens_per_forward"), 4.0);
    assert_eq!((usage(&bound, "forwards"), usage(&factor, "forwards")), (3.0, 3.0));
    assert_eq!(bound["token_ids"], factor["token_ids"]);
}

#[tokio::test]
async fn a_stream_shows_the_commits_of_each_forward() {
    let server = Server::nano(options()).await;
    let mut body = body(json!({"method": "lossless", "drafts": 2}));
    body["stream"] = json!(true);
    let events = Events::new(server.generate(body).await).rest().await;
    let done = &events.last().unwrap().data;
    let blocks: Vec<&Value> = events.iter().filter(|e| e.name == "block").map(|e| &e.data).collect();
    let commits = || blocks.iter().flat_map(|block| block["commits"].as_array().unwrap());
    assert_eq!(commits().count(), 40);
    for (commit, traced) in commits().zip(done["trace"]["commits"].as_array().unwrap()) {
        assert_eq!(commit["position"], traced["position"]);
    }
    assert!(blocks.len() as u64 <= done["usage"]["forwards"].as_u64().unwrap());
}

#[tokio::test]
async fn drafts_never_make_a_step_larger_than_the_server_allows() {
    // The two attention blocks that a generation block touches, and no row to spare. A finished block cannot ride along.
    let server = Server::nano(ServiceOptions { max_rows: 2 * 16, ..options() }).await;
    let answer: Value = server.generate(body(json!({"method": "lossless", "drafts": 8}))).await.json().await.unwrap();
    let usage = |field: &str| answer["usage"][field].as_u64().unwrap();
    assert!(usage("forwards") + usage("drafts_accepted") >= 40, "{answer}");
    assert_eq!(
        server.metric("steerling_step_rows_bucket{le=\"32\"}").await,
        server.metric("steerling_step_rows_count").await
    );
}

#[tokio::test]
async fn steered_and_attributed_generations_take_methods_too() {
    let server = Server::nano(options()).await;
    let attribute = async |decoding: Value| {
        let mut body = body(decoding);
        body["steering"] = json!({"amplify": [{"concept": 3, "cutoff_tokens": 20}], "force": true});
        let answer: Value = server.post("/attribute", &body).await.json().await.unwrap();
        answer
    };
    let (plain, lossless, threshold) = tokio::join!(
        attribute(json!({"method": "confidence"})),
        attribute(json!({"method": "lossless", "drafts": 2})),
        attribute(json!({"method": "threshold", "threshold": 0.0, "max_per_step": 2})),
    );
    assert_eq!(plain["tokens"].as_array().unwrap().len(), 40, "{plain}");
    assert_eq!((&lossless["tokens"], &lossless["chunks"]), (&plain["tokens"], &plain["chunks"]));
    assert!(lossless["usage"]["drafts"].as_u64().unwrap() > 0);
    assert_eq!(threshold["verify"]["passed"], json!(true));
    assert_eq!(threshold["usage"]["forwards"], json!(20));
}
