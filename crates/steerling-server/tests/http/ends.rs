//! Texts that end early: every part of every answer speaks of the tokens that are returned.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::examples::demo;
use crate::support::{Events, Server};

const PROMPTS: [&str; 4] =
    ["The chef stirred the", "The neighbour moved the table.", "The captain anchored", "Ahoy, the pirate"];
/// All concepts, so that sums can be made again.
const ALL: usize = 1024;

/// What has been met, so that the test is known to test something.
#[derive(Debug, Default)]
struct Met {
    reasons: BTreeMap<String, usize>,
    /// The stop string begins inside the last token.
    inside: usize,
    /// Tokens were committed behind the end.
    behind: usize,
    /// Nothing is returned.
    empty: usize,
    /// Several chunks.
    chunks: usize,
}

async fn ask(server: &Server, path: &str, body: &Value) -> Value {
    let response = server.post(path, body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{path} {body} {answer}");
    answer
}

/// The body with more fields.
fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The values of one field of a list of objects.
fn column(rows: &Value, name: &str) -> Vec<Value> {
    list(rows).iter().map(|row| row[name].clone()).collect()
}

/// Up to two pieces of a text, anywhere in it, and sometimes one of its tokens.
fn ends(whole: &Value, rng: &mut StdRng) -> (Vec<String>, Vec<Value>) {
    let letters: Vec<char> = text(&whole["text"]).chars().collect();
    let piece = |rng: &mut StdRng| -> String {
        let from = rng.random_range(0..letters.len());
        letters[from..(from + rng.random_range(1..6)).min(letters.len())].iter().collect()
    };
    let stop = (0..rng.random_range(0..3)).map(|_| piece(rng)).collect();
    let ids = list(&whole["token_ids"]);
    let tokens = if rng.random_bool(0.3) { vec![ids[rng.random_range(0..ids.len())].clone()] } else { Vec::new() };
    (stop, tokens)
}

/// Text, tokens and their number agree with each other, and with the same text without an end.
async fn check_result(server: &Server, (result, whole): (&Value, &Value), stop: &[String], met: &mut Met) {
    let (ids, written) = (list(&result["token_ids"]), text(&result["text"]));
    assert_eq!(result["completion_tokens"], json!(ids.len()));
    assert!(text(&whole["text"]).starts_with(written), "{written:?} {}", whole["text"]);
    assert!(whole["token_ids"].as_array().unwrap().starts_with(ids));
    assert!(stop.iter().all(|stop| !written.contains(stop.as_str())), "{stop:?} {written:?}");
    let decode = async |ids: &[Value]| -> String {
        text(&ask(server, "/detokenize", &json!({ "ids": ids })).await["text"]).to_owned()
    };
    let decoded = decode(ids).await;
    if result["finish_reason"] == "stop_string" {
        assert!(decoded.starts_with(written), "{decoded:?} {written:?}");
        if let Some((_, before)) = ids.split_last() {
            assert!(!decode(before).await.starts_with(written), "a token too many: {decoded:?} {written:?}");
        }
        met.inside += usize::from(decoded != written);
    } else {
        assert_eq!(decoded, written);
    }
    met.empty += usize::from(ids.is_empty());
    *met.reasons.entry(text(&result["finish_reason"]).to_owned()).or_default() += 1;
}

/// `tokens` and `chunks` of `attribution` are those of the result; scores are those of its tokens.
fn check_attribution(result: &Value, attribution: &Value, met: &mut Met) {
    let tokens = &attribution["tokens"];
    let prompt = result["prompt_tokens"].as_u64().unwrap();
    let end = prompt + list(&result["token_ids"]).len() as u64;
    assert_eq!(json!(column(tokens, "id")), result["token_ids"]);
    assert!(column(tokens, "position").iter().map(|p| p.as_u64().unwrap()).eq(prompt..end), "{tokens}");
    assert_eq!(attribution["verify"]["passed"], json!(true), "{}", attribution["verify"]);
    let chunks = list(&attribution["chunks"]);
    met.chunks += usize::from(chunks.len() > 1);
    let pieces: String = chunks.iter().map(|chunk| text(&chunk["text"])).collect();
    assert_eq!(json!(pieces), result["text"]);
    let mut at = prompt;
    for chunk in chunks {
        let (from, to) = (chunk["start"].as_u64().unwrap(), chunk["end"].as_u64().unwrap());
        assert_eq!(from, at, "chunks follow each other, an `<|endofchunk|>` between them: {chunks:?}");
        at = to + 1;
        assert!(to <= end, "{chunk}");
        check_scores(chunk, &list(tokens)[(from - prompt) as usize..(to - prompt) as usize]);
    }
    assert!(at == end + 1 || at == end || end == prompt, "all but a last `<|endofchunk|>`: {chunks:?}, {end}");
}

/// The scores of a chunk follow from its tokens.
fn check_scores(chunk: &Value, tokens: &[Value]) {
    let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
    let mut epsilon = 0.0;
    for token in tokens {
        let shares = || list(&token["known"]).iter().chain(list(&token["unknown"]));
        let total =
            shares().map(|share| number(&share["contribution"]).abs()).sum::<f64>() + number(&token["epsilon"]).abs();
        for share in shares() {
            *sums.entry(share["id"].as_u64().unwrap()).or_default() += number(&share["contribution"]) / total;
        }
        epsilon += number(&token["epsilon"]) / total;
    }
    let n = tokens.len().max(1) as f64;
    for concept in list(&chunk["concepts"]) {
        let score = sums.remove(&concept["id"].as_u64().unwrap()).unwrap() / n;
        assert!((score - number(&concept["score"])).abs() < 1e-4, "{concept} {score}");
    }
    assert!(sums.is_empty(), "all are told");
    assert!((epsilon / n - number(&chunk["epsilon_signed"])).abs() < 1e-4, "{chunk}");
}

/// All ways to ask for the generation of `body` and its attribution.
async fn check_attribute(server: &Server, body: &Value, result: &Value) {
    let concepts = json!({"top_known": ALL, "top_unknown": ALL});
    let inputs = json!({"method": "input_x_gradient"});
    let all = ask(server, "/attribute", &with(body, json!({"concepts": concepts, "inputs": inputs}))).await;
    let parts = ["text", "token_ids", "completion_tokens", "finish_reason", "trace"];
    assert!(parts.iter().all(|part| all[*part] == result[*part]), "{all}");
    for part in ["tokens", "chunks", "verify"] {
        assert_eq!(all[part], result["attribution"][part]);
    }
    let returned: BTreeSet<String> = column(&all["tokens"], "position").iter().map(Value::to_string).collect();
    let targets: BTreeSet<String> =
        column(&all["inputs"]["targets"], "position").iter().map(Value::to_string).collect();
    assert_eq!(targets, returned);

    let streamed = with(body, json!({"concepts": concepts, "inputs": inputs, "stream": true}));
    let events = Events::new(server.post("/attribute", &streamed).await).rest().await;
    let deltas: String = events.iter().filter_map(|event| event.data["delta"].as_str()).collect();
    assert_eq!(json!(deltas), result["text"]);
    let done = &events.last().unwrap().data;
    assert!(parts.iter().chain(&["tokens", "chunks", "verify", "inputs"]).all(|part| done[*part] == all[*part]));
    let shown = events.iter().filter(|event| event.name == "attribution");
    let mut shown: Vec<Value> = shown.flat_map(|event| list(&event.data["tokens"]).to_vec()).collect();
    shown.retain(|token| returned.contains(&token["position"].to_string()));
    shown.sort_by_key(|token| token["position"].as_u64());
    assert_eq!(json!(shown), all["tokens"], "of what was shown, the returned tokens are explained as in the end");

    for (fields, name) in [(json!({"concepts": concepts}), "position"), (json!({"inputs": inputs}), "target_position")]
    {
        let request = with(&with(body, fields), json!({"format": "csv"}));
        let table = server.post("/attribute", &request).await.text().await.unwrap();
        let (header, rows) = table.split_once("\r\n").unwrap();
        assert!(header.starts_with(&format!("{name},")), "{header}");
        let positions = rows.lines().filter_map(|row| row.split_once(',')).map(|(first, _)| first.to_owned());
        assert_eq!(positions.filter(|cell| cell.parse::<u64>().is_ok()).collect::<BTreeSet<String>>(), returned);
    }

    let again = json!({"trace": result["trace"], "concepts": concepts, "inputs": inputs});
    let again = ask(server, "/attribute", &again).await;
    assert!(parts[..4].iter().all(|part| again[*part] == result[*part]), "{again} {result}");
    for part in ["position", "id", "step", "text"] {
        assert_eq!(column(&again["tokens"], part), column(&all["tokens"], part));
    }
    for part in ["start", "end", "text"] {
        assert_eq!(column(&again["chunks"], part), column(&all["chunks"], part));
    }
    assert_eq!(column(&again["inputs"]["targets"], "position"), column(&all["inputs"]["targets"], "position"));
}

/// The same through `/v1`, whole and as a stream.
async fn check_openai(server: &Server, body: &Value, result: &Value) {
    let attribution = json!({"top_known": ALL, "top_unknown": ALL});
    let mut request = json!({"model": "steerling", "prompt": body["prompt"], "max_tokens": body["max_new_tokens"],
        "seed": body["seed"], "stop": body["stop"], "attribution": attribution});
    let streamed = with(&request, json!({"stream": true, "stream_options": {"include_usage": true}}));
    request["logprobs"] = json!(1);
    let answer = ask(server, "/v1/completions", &request).await;
    let choice = &answer["choices"][0];
    let tokens = result["token_ids"].as_array().unwrap().len();
    assert_eq!((&choice["text"], &choice["steerling"]["token_ids"]), (&result["text"], &result["token_ids"]));
    assert_eq!(choice["steerling"]["attribution"], result["attribution"]);
    assert_eq!(answer["usage"]["completion_tokens"], json!(tokens));
    assert_eq!(list(&choice["logprobs"]["tokens"]).len(), tokens);
    assert_eq!(list(&choice["logprobs"]["token_logprobs"]).len(), tokens);
    let letters = text(&choice["text"]).chars().count() as u64;
    assert!(list(&choice["logprobs"]["text_offset"]).iter().all(|at| at.as_u64().unwrap() <= letters), "{choice}");

    let body = server.post("/v1/completions", &streamed).await.text().await.unwrap();
    let chunks: Vec<Value> = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect();
    let choices = || chunks.iter().flat_map(|chunk| list(&chunk["choices"]));
    let pieces: String = choices().map(|choice| text(&choice["text"])).collect();
    assert_eq!(json!(pieces), result["text"]);
    let last = choices().last().unwrap();
    assert_eq!(last["steerling"]["attribution"], result["attribution"]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], json!(tokens));
}

