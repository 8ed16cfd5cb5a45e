//! The commands, as the program that people run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use steerling::{Config, Tokenizer};

fn steerling(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steerling"));
    command.args(args);
    for name in ["STEERLING_MODEL", "STEERLING_DEVICE", "STEERLING_DTYPE", "STEERLING_KV_CACHE_MIB"] {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    steerling(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard output, and the only line of standard error.
fn failure(args: &[&str]) -> (String, String) {
    let output = run(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    (text(&output.stdout), stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens")
}

fn nano() -> String {
    goldens().join("nano").to_str().unwrap().to_owned()
}

/// A copy of the nano checkpoint that may be broken.
fn nano_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(goldens().join("nano").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, edit: impl Fn(&mut Value)) {
    let path = dir.join("config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_synthesised_checkpoint_is_accepted_and_generates_by_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tiny");
    let out = out.to_str().unwrap();
    let written = stdout(&["synthesize", "--preset", "tiny", "--seed", "3", "--out", out, "--shard-gb", "0.01"]);
    assert!(written.contains("13,943,296 parameters in 40 tensors, 26.59 MiB in bf16"), "{written}");
    let found = stdout(&["inspect", out]);
    assert!(found.contains("model-00002-of-00002.safetensors"), "{found}");
    assert!(found.ends_with("no problems: this checkpoint can be used\n"), "{found}");
    let generate =
        |seed: &str| stdout(&["generate", "--model", out, "--max-new-tokens", "16", "--seed", seed, "Hello"]);
    let first = generate("1");
    assert!(!first.is_empty());
    assert_eq!(generate("1"), first);
    assert_ne!(generate("2"), first);
}

#[test]
fn synthesize_leaves_a_directory_with_anything_in_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let (_, error) = failure(&["synthesize", "--preset", "tiny", "--out", dir.path().to_str().unwrap()]);
    assert!(error.contains("not empty, it holds notes.txt"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn synthesize_without_a_directory_tells_the_size_of_the_released_model() {
    let told = stdout(&["synthesize", "--preset", "8b"]);
    assert!(told.contains("8,391,778,304 parameters"), "{told}");
    assert!(told.contains("nothing written"), "{told}");
}

/// The recorded greedy runs chosen are those where every token is beyond doubt.
#[test]
fn greedy_generation_prints_the_recorded_text() {
    let path = goldens().join("nano/generation.json");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for name in ["p5_n48_s24_rp1.3_cfg1.5", "p23_stop_in_block1"] {
        let case = json["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
        assert_eq!(case["strict_tokens"], true);
        let words = |ids: &Value| ids.as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        let config = &case["config"];
        let mut args = vec!["generate".to_owned(), "--model".to_owned(), nano(), "--no-entropy-sampling".to_owned()];
        let flags = [
            ("--temperature", "temperature"),
            ("--top-p", "top_p"),
            ("--max-new-tokens", "max_new_tokens"),
            ("--steps", "steps"),
            ("--repetition-penalty", "repetition_penalty"),
            ("--cfg-scale", "cfg_scale"),
        ];
        for (flag, field) in flags {
            if !config[field].is_null() {
                args.extend([flag.to_owned(), config[field].to_string()]);
            }
        }
        for id in config["stop_tokens"].as_array().into_iter().flatten() {
            args.extend(["--stop-token".to_owned(), id.to_string()]);
        }
        args.push(words(&case["prompt_ids"]).join(" "));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(stdout(&args), case["text"].as_str().unwrap(), "{name}: {args:?}");
    }
}

#[test]
fn piped_text_is_the_text_of_the_json_and_nothing_else() {
    let common = ["generate", "--model", &nano(), "--max-new-tokens", "40", "--seed", "7", "1 2 3"];
    let plain = run(&common);
    assert!(plain.status.success());
    let plain_text = text(&plain.stdout);
    assert!(!plain_text.contains('\u{1b}') && !text(&plain.stderr).contains('\u{1b}'), "{plain_text:?}");
    let json: Value = serde_json::from_str(&stdout(&[&common[..], &["--json", "--return-trace"]].concat())).unwrap();
    assert_eq!(json["text"], plain_text);
    assert_eq!((&json["seed"], &json["prompt_tokens"]), (&7.into(), &3.into()));
    assert_eq!(json["token_ids"].as_array().unwrap().len() as u64, json["completion_tokens"].as_u64().unwrap());
    assert_eq!(json["trace"]["commits"].as_array().unwrap().len(), 40);
    assert_eq!(json["usage"]["forwards"], 40);
}

#[test]
fn a_prompt_comes_from_standard_input_without_its_last_line_break() {
    let nano = nano();
    let flags = ["generate", "--model", &nano, "--max-new-tokens", "8", "--seed", "1"];
    let argument = stdout(&[&flags[..], &["5 6"]].concat());
    for extra in [&["-"][..], &[]] {
        let output = steerling(&[&flags[..], extra].concat()).write_stdin("5 6\n").output().unwrap();
        assert_eq!(text(&output.stdout), argument);
    }
}

#[test]
fn a_drawn_seed_is_told_and_gives_the_same_text_again() {
    let nano = nano();
    let flags = ["generate", "--model", &nano, "--max-new-tokens", "24", "1 2"];
    let drawn = run(&flags);
    let stderr = text(&drawn.stderr);
    let seed = stderr.trim_end().rsplit_once("seed ").unwrap().1.to_owned();
    assert_eq!(stdout(&[&flags[..], &["--seed", &seed]].concat()), text(&drawn.stdout));
    let with = |seed: &str| stdout(&[&flags[..], &["--seed", seed]].concat());
    assert_eq!(with("-1"), with("18446744073709551615"));
    assert_ne!(with("-1"), with("1"));
}

#[test]
fn lossless_prints_the_same_text_and_other_methods_take_fewer_forwards() {
    let nano = nano();
    let generate = |decoding: &str| {
        let flags = ["generate", "--model", &nano, "--max-new-tokens", "32", "--seed", "5", "--json", "--return-trace"];
        let json = stdout(&[&flags[..], &["--decoding", decoding, "1 2 3"]].concat());
        serde_json::from_str::<Value>(&json).unwrap()
    };
    let (plain, lossless, threshold) = (generate("confidence"), generate("lossless=2"), generate("threshold=0/4"));
    assert_eq!((&lossless["text"], &lossless["trace"]), (&plain["text"], &plain["trace"]));
    assert!(lossless["usage"]["drafts"].as_u64().unwrap() > 0, "{}", lossless["usage"]);
    assert_eq!(threshold["usage"]["tokens_per_forward"], 4.0);
    let steered =
        ["steer", "--model", &nano, "--amplify", "3", "--force", "--max-new-tokens", "32", "--seed", "5", "1 2 3"];
    let steer = |decoding: &str| stdout(&[&steered[..], &["--decoding", decoding]].concat());
    assert_eq!(steer("lossless=2"), steer("confidence"));
}

#[test]
fn bench_sets_decoding_methods_against_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let flags =
        ["bench", "--model", &nano(), "--batch", "1,2", "--max-new-tokens", "16", "--rounds", "1", "--prompt", "1 2"];
    let compared = ["--decoding", "confidence,lossless=2,threshold=0", "--align", "reference,block", "--json"];
    let table = stdout(&[&flags[..], &compared, &[json.to_str().unwrap()]].concat());
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows = report["decoding"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 3 * 2);
    assert_eq!((&rows[0]["ratio"], &rows[0]["forwards"]), (&Value::from(1.0), &Value::from(16.0)));
    assert!(rows[1]["accepted"].is_f64() && rows[0]["accepted"].is_null(), "{report}");
    assert_eq!((&rows[2]["decoding"], &rows[2]["forwards"]), (&Value::from("threshold=0"), &Value::from(1.0)));
    assert_eq!(rows[5]["align"], "block");
    for row in &rows[..2] {
        assert_eq!(row["quality"]["same_tokens"], 1.0, "the same text, as promised: {row}");
        assert_eq!(row["quality"], rows[0]["quality"]);
        assert!(row["quality"]["loglikelihood_per_token"].as_f64().unwrap() < 0.0, "{row}");
    }
    assert!(rows[2]["quality"]["same_tokens"].as_f64().unwrap() < 1.0, "{}", rows[2]);
    assert!(table.contains("lossless=2") && table.contains("nats/token"), "{table}");
}

/// The whole table of a model, in small: every figure is there, positive and in keeping with the others.
#[test]
fn bench_measures_the_whole_table_of_a_model_on_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let flags =
        ["bench", "--preset", "tiny", "--device", "cpu", "--max-forwards", "4", "--json", json.to_str().unwrap()];
    let table = stdout(&[&flags[..], &["--context", "16,128,8192", "--batch", "1,2"]].concat());
    assert!(table.contains("memory floor") && table.contains("attention_products"), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
    let positive = |value: &Value, names: &[&str]| {
        names.iter().for_each(|name| assert!(number(&value[name]).is_some(), "{name}: {value}"));
    };
    let sweep = &report["sweep"];
    assert_eq!(sweep["failures"], serde_json::json!([]));
    positive(&sweep["bounds"], &["bytes_per_second", "operations_per_second", "weight_bytes"]);
    let cells = sweep["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for (cell, (context, sequences)) in cells.iter().zip([(16, 1), (16, 2), (128, 1), (128, 2)]) {
        assert_eq!((&cell["context"], &cell["sequences"]), (&Value::from(context), &Value::from(sequences)));
        let found = &cell["measured"];
        positive(&found["seconds_per_step"], &["mean", "median", "p90"]);
        positive(&found["floors"], &["memory_seconds", "memory_share", "compute_seconds", "compute_share"]);
        positive(found, &["tokens_per_second", "kv_bytes", "seconds_per_profiled_step"]);
        // The block being unmasked, 64 rows or what there is of it, one token a step.
        let rows = f64::from(sequences * if context == 16 { 16 } else { 64 });
        assert_eq!((number(&found["rows_per_forward"]), &found["forwards"]), (Some(rows), &Value::from(4)));
        let masked = number(&found["masked_rows_per_forward"]).unwrap();
        assert!(masked < rows && masked > 0.0, "{found}");
        let parts = found["parts"].as_array().unwrap();
        assert_eq!((parts.len(), &parts[0][0], &parts[10][0]), (11, &Value::from("embed"), &Value::from("untimed")));
        let seconds: Vec<f64> = parts.iter().map(|part| part[1].as_f64().unwrap()).collect();
        assert!(seconds.iter().all(|seconds| *seconds >= 0.0), "{found}");
        let whole = number(&found["seconds_per_profiled_step"]).unwrap();
        assert!((seconds.iter().sum::<f64>() / whole - 1.0).abs() < 1e-9, "{found}");
    }
    assert_eq!(cells[4]["skipped"], "the context of this model ends at 4096");
    assert_eq!(sweep["prefill"].as_array().unwrap().len(), 2);
    positive(&sweep["prefill"][1], &["rows", "seconds", "rows_per_second"]);
    positive(&sweep["embeddings"], &["texts", "seconds", "texts_per_second", "tokens_per_second"]);
    positive(&sweep["explained"], &["plain_seconds", "attributed_seconds"]);
    let gradients = &sweep["explained"]["inputs"][0];
    assert_eq!((&gradients["method"], &gradients["n_steps"]), (&"integrated_gradients".into(), &8.into()));
    positive(gradients, &["targets", "seconds_per_target"]);
    positive(&report, &["peak_memory_mib", "load_seconds", "parameters"]);

    // 64 pages hold one context of 4,096 tokens.
    let flags = ["bench", "--preset", "tiny", "--device", "cpu", "--max-forwards", "1", "--batch", "1,80"];
    let table = stdout(&[&flags[..], &["--context", "64", "--kv-cache-mib", "8"]].concat());
    assert!(table.contains("skipped: 80 pages are needed, there are 64; --kv-cache-mib 10 would do"), "{table}");
    let (_, error) = failure(&["bench", "--preset", "tiny", "--context", "7"]);
    assert!(error.contains("--context: 7 is below the minimum of 8"), "{error}");
}

#[test]
fn what_has_no_effect_is_said_on_standard_error() {
    let nano = nano();
    let warned = |args: &[&str], warning: &str| {
        let stderr = text(&run(args).stderr);
        assert!(stderr.contains(&format!("warning: {warning}")), "{stderr}");
    };
    let short = ["generate", "--max-new-tokens", "2", "1"];
    let with = |more: &[&'static str]| [&short[..], &["--model", &nano], more].concat();
    warned(&with(&["--temperature", "0.5"]), "--temperature has no effect");
    warned(&with(&["--no-entropy-sampling", "--temperature", "0", "--seed", "1"]), "--seed has no effect");
    warned(&with(&["--eot", "fill"]), "--eot has no effect");
    warned(&["generate", "--model", &nano, "1 2"], "--max-new-tokens is 510");
    assert_eq!(text(&run(&with(&[])).stderr).lines().count(), 1, "the summary alone");
}

#[test]
fn every_command_without_a_model_uses_the_embedded_demo_and_says_so() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo");
    let config = Config::from_dir(&demo).unwrap();
    let tokenizer = Tokenizer::for_checkpoint(&demo, &config).unwrap();
    // A word of its vocabulary, whatever that is.
    let texts = (config.vocab_size as u32 / 2..).map(|id| tokenizer.decode(&[id], true));
    let mut words = texts.map(|text| text.trim().to_owned());
    let prompt = words.find(|word| !word.is_empty() && word.chars().all(char::is_alphanumeric)).unwrap();
    let short = ["--max-new-tokens", "6", "--seed", "1", &prompt];
    let commands = [
        [&["generate"][..], &short].concat(),
        [&["steer", "--amplify", "0", "--force"], &short[..]].concat(),
        [&["attribute"], &short[..]].concat(),
        vec!["embed", &prompt],
        vec!["concepts", "search"],
        vec!["concepts", "show", "0"],
        vec!["concepts", "tokens", "0"],
    ];
    for command in commands {
        let alone = run(&command);
        let model = [&command[..], &["--model", demo.to_str().unwrap()]].concat();
        assert!(!alone.stdout.is_empty(), "{command:?}: {}", text(&alone.stderr));
        assert_eq!(text(&alone.stdout), stdout(&model), "{command:?}");
        let said = |output: &Output| text(&output.stderr).matches("no --model given: steerling-demo is").count();
        assert_eq!((said(&alone), said(&run(&model))), (1, 0), "{command:?}");
    }
    let inspected = stdout(&["inspect"]);
    assert!(inspected.starts_with("embedded:steerling-demo\n"), "{inspected}");
    let rest = |shown: &str| shown.split_once('\n').unwrap().1.to_owned();
    assert_eq!(rest(&inspected), rest(&stdout(&["inspect", demo.to_str().unwrap()])));
    let measured = stdout(&["bench", "--batch", "2", "--prompt-tokens", "4", "--max-new-tokens", "4"]);
    assert!(measured.contains("steerling-demo"), "{measured}");
    let random = stdout(&["bench", "--preset", "tiny", "--batch", "1", "--max-new-tokens", "2"]);
    assert!(random.contains("synthetic-tiny"), "{random}");
}

#[test]
fn a_failure_is_one_line_that_names_what_is_wrong() {
    let nano = nano();
    for (args, reason) in [
        (&["--temperature", "-1"][..], "`temperature`: -1 is outside 0..=100"),
        (&["--max-new-tokens", "600"], "prompt of 1 tokens plus max_new_tokens 600 exceeds the context of 512"),
        (&["--steps", "9", "--max-new-tokens", "8"], "`steps`: 9 is outside 1..=8"),
        (
            &["--steps", "4", "--max-new-tokens", "8", "--decoding", "threshold=0.9"],
            "`steps`: 4 steps under decoding method `threshold`",
        ),
        (&["--stop-token", "512"], "`stop_tokens[0]`: 512 is not below the vocabulary size 512"),
        (&["--kv-cache-mib", "0"], "`--kv-cache-mib`: 0 bytes hold 0 pages"),
        (&["--chat"], "no chat tokens"),
        (&["--device", "cuda:99"], "device"),
    ] {
        let (out, error) = failure(&[&["generate", "--model", &nano, "1"], args].concat());
        assert!(error.contains(reason), "{error}");
        assert_eq!(out, "");
    }
    let (_, error) = failure(&["generate", "--model", "/nowhere", "x"]);
    assert_eq!(error, "error: /nowhere: no such directory or file\n");
}

#[test]
fn inspect_tells_the_sizes_of_both_layouts() {
    let json: Value = serde_json::from_str(&stdout(&["inspect", "--json", "--tensors", &nano()])).unwrap();
    assert_eq!((&json["layout"], &json["usable"]), (&"nested".into(), &true.into()));
    assert_eq!((&json["parameters"], &json["config"]["n_concepts"]), (&163_360.into(), &96.into()));
    // Keys and values, 3 layers, 2 heads, 16 positions, 16 values of 4 bytes.
    assert_eq!(json["memory"]["f32"]["kv_page_bytes"], 2 * 3 * 2 * 16 * 16 * 4);
    // Panels of 32 rows, of which the [16, 64] of the unknown head fill half; 544 weights of norms are in float32.
    let packed = 163_360 - 544 + 16 * 64;
    assert_eq!(json["memory"]["f32"]["weight_bytes"], 4 * (packed + 544));
    assert_eq!(json["memory"]["bf16"]["weight_bytes"], 2 * packed + 4 * 544);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 32);
    let flat = nano_copy();
    for name in ["config.json", "tokenizer_config.json"] {
        std::fs::copy(goldens().join("nano/flat").join(name), flat.path().join(name)).unwrap();
    }
    let found = stdout(&["inspect", flat.path().to_str().unwrap()]);
    assert!(found.contains("flat layout, base model") && found.contains("163,360"), "{found}");
}

#[test]
fn a_quantized_file_is_a_model_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo.gguf");
    let out = out.to_str().unwrap();
    let written = stdout(&["quantize", "--type", "q8_0", "--out", out]);
    assert!(written.contains("Q8_0") && written.contains("written to"), "{written}");
    let generate =
        |model: &[&str]| stdout(&[&["generate", "--max-new-tokens", "8", "--seed", "4", "The cook"], model].concat());
    assert!(!generate(&["--model", out]).is_empty());
    assert_eq!(generate(&["--model", out]), generate(&["--model", out]));
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo");
    let compared = stdout(&["inspect", "--json", out, "--against", demo.to_str().unwrap()]);
    let json: Value = serde_json::from_str(&compared).unwrap();
    assert_eq!((&json["usable"], &json["fidelity"]["weights"]), (&true.into(), &"q8_0".into()));
    assert!(json["fidelity"]["argmax_agreement"].as_f64().unwrap() > 0.95, "{compared}");
    assert!(json["fidelity"]["kl_nats"].as_f64().unwrap() < 0.01, "{compared}");
    assert_eq!(json["tensors"], Value::Null);
    let (_, error) = failure(&["quantize", "--type", "q8_0", "--out", out]);
    assert!(error.contains("already exists"), "{error}");
    let (_, error) = failure(&["inspect", out, "--against", &nano()]);
    assert!(error.contains("different configurations"), "{error}");
}

#[test]
fn inspect_lists_every_problem_and_fails() {
    let listed = |dir: &Path, expected: &[&str]| {
        let (out, error) = failure(&["inspect", dir.to_str().unwrap()]);
        for problem in expected {
            assert!(out.contains(problem), "{problem}\n{out}");
        }
        let s = if expected.len() == 1 { "" } else { "s" };
        assert!(error.ends_with(&format!("would be refused: {} problem{s}\n", expected.len())), "{error}{out}");
    };
    let dir = nano_copy();
    edit_config(dir.path(), |config| {
        config["quantization_config"] = "int4".into();
        config["use_rope"] = "yes".into();
        config["concept"]["new_switch"] = true.into();
    });
    listed(dir.path(), &["`quantization_config`", "`use_rope`: found \"yes\"", "`concept.new_switch`"]);

    let dir = nano_copy();
    edit_config(dir.path(), |config| config["concept"]["n_concepts"] = 112.into());
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let shape = "found shape [96, 64], expected [112, 64]";
    let embedding = format!("`known_head.concept_embedding.weight` in {}", dir.path().display());
    listed(dir.path(), &[&embedding, shape, "tokenizer.json"]);

    let dir = nano_copy();
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    listed(dir.path(), &["truncated"]);

    let dir = nano_copy();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    listed(dir.path(), &["found neither model.safetensors nor model.safetensors.index.json"]);

    let dir = nano_copy();
    std::fs::write(dir.path().join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    listed(dir.path(), &["model.safetensors: is a Git LFS pointer"]);

    let file = dir.path().join("nano.gguf");
    stdout(&["quantize", "--type", "q8_0", "--out", file.to_str().unwrap(), &nano()]);
    let mut bytes = std::fs::read(&file).unwrap();
    let name = b"transformer.ln_f.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    // Behind the name: the number of dimensions, one dimension, the type; then the offset.
    bytes[at + 16] += 4;
    std::fs::write(&file, bytes).unwrap();
    listed(&file, &["of the data, expected a multiple of 32"]);

    let empty = tempfile::tempdir().unwrap();
    listed(empty.path(), &["config.json"]);
    let (_, error) = failure(&["inspect", "/nowhere"]);
    assert_eq!(error, "error: /nowhere: no such directory or file\n");
}

#[test]
fn help_documents_every_flag() {
    for command in ["generate", "inspect", "synthesize"] {
        let help = stdout(&[command, "-h"]);
        let lines: Vec<&str> = help.lines().collect();
        let is_flag = |line: &&str| line.trim_start().starts_with('-');
        let mut flags = 0;
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| is_flag(line)) {
            flags += 1;
            // The description stands behind at least two blanks, or on the next line.
            let beside =
                line.trim().split_once("  ").is_some_and(|(_, text)| text.contains("--") || text.contains(' '));
            let below = lines.get(i + 1).is_some_and(|next| !is_flag(next) && next.trim().contains(' '));
            assert!(beside || below, "{command}: {line}");
        }
        assert!(flags >= 3, "{help}");
    }
}

#[test]
fn texts_become_vectors_or_concepts() {
    let nano = nano();
    let vectors = stdout(&["embed", "--model", &nano, "--normalize", "1 2 3", "400 300"]);
    let rows: Vec<Vec<f64>> =
        vectors.lines().map(|line| line.split('\t').map(|x| x.parse().unwrap()).collect()).collect();
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(row.len(), 64);
        assert!((row.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    let json = stdout(&["embed", "--model", &nano, "--type", "concepts", "--pooling", "none", "--json", "1 2 3"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["tokens"], &json["pooling"]), (&serde_json::json!([3]), &serde_json::json!("none")));
    assert_eq!(json["embeddings"][0].as_array().unwrap().len(), 3);
    let best = &json["embeddings"][0][2][0];
    let shown =
        stdout(&["embed", "--model", &nano, "--type", "concepts", "--pooling", "last", "--top-k", "1", "1 2 3"]);
    let line = shown.lines().nth(1).unwrap();
    assert!(line.trim_start().starts_with(&best[0].to_string()), "{line} {best}");
    assert!(line.ends_with(&format!("{:.4}", best[1].as_f64().unwrap())) && !line.contains('\x1b'), "{line}");
}

#[test]
fn concepts_are_found_shown_and_known_by_their_tokens() {
    let nano = nano();
    let found = stdout(&["concepts", "search", "--model", &nano, "--limit", "1", "--json", "known", "name", "2"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let id = found["items"][0]["id"].to_string();
    assert!(found["items"][0]["name"].as_str().unwrap().starts_with("known name"), "{found}");
    let shown = stdout(&["concepts", "show", "--model", &nano, &id]);
    assert!(shown.starts_with(found["items"][0]["name"].as_str().unwrap()), "{shown}");
    assert!(shown.contains(&format!("(index {id})")), "{shown}");
    // The strongest recorded token of concept 1.
    let recorded = std::fs::read_to_string(goldens().join("nano/concept_top_tokens.json")).unwrap();
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    let tokens = stdout(&["concepts", "tokens", "--model", &nano, "-k", "1", "1"]);
    let line = tokens.lines().nth(1).unwrap();
    assert!(line.trim_start().starts_with(&recorded["1"]["ids"][0].to_string()), "{line}");
    let (_, refusal) = failure(&["concepts", "show", "--model", &nano, "256"]);
    assert!(refusal.contains("256 is no concept"), "{refusal}");
}

#[test]
fn a_steered_text_stands_beside_the_unsteered_one() {
    let nano = nano();
    let flags = ["--model", &nano, "--max-new-tokens", "12", "--seed", "3"];
    let plain = stdout(&[&["generate"][..], &flags, &["261 3"]].concat());
    let shown = stdout(&[&["steer"][..], &flags, &["--amplify", "7", "--compare", "261 3"]].concat());
    let lines: Vec<&str> = shown.lines().filter(|line| !line.is_empty()).collect();
    let [_, steered, _, default] = lines[..] else { panic!("{shown}") };
    assert_eq!(default, plain);
    assert_ne!(steered, plain);
    assert!(!shown.contains('\x1b'), "{shown}");
    let none = stdout(&[&["steer"][..], &flags, &["--amplify", "7=0", "--compare", "261 3"]].concat());
    assert_eq!(none.lines().filter(|line| **line == *plain).count(), 2, "{none}");
    for (flag, value, complaint) in
        [("--amplify", "700", "700 is no concept"), ("--suppress", "no such name", "no such name")]
    {
        let (_, refusal) = failure(&[&["steer"][..], &flags, &[flag, value, "261"]].concat());
        assert!(refusal.contains(complaint), "{refusal}");
    }
}

#[test]
fn every_token_is_explained_and_the_parts_add_up() {
    let nano = nano();
    let flags = ["attribute", "--model", &nano, "--max-new-tokens", "5", "--seed", "3", "--top-known", "2"];
    let json: Value = serde_json::from_str(&stdout(&[&flags[..], &["--json", "261 3"]].concat())).unwrap();
    let tokens = json["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 5);
    assert_eq!(json["verify"]["passed"], true);
    for token in tokens {
        let number = |name: &str| token[name].as_f64().unwrap();
        let parts = number("known_total") + number("unknown_total") + number("epsilon");
        assert!((parts - number("target_logit")).abs() < 1e-4, "{token}");
        assert_eq!(token["known"].as_array().unwrap().len(), 2);
    }
    let shown = stdout(&[&flags[..], &["261 3"]].concat());
    let best = json["tokens"][0]["known"][0]["name"].as_str().unwrap();
    assert!(shown.contains(best) && !shown.contains('\x1b'), "{shown}");
}

#[test]
fn a_model_of_the_hub_that_is_not_here_names_the_command_that_fetches_it() {
    let name = "guidelabs/steerling-8b";
    for command in
        [&["serve", "--port", "0", "--model", name][..], &["inspect", name], &["embed", "--model", name, "x"]]
    {
        let output = run(command);
        let shown = text(&output.stderr);
        assert!(!output.status.success(), "{command:?}: {shown}");
        for part in
            ["guidelabs/steerling-8b: no such directory or file here", "`steerling download guidelabs/steerling-8b`"]
        {
            assert!(shown.contains(part), "{command:?}: {shown}");
        }
    }
}
