//! What the operator has always steered or refused, and the log of it.

use std::path::Path;

use crate::examples::demo_with;
use crate::support::{Server, configured, golden, options, refusal};
use serde_json::{Value, json};
use steerling_server::ServeError;
use steerling_server::auth::new_key;
use steerling_server::config::{GuardOptions, ServiceOptions};

const SUPPRESS: &str = "[policies.quiet]\nsteering = { suppress = [{ concept = 7 }], force = true }\n";
const AMPLIFY: &str = "[policies.loud]\nsteering = { amplify = [{ concept = 9 }], force = true }\n";

fn by_default(policy: &str) -> GuardOptions {
    GuardOptions { policy: Some(policy.to_owned()), ..Default::default() }
}

fn body(more: Value) -> Value {
    let mut body = json!({"prompt": "261 3 44", "max_new_tokens": 24, "seed": 5});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn generate(server: &Server, more: Value) -> Value {
    let response = server.generate(body(more)).await;
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

#[tokio::test]
async fn policies_steer_every_generation_as_a_request_would_and_are_reported() {
    let plain = Server::nano(options()).await;
    let quiet = json!({"suppress": [{"concept": 7}], "force": true});
    let both = json!({"suppress": [{"concept": 7}], "amplify": [{"concept": 9}], "force": true});
    let unsteered = generate(&plain, json!({})).await;
    let wanted = generate(&plain, json!({"steering": quiet})).await;
    let wanted_both = generate(&plain, json!({"steering": both})).await;
    assert_eq!(unsteered["policies"], json!([]));
    assert_ne!(wanted["token_ids"], unsteered["token_ids"], "the test would show nothing");

    let server = Server::nano(configured(&[SUPPRESS, AMPLIFY].concat(), by_default("quiet"))).await;
    let governed = generate(&server, json!({})).await;
    assert_eq!((&governed["token_ids"], &governed["policies"]), (&wanted["token_ids"], &json!(["quiet"])));
    let governed = generate(&server, json!({"policy": "loud"})).await;
    assert_eq!((&governed["token_ids"], &governed["policies"]), (&wanted_both["token_ids"], &json!(["quiet", "loud"])));
    let governed = generate(&server, json!({"policy": "quiet"})).await;
    assert_eq!(governed["policies"], json!(["quiet"]), "once");

    let steer = body(json!({"compare": true, "steering": {"amplify": [{"concept": 9}], "force": true}}));
    let answer: Value = server.post("/steer", &steer).await.json().await.unwrap();
    assert_eq!(answer["default"]["token_ids"], wanted["token_ids"], "the run beside it is governed, too");
    assert_eq!(answer["resolved"]["injections"].as_array().unwrap().len(), 1, "the request's own");
    let answer: Value = server.post("/attribute", &body(json!({}))).await.json().await.unwrap();
    assert_eq!((&answer["token_ids"], &answer["policies"]), (&wanted["token_ids"], &json!(["quiet"])));
}

#[tokio::test]
async fn a_request_can_neither_undo_a_policy_nor_name_one_that_is_not_there() {
    let server = Server::nano(configured(SUPPRESS, by_default("quiet"))).await;
    let undo = json!({"stream": true, "steering": {"amplify": [{"concept": 7, "target": 20}], "force": true}});
    let (status, error) = refusal(server.generate(body(undo)).await).await;
    assert_eq!((status, &error["code"], &error["param"]), (422, &json!("refused_by_policy"), &json!("steering")));
    assert_eq!((&error["details"]["policy"], &error["details"]["concept"]), (&json!("quiet"), &json!(7)));
    let (status, error) = refusal(server.generate(body(json!({"policy": "none"}))).await).await;
    assert_eq!((status, &error["param"]), (422, &json!("policy")));
}

/// The ids of the group of "Pirate speech" in the demo model, which begin with its own.
async fn voices(server: &Server) -> Vec<u64> {
    let group: Value = server.get("/concepts/Pirate%20speech/group").await.json().await.unwrap();
    let ids: Vec<u64> = group["items"].as_array().unwrap().iter().map(|c| c["id"].as_u64().unwrap()).collect();
    assert!(ids.len() > 1, "{group}");
    ids
}

#[tokio::test]
async fn no_way_to_steer_reaches_a_concept_of_a_policy() {
    let toml = "[policies.p]\nsteering = { suppress = [{ concept = { name = 'Pirate speech' } }] }\n";
    let server = demo_with(configured(toml, by_default("p"))).await;
    let group = voices(&server).await;
    let free = json!({"name": "Space"});
    let mut ways = Vec::new();
    for governed in [group[0], group[1], *group.last().unwrap()] {
        ways.extend([
            json!({"amplify": [{"concept": governed}]}),
            json!({"amplify": [{"concept": free}, {"concept": governed, "target": 0}]}),
            json!({"suppress": [{"concept": governed, "group": false}]}),
            json!({"inject": [{"concepts": [governed], "target": 5}]}),
            json!({"inject": [{"concepts": [free, governed], "target": 5, "normalize": false}]}),
            json!({"suppress_logits": [{"concept": governed, "strength": -20}]}),
            json!({"set_weights": [{"concept": governed, "weight": 1}]}),
            json!({"set_weights": [{"concept": free, "weight": 1}, {"concept": governed, "weight": 0, "epsilon": "drop"}]}),
        ]);
    }
    for way in ways {
        let mut steering = way.clone();
        steering["force"] = json!(true);
        let mut body = body(json!({"steering": steering, "max_new_tokens": 2}));
        for path in ["/generate", "/attribute", "/steer"] {
            let (status, error) = refusal(server.post(path, &body).await).await;
            assert_eq!((status, &error["code"]), (422, &json!("refused_by_policy")), "{path} {way} {error}");
            assert!(group.contains(&error["details"]["concept"].as_u64().unwrap()), "{error}");
        }
        body["stream"] = json!(true);
        body["sweep"] = json!([0.0]);
        body["compare"] = json!(true);
        assert_eq!(refusal(server.post("/steer", &body).await).await.1["code"], "refused_by_policy");
        let openai = json!({"model": "steerling", "prompt": "261 3", "max_tokens": 2, "steering": steering});
        let answer: Value = server.post("/v1/completions", &openai).await.json().await.unwrap();
        assert_eq!(answer["error"]["code"], "refused_by_policy", "{way}");
    }
    let allowed = json!({"amplify": [{"concept": free}], "force": true});
    assert_eq!(generate(&server, json!({"steering": allowed})).await["policies"], json!(["p"]));
}

#[tokio::test]
async fn a_group_does_not_reach_a_concept_of_a_policy() {
    let toml = "[policies.p]\nsteering = { amplify = [{ concept = { name = 'Pirate speech' } }] }\n";
    let server = demo_with(configured(toml, by_default("p"))).await;
    let group = voices(&server).await;
    for (way, refused) in [
        (json!({"amplify": [{"concept": group[1], "group": true}]}), true),
        (json!({"suppress": [{"concept": group[1]}]}), true),
        (json!({"amplify": [{"concept": group[1]}]}), false),
        (json!({"suppress": [{"concept": group[1], "group": false}]}), false),
    ] {
        let mut steering = way.clone();
        steering["force"] = json!(true);
        let response = server.post("/steer", &body(json!({"steering": steering, "max_new_tokens": 2}))).await;
        assert_eq!(response.status(), if refused { 422 } else { 200 }, "{way}");
        if refused {
            assert_eq!(refusal(response).await.1["details"]["concept"], json!(group[0]));
        }
    }
}

#[tokio::test]
async fn no_control_is_a_concept_of_a_policy_whatever_the_seed() {
    let toml = "[policies.calm]\nsteering = { suppress = [{ concept = { name = 'Pirate speech' } }] }\n\
                [policies.sober]\nsteering = { set_weights = [{ concept = { name = 'Weather' }, weight = 0 }] }\n";
    let options = ServiceOptions { max_batch: 9, max_queue: 0, ..configured(toml, by_default("calm")) };
    let server = demo_with(options).await;
    let mut governed: Vec<Value> = voices(&server).await.into_iter().map(Value::from).collect();
    let weather: Value = server.get("/concepts/Weather").await.json().await.unwrap();
    governed.push(weather["id"].clone());
    let mut drawn = Vec::new();
    for seed in 0..40 {
        let steering = match seed % 3 {
            0 => json!({"amplify": [{"concept": {"name": "Space"}, "target": 30}]}),
            1 => json!({"amplify": [{"concept": {"name": "Space"}, "group": true}]}),
            _ => json!({"inject": [{"concepts": [{"name": "Space"}, {"name": "Cooking"}], "target": 3}]}),
        };
        let runs = if seed % 3 == 2 { 4 } else { 8 };
        let request = json!({"prompt": "The", "max_new_tokens": 1, "seed": seed, "steering": steering, "policy": "sober",
            "controls": {"random_concepts": runs}});
        let answer: Value = server.post("/steer", &request).await.json().await.unwrap();
        let controls = answer["controls"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(controls.len(), runs);
        let again: Value = server.post("/steer", &request).await.json().await.unwrap();
        for (control, again) in controls.iter().zip(again["controls"].as_array().unwrap()) {
            assert_eq!(control["concepts"], again["concepts"], "the same seed draws the same concepts");
            for concept in control["concepts"].as_array().unwrap() {
                let mut reached = vec![concept["id"].clone()];
                if seed % 3 == 1 {
                    let group = server.get(&format!("/concepts/{}/group", concept["id"])).await;
                    let group: Value = group.json().await.unwrap();
                    reached.extend(group["items"].as_array().unwrap().iter().map(|c| c["id"].clone()));
                }
                assert!(reached.iter().all(|id| !governed.contains(id)), "seed {seed}: {concept} {governed:?}");
                drawn.push(concept["id"].to_string());
            }
        }
    }
    drawn.sort();
    drawn.dedup();
    assert!(drawn.len() > 15, "most others are drawn at some time: {drawn:?}");
}

#[tokio::test]
async fn every_variant_has_the_steering_of_the_policy_and_its_own() {
    let toml = [SUPPRESS, AMPLIFY].concat();
    let options = ServiceOptions { max_batch: 8, ..configured(&toml, by_default("quiet")) };
    let server = Server::nano(options).await;
    let by = |concept: &Value, target: f64| json!({"amplify": [{"concept": concept, "target": target}], "force": true});
    let request = json!({"steering": by(&json!(21), 12.0), "compare": true, "controls": {"random_concepts": 2},
        "sweep": [0.5, -1.0, 0.0], "policy": "loud"});
    let all: Value = server.post("/steer", &body(request)).await.json().await.unwrap();
    let plain = generate(&server, json!({"policy": "loud"})).await;
    let mut variants = vec![(&all["steered"], by(&json!(21), 12.0)), (&all["default"], Value::Null)];
    for control in all["controls"].as_array().unwrap() {
        variants.push((&control["result"], by(&control["concept"]["id"], 12.0)));
    }
    for run in all["sweep"].as_array().unwrap() {
        variants.push((&run["result"], by(&json!(21), 12.0 * run["multiplier"].as_f64().unwrap())));
    }
    for (result, steering) in variants {
        let alone = generate(&server, json!({"steering": steering, "policy": "loud"})).await;
        assert_eq!(result["token_ids"], alone["token_ids"], "{steering}");
        assert_eq!(result["policies"], json!(["quiet", "loud"]));
    }
    assert_eq!(all["default"]["token_ids"], plain["token_ids"]);
    assert_eq!(all["sweep"][2]["result"]["token_ids"], plain["token_ids"], "a sweep scales the request's part alone");
}

#[tokio::test]
async fn a_policy_that_a_request_names_does_not_undo_that_of_the_configuration() {
    let weight =
        |weight: u32| format!("steering = {{ set_weights = [{{ concept = 7, weight = {weight} }}], force = true }}\n");
    let toml = format!("[policies.off]\n{}[policies.on]\n{}", weight(0), weight(50));
    let server = Server::nano(configured(&toml, by_default("off"))).await;
    let off = generate(&server, json!({})).await;
    let both = generate(&server, json!({"policy": "on"})).await;
    assert_eq!(both["policies"], json!(["off", "on"]));
    assert_eq!(both["token_ids"], off["token_ids"]);
    let other = Server::nano(configured(&toml, by_default("on"))).await;
    assert_ne!(generate(&other, json!({})).await["token_ids"], off["token_ids"], "the test would show nothing");
}

#[tokio::test]
async fn a_trace_is_replayed_under_the_policies_of_its_generation_and_steers_none_of_their_concepts() {
    let server = Server::nano(configured(&[SUPPRESS, AMPLIFY].concat(), by_default("quiet"))).await;
    let steering = json!({"amplify": [{"concept": 21, "target": 12}], "force": true});
    for (more, policies) in
        [(json!({}), json!(["quiet"])), (json!({"policy": "loud", "steering": steering}), json!(["quiet", "loud"]))]
    {
        let mut asked = more.clone();
        asked["return_trace"] = json!(true);
        let made: Value = server.post("/attribute", &body(asked)).await.json().await.unwrap();
        assert_eq!((&made["policies"], &made["trace"]["policies"]), (&policies, &policies));
        let replay = json!({"trace": made["trace"], "steering": more["steering"]});
        let again: Value = server.post("/attribute", &replay).await.json().await.unwrap();
        assert_eq!((&again["token_ids"], &again["policies"]), (&made["token_ids"], &policies), "{again}");
        assert_eq!(again["verify"]["passed"], json!(true));
        // Without them the logits are others.
        let mut without = replay.clone();
        without["trace"]["policies"] = json!([]);
        let (status, error) = refusal(server.post("/attribute", &without).await).await;
        assert_eq!(status, 422);
        assert!(error["param"].as_str().unwrap().ends_with(".target_logit"), "{error}");
        for governed in [json!({"amplify": [{"concept": 7}]}), json!({"set_weights": [{"concept": 7, "weight": 0}]})] {
            let mut steering = governed;
            steering["force"] = json!(true);
            for trace in [&made["trace"], &without["trace"]] {
                let replay = json!({"trace": trace, "steering": steering});
                let (status, error) = refusal(server.post("/attribute", &replay).await).await;
                assert_eq!((status, &error["code"]), (422, &json!("refused_by_policy")), "{error}");
            }
        }
    }
    let trace =
        |policies: Value| json!({"trace": {"prompt_ids": [1], "seq_length": 2, "commits": [], "policies": policies}});
    for (policies, param) in [(json!(["no"]), "trace.policies[0]"), (json!(["loud", "loud"]), "trace.policies[1]")] {
        let (status, error) = refusal(server.post("/attribute", &trace(policies)).await).await;
        assert_eq!((status, &error["param"]), (422, &json!(param)), "{error}");
    }
}

#[tokio::test]
async fn a_prompt_that_has_too_much_of_a_concept_is_refused_before_the_first_byte() {
    let plain = Server::nano(options()).await;
    let detect = json!({"text": "261 3 44", "top_k": 1, "level": "text"});
    let found: Value = plain.post("/concepts/detect", &detect).await.json().await.unwrap();
    let top = &found["items"][0]["concepts"][0];
    let (concept, weight) = (top["id"].as_u64().unwrap(), top["weight"].as_f64().unwrap());
    assert!(weight > 0.01 && weight < 0.99, "{weight}");
    let toml = format!(
        "[policies.strict]\nrefuse = [{{ concept = {concept}, threshold = {:.6} }}]\n\
         [policies.lax]\nrefuse = [{{ concept = {concept}, threshold = {:.6}, over = 'mean' }}]\n",
        weight - 0.001,
        weight + 0.001
    );
    let server = Server::nano(configured(&toml, GuardOptions::default())).await;
    let (status, error) = refusal(server.generate(body(json!({"policy": "strict", "stream": true}))).await).await;
    assert_eq!((status, &error["code"], &error["param"]), (422, &json!("refused_by_policy"), &json!("prompt")));
    assert!((error["details"]["weight"].as_f64().unwrap() - weight).abs() < 1e-4, "{error} {weight}");
    let passed = generate(&server, json!({"policy": "lax"})).await;
    assert_eq!(passed["policies"], json!(["lax"]));
    assert_eq!(passed["token_ids"], generate(&plain, json!({})).await["token_ids"], "it only reads");
}

#[tokio::test]
async fn reading_the_prompt_needs_no_place_beside_that_of_the_generation() {
    let toml = "[policies.p]\nrefuse = [{ concept = 1, threshold = 1.0 }]";
    let options = configured(toml, by_default("p"));
    let server = Server::nano(ServiceOptions { max_batch: 1, max_queue: 0, ..options }).await;
    assert_eq!(generate(&server, json!({})).await["policies"], json!(["p"]));
}

#[tokio::test]
async fn a_policy_that_the_model_cannot_keep_keeps_the_server_from_starting() {
    for (toml, reason) in [
        ("[policies.p]\nsteering = { suppress = [{ concept = 70000 }] }", "steering.suppress[0].concept"),
        ("[policies.p]\nrefuse = [{ concept = { name = 'no such' }, threshold = 0.5 }]", "refuse[0].concept"),
        ("[policies.p]\nrefuse = [{ concept = 1, threshold = 1.5 }]", "refuse[0].threshold"),
    ] {
        let build = || {
            let source = steerling::ModelSource::Directory(golden("nano"));
            let runtime = steerling::Runtime::load(&source, &steerling::RuntimeOptions::default(), &mut |_, _| ())?;
            Ok(runtime.into())
        };
        let options = configured(toml, GuardOptions::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ended = steerling_server::run(listener, options, build, std::future::pending()).await;
        let Err(ServeError::Load(message)) = ended else { panic!("{ended:?}") };
        assert!(message.contains("policies.p") && message.contains(reason), "{message}");
    }
}

/// The lines of an audit log, once there are so many.
async fn lines(server: &Server, path: &Path, n: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    server.until(&format!("{n} lines"), async || read().len() >= n).await;
    assert_eq!(read().len(), n);
    read()
}

#[tokio::test]
async fn the_audit_log_says_who_did_what_under_which_policy_without_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (key, hash) = new_key();
    let toml = format!("{SUPPRESS}[api_keys.alice]\nsha256 = '{hash}'\n");
    for with_prompts in [false, true] {
        _ = std::fs::remove_file(&path);
        let guard = GuardOptions { audit_log: Some(path.clone()), audit_prompts: with_prompts, ..by_default("quiet") };
        let server = Server::nano(configured(&toml, guard)).await;
        let ask = async |more: Value| {
            let request = server.client.post(format!("{}/generate", server.url)).bearer_auth(&key);
            request.header("x-request-id", "mine").json(&body(more)).send().await.unwrap()
        };
        let answer: Value = ask(json!({"steering": {"set_weights": [{"concept": 9, "weight": 0}], "force": true}}))
            .await
            .json()
            .await
            .unwrap();
        ask(json!({"steering": {"amplify": [{"concept": 7}], "force": true}})).await;
        ask(json!({"max_new_tokens": 0})).await;
        let found = lines(&server, &path, 2).await;
        let line = &found[0];
        assert_eq!(
            (&line["key"], &line["request_id"], &line["path"]),
            (&json!("alice"), &json!("mine"), &json!("/generate"))
        );
        assert_eq!((&line["ids"], &line["model"]), (&json!([answer["id"]]), &answer["model"]));
        assert_eq!((&line["policies"], &line["outcome"]), (&json!(["quiet"]), &json!("admitted")));
        let concepts: Vec<u64> = serde_json::from_value(line["concepts"].clone()).unwrap();
        assert!(concepts.contains(&7) && concepts.contains(&9), "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert_eq!((&found[1]["outcome"], &found[1]["refusal"]["policy"]), (&json!("refused"), &json!("quiet")));
        assert_eq!(line.get("prompts").is_some(), with_prompts, "{line}");
        assert_eq!(line.to_string().contains("261 3 44"), with_prompts, "{line}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_audit_log_survives_rotation_and_a_full_disk_costs_lines_but_no_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("audit.jsonl"), dir.path().join("audit.1"));
    let guard = GuardOptions { audit_log: Some(path.clone()), ..Default::default() };
    let server = Server::nano(configured("", guard)).await;
    generate(&server, json!({})).await;
    lines(&server, &path, 1).await;
    std::fs::rename(&path, &old).unwrap();
    generate(&server, json!({})).await;
    lines(&server, &path, 1).await;
    lines(&server, &old, 1).await;

    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    for _ in 0..3 {
        generate(&server, json!({})).await;
    }
    server.until("the count", async || server.metric("steerling_audit_dropped_total").await == 3.0).await;
    assert_eq!(server.metric("steerling_audit_lines_total").await, 2.0);
    std::fs::remove_file(&path).unwrap();
    generate(&server, json!({})).await;
    lines(&server, &path, 1).await;
    assert_eq!(server.metric("steerling_audit_dropped_total").await, 3.0);
}