/// The variants of `/steer`, and what steering did according to their returned tokens.
async fn check_steer(server: &Server, body: &Value, unsteered: &Value) {
    let steering = json!({"amplify": [{"concept": {"name": "Space"}}]});
    let all = ask(server, "/steer", &with(body, json!({"steering": steering, "compare": true}))).await;
    assert_eq!(all["default"]["attribution"], unsteered["attribution"]);
    let mut unmet = Met::default();
    for run in ["steered", "default"] {
        check_attribution(&all[run], &all[run]["attribution"], &mut unmet);
        let ids = list(&all[run]["token_ids"]);
        let pairs: BTreeSet<String> = ids.windows(2).map(|pair| json!(pair).to_string()).collect();
        match all["effect"]["distinct_2"][run].as_f64() {
            Some(distinct) => assert!((distinct - pairs.len() as f64 / (ids.len() - 1) as f64).abs() < 1e-9),
            None => assert!(ids.len() < 2),
        }
    }
    let (a, b) = (list(&all["steered"]["token_ids"]), list(&all["default"]["token_ids"]));
    let n = a.len().max(b.len());
    let differ = (0..n).filter(|i| a.get(*i) != b.get(*i)).count();
    match all["effect"]["changed_fraction"].as_f64() {
        Some(changed) => assert!((changed - differ as f64 / n as f64).abs() < 1e-9, "{}", all["effect"]),
        None => assert_eq!(n, 0),
    }
    let trace = json!({"trace": all["steered"]["trace"], "steering": steering});
    let again = ask(server, "/attribute", &trace).await;
    assert_eq!((&again["text"], &again["token_ids"]), (&all["steered"]["text"], &all["steered"]["token_ids"]));
}

