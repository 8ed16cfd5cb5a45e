//! `/v1`: OpenAI's shapes over the same jobs, with a fake denoiser, a recorded model and the demo model.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{CONTEXT, MASK, Script, Server, options};
use steerling_server::config::ServiceOptions;

async fn fake() -> Server {
    Server::start(options(), Script::default()).await
}

/// The demo model, as it is or with chat tokens: three byte tokens that no UTF-8 text has.
pub(crate) async fn demo(chat: bool) -> (Server, tempfile::TempDir) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo");
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("demo-chat");
    std::fs::create_dir(&dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "concept_labels.parquet"] {
        std::fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    if chat {
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let vocabulary: Value = serde_json::from_slice(&std::fs::read(from.join("tokenizer.json")).unwrap()).unwrap();
        for (key, byte) in [("start_header_id", "ý"), ("end_header_id", "þ"), ("eot_id", "ÿ")] {
            config[key] = vocabulary["model"]["vocab"][byte].clone();
        }
        std::fs::write(path, config.to_string()).unwrap();
    }
    (Server::with_model(dir, options()).await, root)
}

async fn ok(response: reqwest::Response) -> Value {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

/// The refusal in an answer, after checking that its form is OpenAI's.
async fn refused(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let keys: BTreeSet<&str> = body["error"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["message", "type", "param", "code"]), "{body}");
    assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    (status, body["error"].clone())
}

