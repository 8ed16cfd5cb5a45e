//! Steering over HTTP, with the recorded model.

use std::sync::Arc;

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use steerling::Catalog;
use steerling::catalog::Filter;
use steerling_server::config::ServiceOptions;

use crate::support::{Events, Server, golden, nano_catalog, options, refusal};

/// Ids of concepts that may be steered, known ones.
fn steerable(catalog: &Catalog, n: usize) -> Vec<u32> {
    let found: Vec<u32> = catalog.list(Filter::REFERENCE, 0, n).items.iter().map(|concept| concept.id).collect();
    assert_eq!(found.len(), n);
    found
}

/// The recorded model with other labels: concepts 1 and 2 have the same name, 3 may not be steered.
fn labelled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden("nano").join(name), directory.path().join(name)).unwrap();
    }
    let schema = "message labels { required int64 concept_id; required binary concept_name (UTF8);
        required binary head (UTF8); required boolean is_steerable; }";
    let file = std::fs::File::create(directory.path().join("concept_labels.parquet")).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    fn write<T: DataType>(group: &mut SerializedRowGroupWriter<'_, std::fs::File>, values: &[T::T]) {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<T>().write_batch(values, None, None).unwrap();
        column.close().unwrap();
    }
    write::<Int64Type>(&mut group, &[1, 2, 3, 4]);
    write::<ByteArrayType>(&mut group, &["twin", "twin", "fixed", "free"].map(ByteArray::from));
    write::<ByteArrayType>(&mut group, &["known"; 4].map(ByteArray::from));
    write::<BoolType>(&mut group, &[true, true, false, true]);
    group.close().unwrap();
    writer.close().unwrap();
    directory
}

fn body(steering: Value) -> Value {
    json!({"prompt": [261, 3, 182, 362], "max_new_tokens": 24, "seed": 7, "steering": steering})
}

async fn answer(server: &Server, path: &str, body: &Value) -> Value {
    let response = server.post(path, body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body} {answer}");
    answer
}

#[tokio::test]
async fn all_runs_of_a_request_are_answered_with_what_steering_did() {
    let server = Server::nano(options()).await;
    let catalog = nano_catalog();
    let concept = steerable(&catalog, 1)[0];
    let mut request = body(json!({"amplify": [{"concept": concept, "target": 30.0, "cutoff_tokens": 24}]}));
    request["compare"] = json!(true);
    request["controls"] = json!({"random_concepts": 2});
    request["sweep"] = json!([0.0, 1.0]);
    let all = answer(&server, "/steer", &request).await;

    // Each run is what /generate makes of the same request.
    let steered = answer(&server, "/generate", &body(request["steering"].clone())).await;
    let default = answer(&server, "/generate", &body(Value::Null)).await;
    assert_eq!(all["steered"]["token_ids"], steered["token_ids"]);
    assert_eq!(all["default"]["token_ids"], default["token_ids"]);
    assert_ne!(steered["token_ids"], default["token_ids"]);
    assert_eq!(all["sweep"][0]["multiplier"], json!(0.0));
    assert_eq!(all["sweep"][0]["result"]["token_ids"], default["token_ids"], "strength zero is no steering");
    assert_eq!(all["sweep"][1]["result"]["token_ids"], steered["token_ids"]);

    let controls = all["controls"].as_array().unwrap();
    let drawn: Vec<u64> = controls.iter().map(|run| run["concept"]["id"].as_u64().unwrap()).collect();
    assert!(drawn.len() == 2 && drawn[0] != drawn[1] && !drawn.contains(&u64::from(concept)), "{drawn:?}");
    assert!(controls.iter().all(|run| run["concept"]["flags"]["steerable"] == json!(true)));
    let again = answer(&server, "/steer", &request).await;
    assert_eq!(again["controls"][1]["concept"], controls[1]["concept"], "controls follow from the seed");

    let injection = &all["resolved"]["injections"][0];
    assert_eq!(injection["concepts"][0]["id"], json!(concept));
    assert_eq!(injection["schedule"], json!({"type": "hard_cutoff", "tokens": 24}));
    let (alpha, peak) = (injection["alpha"].as_f64().unwrap(), injection["peak"].as_f64().unwrap());
    assert!((alpha * peak - 30.0).abs() < 1e-3, "{injection}");
    let top = injection["top_tokens"].as_array().unwrap();
    assert_eq!(top.len(), 10);
    assert!((top[0]["alignment"].as_f64().unwrap() - peak).abs() < 1e-4, "{injection}");

    let effect = &all["effect"];
    let rate = |run: &str| effect["top_token_rate"][run].as_f64().unwrap();
    assert!(rate("steered") > rate("default"), "{effect}");
    assert!(effect["changed_fraction"].as_f64().unwrap() > 0.0, "{effect}");
    for run in ["default", "steered", "controls"] {
        assert!((0.0..=1.0).contains(&effect["concept_weight_mean"][run].as_f64().unwrap()), "{effect}");
        assert!((0.0..=1.0).contains(&effect["distinct_2"][run].as_f64().unwrap()), "{effect}");
    }
}

