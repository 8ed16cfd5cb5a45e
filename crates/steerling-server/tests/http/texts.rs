//! Operations that read texts and the catalogue, on the real model with recorded weights.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use candle_core::safetensors::Load;
use serde_json::{Value, json};
use steerling::score::{ScoreItem, ScoreJob, ScoreMethod, ScoreParams};
use steerling::steer::ConceptKey;
use steerling::{Catalog, Config, ModelSource, Runtime, RuntimeOptions};
use steerling_server::engine::Loaded;

use crate::support::{Server, options, refusal};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens").join(name)
}

fn load(dir: &Path) -> steerling::Result<Runtime> {
    let options = RuntimeOptions { kv_bytes: 16 << 20, device: steerling::DeviceChoice::Cpu, ..Default::default() };
    Runtime::load(&ModelSource::Directory(dir.to_owned()), &options, &mut |_, _| ())
}

async fn start(dir: PathBuf) -> Server {
    Server::start_model(options(), move || load(&dir).map(Loaded::from)).await
}

async fn nano() -> Server {
    start(golden("nano")).await
}

/// The nano checkpoint with labels of its first concepts: two of one name, three of one group.
fn labelled() -> tempfile::TempDir {
    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden("nano").join(name), dir.path().join(name)).unwrap();
    }
    let schema = "message schema { required int64 concept_id; required binary concept_name (UTF8);
        required binary concept_description (UTF8); required binary head (UTF8); optional int64 public_group_id;
        optional binary group_name (UTF8); required boolean is_steerable; required boolean is_tone;
        required boolean is_alignment; required boolean is_demographic; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let file = std::fs::File::create(dir.path().join("concept_labels.parquet")).unwrap();
    let mut writer = parquet::file::writer::SerializedFileWriter::new(file, schema.into(), Default::default()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let texts = |texts: [&str; 4]| texts.map(ByteArray::from);
    let mut n = 0;
    while let Some(mut column) = rows.next_column().unwrap() {
        let write_texts = |column: &mut parquet::file::writer::SerializedColumnWriter<'_>, values: [&str; 4]| {
            column.typed::<ByteArrayType>().write_batch(&texts(values), None, None).unwrap()
        };
        match n {
            0 => column.typed::<Int64Type>().write_batch(&[0, 1, 2, 3], None, None).unwrap(),
            1 => write_texts(&mut column, ["calm tone", "calm tone", "angry tone", "the sea"]),
            2 => write_texts(&mut column, ["Quiet words.", "Calm seas.", "Loud words.", "Water and waves of the sea."]),
            3 => write_texts(&mut column, ["known"; 4]),
            4 => column.typed::<Int64Type>().write_batch(&[7; 3], Some(&[1, 1, 1, 0]), None).unwrap(),
            5 => {
                let names = ["tone"; 3].map(ByteArray::from);
                column.typed::<ByteArrayType>().write_batch(&names, Some(&[1, 1, 1, 0]), None).unwrap()
            }
            6 => column.typed::<BoolType>().write_batch(&[true, true, false, true], None, None).unwrap(),
            7 => column.typed::<BoolType>().write_batch(&[true, true, true, false], None, None).unwrap(),
            _ => column.typed::<BoolType>().write_batch(&[false; 4], None, None).unwrap(),
        };
        column.close().unwrap();
        n += 1;
    }
    rows.close().unwrap();
    writer.close().unwrap();
    dir
}

