//! `/generate`, `/tokenize`, `/detokenize`, `/info` with a fake denoiser over a real socket.

use crate::support::{CONTEXT, Events, Script, Server, options, refusal};
use serde_json::{Value, json};

#[tokio::test]
async fn a_stream_starts_shows_every_step_and_ends_once() {
    let server = Server::start(options(), Script::default()).await;
    let body = json!({"prompt": "a b c", "max_new_tokens": 30, "seed": 5, "return_trace": true, "stream": true});
    let events = Events::new(server.generate(body.clone()).await).rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!((names[0], *names.last().unwrap(), names.len()), ("start", "done", 32));
    assert!(names[1..31].iter().all(|name| *name == "block"));
    assert!(events.iter().enumerate().all(|(i, event)| event.id == i as u64));

    let start = &events[0].data;
    assert_eq!(start["prompt_tokens"], 3);
    assert_eq!((&start["num_blocks"], &start["steps"], &start["seed"]), (&json!(4), &json!(30), &json!(5)));

    let done = &events[31].data;
    let blocks: Vec<&Value> = events[1..31].iter().map(|event| &event.data).collect();
    let text: String = blocks.iter().map(|block| block["delta"].as_str().unwrap()).collect();
    assert_eq!(done["text"], json!(text));
    assert_eq!(done["finish_reason"], "length");
    assert_eq!(done["completion_tokens"], 30);
    assert_eq!(blocks.iter().filter(|block| block["final"] == true).count(), 4);
    for (step, block) in blocks.iter().enumerate() {
        assert_eq!(block["step"], json!(step));
        let masked = block["ids"].as_array().unwrap().iter().filter(|id| id.is_null()).count();
        assert_eq!(block["masked"], json!(masked));
        assert_eq!(block["text"].as_str().unwrap().matches('░').count(), masked);
        assert_eq!(block["final"], json!(masked == 0));
    }
    let commits: Vec<&Value> = blocks.iter().flat_map(|block| block["commits"].as_array().unwrap()).collect();
    let trace = done["trace"]["commits"].as_array().unwrap();
    assert_eq!(commits.len(), 30);
    for (commit, traced) in commits.iter().zip(trace) {
        assert_eq!((&commit["position"], &commit["id"]), (&traced["position"], &traced["id"]));
    }
    assert_eq!(done["trace"]["seq_length"], 33);

    // Without a stream, the same generation.
    let mut whole = body;
    whole["stream"] = json!(false);
    let whole: Value = server.generate(whole).await.json().await.unwrap();
    for field in ["text", "token_ids", "trace", "usage", "seed", "warnings"] {
        assert_eq!(whole[field], done[field], "{field}");
    }
}

#[tokio::test]
async fn without_a_length_a_generation_takes_what_the_context_has_room_for() {
    let server = Server::start(options(), Script::default()).await;
    let result = server.generate(json!({"prompt": vec![1; CONTEXT - 5]})).await;
    let result: Value = result.json().await.unwrap();
    assert_eq!((&result["completion_tokens"], &result["usage"]["forwards"]), (&json!(5), &json!(5)));
    assert!(result["warnings"][0].as_str().unwrap().starts_with("`max_new_tokens` is 5: "), "{result}");
    let (status, error) = refusal(server.generate(json!({"prompt": vec![1; CONTEXT]})).await).await;
    assert_eq!((status, &error["code"]), (422, &json!("context_length_exceeded")));
}

#[tokio::test]
async fn stream_every_merges_steps_but_never_skips_a_final_block() {
    let server = Server::start(options(), Script::default()).await;
    let body = json!({"prompt": "a", "max_new_tokens": 24, "stream": true, "stream_every": 3});
    let events = Events::new(server.generate(body).await).rest().await;
    let blocks: Vec<&Value> = events.iter().filter(|e| e.name == "block").map(|e| &e.data).collect();
    assert!(blocks.len() < 12, "{}", blocks.len());
    let steps: Vec<u64> = blocks.iter().map(|b| b["step"].as_u64().unwrap()).collect();
    assert_eq!(&steps[..4], [2, 5, 7, 10]);
    assert_eq!(blocks.iter().filter(|b| b["final"] == true).count(), 3);
    assert_eq!(blocks.iter().map(|b| b["commits"].as_array().unwrap().len()).sum::<usize>(), 24);
    let text: String = blocks.iter().map(|b| b["delta"].as_str().unwrap()).collect();
    assert_eq!(events.last().unwrap().data["text"], json!(text));
}