#[tokio::test]
async fn every_kind_of_steering_and_of_reference_is_understood() {
    let server = Server::nano(options()).await;
    let catalog = nano_catalog();
    let ids = steerable(&catalog, 4);
    let unique = catalog.iter().find(|c| c.flags.steerable && catalog.named(c.name).count() == 1).unwrap();
    let unknown = catalog.unknown(3).unwrap();
    let all = answer(
        &server,
        "/steer",
        &body(json!({
            "amplify": [{"concept": {"name": unique.name}}],
            "suppress": [{"concept": ids[0], "strength": 5.0}],
            "inject": [{"concepts": [ids[1], {"unknown": 3}], "target": 2.0, "normalize": false, "inject_layer": 3,
                "schedule": {"type": "linear_decay", "tokens": 12}}],
            "suppress_logits": [{"concept": ids[2], "strength": 3.0}],
            "set_weights": [{"concept": {"search": "name"}, "weight": 0.5, "epsilon": "drop"}],
            "force": true,
        })),
    )
    .await;
    let resolved = &all["resolved"];
    assert_eq!(resolved["injections"][0]["concepts"][0]["id"], json!(unique.id));
    // The preset's quarter and half of three layers.
    assert_eq!(resolved["injections"][0]["inject_layer"], json!(1));
    assert_eq!(resolved["injections"][1]["inject_layer"], json!(1));
    assert_eq!(resolved["injections"][1]["alpha"], json!(-7.0));
    let group: Vec<Value> = catalog.group(ids[0]).into_iter().map(Value::from).collect();
    let suppressed = resolved["injections"][1]["concepts"].as_array().unwrap();
    assert!(suppressed.iter().map(|concept| &concept["id"]).eq(&group), "{suppressed:?}");
    assert_eq!(resolved["injections"][2]["concepts"][1]["id"], json!(unknown.id));
    assert_eq!(resolved["injections"][2]["alpha"], json!(2.0));
    assert_eq!(resolved["suppress_logits"][0]["strength"], json!(5.0));
    assert_eq!(resolved["suppress_logits"][1]["concept"]["id"], json!(ids[2]));
    assert_eq!(resolved["set_weights"][0]["epsilon"], json!("drop"));
    assert_eq!(all["default"], Value::Null);
    assert_eq!(all["effect"]["changed_fraction"], Value::Null);
}

#[tokio::test]
async fn a_stream_names_the_lane_of_every_event_and_ends_with_a_summary() {
    let server = Server::nano(options()).await;
    let concept = steerable(&nano_catalog(), 1)[0];
    let mut request = body(json!({"amplify": [{"concept": concept}]}));
    request["compare"] = json!(true);
    let whole = answer(&server, "/steer", &request).await;
    request["stream"] = json!(true);
    let events = Events::new(server.post("/steer", &request).await).rest().await;
    for (lane, result) in [("steered", &whole["steered"]), ("default", &whole["default"])] {
        let own: Vec<_> = events.iter().filter(|event| event.data["lane"] == json!(lane)).collect();
        assert_eq!(own[0].name, "start");
        assert_eq!(own.iter().filter(|event| event.name == "done").count(), 1);
        assert_eq!(own.last().unwrap().data["text"], result["text"]);
        let deltas: String = own.iter().filter_map(|event| event.data["delta"].as_str()).collect();
        assert_eq!(json!(deltas), result["text"]);
    }
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["lane"]), ("summary", &Value::Null));
    assert_eq!(last.data["effect"], whole["effect"]);
    assert_eq!(last.data["resolved"], whole["resolved"]);
    assert!(events.iter().enumerate().all(|(i, event)| event.id == i as u64 && event.data.get("lane").is_some()));
}