/// A recorded checkpoint without concept heads, with a tokenizer beside it.
fn plain() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("variants/plain").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::copy(golden("nano/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    dir
}

async fn ok(response: reqwest::Response) -> Value {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn catalog() -> Catalog {
    let config = Config::from_dir(golden("nano")).unwrap();
    Catalog::open(golden("nano"), &config).unwrap()
}

#[tokio::test]
async fn embeddings_are_the_recorded_ones_in_every_form() {
    let server = nano().await;
    let ids = serde_json::from_slice::<Value>(&std::fs::read(golden("nano/embeddings.json")).unwrap()).unwrap();
    let bytes = std::fs::read(golden("nano/embeddings.safetensors")).unwrap();
    let recorded = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (kind, pooling) in [("hidden", "mean"), ("composed", "last"), ("known", "first"), ("unknown", "none")] {
        let body = json!({"inputs": ids["ids"], "embedding_type": kind, "pooling": pooling});
        let answer = ok(server.post("/embed", &body).await).await;
        assert_eq!(answer["tokens"], json!([1, 21, 9]));
        assert_eq!((&answer["embedding_type"], &answer["pooling"]), (&json!(kind), &json!(pooling)));
        for n in 0..3 {
            let view = recorded.tensor(&format!("{n}.{kind}.{pooling}")).unwrap();
            let tensor = view.load(&candle_core::Device::Cpu).unwrap();
            let recorded: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let found = &answer["embeddings"][n];
            let found = match pooling {
                "none" => found.as_array().unwrap().iter().flat_map(floats).collect(),
                _ => floats(found),
            };
            assert_eq!(found.len(), recorded.len(), "{kind} {pooling}");
            let off = found.iter().zip(&recorded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 5e-5, "{kind} {pooling}: off by {off}");
        }
    }
    // The same vector as text, cut and scaled.
    let plain = ok(server.post("/embed", &json!({"inputs": [[12, 45, 78]]})).await).await;
    let plain = floats(&plain["embeddings"][0]);
    let body = json!({"inputs": [[12, 45, 78]], "encoding_format": "base64", "normalize": true, "dimensions": 5});
    let answer = ok(server.post("/embed", &body).await).await;
    assert_eq!(answer["dimensions"], json!(5));
    let bytes = base64::engine::general_purpose::STANDARD.decode(answer["embeddings"][0].as_str().unwrap()).unwrap();
    let cut: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let length = plain[..5].iter().map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(cut.len(), 5);
    assert!(cut.iter().zip(&plain).all(|(cut, whole)| (cut - whole / length).abs() < 1e-6));
}

#[tokio::test]
async fn known_unknown_and_epsilon_add_up_and_concepts_are_sparse() {
    let server = nano().await;
    let mut vectors = Vec::new();
    for kind in ["hidden", "known", "unknown", "epsilon"] {
        let body = json!({"inputs": "12 45 78 3", "embedding_type": kind});
        vectors.push(floats(&ok(server.post("/embed", &body).await).await["embeddings"][0]));
    }
    let parts =
        vectors[1].iter().zip(&vectors[2]).zip(&vectors[3]).map(|((known, unknown), rest)| known + unknown + rest);
    assert!(vectors[0].iter().zip(parts).all(|(hidden, sum)| (hidden - sum).abs() < 1e-4));
    let body = json!({"inputs": "12 45 78 3", "embedding_type": "concepts", "pooling": "last"});
    let answer = ok(server.post("/embed", &body).await).await;
    let concepts = answer["embeddings"][0].as_array().unwrap();
    assert_eq!(concepts.len(), 8 + 16);
    assert!(concepts.iter().all(|pair| (0.0..=1.0).contains(&pair[1].as_f64().unwrap())));
    assert!(concepts.is_sorted_by(|a, b| a[1].as_f64() >= b[1].as_f64()));
    assert_eq!(answer["dimensions"], json!(catalog().len()));
}

#[tokio::test]
async fn a_score_is_that_of_the_model_crate() {
    let server = nano().await;
    let mut runtime = load(&golden("nano")).unwrap();
    for (name, method) in [
        ("exact", ScoreMethod::Exact),
        ("monte_carlo", ScoreMethod::MonteCarlo),
        ("left_to_right", ScoreMethod::LeftToRight),
    ] {
        let body = json!({"items": [{"context": "12 45 78 ", "continuation": "3 4 5"}], "method": name,
            "samples": 8, "batch": 4, "cfg_scale": 0.5, "seed": 9});
        let answer = ok(server.post("/score", &body).await).await;
        let result = &answer["results"][0];
        let (context, continuation) = steerling::score::encode_pair(runtime.tokenizer(), "12 45 78 ", "3 4 5").unwrap();
        let params = ScoreParams { method, samples: 8, batch: 4, cfg_scale: 0.5, seed: 9 };
        let config = runtime.info().config.clone();
        let mut job = ScoreJob::new(vec![ScoreItem { context, continuation }], &params, &config).unwrap();
        let expected = loop {
            if let Some(scores) = job.advance(&mut runtime).unwrap() {
                break scores[0];
            }
        };
        assert_eq!(result["loglikelihood"], json!(expected.loglikelihood), "{name}");
        assert_eq!(result["standard_error"], json!(expected.standard_error));
        assert_eq!((&result["tokens"], &result["method"]), (&json!(3), &json!(name)));
        assert_eq!(result["per_token"], json!(expected.loglikelihood / 3.0));
        assert_eq!(result["is_greedy"], json!(expected.is_greedy));
        assert!(result["forwards"].as_u64().unwrap() > 0);
    }
}

#[tokio::test]
async fn the_catalogue_is_listed_searched_and_shown() {
    let dir = labelled();
    let server = start(dir.path().to_owned()).await;
    let catalog = Catalog::open(dir.path(), &Config::from_dir(dir.path()).unwrap()).unwrap();
    let ids = |page: &Value| -> Vec<u64> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect()
    };
    let page = ok(server.get("/concepts?limit=3&offset=2&head=unknown").await).await;
    assert_eq!(page["total"], json!(catalog.unknown_len()));
    let first = u64::from(catalog.unknown(2).unwrap().id);
    assert_eq!(ids(&page), [first, first + 1, first + 2]);
    assert_eq!(page["items"][0]["score"], Value::Null);
    assert_eq!(ids(&ok(server.get("/concepts?flag=tone").await).await), [0, 1, 2]);
    assert_eq!(ids(&ok(server.get("/concepts?flag=tone&steerable=false").await).await), [2]);

    let page = ok(server.get("/concepts?q=the+SEA").await).await;
    // Name: 3 (the) + 3 (sea); description: 1 + 1.
    assert_eq!((ids(&page), &page["items"][0]["score"], &page["total"]), (vec![3], &json!(8), &json!(1)));
    let page = ok(server.get("/concepts?q=calm&limit=1&offset=1").await).await;
    // `Calm seas.` stands first for its description.
    assert_eq!((ids(&page), &page["total"]), (vec![0], &json!(2)));

    let concept = ok(server.get("/concepts/1").await).await;
    assert_eq!(concept, serde_json::to_value(catalog.get(1).unwrap()).unwrap());
    assert_eq!(concept["group"], json!({"id": 7, "name": "tone"}));
    assert_eq!(ok(server.get("/concepts/the%20sea").await).await["id"], json!(3));
    let group = ok(server.get("/concepts/1/group").await).await;
    assert_eq!((ids(&group), &group["total"]), (vec![1, 0, 2], &json!(3)));
    assert_eq!(ids(&ok(server.get("/concepts/3/group").await).await), [3]);
}

#[tokio::test]
async fn tokens_are_the_recorded_ones_and_neighbours_those_of_the_model_crate() {
    let server = nano().await;
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden("nano/concept_top_tokens.json")).unwrap()).unwrap();
    let recorded = &golden["1"];
    let answer = ok(server.get("/concepts/1/tokens").await).await;
    assert_eq!((&answer["concept"]["id"], &answer["sign"]), (&json!(1), &json!("positive")));
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 15);
    for (n, token) in tokens.iter().enumerate() {
        assert_eq!((&token["id"], &token["text"]), (&recorded["ids"][n], &recorded["top"][n][0]));
        assert!((token["alignment"].as_f64().unwrap() - recorded["top"][n][1].as_f64().unwrap()).abs() < 1e-4);
    }
    let negative = ok(server.get("/concepts/1/tokens?k=3&sign=negative").await).await;
    let alignments: Vec<f64> =
        negative["tokens"].as_array().unwrap().iter().map(|token| token["alignment"].as_f64().unwrap()).collect();
    assert!(alignments.len() == 3 && alignments[0] < 0.0 && alignments.is_sorted());

    let model = load(&self::golden("nano")).unwrap();
    let expected = model.model().concept_neighbors(ConceptKey::Known(1), 4).unwrap();
    let answer = ok(server.get("/concepts/1/neighbors?k=4").await).await;
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    for (item, (key, similarity)) in items.iter().zip(expected) {
        let id = match key {
            ConceptKey::Known(index) => index,
            ConceptKey::Unknown(index) => catalog().known_len() as u32 + index,
        };
        assert_eq!(item["id"], json!(id));
        assert!((item["similarity"].as_f64().unwrap() - f64::from(similarity)).abs() < 1e-6);
    }
}

