//! Every refusal has its status, the uniform body and a request id.

use std::sync::atomic::Ordering::SeqCst;

use crate::support::{CONTEXT, MASK, Script, Server, options, refusal};
use serde_json::{Value, json};

#[tokio::test]
async fn a_wrong_field_is_refused_by_name_before_the_stream_begins() {
    let server = Server::start(options(), Script::default()).await;
    let cases: Vec<(Value, &str, Value)> = vec![
        (json!({"prompt": "a", "max_tokens": 3}), "invalid_request", json!("max_tokens")),
        (json!({"prompt": "a", "max_new_tokens": "x"}), "invalid_request", json!("max_new_tokens")),
        (json!({"prompt": "a", "max_new_tokens": -1}), "invalid_request", json!("max_new_tokens")),
        (json!({"prompt": "a", "max_new_tokens": 0}), "invalid_request", json!("max_new_tokens")),
        (json!({"prompt": "a", "max_new_tokens": 9, "steps": 10}), "invalid_request", json!("steps")),
        (json!({"prompt": "a", "top_p": 1.5}), "invalid_request", json!("top_p")),
        (json!({"prompt": "a", "stream_every": 0}), "invalid_request", json!("stream_every")),
        (json!({"prompt": "a", "stop_tokens": [1, 100_281]}), "invalid_request", json!("stop_tokens[1]")),
        (json!({"prompt": "a", "stop_tokens": [1, "x"]}), "invalid_request", json!("stop_tokens[1]")),
        (json!({"prompt": "a", "stop": [""]}), "invalid_request", json!("stop[0]")),
        (json!({"prompt": "a", "align": "left"}), "invalid_request", json!("align")),
        (json!({"prompt": "a", "decoding": {"method": "fast"}}), "invalid_request", json!("decoding.method")),
        (json!({"prompt": "a", "decoding": {"method": "threshold"}}), "invalid_request", json!("decoding.threshold")),
        (
            json!({"prompt": "a", "decoding": {"method": "factor", "gamma": 1}}),
            "invalid_request",
            json!("decoding.gamma"),
        ),
        (
            json!({"prompt": "a", "decoding": {"method": "threshold", "threshold": 1.5}}),
            "invalid_request",
            json!("decoding.threshold"),
        ),
        (
            json!({"prompt": "a", "decoding": {"method": "threshold", "threshold": 0.9, "max_per_step": 0}}),
            "invalid_request",
            json!("decoding.max_per_step"),
        ),
        (
            json!({"prompt": "a", "decoding": {"method": "entropy_bound", "gamma": -1}}),
            "invalid_request",
            json!("decoding.gamma"),
        ),
        (
            json!({"prompt": "a", "decoding": {"method": "lossless", "drafts": 9}}),
            "invalid_request",
            json!("decoding.drafts"),
        ),
        (
            json!({"prompt": "a", "steps": 3, "decoding": {"method": "factor", "factor": 1}}),
            "invalid_request",
            json!("steps"),
        ),
        (json!({"prompt": [1, MASK]}), "invalid_request", json!("prompt[1]")),
        (json!({"prompt": [100_281]}), "invalid_request", json!("prompt[0]")),
        (json!({"prompt": {"a": 1}}), "invalid_request", json!("prompt")),
        (json!({"prompt": "a", "attribution": [1, 1]}), "invalid_request", json!("attribution")),
        (json!({"prompt": "a", "decoding": ["confidence"]}), "invalid_request", json!("decoding")),
        (json!({"messages": [["user", "a"]]}), "invalid_request", json!("messages[0]")),
        (
            json!({"prompt": "a", "steering": {"inject": [{"concepts": [1], "target": 1, "schedule": ["fixed"]}]}}),
            "invalid_request",
            json!("steering.inject[0].schedule"),
        ),
        (json!({}), "invalid_request", json!("prompt")),
        (json!({"prompt": "a", "messages": []}), "invalid_request", json!("messages")),
        (json!({"prompt": "a", "max_new_tokens": CONTEXT}), "context_length_exceeded", json!("max_new_tokens")),
        (json!([]), "invalid_request", Value::Null),
    ];
    for (mut body, code, param) in cases {
        if let Some(body) = body.as_object_mut() {
            body.insert("stream".to_owned(), json!(true));
        }
        let (status, error) = refusal(server.generate(body.clone()).await).await;
        assert_eq!((status, &error["code"]), (422, &json!(code)), "{body} {error}");
        if body.is_object() {
            assert_eq!(error["param"], param, "{body} {error}");
        }
    }
    assert_eq!(server.script.steps.load(SeqCst), 0);
}