#[tokio::test]
async fn bad_steering_is_refused_by_field_before_the_stream_begins() {
    let directory = labelled();
    let server = Server::with_model(directory.path().to_owned(), options()).await;
    let (id, fixed, n) = (4, 3, nano_catalog().len());
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"amplify": [{"concept": n}]}), "unknown_concept", "steering.amplify[0].concept"),
        (json!({"amplify": [{"concept": {"unknown": n}}]}), "unknown_concept", "steering.amplify[0].concept"),
        (json!({"suppress": [{"concept": {"name": "no such"}}]}), "unknown_concept", "steering.suppress[0].concept"),
        (json!({"amplify": [{"concept": {"search": "zzz"}}]}), "unknown_concept", "steering.amplify[0].concept"),
        (json!({"amplify": [{"concept": {"name": "twin"}}]}), "ambiguous_concept", "steering.amplify[0].concept"),
        (json!({"amplify": [{"concept": fixed}]}), "not_steerable", "steering.amplify[0].concept"),
        (
            json!({"inject": [{"concepts": [id, fixed], "target": 1}]}),
            "not_steerable",
            "steering.inject[0].concepts[1]",
        ),
        (json!({"amplify": [{"concept": id, "target": 1e39}]}), "invalid_request", "steering.amplify[0].target"),
        (json!({"suppress": [{"concept": id, "strength": 1e39}]}), "invalid_request", "steering.suppress[0].strength"),
        (
            json!({"suppress_logits": [{"concept": id, "strength": -1e300}]}),
            "invalid_request",
            "steering.suppress_logits[0].strength",
        ),
        (
            json!({"set_weights": [{"concept": id, "weight": 1e39}]}),
            "invalid_request",
            "steering.set_weights[0].weight",
        ),
        (
            json!({"set_weights": [{"concept": id, "weight": 1}, {"concept": id, "weight": 0}]}),
            "invalid_request",
            "steering.set_weights[1].concept",
        ),
        (
            json!({"set_weights": [{"concept": id, "weight": 1, "epsilon": "x"}]}),
            "invalid_request",
            "steering.set_weights[0].epsilon",
        ),
        (
            json!({"amplify": [{"concept": id, "inject_layer": 4}]}),
            "invalid_request",
            "steering.amplify[0].inject_layer",
        ),
        (json!({"inject": [{"concepts": [], "target": 1}]}), "invalid_request", "steering.inject[0].concepts"),
        (json!({"amplify": [{"concept": {"head": "known"}}]}), "invalid_request", "steering.amplify[0].concept.head"),
        (json!({"amplify": [{"concept": id, "strength": 1}]}), "invalid_request", "steering.amplify[0].strength"),
        (json!({}), "invalid_request", "steering"),
    ];
    for (steering, code, param) in cases {
        for path in ["/steer", "/generate", "/attribute"] {
            let mut request = body(steering.clone());
            request["stream"] = json!(true);
            let (status, error) = refusal(server.post(path, &request).await).await;
            assert_eq!((status, &error["code"]), (422, &json!(code)), "{path} {steering} {error}");
            let found = error["param"].as_str().unwrap();
            // The paths of fields that are unknown or of the wrong type come from the parser.
            assert!(found == param || param.starts_with(found), "{path} {steering} {error}");
            if code == "ambiguous_concept" {
                let listed = error["details"]["candidates"].as_array().unwrap();
                assert!(listed.iter().map(|concept| &concept["id"]).eq(&[json!(1), json!(2)]), "{listed:?}");
            }
        }
    }
    // Only two known concepts besides the named one may be steered.
    let mut request = body(json!({"amplify": [{"concept": id}]}));
    request["controls"] = json!({"random_concepts": 3});
    let (status, error) = refusal(server.post("/steer", &request).await).await;
    assert_eq!((status, &error["param"]), (422, &json!("controls.random_concepts")));
    let mut forced = body(json!({"amplify": [{"concept": fixed}]}));
    forced["steering"]["force"] = json!(true);
    assert_eq!(server.post("/generate", &forced).await.status(), 200);
}