#[tokio::test]
async fn detected_concepts_are_the_sparse_embedding_at_every_level() {
    let server = nano().await;
    let text = (0..40).map(|i| ((i * 11 + 2) % 500).to_string()).collect::<Vec<_>>().join(" ");
    let detect = async |level: &str| {
        ok(server.post("/concepts/detect", &json!({"text": text, "top_k": 5, "level": level})).await).await
    };
    let embed = async |pooling: &str| {
        let body = json!({"inputs": text, "embedding_type": "concepts", "pooling": pooling});
        ok(server.post("/embed", &body).await).await["embeddings"][0].clone()
    };
    let check = |item: &Value, embedded: &Value| {
        let concepts = item["concepts"].as_array().unwrap();
        assert_eq!(concepts.len(), 5);
        for (n, concept) in concepts.iter().enumerate() {
            assert_eq!((&concept["id"], &concept["weight"]), (&embedded[n][0], &embedded[n][1]));
            assert!(concept["name"].is_string() && concept["flags"]["steerable"].is_boolean());
        }
    };
    let whole = detect("text").await;
    assert_eq!((&whole["items"][0]["start"], &whole["items"][0]["end"]), (&json!(0), &json!(40)));
    check(&whole["items"][0], &embed("mean").await);
    let tokens = detect("token").await;
    assert_eq!(tokens["items"].as_array().unwrap().len(), 40);
    check(&tokens["items"][39], &embed("last").await);
    // Blocks of 16.
    let chunks = detect("chunk").await;
    let ends: Vec<u64> = chunks["items"].as_array().unwrap().iter().map(|item| item["end"].as_u64().unwrap()).collect();
    assert_eq!(ends, [16, 32, 40]);
}