#[tokio::test]
async fn what_this_build_cannot_do_is_refused_and_not_ignored() {
    let server = Server::start(options(), Script::default()).await;
    let cases = [
        (json!({"prompt": "a", "steering": {}}), "steering"),
        (json!({"prompt": "a", "attribution": {"top_known": 1}}), "attribution"),
        (json!({"messages": [{"role": "user", "content": "a"}]}), "messages"),
    ];
    for (body, param) in cases {
        let (status, error) = refusal(server.generate(body).await).await;
        assert_eq!((status, &error["code"], &error["param"]), (501, &json!("unsupported"), &json!(param)));
    }
    let nulls = json!({"prompt": "a", "max_new_tokens": 1, "steering": null, "attribution": null,
        "decoding": {"method": "confidence"}});
    assert_eq!(server.generate(nulls).await.status(), 200);
}

#[tokio::test]
async fn refusals_of_the_protocol_have_the_same_body() {
    let server = Server::start(options(), Script::default()).await;
    let post = |path: &str| server.client.post(format!("{}{path}", server.url));
    let json_type = ("content-type", "application/json");

    let (status, error) = refusal(server.get("/nothing").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")));

    let response = server.get("/generate").await;
    assert_eq!(response.headers()["allow"], "POST");
    let (status, error) = refusal(response).await;
    assert_eq!((status, &error["code"]), (405, &json!("method_not_allowed")));

    let broken = post("/generate").header(json_type.0, json_type.1).body("{\"prompt\":");
    let (status, error) = refusal(broken.send().await.unwrap()).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_json")));

    let trailing = post("/generate").header(json_type.0, json_type.1).body("{\"prompt\":\"a\"} x");
    let (status, error) = refusal(trailing.send().await.unwrap()).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_json")));

    for request in [post("/generate").body("{}"), post("/tokenize").header("content-type", "text/plain").body("{}")] {
        let (status, error) = refusal(request.send().await.unwrap()).await;
        assert_eq!((status, &error["code"]), (415, &json!("unsupported_media_type")));
    }

    let large = json!({"text": "x".repeat(options().max_body_bytes)});
    let (status, error) = refusal(server.post("/tokenize", &large).await).await;
    assert_eq!((status, &error["code"]), (413, &json!("payload_too_large")));

    let (status, error) = refusal(server.post("/detokenize", &json!({"ids": [1, 100_281]})).await).await;
    assert_eq!((status, &error["param"]), (422, &json!("ids[1]")));
}

#[tokio::test]
async fn the_callers_request_id_comes_back() {
    let server = Server::start(options(), Script::default()).await;
    for path in ["/health/live", "/nothing"] {
        let request = server.client.get(format!("{}{path}", server.url)).header("x-request-id", "mine-1");
        assert_eq!(request.send().await.unwrap().headers()["x-request-id"], "mine-1");
    }
    let response = server.get("/health/live").await;
    assert_eq!(response.headers()["x-request-id"].len(), 32);
}

#[tokio::test]
async fn a_generation_that_can_never_fit_is_refused_at_once() {
    let script = Script::default();
    script.pages.store(4, SeqCst);
    let server = Server::start(options(), script).await;
    let (status, error) = refusal(server.generate(json!({"prompt": "a", "max_new_tokens": 32})).await).await;
    assert_eq!((status, &error["param"]), (422, &json!("max_new_tokens")));
    assert_eq!(server.generate(json!({"prompt": "a", "max_new_tokens": 31})).await.status(), 200);
}