/// The data of a stream's events, the last of which is `[DONE]` unless it failed.
async fn chunks(response: reqwest::Response) -> Vec<String> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(Ok(chunk)) = body.next().await {
        bytes.extend(chunk);
    }
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The chunks before `[DONE]`.
async fn complete(response: reqwest::Response) -> Vec<Value> {
    let mut data = chunks(response).await;
    assert_eq!(data.pop().unwrap(), "[DONE]");
    data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn the_served_model_is_listed_and_any_other_is_not_found() {
    let server = fake().await;
    let list = ok(server.get("/v1/models").await).await;
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let model = &list["data"][0];
    assert_eq!((&model["id"], &model["object"]), (&json!("fake"), &json!("model")));
    assert_eq!(model["max_model_len"], json!(CONTEXT));
    for name in ["fake", "steerling"] {
        assert_eq!(&ok(server.get(&format!("/v1/models/{name}")).await).await, model);
        let body = json!({"model": name, "prompt": "a", "max_tokens": 1});
        assert_eq!(ok(server.post("/v1/completions", &body).await).await["model"], json!("fake"));
    }
    let (status, error) = refused(server.get("/v1/models/gpt-4").await).await;
    assert_eq!((status, &error["code"], &error["param"]), (404, &json!("model_not_found"), &json!("model")));
    for (path, body) in [
        ("/v1/completions", json!({"model": "gpt-4", "prompt": "a"})),
        ("/v1/chat/completions", json!({"model": "gpt-4", "messages": [{"role": "user", "content": "a"}]})),
        ("/v1/embeddings", json!({"model": "gpt-4", "input": "a"})),
    ] {
        let (status, error) = refused(server.post(path, &body).await).await;
        assert_eq!((status, &error["code"]), (404, &json!("model_not_found")), "{path}");
        let mut unnamed = body;
        unnamed["model"] = Value::Null;
        let (status, error) = refused(server.post(path, &unnamed).await).await;
        assert_eq!((status, &error["param"]), (400, &json!("model")), "{path}");
    }
}

#[tokio::test]
async fn a_completion_is_the_generation_of_the_native_endpoint() {
    let (server, _dir) = demo(false).await;
    let native = json!({"prompt": "The chef stirred the", "max_new_tokens": 12, "seed": 3});
    let body = json!({"model": "steerling", "prompt": "The chef stirred the", "max_tokens": 12, "seed": 3});
    for (field, value) in [("seed", json!(3)), ("temperature", json!(0)), ("temperature", json!(0.7))] {
        let (mut native, mut body) = (native.clone(), body.clone());
        body[field] = value.clone();
        native[field] = value;
        native["use_entropy_sampling"] = json!(field != "temperature");
        let native = ok(server.generate(native).await).await;
        let answer = ok(server.post("/v1/completions", &body).await).await;
        assert_eq!((&answer["object"], &answer["steerling"]["seed"]), (&json!("text_completion"), &json!(3)));
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
        let choice = &answer["choices"][0];
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&native["text"], &json!("length")));
        assert_eq!(choice["steerling"]["token_ids"], native["token_ids"]);
        assert_eq!(choice["logprobs"], Value::Null);
        let tokens = |name: &str| native[name].as_u64().unwrap();
        let (prompt, made) = (tokens("prompt_tokens"), tokens("completion_tokens"));
        let usage = json!({"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made});
        assert_eq!(answer["usage"], usage);
    }
}

#[tokio::test]
async fn choices_have_the_seeds_that_follow_and_each_seed_alone_gives_its_choice() {
    let (server, _dir) = demo(false).await;
    let ask = async |body: Value| ok(server.post("/v1/completions", &body).await).await;
    let prompts = json!(["The chef stirred the", [300, 301, 302]]);
    let refused_mix = server.post("/v1/completions", &json!({"model": "steerling", "prompt": prompts})).await;
    assert_eq!(refused(refused_mix).await.0, 400);
    let body = json!({"model": "steerling", "prompt": ["The chef stirred the", "In autumn"], "max_tokens": 8, "n": 2, "seed": 40});
    let answer = ask(body).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let seeds: Vec<u64> = choices.iter().map(|choice| choice["steerling"]["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [40, 41, 40, 41]);
    for (choice, prompt) in
        choices.iter().zip(["The chef stirred the", "The chef stirred the", "In autumn", "In autumn"])
    {
        let seed = &choice["steerling"]["seed"];
        let alone = ask(json!({"model": "steerling", "prompt": prompt, "max_tokens": 8, "seed": seed})).await;
        assert_eq!(alone["choices"][0]["text"], choice["text"]);
    }
    assert_ne!(choices[0]["text"], choices[1]["text"]);
    // The prompts are counted once each, the choices all.
    assert_eq!(answer["usage"]["completion_tokens"], json!(32));
    let drawn = ask(json!({"model": "steerling", "prompt": "a", "max_tokens": 1, "n": 2})).await;
    let seed = |choice: usize| drawn["choices"][choice]["steerling"]["seed"].as_u64().unwrap();
    assert_eq!((seed(0), seed(1)), (drawn["steerling"]["seed"].as_u64().unwrap(), seed(0) + 1));
}

#[tokio::test]
async fn a_stream_has_the_same_texts_in_chunks_and_then_is_done() {
    let server = fake().await;
    let body = json!({"model": "fake", "prompt": ["a", "b c"], "max_tokens": 40, "n": 2, "seed": 5, "echo": true});
    let whole = ok(server.post("/v1/completions", &body).await).await;
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let plain = complete(server.post("/v1/completions", &streamed).await).await;
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"].as_array().unwrap().len() == 1));
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = complete(server.post("/v1/completions", &streamed).await).await;
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    for choice in whole["choices"].as_array().unwrap() {
        let pieces: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|piece| piece["index"] == choice["index"]).collect();
        let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
        assert_eq!(choice["text"], json!(text));
        let (end, before) = pieces.split_last().unwrap();
        assert!(before.len() > 2 && before.iter().all(|piece| piece["finish_reason"].is_null()));
        assert_eq!((&end["finish_reason"], &end["text"]), (&choice["finish_reason"], &json!("")));
        assert_eq!(end["steerling"]["token_ids"], choice["steerling"]["token_ids"]);
    }
    let ids: BTreeSet<&str> = chunks.iter().map(|chunk| chunk["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["object"] == "text_completion"));
    // A stop string is never shown, also not its beginning.
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(20).take(4).collect();
    let body = json!({"model": "fake", "prompt": "a", "max_tokens": 40, "seed": 5, "stop": stop, "stream": true});
    let chunks = complete(server.post("/v1/completions", &body).await).await;
    let shown: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(shown, text[1..text[1..].find(&stop).unwrap() + 1]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_an_error_and_without_done() {
    let script = Script::default();
    script.fail_at.store(5, SeqCst);
    let server = Server::start(options(), script).await;
    let body = json!({"model": "fake", "prompt": "a", "max_tokens": 30, "stream": true});
    let data = chunks(server.post("/v1/completions", &body).await).await;
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!((&last["error"]["type"], &last["error"]["code"]), (&json!("server_error"), &json!("internal")));
    server.until_status("/health/ready", 200).await;
}

#[tokio::test]
async fn echoed_logprobs_are_the_left_to_right_likelihood_of_score() {
    let (server, _dir) = demo(false).await;
    let text = "The chef stirred the soup slowly, and the waiter carried it to the table by the window.";
    let tokens = ok(server.post("/tokenize", &json!({"text": text})).await).await;
    let ids = tokens["ids"].as_array().unwrap();
    let start = |i: usize| tokens["tokens"][i]["start"].as_u64().unwrap() as usize;
    // Once as harnesses ask, with a token behind; once for the text alone.
    for (max_tokens, behind, prompt) in [(1, 1, json!([ids])), (0, 0, json!(text))] {
        let body = json!({"model": "steerling", "prompt": prompt, "max_tokens": max_tokens, "echo": true, "logprobs": 1,
            "temperature": 0, "seed": 1234});
        let answer = ok(server.post("/v1/completions", &body).await).await;
        let (choice, logprobs) = (&answer["choices"][0], &answer["choices"][0]["logprobs"]);
        assert!(choice["text"].as_str().unwrap().starts_with(text));
        assert_eq!(answer["usage"]["completion_tokens"], json!(behind));
        let numbers_of = |name: &str| logprobs[name].as_array().unwrap();
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(numbers_of(name).len(), ids.len() + behind, "{name}");
        }
        assert_eq!((&logprobs["token_logprobs"][0], &logprobs["top_logprobs"][0]), (&Value::Null, &Value::Null));
        let shown: String = numbers_of("tokens").iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(choice["text"], json!(shown));
        for (i, offset) in numbers_of("text_offset")[..ids.len()].iter().enumerate() {
            assert_eq!(offset.as_u64().unwrap() as usize, start(i));
        }
        for from in [1, 7, ids.len() - 2] {
            let logprobs = numbers(&json!(numbers_of("token_logprobs")[from..ids.len()]));
            let item = json!({"context": text[..start(from)], "continuation": text[start(from)..]});
            let scored = ok(server.post("/score", &json!({"items": [item], "method": "left_to_right"})).await).await;
            let expected = scored["results"][0]["loglikelihood"].as_f64().unwrap();
            assert_eq!(scored["results"][0]["tokens"], json!(logprobs.len()));
            assert!((logprobs.iter().sum::<f64>() - expected).abs() < 1e-4, "{logprobs:?} against {expected}");
            // As harnesses find out whether a continuation is greedy.
            let top = &numbers_of("top_logprobs")[from..ids.len()];
            let best = top
                .iter()
                .map(|top| top.as_object().unwrap().values().map(|x| x.as_f64().unwrap()).fold(f64::MIN, f64::max));
            let greedy = best.zip(&logprobs).all(|(best, logprob)| best == *logprob);
            assert_eq!(scored["results"][0]["is_greedy"], json!(greedy));
        }
    }
}

#[tokio::test]
async fn logprobs_of_generated_tokens_are_read_off_the_whole_text() {
    let (server, _dir) = demo(false).await;
    let body = json!({"model": "steerling", "prompt": "The chef stirred the", "max_tokens": 9, "seed": 2, "logprobs": 3, "n": 2});
    let answer = ok(server.post("/v1/completions", &body).await).await;
    for choice in answer["choices"].as_array().unwrap() {
        let logprobs = numbers(&choice["logprobs"]["token_logprobs"]);
        assert_eq!(logprobs.len(), 9);
        let item = json!({"context": "The chef stirred the", "continuation": choice["text"]});
        let scored = ok(server.post("/score", &json!({"items": [item], "method": "left_to_right"})).await).await;
        assert_eq!(scored["results"][0]["tokens"], json!(9), "the text encodes as it was generated");
        assert!((logprobs.iter().sum::<f64>() - scored["results"][0]["loglikelihood"].as_f64().unwrap()).abs() < 1e-4);
        assert_eq!(choice["logprobs"]["text_offset"][0], json!(0));
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert!(top.iter().all(|top| (3..=4).contains(&top.as_object().unwrap().len())));
    }
    let none = json!({"model": "steerling", "prompt": "a", "max_tokens": 2, "logprobs": 0});
    let answer = ok(server.post("/v1/completions", &none).await).await;
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
    let alone = json!({"model": "steerling", "prompt": "a", "echo": true, "max_tokens": 0});
    let answer = ok(server.post("/v1/completions", &alone).await).await;
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!("a"), &json!("length"))
    );
}

#[tokio::test]
async fn steering_and_attribution_are_extra_fields_with_extra_answers() {
    let (server, _dir) = demo(false).await;
    let steering = json!({"amplify": [{"concept": 3}]});
    let native =
        json!({"prompt": "The chef", "max_new_tokens": 8, "seed": 1, "steering": steering, "repetition_penalty": 1.5});
    let native = ok(server.generate(native).await).await;
    let body = json!({"model": "steerling", "prompt": "The chef", "max_tokens": 8, "seed": 1, "steering": steering,
        "repetition_penalty": 1.5, "attribution": {"top_known": 2}, "decoding": {"method": "confidence"}, "cfg_scale": 0});
    let answer = ok(server.post("/v1/completions", &body).await).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], native["text"]);
    assert_eq!(choice["steerling"]["attribution"]["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(choice["steerling"]["attribution"]["tokens"][0]["known"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_chat_is_the_generation_of_its_messages() {
    let (server, _dir) = demo(true).await;
    let messages =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of the sea."}]);
    let native = ok(server.generate(json!({"messages": messages, "max_new_tokens": 20, "seed": 6})).await).await;
    let body = json!({"model": "steerling", "messages": messages, "max_completion_tokens": 20, "seed": 6,
        "logprobs": true, "top_logprobs": 2, "n": 2});
    let answer = ok(server.post("/v1/chat/completions", &body).await).await;
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": native["text"], "refusal": null}));
    let reason = if native["finish_reason"] == "length" { "length" } else { "stop" };
    assert_eq!(choice["finish_reason"], json!(reason));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(json!(content.len()), native["completion_tokens"]);
    for token in content {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert!(token["logprob"].as_f64().unwrap() <= token["top_logprobs"][0]["logprob"].as_f64().unwrap());
        let text = token["token"].as_str().unwrap();
        assert!(token["bytes"].is_null() || token["bytes"] == json!(text.as_bytes()));
    }
    let mut streamed = body;
    for field in ["logprobs", "top_logprobs"] {
        streamed.as_object_mut().unwrap().remove(field);
    }
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = complete(server.post("/v1/chat/completions", &streamed).await).await;
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!(last["usage"], answer["usage"]);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    for choice in answer["choices"].as_array().unwrap() {
        let pieces: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|piece| piece["index"] == choice["index"]).collect();
        assert_eq!(pieces[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = pieces.iter().filter_map(|piece| piece["delta"]["content"].as_str()).collect();
        assert_eq!(choice["message"]["content"], json!(text));
        let end = pieces.last().unwrap();
        assert_eq!((&end["delta"], &end["finish_reason"]), (&json!({}), &choice["finish_reason"]));
    }
}

#[tokio::test]
async fn embeddings_have_length_one_in_every_form() {
    let (server, _dir) = demo(false).await;
    let ask = async |body: Value| ok(server.post("/v1/embeddings", &body).await).await;
    let texts = ["The chef stirred the soup.", "A storm at sea."];
    let answer = ask(json!({"model": "steerling", "input": texts, "user": "x", "dimensions": null})).await;
    assert_eq!((&answer["object"], &answer["model"].is_string()), (&json!("list"), &true));
    let native = json!({"inputs": texts, "normalize": true});
    let native = ok(server.post("/embed", &native).await).await;
    for (i, entry) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(i)));
        assert_eq!(entry["embedding"], native["embeddings"][i]);
        assert!((numbers(&entry["embedding"]).iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    let tokens: u64 = native["tokens"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    let ids = ok(server.post("/tokenize", &json!({"text": texts[0]})).await).await["ids"].clone();
    for input in [json!(texts[0]), ids.clone(), json!([ids])] {
        let one = ask(json!({"model": "steerling", "input": input})).await;
        assert_eq!(one["data"][0]["embedding"], answer["data"][0]["embedding"]);
    }
    let cut = ask(json!({"model": "steerling", "input": texts[0], "dimensions": 4, "encoding_format": "base64"})).await;
    let native = json!({"inputs": texts[0], "dimensions": 4, "encoding_format": "base64", "normalize": true});
    let native = ok(server.post("/embed", &native).await).await;
    assert_eq!(cut["data"][0]["embedding"], native["embeddings"][0]);
    for (input, param) in [
        (json!(""), "input"),
        (json!([]), "input"),
        (json!(["a", ""]), "input[1]"),
        (json!([5, 99999]), "input[1]"),
        (json!([[5], [99999]]), "input[1][0]"),
        (json!({}), "input"),
    ] {
        let (status, error) =
            refused(server.post("/v1/embeddings", &json!({"model": "steerling", "input": input})).await).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
    }
}

#[tokio::test]
async fn what_would_change_the_answer_is_refused_by_name_and_the_harmless_is_accepted() {
    let server = fake().await;
    let completion = json!({"model": "fake", "prompt": "a", "max_tokens": 2});
    let chat = json!({"model": "fake", "messages": [{"role": "user", "content": "a"}]});
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let refusals = [
        (&completion, "tools", json!([{}]), "tools"),
        (&completion, "logit_bias", json!({"50": 1}), "logit_bias"),
        (&completion, "presence_penalty", json!(0.5), "presence_penalty"),
        (&completion, "frequency_penalty", json!(-1), "frequency_penalty"),
        (&completion, "best_of", json!(2), "best_of"),
        (&completion, "suffix", json!("b"), "suffix"),
        (&completion, "top_k", json!(5), "top_k"),
        (&completion, "n", json!(0), "n"),
        (&completion, "n", json!(129), "n"),
        (&completion, "n", json!(9), "n"),
        (&completion, "max_tokens", json!(0), "max_tokens"),
        (&completion, "max_tokens", json!(CONTEXT), "max_tokens"),
        (&completion, "max_tokens", json!("x"), "max_tokens"),
        (&completion, "logprobs", json!(6), "logprobs"),
        (&completion, "logprobs", json!(true), "logprobs"),
        (&completion, "temperature", json!(-1), "temperature"),
        (&completion, "top_p", json!(2), "top_p"),
        (&completion, "stop", json!(["", "a"]), "stop[0]"),
        (&completion, "stop", json!(vec!["a"; 9]), "stop"),
        (&completion, "prompt", json!([]), "prompt"),
        (&completion, "prompt", json!([5, MASK]), "prompt[1]"),
        (&completion, "prompt", json!([[5], [5, 100_281]]), "prompt[1][1]"),
        (&completion, "prompt", json!([0.5]), "prompt[0]"),
        (&completion, "prompt", json!([-1]), "prompt[0]"),
        (&completion, "prompt", json!([[1], [2, -1]]), "prompt[1][1]"),
        (&completion, "stream_options", json!({"include_usage": true}), "stream_options"),
        (&completion, "decoding", json!({"method": "entropy_bound", "gamma": -1}), "decoding.gamma"),
        (&completion, "steering", json!({}), "steering"),
        (&chat, "tools", json!([{"type": "function"}]), "tools"),
        (&chat, "functions", json!([{}]), "functions"),
        (&chat, "response_format", json!({"type": "json_object"}), "response_format"),
        (&chat, "modalities", json!(["text", "audio"]), "modalities"),
        (&chat, "audio", json!({}), "audio"),
        (&chat, "store", json!(true), "store"),
        (&chat, "reasoning_effort", json!("high"), "reasoning_effort"),
        (&chat, "top_logprobs", json!(2), "top_logprobs"),
        (&chat, "top_logprobs", json!(21), "top_logprobs"),
        (&chat, "messages", image, "messages[0].content[0].type"),
        (&chat, "prompt", json!("a"), "prompt"),
        (&chat, "unheard_of", json!(1), "unheard_of"),
        // This checkpoint has no chat tokens.
        (&chat, "n", json!(1), "messages"),
    ];
    for (body, field, value, param) in refusals {
        let path = if body.get("prompt").is_some() { "/v1/completions" } else { "/v1/chat/completions" };
        for stream in [false, true] {
            let mut body = body.clone();
            body[field] = value.clone();
            if stream && field != "stream_options" {
                body["stream"] = json!(true);
            }
            let (status, error) = refused(server.post(path, &body).await).await;
            let kind = json!("invalid_request_error");
            assert_eq!((status, &error["param"], &error["type"]), (400, &json!(param), &kind), "{body} {error}");
        }
    }
    let both = json!({"model": "fake", "messages": [], "max_tokens": 1, "max_completion_tokens": 1});
    assert_eq!(refused(server.post("/v1/chat/completions", &both).await).await.1["param"], "max_tokens");
    let streamed = json!({"model": "fake", "prompt": "a", "logprobs": 1, "stream": true});
    assert_eq!(refused(server.post("/v1/completions", &streamed).await).await.1["param"], "logprobs");
    assert_eq!(server.script.steps.load(SeqCst), 0, "nothing was generated");

    let harmless = json!({"model": "fake", "prompt": "a", "max_tokens": 2, "user": "me", "presence_penalty": 0.0,
        "frequency_penalty": 0, "logit_bias": {}, "best_of": 1, "suffix": null, "stop": null, "seed": null, "echo": null,
        "logprobs": false, "stream": null, "stream_options": null, "temperature": null, "n": null});
    ok(server.post("/v1/completions", &harmless).await).await;
}

#[tokio::test]
async fn every_error_under_v1_has_openais_shape_and_native_ones_keep_theirs() {
    let server = Server::start(ServiceOptions { max_batch: 1, max_queue: 1, ..options() }, Script::default()).await;
    let post = |path: &str| server.client.post(format!("{}{path}", server.url));
    let json_type = ("content-type", "application/json");
    let send = async |request: reqwest::RequestBuilder| refused(request.send().await.unwrap()).await;

    let (status, error) = refused(server.get("/v1/nothing").await).await;
    assert_eq!((status, &error["code"], &error["type"]), (404, &json!("not_found"), &json!("invalid_request_error")));
    assert_eq!(refused(server.get("/v1").await).await.0, 404);
    assert_eq!(refused(server.get("/v1/completions").await).await.0, 405);
    assert_eq!(send(post("/v1/models")).await.0, 405);
    assert_eq!(send(post("/v1/completions").body("{}")).await.0, 415);
    let (status, error) = send(post("/v1/completions").header(json_type.0, json_type.1).body("{\"prompt\":")).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_json")));
    let (status, error) = send(post("/v1/completions").header(json_type.0, json_type.1).body("[]")).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_request")));
    let large = json!({"model": "fake", "prompt": "x".repeat(options().max_body_bytes)});
    assert_eq!(refused(server.post("/v1/completions", &large).await).await.0, 413);
    let native: Value = server.get("/v2").await.json().await.unwrap();
    assert!(native["error"].get("request_id").is_some());

    server.script.step_ms.store(20, SeqCst);
    let _running = server.open_stream(1000).await;
    let two = json!({"model": "fake", "prompt": "a", "max_tokens": 2, "n": 2});
    let response = server.post("/v1/completions", &two).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, error) = refused(response).await;
    assert_eq!((status, &error["code"], &error["type"]), (429, &json!("overloaded"), &json!("rate_limit_error")));
}

#[tokio::test]
async fn a_server_without_its_model_yet_says_so_in_openais_shape() {
    let script = Script::default();
    script.hold_load.store(true, SeqCst);
    let server = Server::start_loading(options(), script).await;
    for response in [
        server.get("/v1/models").await,
        server.post("/v1/completions", &json!({"model": "fake", "prompt": "a"})).await,
        server.post("/v1/embeddings", &json!({"model": "fake", "input": "a"})).await,
    ] {
        let (status, error) = refused(response).await;
        assert_eq!((status, &error["code"], &error["type"]), (503, &json!("not_ready"), &json!("server_error")));
    }
    server.script.hold_load.store(false, SeqCst);
}