#[tokio::test]
async fn contrast_compares_mean_weights() {
    let server = nano().await;
    let (a, b) = (["1 2 3 4", "1 2 5"], ["300 301", "300 17 99", "250"]);
    let answer = ok(server.post("/concepts/contrast", &json!({"a": a, "b": b, "top_k": 6})).await).await;
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 6);
    let embed = async |texts: &[&str]| {
        let body = json!({"inputs": texts, "embedding_type": "concepts"});
        ok(server.post("/embed", &body).await).await["embeddings"].as_array().unwrap().clone()
    };
    let (of_a, of_b) = (embed(&a).await, embed(&b).await);
    let weights = |rows: &[Value], id: &Value| -> Vec<f64> {
        let weight = |row: &Value| {
            let pair = row.as_array().unwrap().iter().find(|pair| pair[0] == *id);
            pair.map_or(0.0, |pair| pair[1].as_f64().unwrap())
        };
        rows.iter().map(weight).collect()
    };
    for item in items {
        let (a, b) = (weights(&of_a, &item["id"]), weights(&of_b, &item["id"]));
        let mean = |weights: &[f64]| weights.iter().sum::<f64>() / weights.len() as f64;
        assert!((item["mean_a"].as_f64().unwrap() - mean(&a)).abs() < 1e-6, "{item}");
        assert!((item["mean_b"].as_f64().unwrap() - mean(&b)).abs() < 1e-6);
        assert!((item["difference"].as_f64().unwrap() - mean(&a) + mean(&b)).abs() < 1e-6);
        let pairs = a.iter().flat_map(|x| {
            b.iter().map(move |y| {
                if x > y {
                    1.0
                } else if x == y {
                    0.5
                } else {
                    0.0
                }
            })
        });
        assert!((item["auc"].as_f64().unwrap() - pairs.sum::<f64>() / 6.0).abs() < 1e-6);
    }
}