#[tokio::test]
async fn every_part_of_an_answer_speaks_of_the_returned_tokens() {
    let server = demo().await;
    let mut rng = StdRng::seed_from_u64(20);
    let mut met = Met::default();
    for seed in 0..32 {
        let align = ["reference", "block"][seed % 2];
        let plain =
            json!({"prompt": PROMPTS[seed % PROMPTS.len()], "max_new_tokens": 36, "seed": seed, "align": align});
        let whole = ask(&server, "/generate", &plain).await;
        let (stop, stop_tokens) = ends(&whole, &mut rng);
        let body = with(&plain, json!({"stop": stop, "stop_tokens": stop_tokens, "return_trace": true}));
        let attribution = json!({"top_known": ALL, "top_unknown": ALL});
        let attributed = with(&body, json!({"attribution": attribution}));
        let result = ask(&server, "/generate", &attributed).await;
        check_result(&server, (&result, &whole), &stop, &mut met).await;
        check_attribution(&result, &result["attribution"], &mut met);
        let committed = list(&result["trace"]["commits"]).len();
        met.behind += usize::from(committed > list(&result["token_ids"]).len());
        check_attribute(&server, &body, &result).await;
        if align == "reference" && stop_tokens.is_empty() {
            check_openai(&server, &body, &result).await;
        }
        check_steer(&server, &attributed, &result).await;
    }
    assert!(["length", "stop_token", "stop_string"].iter().all(|reason| met.reasons[*reason] > 1), "{met:?}");
    assert!(met.inside > 2 && met.behind > 5 && met.chunks > 0, "{met:?}");
}

