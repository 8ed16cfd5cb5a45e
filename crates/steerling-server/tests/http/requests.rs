//! What requests may say in more than one way, and which parameters are told to have had no effect.

use serde_json::{Value, json};

use crate::openai::demo;
use crate::support::{CONTEXT, Script, Server, options};

async fn ok(response: reqwest::Response) -> Value {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

async fn send(server: &Server, path: &str, body: &[u8]) -> (u16, Value) {
    let request = server.client.post(format!("{}{path}", server.url)).header("content-type", "application/json");
    let response = request.body(body.to_vec()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_body_may_begin_with_a_byte_order_mark_and_has_every_key_once() {
    let server = Server::start(options(), Script::default()).await;
    for (path, body) in [
        ("/generate", r#"{"prompt": "a", "max_new_tokens": 1}"#),
        ("/tokenize", r#"{"text": "a"}"#),
        ("/v1/completions", r#"{"model": "fake", "prompt": "a", "max_tokens": 1}"#),
    ] {
        let marked = [b"\xef\xbb\xbf", body.as_bytes()].concat();
        assert_eq!(send(&server, path, &marked).await.0, 200, "{path}");
    }
    for (path, body, param) in [
        ("/generate", r#"{"prompt": "a", "seed": 1, "seed": 1}"#, "seed"),
        ("/generate", r#"{"prompt": "a", "decoding": {"method": "factor", "method": "factor"}}"#, "decoding.method"),
        (
            "/steer",
            r#"{"steering": {"amplify": [{"concept": {"name": "a", "name": "b"}}]}}"#,
            "steering.amplify[0].concept.name",
        ),
        ("/v1/completions", r#"{"model": "fake", "prompt": "a", "prompt": "b"}"#, "prompt"),
        ("/v1/chat/completions", r#"{"messages": [{"role": "user", "role": "user"}]}"#, "messages[0].role"),
    ] {
        let (status, error) = send(&server, path, body.as_bytes()).await;
        let key = param.rsplit('.').next().unwrap();
        assert_eq!(
            (status, &error["error"]["param"]),
            (if path.starts_with("/v1") { 400 } else { 422 }, &json!(param))
        );
        assert!(
            error["error"]["message"].as_str().unwrap().contains(&format!("the key `{key}` is given more than once"))
        );
    }
}

#[tokio::test]
async fn a_seed_may_have_a_sign_and_what_is_returned_gives_the_text_again() {
    let (server, _dir) = demo(false).await;
    let native = |seed: Value| json!({"prompt": "The chef stirred the", "max_new_tokens": 6, "seed": seed});
    for (seed, unsigned) in
        [(json!(-1), u64::MAX), (json!(i64::MIN), 1 << 63), (json!(-123_456_789), (-123_456_789i64) as u64)]
    {
        let result = ok(server.generate(native(seed.clone())).await).await;
        assert_eq!(result["seed"], seed);
        for again in [result["seed"].clone(), json!(unsigned)] {
            assert_eq!(ok(server.generate(native(again)).await).await["text"], result["text"]);
        }
        let body =
            json!({"model": "steerling", "prompt": "The chef stirred the", "max_tokens": 6, "seed": seed, "n": 2});
        let answer = ok(server.post("/v1/completions", &body).await).await;
        let choices = &answer["choices"];
        assert_eq!((&answer["steerling"]["seed"], &choices[0]["text"]), (&seed, &result["text"]));
        let next = ok(server.generate(native(choices[1]["steerling"]["seed"].clone())).await).await;
        assert_eq!(next["text"], choices[1]["text"]);
        let score = |seed: Value| {
            json!({"method": "monte_carlo", "samples": 4, "seed": seed,
            "items": [{"context": "The chef", "continuation": " stirred the soup"}]})
        };
        let first = ok(server.post("/score", &score(seed)).await).await;
        assert_eq!(first["results"], ok(server.post("/score", &score(json!(unsigned))).await).await["results"]);
        for (path, more, seed_of) in [
            ("/steer", json!({"steering": {"amplify": [{"concept": 0}]}}), "/steered/seed"),
            ("/attribute", json!({}), "/seed"),
        ] {
            let mut body = native(json!(-1));
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(ok(server.post(path, &body).await).await.pointer(seed_of), Some(&json!(-1)), "{path}");
        }
    }
    for (number, why) in [
        ("18446744073709551616", "above the maximum"),
        ("-9223372036854775809", "below the minimum"),
        ("1e300", "above the maximum"),
        ("0.5", "is not an integer"),
        ("\"7\"", "expected an integer"),
    ] {
        let body = format!(r#"{{"prompt": "a", "seed": {number}}}"#);
        let (status, error) = send(&server, "/generate", body.as_bytes()).await;
        assert_eq!((status, &error["error"]["param"]), (422, &json!("seed")));
        assert!(error["error"]["message"].as_str().unwrap().contains(why), "{number} {error}");
    }
}

#[tokio::test]
async fn under_v1_a_context_that_is_too_short_is_told_in_the_words_that_clients_look_for() {
    let server = Server::start(options(), Script::default()).await;
    let long = vec![5; CONTEXT + 6];
    for (path, body, figures) in [
        (
            "/v1/completions",
            json!({"prompt": long, "max_tokens": 4}),
            format!("{} tokens ({} in the prompt, 4 to generate)", CONTEXT + 10, CONTEXT + 6),
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "max_tokens": CONTEXT}),
            format!("{} tokens (1 in the prompt", CONTEXT + 1),
        ),
        (
            "/v1/completions",
            json!({"prompt": long, "max_tokens": 0, "echo": true}),
            format!("your input has {} tokens", CONTEXT + 6),
        ),
        ("/v1/embeddings", json!({"input": long}), format!("your input has {} tokens", CONTEXT + 6)),
    ] {
        let mut body = body;
        body["model"] = json!("fake");
        let (status, error) = send(&server, path, body.to_string().as_bytes()).await;
        let (error, message) = (&error["error"], error["error"]["message"].as_str().unwrap());
        assert_eq!(
            (status, &error["code"], &error["type"]),
            (400, &json!("context_length_exceeded"), &json!("invalid_request_error"))
        );
        assert!(
            message.starts_with(&format!("This model's maximum context length is {CONTEXT} tokens. However, ")),
            "{message}"
        );
        assert!(message.contains(&figures), "{message}");
    }
    let (server, _dir) = demo(true).await;
    let messages = json!([{"role": "user", "content": "soup ".repeat(900)}]);
    let body = json!({"model": "steerling", "messages": messages});
    let (status, error) = send(&server, "/v1/chat/completions", body.to_string().as_bytes()).await;
    let message = error["error"]["message"].as_str().unwrap();
    assert_eq!((status, &error["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert!(message.starts_with("This model's maximum context length is 512 tokens. However, "), "{message}");
}

#[tokio::test]
async fn a_slip_below_the_top_and_a_field_of_another_level_are_found() {
    let server = Server::start(options(), Script::default()).await;
    for (path, body, param, near) in [
        ("/v1/completions", json!({"temprature": 1}), "temprature", "temperature"),
        ("/v1/chat/completions", json!({"max_token": 1}), "max_token", "max_tokens"),
        ("/steer", json!({"contrls": {}}), "contrls", "controls"),
        ("/steer", json!({"steering": {"amplfy": []}}), "steering.amplfy", "amplify"),
        ("/attribute", json!({"inputs": {"methd": "occlusion"}}), "inputs.methd", "method"),
        ("/generate", json!({"max_tokens": 1}), "max_tokens", "max_new_tokens"),
        ("/generate", json!({"topP": 1}), "topP", "top_p"),
        ("/attribute", json!({"concept": {}}), "concept", "concepts"),
        ("/generate", json!({"top_known": 1}), "top_known", "attribution.top_known"),
        ("/steer", json!({"cutoff_tokens": 1}), "cutoff_tokens", "steering.amplify[].cutoff_tokens"),
        ("/generate", json!({"decoding": {"method": "factr", "factor": 1}}), "decoding.method", "factor"),
        ("/embed", json!({"pooling": "lst", "inputs": "a"}), "pooling", "last"),
    ] {
        let (_, error) = send(&server, path, body.to_string().as_bytes()).await;
        let error = &error["error"];
        assert_eq!(error["param"], json!(param), "{error}");
        assert!(error["message"].as_str().unwrap().ends_with(&format!("did you mean `{near}`?")), "{error}");
    }
}

#[tokio::test]
async fn parameters_of_queries_are_read_as_those_of_bodies() {
    let (server, _dir) = demo(false).await;
    let same = ok(server.get("/concepts?limit=2&offset=1").await).await;
    assert_eq!(ok(server.get("/concepts?limit=2.0&offset=1e0").await).await, same);
    for (query, param, part) in [
        ("limt=2", "limt", "did you mean `limit`?"),
        ("limit=2.5", "limit", "2.5 is not an integer"),
        ("limit=x", "limit", "expected an integer"),
        ("limit=18446744073709551616", "limit", "is outside 1..=1000"),
        ("head=knwn", "head", "did you mean `known`?"),
        ("flag=x", "flag", "`steerable`, `tone`"),
    ] {
        let response = server.get(&format!("/concepts?{query}")).await;
        assert_eq!(response.status(), 422);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], json!(param));
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{error}");
    }
}

/// A request and the warnings that belong to it, by how they begin; none for a request without any.
fn unheeded() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let greedy = json!({"use_entropy_sampling": false, "temperature": 0});
    let with = |base: &Value, more: Value| {
        let mut base = base.clone();
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    let steering = |more: Value| json!({"steering": more});
    let item = |continuation: &str| json!([{"context": "The", "continuation": continuation}]);
    vec![
        ("/generate", json!({}), vec![]),
        ("/generate", json!({"temperature": 0.5}), vec!["`temperature`"]),
        ("/generate", json!({"stream_every": 3}), vec!["`stream_every`"]),
        ("/generate", json!({"eot": "reference"}), vec!["`eot`"]),
        ("/generate", with(&greedy, json!({"seed": null})), vec![]),
        ("/generate", with(&greedy, json!({"top_p": 0.5})), vec!["`top_p`", "`seed`"]),
        (
            "/generate",
            json!({"top_p": 0, "temperature": 1, "use_entropy_sampling": false}),
            vec!["`temperature`", "`seed`"],
        ),
        (
            "/generate",
            json!({"decoding": {"method": "threshold", "threshold": 1, "max_per_step": 2}}),
            vec!["`decoding.max_per_step`"],
        ),
        ("/generate", json!({"decoding": {"method": "threshold", "threshold": 0.9, "max_per_step": 2}}), vec![]),
        ("/generate", steering(json!({"amplify": [{"concept": 0}]})), vec![]),
        (
            "/generate",
            steering(json!({"amplify": [{"concept": 0, "target": 0, "cutoff_tokens": 0}]})),
            vec!["`steering.amplify[0].target`", "`steering.amplify[0].cutoff_tokens`"],
        ),
        (
            "/generate",
            steering(json!({"suppress": [{"concept": 0, "target": 0, "strength": 0}]})),
            vec!["`steering.suppress[0].target`", "`steering.suppress[0].strength`"],
        ),
        (
            "/generate",
            steering(
                json!({"inject": [{"concepts": [0], "target": 0, "schedule": {"type": "linear_decay", "tokens": 0}}]}),
            ),
            vec!["`steering.inject[0].target`", "`steering.inject[0].schedule.tokens`"],
        ),
        (
            "/generate",
            steering(json!({"suppress_logits": [{"concept": 0, "strength": -0.0}]})),
            vec!["`steering.suppress_logits[0].strength`"],
        ),
        (
            "/generate",
            steering(
                json!({"set_weights": [{"concept": 0, "weight": 0, "epsilon": "keep"}, {"concept": 1, "weight": 1, "epsilon": "drop"}]}),
            ),
            vec!["`steering.set_weights[0].epsilon`"],
        ),
        ("/generate", steering(json!({"amplify": [{"concept": 0}], "force": true})), vec!["`steering.force`"]),
        (
            "/generate",
            steering(json!({"amplify": [{"concept": {"unknown": 0}, "group": true}], "force": true})),
            vec!["`steering.amplify[0].group`"],
        ),
        (
            "/steer",
            with(
                &steering(json!({"amplify": [{"concept": 0, "target": 0}]})),
                json!({"controls": {"random_concepts": 0}}),
            ),
            vec!["`controls`", "`steering.amplify[0].target`"],
        ),
        (
            "/steer",
            with(&steering(json!({"suppress_logits": [{"concept": 0}]})), json!({"sweep": [2]})),
            vec!["`sweep`"],
        ),
        (
            "/steer",
            with(&greedy, json!({"steering": {"amplify": [{"concept": 0}]}, "controls": {"random_concepts": 1}})),
            vec![],
        ),
        (
            "/attribute",
            json!({"concepts": null, "chunks": false, "inputs": {"method": "occlusion", "positions": []}}),
            vec!["`chunks`", "`inputs.positions`"],
        ),
        (
            "/score",
            json!({"items": item(" chef"), "samples": 4, "batch": 2, "seed": 1}),
            vec!["`samples`", "`batch`", "`seed`"],
        ),
        (
            "/score",
            json!({"items": item(" chef"), "samples": 4, "batch": 2, "seed": 1, "method": "monte_carlo"}),
            vec![],
        ),
        ("/v1/completions", json!({"max_tokens": 2, "temperature": 0, "top_p": 0.5}), vec!["`top_p`", "`seed`"]),
        (
            "/v1/completions",
            json!({"max_tokens": 0, "echo": true, "temperature": 0, "stop": "x"}),
            vec!["`temperature`", "`seed`", "`stop`"],
        ),
    ]
}

#[tokio::test]
async fn every_parameter_without_effect_is_named_in_the_warnings() {
    let (server, _dir) = demo(false).await;
    for (path, fields, expected) in unheeded() {
        let mut body = match path {
            "/score" => json!({}),
            "/v1/completions" => json!({"model": "steerling", "prompt": "The", "seed": 1}),
            _ => json!({"prompt": "The", "max_new_tokens": 2, "seed": 1}),
        };
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = ok(server.post(path, &body).await).await;
        let place = match path {
            "/steer" => "/steered/warnings",
            "/v1/completions" => "/steerling/warnings",
            _ => "/warnings",
        };
        let warnings = answer.pointer(place).unwrap().as_array().unwrap();
        let named = |name: &&str| warnings.iter().any(|warning| warning.as_str().unwrap().starts_with(name));
        assert!(expected.iter().all(named) && warnings.len() == expected.len(), "{path} {body}: {warnings:?}");
    }
}

#[tokio::test]
async fn a_schedule_of_more_tokens_than_there_are_never_ends_and_a_stream_may_skip_all_but_final_blocks() {
    let (server, _dir) = demo(false).await;
    let text = async |cutoff: Value| {
        let steering = json!({"amplify": [{"concept": 0, "target": 40, "cutoff_tokens": cutoff}]});
        let body = json!({"prompt": "The", "max_new_tokens": 12, "seed": 1, "steering": steering});
        ok(server.generate(body).await).await["text"].clone()
    };
    let (whole, none) = (text(json!(1000)).await, text(json!(0)).await);
    assert_ne!(whole, none);
    for tokens in [1u64 << 62, 1 << 63, u64::MAX] {
        assert_eq!(text(json!(tokens)).await, whole, "{tokens}");
    }
    for every in [1000u64, 1 << 63, u64::MAX] {
        let body = json!({"prompt": "The", "max_new_tokens": 12, "seed": 1, "stream": true, "stream_every": every});
        let events = server.generate(body).await.text().await.unwrap();
        let blocks: Vec<&str> = events.split("\n\n").filter(|event| event.starts_with("event: block")).collect();
        assert!(
            !blocks.is_empty() && blocks.iter().all(|block| block.contains(r#""final":true"#)),
            "{every}: {blocks:?}"
        );
    }
}