#[tokio::test]
async fn a_wrong_field_is_refused_by_name() {
    let server = nano().await;
    let long = "7 ".repeat(600);
    let many: Vec<&str> = vec!["1"; 2049];
    let pair = json!({"context": "1", "continuation": "2"});
    let (eight, blank) = (" 1 2 3 4 5 6 7 8", "");
    let cases = [
        ("/embed", json!({"inputs": ""}), "inputs"),
        ("/embed", json!({"inputs": []}), "inputs"),
        ("/embed", json!({"inputs": many}), "inputs"),
        ("/embed", json!({"inputs": ["1", ""]}), "inputs[1]"),
        ("/embed", json!({"inputs": [[1], []]}), "inputs[1]"),
        ("/embed", json!({"inputs": [[1, 512]]}), "inputs[0][1]"),
        ("/embed", json!({"inputs": 3}), "inputs"),
        ("/embed", json!({"inputs": long}), "inputs"),
        ("/embed", json!({"inputs": "1", "pooling": "max"}), "pooling"),
        ("/embed", json!({"inputs": "1", "embedding_type": "logits"}), "embedding_type"),
        ("/embed", json!({"inputs": "1", "dimensions": 0}), "dimensions"),
        ("/embed", json!({"inputs": "1", "dimensions": 65}), "dimensions"),
        ("/embed", json!({"inputs": "1", "embedding_type": "concepts", "normalize": true}), "normalize"),
        ("/embed", json!({"inputs": "1", "dimension": 4}), "dimension"),
        ("/score", json!({"items": []}), "items"),
        ("/score", json!({"items": [{"context": "1"}]}), "items[0].continuation"),
        ("/score", json!({"items": [pair, {"context": long, "continuation": "1"}]}), "items[1]"),
        ("/score", json!({"items": [{"context": "1", "continuation": eight}], "method": "exact"}), "method"),
        ("/score", json!({"items": [pair], "method": "guess"}), "method"),
        ("/score", json!({"items": [pair], "samples": 0}), "samples"),
        ("/score", json!({"items": [pair], "samples": 1_000_000}), "samples"),
        ("/score", json!({"items": [pair], "batch": 0}), "batch"),
        ("/score", json!({"items": [pair], "cfg_scale": -1.0}), "cfg_scale"),
        ("/score", json!({"items": [pair], "seed": 1.5}), "seed"),
        ("/concepts/detect", json!({"text": blank}), "text"),
        ("/concepts/detect", json!({"text": long}), "text"),
        ("/concepts/detect", json!({"text": "1", "top_k": 0}), "top_k"),
        ("/concepts/detect", json!({"text": "1", "level": "word"}), "level"),
        ("/concepts/contrast", json!({"a": [], "b": ["1"]}), "a"),
        ("/concepts/contrast", json!({"a": ["1"], "b": ["1", ""]}), "b[1]"),
        ("/concepts/contrast", json!({"a": ["1"], "b": [long]}), "b[0]"),
        ("/concepts/contrast", json!({"a": ["1"], "b": ["1"], "top_k": 1001}), "top_k"),
    ];
    for (path, body, param) in cases {
        let shown: String = body.to_string().chars().take(80).collect();
        let (status, error) = refusal(server.post(path, &body).await).await;
        assert_eq!((status, &error["param"]), (422, &json!(param)), "{path} {shown} {error}");
        let too_long = body.to_string().len() > 1000 && error["message"].as_str().unwrap().contains("positions");
        let code = if too_long { "context_length_exceeded" } else { "invalid_request" };
        assert_eq!(error["code"], json!(code), "{path} {shown} {error}");
    }
    let cases = [
        ("/concepts?limit=0", "limit"),
        ("/concepts?limit=1001", "limit"),
        ("/concepts?limit=ten", "limit"),
        ("/concepts?limit=", "limit"),
        ("/concepts?q=calm&head=", "head"),
        ("/concepts?limit=1&limit=2", "limit"),
        ("/concepts?offset=-1", "offset"),
        ("/concepts?head=both", "head"),
        ("/concepts?steerable=maybe", "steerable"),
        ("/concepts?flag=nice", "flag"),
        ("/concepts?query=a", "query"),
        ("/concepts/1?k=3", "k"),
        ("/concepts/1/group?k=3", "k"),
        ("/concepts/1/tokens?k=0", "k"),
        ("/concepts/1/tokens?sign=both", "sign"),
        ("/concepts/1/neighbors?k=x", "k"),
    ];
    for (path, param) in cases {
        let (status, error) = refusal(server.get(path).await).await;
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (422, &json!("invalid_request"), &json!(param)),
            "{path}"
        );
    }
    // What is too long may be cut instead.
    let answer = ok(server.post("/embed", &json!({"inputs": long, "truncate": true})).await).await;
    assert_eq!(answer["tokens"], json!([512]));
}