#[tokio::test]
async fn deltas_add_up_to_the_text_with_a_stop_string() {
    let server = Server::start(options(), Script::default()).await;
    let body = json!({"prompt": "a", "max_new_tokens": 40, "seed": 1});
    let whole: Value = server.generate(body.clone()).await.json().await.unwrap();
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(20).take(4).collect();
    let mut stopped = body;
    stopped["stop"] = json!([stop]);
    stopped["stream"] = json!(true);
    let events = Events::new(server.generate(stopped).await).rest().await;
    let done = &events.last().unwrap().data;
    assert_eq!(done["finish_reason"], "stop_string");
    assert_eq!(done["text"], json!(text[..text.find(&stop).unwrap()]));
    let blocks = events.iter().filter(|e| e.name == "block");
    let deltas: String = blocks.map(|e| e.data["delta"].as_str().unwrap()).collect();
    assert_eq!(done["text"], json!(deltas));
}

#[tokio::test]
async fn a_seed_is_drawn_so_that_doubles_hold_it_and_warnings_name_what_has_no_effect() {
    let server = Server::start(options(), Script::default()).await;
    let ask = async |body: Value| server.generate(body).await.json::<Value>().await.unwrap();
    let body = json!({"prompt": [1, 2], "max_new_tokens": 20, "steps": 1, "temperature": 0.5});
    let (one, other) = (ask(body.clone()).await, ask(body).await);
    assert!(one["seed"].as_u64().unwrap() < 1 << 53);
    assert_ne!(one["seed"], other["seed"]);
    let warnings = one["warnings"].to_string();
    assert!(warnings.contains("temperature") && warnings.contains("`steps` 1 became 3"), "{warnings}");
    let quiet = ask(json!({"prompt": "a", "max_new_tokens": 2})).await;
    assert_eq!(quiet["warnings"], json!([]));
}

#[tokio::test]
async fn text_makes_the_round_trip_with_places() {
    let server = Server::start(options(), Script::default()).await;
    let text = "Grüße, <|mask|> 漢字";
    let answer = server.post("/tokenize", &json!({"text": text, "add_special_tokens": true})).await;
    let tokens: Value = answer.json().await.unwrap();
    let ids = tokens["ids"].as_array().unwrap();
    assert_eq!((&ids[0], ids.last().unwrap()), (&json!(100_278), &json!(100_257)));
    let list = tokens["tokens"].as_array().unwrap();
    assert_eq!(list.last().unwrap()["end"], json!(text.len()));
    assert!(list.windows(2).all(|pair| pair[0]["end"] == pair[1]["start"]));
    let plain: Value = server.post("/detokenize", &json!({"ids": ids})).await.json().await.unwrap();
    assert_eq!(plain["text"], json!(text));
    let shown = json!({"ids": ids, "skip_special_tokens": false});
    let shown: Value = server.post("/detokenize", &shown).await.json().await.unwrap();
    assert_eq!(shown["text"], json!(format!("<|bos|>{text}<|endoftext|>")));
}

#[tokio::test]
async fn info_tells_model_limits_and_load() {
    let server = Server::start(options(), Script::default()).await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["model"]["name"], "fake");
    assert_eq!(info["limits"]["context"], 1024);
    assert_eq!(info["limits"]["max_batch"], 4);
    assert_eq!(info["load"], json!({"active": 0, "queued": 0, "kv_blocks_active": 0, "kv_blocks_cached": 0}));
    assert_eq!(info["licence"], "Apache-2.0");
    assert_eq!(info["ready"], true);
}