#[tokio::test]
async fn bad_runs_are_refused_by_field() {
    let server = Server::nano(options()).await;
    let id = steerable(&nano_catalog(), 1)[0];
    let cases = [
        (json!({"controls": {"random_concepts": 9}}), "controls.random_concepts"),
        (json!({"controls": {"random": 1}}), "controls.random"),
        (json!({"sweep": [1, 1, 1, 1, 1, 1, 1, 1, 1]}), "sweep"),
        (json!({"sweep": [1, 1e39]}), "sweep[1]"),
        (json!({"compare": "yes"}), "compare"),
        (json!({"max_new_tokens": 0}), "max_new_tokens"),
        (json!({"max_new_tokens": "x"}), "max_new_tokens"),
        (json!({"lanes": 1}), "lanes"),
        (json!({"steering": null}), "steering"),
    ];
    for (fields, param) in cases {
        let mut request = body(json!({"amplify": [{"concept": id}]}));
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (status, error) = refusal(server.post("/steer", &request).await).await;
        assert_eq!((status, &error["param"]), (422, &json!(param)), "{fields} {error}");
    }
}

#[tokio::test]
async fn a_request_takes_a_place_for_every_run_or_is_refused() {
    let server = Server::nano(options()).await;
    let id = steerable(&nano_catalog(), 1)[0];
    let mut request = body(json!({"amplify": [{"concept": id}]}));
    // Eight places, four running and four waiting.
    request["sweep"] = json!([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]);
    let all = answer(&server, "/steer", &request).await;
    assert_eq!(all["sweep"].as_array().unwrap().len(), 7);
    request["compare"] = json!(true);
    let response = server.post("/steer", &request).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(refusal(response).await.0, 429);
    server.until_load((0, 0)).await;
}

#[tokio::test]
async fn a_checkpoint_without_heads_refuses_to_steer_or_to_attribute_to_concepts() {
    let directory = tempfile::tempdir().unwrap();
    for (from, name) in
        [("variants/plain", "config.json"), ("variants/plain", "model.safetensors"), ("nano", "tokenizer.json")]
    {
        std::fs::copy(golden(from).join(name), directory.path().join(name)).unwrap();
    }
    let server = Server::with_model(directory.path().to_owned(), options()).await;
    let steered = body(json!({"amplify": [{"concept": 1}]}));
    for path in ["/generate", "/steer", "/attribute"] {
        let (status, error) = refusal(server.post(path, &steered).await).await;
        assert_eq!((status, &error["code"]), (501, &json!("unsupported")), "{path} {error}");
    }
    let attributed = json!({"prompt": [1, 2], "max_new_tokens": 4, "attribution": {}});
    assert_eq!(refusal(server.generate(attributed).await).await.0, 501);
    // Inputs are attributed without concepts.
    let inputs = json!({"prompt": [1, 2], "max_new_tokens": 4, "concepts": null, "inputs": {"method": "occlusion"}});
    let explained = answer(&server, "/attribute", &inputs).await;
    assert_eq!(explained["inputs"]["targets"].as_array().unwrap().len(), 4);
    assert_eq!(explained["tokens"], Value::Null);
}

#[tokio::test]
async fn injections_that_change_with_every_token_keep_steps_within_the_rows_that_are_allowed() {
    let server = Server::nano(ServiceOptions { max_rows: 64, max_batch: 8, max_queue: 8, ..options() }).await;
    let body = |n: u64| {
        let prompt: Vec<u64> = (0..60 + 11 * n).map(|i| (i * 13 + n) % 500).collect();
        let injection = json!({"concepts": [5], "target": 2.0, "schedule": {"type": "linear_decay", "tokens": 20}});
        json!({"prompt": prompt, "max_new_tokens": 20, "seed": n, "cfg_scale": 0.7,
            "steering": {"inject": [injection], "force": true}})
    };
    let text = async |n: u64| answer(&server, "/generate", &body(n)).await["text"].clone();
    let together = futures::future::join_all((0..12).map(&text)).await;
    let series = |le: &str| format!("steerling_step_rows_bucket{{le=\"{le}\"}}");
    assert_eq!(server.metric(&series("64")).await, server.metric("steerling_step_rows_count").await);
    for n in [0, 7] {
        assert_eq!(text(n).await, together[n as usize], "request {n} alone");
    }
    let large = json!({"prompt": [1, 2, 3], "max_new_tokens": 40, "cfg_scale": 0.7});
    assert_eq!(server.generate(large.clone()).await.status(), 200);
    let server = Server::nano(ServiceOptions { max_rows: 63, ..options() }).await;
    assert_eq!(server.generate(large).await.status(), 422);
}