#[tokio::test]
async fn an_unknown_concept_is_not_found_and_an_ambiguous_name_lists_its_candidates() {
    let dir = labelled();
    let server = start(dir.path().to_owned()).await;
    for path in ["", "/group", "/tokens", "/neighbors"] {
        for name in [catalog().len().to_string(), "no-such-name".to_owned(), "4294967296".to_owned()] {
            let (status, error) = refusal(server.get(&format!("/concepts/{name}{path}")).await).await;
            assert_eq!((status, &error["code"]), (404, &json!("unknown_concept")), "{name}{path} {error}");
            assert_eq!(error["param"], json!("id"));
        }
        let (status, error) = refusal(server.get(&format!("/concepts/calm%20tone{path}")).await).await;
        assert_eq!((status, &error["code"]), (422, &json!("ambiguous_concept")), "{error}");
        let candidates = error["details"]["candidates"].as_array().unwrap();
        assert_eq!(candidates.iter().map(|candidate| &candidate["id"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
        assert_eq!(candidates[1]["description"], json!("Calm seas."));
    }
}

#[tokio::test]
async fn without_concept_heads_only_plain_embeddings_and_scores_are_answered() {
    let dir = plain();
    let server = start(dir.path().to_owned()).await;
    for path in ["/concepts", "/concepts/1", "/concepts/1/group", "/concepts/1/tokens", "/concepts/1/neighbors"] {
        let (status, error) = refusal(server.get(path).await).await;
        assert_eq!((status, &error["code"]), (501, &json!("unsupported")), "{path}");
    }
    for (path, body) in [
        ("/concepts/detect", json!({"text": "1"})),
        ("/concepts/contrast", json!({"a": ["1"], "b": ["2"]})),
        ("/embed", json!({"inputs": "1", "embedding_type": "known"})),
        ("/embed", json!({"inputs": "1", "embedding_type": "epsilon"})),
        ("/embed", json!({"inputs": "1", "embedding_type": "concepts"})),
    ] {
        let (status, error) = refusal(server.post(path, &body).await).await;
        assert_eq!((status, &error["code"]), (501, &json!("unsupported")), "{path}");
    }
    let hidden = ok(server.post("/embed", &json!({"inputs": "1 2", "embedding_type": "hidden"})).await).await;
    let composed = ok(server.post("/embed", &json!({"inputs": "1 2"})).await).await;
    assert_eq!(hidden["embeddings"], composed["embeddings"]);
    let body = json!({"items": [{"context": "1", "continuation": " 2"}]});
    let score = ok(server.post("/score", &body).await).await;
    assert!(score["results"][0]["loglikelihood"].as_f64().unwrap() < 0.0);
}

/// A character that is cut into several tokens gives each of them its own bytes.
#[tokio::test]
async fn tokens_of_the_demo_model_tell_the_bytes_that_they_cover() {
    let server = crate::examples::demo().await;
    for text in ["a 😃", "Crème brûlée", "日本語 שלום e\u{301} <|mask|>"] {
        let answer = ok(server.post("/tokenize", &json!({"text": text})).await).await;
        let mut end = 0;
        for token in answer["tokens"].as_array().unwrap() {
            let place = ["start", "end"].map(|key| token[key].as_u64().unwrap() as usize);
            assert_eq!(place[0], end, "{text}: {answer}");
            let covered = String::from_utf8_lossy(&text.as_bytes()[place[0]..place[1]]);
            assert_eq!(token["text"].as_str().unwrap(), covered, "{text}");
            end = place[1];
        }
        assert_eq!(end, text.len(), "{text}");
    }
}
