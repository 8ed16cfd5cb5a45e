//! Attribution over HTTP, with the recorded model.

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use steerling::attribute::inputs::{GradientBudget, GradientShare};
use steerling::backbone::Compute;
use steerling::{Config, DeviceChoice, ModelSource, Runtime, RuntimeOptions};
use steerling_server::engine::Loaded;

use crate::examples::demo;
use crate::support::{Events, Server, golden, options, refusal};

fn body(fields: Value) -> Value {
    let mut body = json!({"prompt": [261, 3, 182, 362, 119], "max_new_tokens": 20, "seed": 3});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

async fn answer(server: &Server, path: &str, body: &Value) -> Value {
    let response = server.post(path, body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body} {answer}");
    answer
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[tokio::test]
async fn every_token_is_explained_and_the_parts_add_up() {
    let server = Server::nano(options()).await;
    let all = answer(&server, "/attribute", &body(json!({"concepts": {"top_known": 3, "top_unknown": 2}}))).await;
    let tokens = all["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 20);
    for (i, token) in tokens.iter().enumerate() {
        assert_eq!(token["position"], json!(5 + i));
        let fractions = ["known", "unknown", "epsilon"].map(|part| number(&token["fractions"][part]));
        assert!((fractions.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{token}");
        let sum = ["known_total", "unknown_total", "epsilon"].map(|part| number(&token[part])).iter().sum::<f64>();
        assert!((sum - number(&token["target_logit"])).abs() < 1e-4, "{token}");
        let (known, unknown) = (token["known"].as_array().unwrap(), token["unknown"].as_array().unwrap());
        assert_eq!((known.len(), unknown.len()), (3, 2));
        assert!(known.is_sorted_by_key(|share| -number(&share["contribution"]).abs()), "{token}");
        assert!(known[0].get("index").is_none());
        assert!(unknown[0]["id"].as_u64().unwrap() > unknown[0]["index"].as_u64().unwrap());
    }
    assert_eq!(all["verify"]["passed"], json!(true), "{}", all["verify"]);
    assert_eq!(number(&all["verify"]["atol"]) as f32, 1e-4);
    let chunk = &all["chunks"][0];
    assert_eq!(chunk["concepts"].as_array().unwrap().len(), 5);
    assert!(number(&chunk["epsilon_abs"]) >= number(&chunk["epsilon_signed"]).abs());
    // The text is that of the same generation without attribution.
    let plain = answer(&server, "/generate", &body(json!({}))).await;
    assert_eq!(all["token_ids"], plain["token_ids"]);
    let asked = answer(&server, "/generate", &body(json!({"attribution": {"top_known": 3, "top_unknown": 2}}))).await;
    assert_eq!(asked["attribution"]["tokens"], all["tokens"]);
    assert_eq!(plain["attribution"], Value::Null);
}

#[tokio::test]
async fn a_trace_is_explained_as_its_generation_was_also_under_steering() {
    let server = Server::nano(options()).await;
    let steering = json!({"inject": [{"concepts": [5], "target": 6.0}], "force": true});
    let made = answer(&server, "/attribute", &body(json!({"steering": steering, "return_trace": true}))).await;
    let mut request = json!({"trace": made["trace"], "steering": steering});
    let again = answer(&server, "/attribute", &request).await;
    assert_eq!((&again["text"], &again["token_ids"]), (&made["text"], &made["token_ids"]));
    assert_eq!(again["seed"], Value::Null);
    for (a, b) in again["tokens"].as_array().unwrap().iter().zip(made["tokens"].as_array().unwrap()) {
        assert_eq!((&a["position"], &a["id"], &a["step"]), (&b["position"], &b["id"], &b["step"]));
        assert!((number(&a["target_logit"]) - number(&b["target_logit"])).abs() < 1e-4, "{a} {b}");
        assert!((number(&a["known_total"]) - number(&b["known_total"])).abs() < 1e-4, "{a} {b}");
        assert_eq!(a["decision_logit"], Value::Null);
    }
    assert_eq!(again["verify"]["passed"], json!(true));
    // As a stream, too.
    request["stream"] = json!(true);
    let events = Events::new(server.post("/attribute", &request).await).rest().await;
    assert_eq!(events.last().unwrap().data["tokens"], again["tokens"]);
    // Without its steering the logits are others.
    let (status, error) = refusal(server.post("/attribute", &json!({"trace": made["trace"]})).await).await;
    assert_eq!(status, 422);
    assert!(error["param"].as_str().unwrap().starts_with("trace.commits["), "{error}");
}

#[tokio::test]
async fn the_parts_add_up_and_a_replay_is_recognised_at_any_weight() {
    let server = demo().await;
    let mut largest: f64 = 0.0;
    for weights in [[100.0, 0.0], [100.0, -100.0], [-1e3, 1e3], [1e4, 1.0], [1e4, -1e4]] {
        let set = |name: &str, weight: f64, epsilon: &str| json!({"concept": {"name": name}, "weight": weight, "epsilon": epsilon});
        for epsilon in ["keep", "drop"] {
            let steering =
                json!({"set_weights": [set("Cooking", weights[0], epsilon), set("Space", weights[1], epsilon)]});
            let request = json!({"prompt": "The chef stirred the", "max_new_tokens": 8, "seed": 1, "steering": steering,
                "return_trace": true});
            let made = answer(&server, "/attribute", &request).await;
            let verify = &made["verify"];
            assert_eq!(verify["passed"], json!(true), "{steering} {verify}");
            largest = largest.max(number(&verify["max_abs_error"]));
            assert!((number(&verify["rtol"]) - 2f64.powi(-18)).abs() < 1e-9, "{verify}");
            let again = answer(&server, "/attribute", &json!({"trace": made["trace"], "steering": steering})).await;
            assert_eq!(again["token_ids"], made["token_ids"]);
            let mut other = steering;
            other["set_weights"][0]["weight"] = json!(weights[0] * 1.01);
            let (status, _) =
                refusal(server.post("/attribute", &json!({"trace": made["trace"], "steering": other})).await).await;
            assert_eq!(status, 422, "another weight is another steering");
        }
    }
    assert!(largest > 1e-4, "an absolute tolerance alone would do: {largest}");
}

#[tokio::test]
async fn a_stream_explains_the_tokens_of_each_step() {
    let server = Server::nano(options()).await;
    let request =
        body(json!({"steps": 10, "stream": true, "inputs": {"method": "input_x_gradient", "positions": [6]}}));
    let events = Events::new(server.post("/attribute", &request).await).rest().await;
    assert_eq!(events[0].name, "start");
    let mut explained = Vec::new();
    for pair in events[1..events.len() - 1].chunks(2) {
        assert_eq!((pair[0].name.as_str(), pair[1].name.as_str()), ("block", "attribution"));
        let positions = |list: &Value| -> Vec<Value> {
            list.as_array().unwrap().iter().map(|token| token["position"].clone()).collect()
        };
        assert_eq!(positions(&pair[0].data["commits"]), positions(&pair[1].data["tokens"]));
        explained.extend(pair[1].data["tokens"].as_array().unwrap().iter().cloned());
    }
    explained.sort_by_key(|token| token["position"].as_u64());
    let done = events.last().unwrap();
    assert_eq!(done.name, "done");
    assert_eq!(done.data["tokens"], json!(explained));
    assert_eq!(done.data["inputs"]["targets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn inputs_are_attributed_by_every_method() {
    let server = Server::nano(options()).await;
    for (inputs, limit) in [
        (json!({"method": "integrated_gradients", "n_steps": 64, "rule": "gauss_legendre", "positions": [6, 9]}), 0.05),
        (json!({"method": "integrated_gradients", "n_steps": 2, "positions": [6]}), f64::INFINITY),
        (json!({"method": "input_x_gradient", "positions": [6]}), f64::INFINITY),
        (json!({"method": "occlusion", "positions": [6]}), f64::INFINITY),
    ] {
        let all = answer(&server, "/attribute", &body(json!({"concepts": null, "inputs": inputs}))).await;
        let found = &all["inputs"];
        assert_eq!(found["method"], inputs["method"]);
        let positions: Vec<&Value> = found["targets"].as_array().unwrap().iter().map(|t| &t["position"]).collect();
        assert_eq!(positions.len(), inputs["positions"].as_array().unwrap().len());
        for target in found["targets"].as_array().unwrap() {
            // Blocks of 16 positions; all targets are in the first.
            assert_eq!(target["scores"].as_array().unwrap().len(), 16);
            let sum: f64 = target["scores"].as_array().unwrap().iter().map(number).sum();
            assert!((sum - number(&target["sum"])).abs() < 1e-3, "{target}");
            assert!(number(&target["completeness_error"]) <= limit, "{inputs} {target}");
        }
        let ranking = found["prompt_ranking"].as_array().unwrap();
        assert_eq!(ranking.len(), 5);
        assert!(ranking.is_sorted_by_key(|token| -number(&token["score"])), "{ranking:?}");
        assert_eq!(all["tokens"], Value::Null);
    }
}

#[tokio::test]
async fn tables_have_a_row_for_every_token_and_concept_or_target_and_input() {
    let server = Server::nano(options()).await;
    let concepts = json!({"concepts": {"top_known": 2, "top_unknown": 1}});
    let inputs = json!({"inputs": {"method": "occlusion", "positions": [6]}});
    for (fields, rows, first) in [(concepts, 60, "position"), (inputs, 16, "target_position")] {
        let mut request = body(fields);
        request["format"] = json!("csv");
        let response = server.post("/attribute", &request).await;
        assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
        assert!(response.headers()["content-disposition"].to_str().unwrap().contains("attribution.csv"));
        let text = response.text().await.unwrap();
        assert!(text.starts_with(&format!("{first},")), "{text}");
        assert_eq!(text.matches("\r\n").count(), rows + 1);
        request["format"] = json!("parquet");
        let response = server.post("/attribute", &request).await;
        assert_eq!(response.headers()["content-type"], "application/vnd.apache.parquet");
        let reader = SerializedFileReader::new(response.bytes().await.unwrap()).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows(), rows as i64);
        let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
        assert_eq!(row.get_column_iter().next().unwrap().0, first);
    }
}

#[tokio::test]
async fn a_wrong_field_is_refused_by_name() {
    let server = Server::nano(options()).await;
    let trace = |commits: Value| json!({"trace": {"prompt_ids": [1, 2], "seq_length": 6, "commits": commits}});
    let commit = |step: usize, position: usize, id: usize| json!({"step": step, "position": position, "id": id});
    let wrong_logit = json!([{"step": 0, "position": 2, "id": 5, "target_logit": 99.0}]);
    let cases: Vec<(Value, &str)> = vec![
        (body(json!({"concepts": {"top_known": 2000}})), "concepts.top_known"),
        (body(json!({"concepts": {"top": 2}})), "concepts.top"),
        (body(json!({"concepts": null})), "concepts"),
        (body(json!({"attribution": {}})), "attribution"),
        (body(json!({"chunks": 1})), "chunks"),
        (body(json!({"format": "xml"})), "format"),
        (body(json!({"format": "csv", "stream": true})), "format"),
        (body(json!({"inputs": {"method": "saliency"}})), "inputs.method"),
        (body(json!({"inputs": {"method": "occlusion", "n_steps": 3}})), "inputs.n_steps"),
        (body(json!({"inputs": {"method": "integrated_gradients", "n_steps": 0}})), "inputs.n_steps"),
        (body(json!({"inputs": {"method": "integrated_gradients", "n_steps": 513}})), "inputs.n_steps"),
        (body(json!({"inputs": {"method": "occlusion", "positions": [4]}})), "inputs.positions[0]"),
        (body(json!({"trace": {"prompt_ids": [1], "seq_length": 2, "commits": []}})), "prompt"),
        (trace(json!([commit(0, 2, 512)])), "trace.commits[0].id"),
        (trace(json!([commit(0, 1, 5)])), "trace.commits[0].position"),
        (trace(json!([commit(0, 6, 5)])), "trace.commits[0].position"),
        (trace(json!([commit(0, 2, 5), commit(1, 2, 5)])), "trace.commits[1].position"),
        (trace(json!([commit(1, 2, 5), commit(0, 3, 5)])), "trace.commits[1].step"),
        (trace(wrong_logit), "trace.commits[0].target_logit"),
        (json!({"trace": {"prompt_ids": [1, 512], "seq_length": 4, "commits": []}}), "trace.prompt_ids[1]"),
        (json!({"trace": {"prompt_ids": [1], "seq_length": 1, "commits": []}}), "trace.seq_length"),
        (json!({"trace": {"prompt_ids": [1], "seq_length": 9999, "commits": []}}), "max_new_tokens"),
    ];
    for (request, param) in cases {
        let mut request = request.clone();
        if request.get("format").is_none() {
            request["stream"] = json!(true);
        }
        let (status, error) = refusal(server.post("/attribute", &request).await).await;
        assert_eq!((status, &error["param"]), (422, &json!(param)), "{request} {error}");
    }
    for (path, field) in [("/attribute", "concepts"), ("/generate", "attribution")] {
        let mut request = body(json!({"cfg_scale": 1.5}));
        request[field] = json!({});
        let (status, error) = refusal(server.post(path, &request).await).await;
        assert_eq!((status, &error["code"], &error["param"]), (501, &json!("unsupported"), &json!(field)));
    }
}

#[tokio::test]
async fn gradients_that_do_not_fit_are_rejected_before_anything_is_computed() {
    // Enough for one attention block of 16 positions.
    let config = Config::from_dir(golden("nano")).unwrap();
    let budget = GradientBudget::new(0, &config, &Compute::cpu_f32());
    let bytes = budget.estimate(&config, 16, GradientShare { points: 1, targets: 1 }).bytes();
    let server = Server::start_model(options(), move || {
        let options = RuntimeOptions {
            kv_bytes: 32 << 20,
            gradient_bytes: Some(bytes),
            device: DeviceChoice::Cpu,
            ..RuntimeOptions::default()
        };
        Ok(Loaded::from(Runtime::load(&ModelSource::Directory(golden("nano")), &options, &mut |_, _| ())?))
    })
    .await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["limits"]["gradient_bytes"], json!(bytes));
    let inputs = |inputs: Value| body(json!({"concepts": null, "inputs": inputs}));
    for method in ["integrated_gradients", "input_x_gradient"] {
        let (status, error) = refusal(server.post("/attribute", &inputs(json!({"method": method}))).await).await;
        assert_eq!((status, &error["code"], &error["param"]), (422, &json!("invalid_request"), &json!("inputs")));
        let (needed, available) = (error["details"]["needed"].as_u64(), error["details"]["available"].as_u64());
        assert!(available == Some(bytes) && needed > available, "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("25 positions") && message.contains("`occlusion`"), "{message}");
    }
    assert_eq!(server.metric("steerling_tokens_committed_total").await, 0.0);
    // A target in the first attention block has no gradient behind it, and occlusion has none at all.
    let first = answer(&server, "/attribute", &inputs(json!({"method": "input_x_gradient", "positions": [6]}))).await;
    assert_eq!(first["inputs"]["targets"].as_array().unwrap().len(), 1);
    answer(&server, "/attribute", &inputs(json!({"method": "occlusion"}))).await;
    // A trace is held against the same limit.
    let traced = answer(&server, "/generate", &body(json!({"return_trace": true}))).await;
    let replay = json!({"trace": traced["trace"], "concepts": null, "inputs": {"method": "integrated_gradients"}});
    assert_eq!(refusal(server.post("/attribute", &replay).await).await.0, 422);
}