#[tokio::test]
async fn a_replay_ends_where_it_is_told_to() {
    let server = demo().await;
    let body =
        json!({"prompt": "The chef stirred the", "max_new_tokens": 30, "seed": 1, "return_trace": true, "stop": ["."]});
    let made = ask(&server, "/generate", &body).await;
    let replay = async |more: Value| ask(&server, "/attribute", &with(&json!({"trace": made["trace"]}), more)).await;
    let as_made = replay(json!({})).await;
    assert_eq!((&as_made["text"], &as_made["finish_reason"]), (&made["text"], &json!("stop_string")));
    assert_eq!(as_made["warnings"], json!([]));
    // Other ends replace those of the trace; without one, all that was committed is shown.
    let longer = replay(json!({"stop": []})).await;
    assert_eq!(longer["finish_reason"], json!("length"));
    assert!(list(&longer["token_ids"]).len() > list(&made["token_ids"]).len());
    let id = &made["token_ids"][1];
    let shorter = replay(json!({"stop": [], "stop_tokens": [id]})).await;
    assert_eq!((&shorter["finish_reason"], list(&shorter["token_ids"]).len()), (&json!("stop_token"), 1));
    // A trace of an earlier version does not tell its ends.
    let mut old = made["trace"].clone();
    ["stop", "stop_tokens", "policies"].iter().for_each(|name| drop(old.as_object_mut().unwrap().remove(*name)));
    let old = ask(&server, "/attribute", &json!({"trace": old, "stop": ["."]})).await;
    assert_eq!(old["tokens"], as_made["tokens"]);
}

#[tokio::test]
async fn targets_behind_the_end_of_the_text_are_left_out_with_a_warning() {
    let server = demo().await;
    let inputs = json!({"method": "occlusion", "positions": [5, 20, 4, 30]});
    let body = json!({"prompt": "The chef stirred the", "max_new_tokens": 30, "seed": 1, "stop": ["."], "concepts": null,
        "inputs": inputs, "return_trace": true});
    let made = ask(&server, "/attribute", &body).await;
    let end = 4 + list(&made["token_ids"]).len();
    assert!((6..20).contains(&end), "{made}");
    let again = ask(&server, "/attribute", &json!({"trace": made["trace"], "concepts": null, "inputs": inputs})).await;
    for answer in [&made, &again] {
        let mut targets = column(&answer["inputs"]["targets"], "position");
        targets.sort_by_key(Value::as_u64);
        assert_eq!(targets, [json!(4), json!(5)]);
        let warning = text(&answer["warnings"][0]);
        assert!(warning.contains(" at 20, 30;") && warning.ends_with(&format!("before position {end}")), "{warning}");
    }
}
