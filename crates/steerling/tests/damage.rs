//! Files that are not what they should be are named as what they are, and damaged headers by the tensor that they damage.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::path::{Path, PathBuf};

use common::{copy_of, golden};
use serde_json::{Value, json};
use steerling::checkpoint::{Checkpoint, Kind, Recipe, Synthetic, Weights};
use steerling::config::Preset;
use steerling::{Config, ModelSource, Runtime, RuntimeOptions};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 16783556608\n";
const PAGE: &str = "\u{feff}\n <!DOCTYPE HTML><html><head><title>Sign in</title></head><body></body></html>";

/// Why a model does not load.
fn error_of(path: &Path) -> String {
    let options = RuntimeOptions { kv_bytes: 64 << 20, ..RuntimeOptions::default() };
    match Runtime::load(&ModelSource::Directory(path.to_owned()), &options, &mut |_, _| ()) {
        Ok(_) => panic!("{} loads", path.display()),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// A copy of nano with everything that a directory may hold.
fn nano() -> tempfile::TempDir {
    let dir = copy_of("nano");
    for (from, name) in
        [("nano", "tokenizer.json"), ("nano", "concept_labels.parquet"), ("nano/flat", "tokenizer_config.json")]
    {
        std::fs::copy(golden(from).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Directories with the named file, whole otherwise.
fn with_file(name: &str) -> tempfile::TempDir {
    if !name.starts_with("model-") && !name.ends_with("index.json") {
        return nano();
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Config::preset(Preset::Tiny);
    let weights = Synthetic::new(config, 1, candle_core::DType::BF16).unwrap();
    weights.write_to(dir.path(), 1 << 20, &mut |_, _| ()).unwrap();
    dir
}

#[test]
fn pointers_pages_and_empty_files_are_named_as_what_they_are() {
    let files = [
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00002-of-00004.safetensors",
        "concept_labels.parquet",
    ];
    for name in files {
        let dir = with_file(name);
        let path = dir.path().join(name);
        for (content, what) in [
            (POINTER, "is a Git LFS pointer, not the file: run `git lfs pull`"),
            (PAGE, "is a web page, not the file"),
            ("<html>\n<body>429</body></html>", "is a web page, not the file"),
            ("", "is empty"),
        ] {
            std::fs::write(&path, content).unwrap();
            let message = error_of(dir.path());
            assert!(message.contains(&format!("{}: {what}", path.display())), "{name}: {message}");
        }
    }
}

#[test]
fn a_gguf_file_that_is_none_is_named_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let page = [PAGE, POINTER].concat();
    for (content, what) in [
        (POINTER, "is a Git LFS pointer"),
        (page.as_str(), "is a web page"),
        ("", "is empty"),
        ("Access denied", "neither a model directory nor a GGUF file; it is a text that begins \"Access denied\""),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_says(&error_of(&path), &[&path.display().to_string(), what]);
    }
}

#[test]
fn a_text_in_place_of_weights_is_quoted() {
    let dir = nano();
    std::fs::write(dir.path().join("model.safetensors"), "{\"error\":\"Invalid credentials\"}").unwrap();
    assert_says(&error_of(dir.path()), &["not a safetensors file: it is a text that begins \"{\\\"error\\\":"]);
}

#[test]
fn a_name_of_the_hub_that_is_no_directory_here_names_the_command_that_fetches_it() {
    let message = error_of(Path::new("guidelabs/steerling-8b"));
    let advice = "`steerling download guidelabs/steerling-8b` fetches it into `steerling-8b`";
    assert_says(&message, &["guidelabs/steerling-8b: no such directory or file here", advice]);
    assert_eq!(error_of(Path::new("/nowhere/at-all")), "/nowhere/at-all: no such directory or file");
}

#[test]
fn a_directory_without_a_configuration_says_where_the_model_may_be() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&error_of(dir.path()), &["holds no config.json, so it is no model directory"]);
    let snapshot = dir.path().join("snapshots/0123abcd");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(golden("nano/config.json"), snapshot.join("config.json")).unwrap();
    assert_says(&error_of(dir.path()), &["the model of this cache is", "snapshots/0123abcd"]);
    std::fs::write(dir.path().join("model.gguf"), "GGUF").unwrap();
    assert_says(&error_of(dir.path()), &["name the file itself", "model.gguf"]);
}

#[test]
fn json_files_may_begin_with_a_byte_order_mark() {
    let dir = with_file("model.safetensors.index.json");
    for dir in [dir, nano()] {
        for name in ["config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json"] {
            let path = dir.path().join(name);
            if let Ok(text) = std::fs::read_to_string(&path) {
                std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
            }
        }
        let options = RuntimeOptions { kv_bytes: 64 << 20, ..RuntimeOptions::default() };
        Runtime::load(&ModelSource::Directory(dir.path().to_owned()), &options, &mut |_, _| ()).unwrap();
    }
}

/// Python writes these, and reads the last of two keys.
#[test]
fn numbers_that_are_not_finite_matter_in_keys_that_are_read_only() {
    let dir = nano();
    let text = std::fs::read_to_string(golden("nano/config.json")).unwrap();
    let write = |keys: &str| {
        std::fs::write(dir.path().join("config.json"), text.replacen('{', &format!("{{{keys},"), 1)).unwrap();
        Config::from_dir(dir.path())
    };
    let expected = Config::from_dir(golden("nano")).unwrap();
    for value in ["Infinity", "-Infinity", "NaN", "1e999", "[NaN, {\"a\": Infinity}]"] {
        assert_eq!(write(&format!("\"temperature\": {value}, \"id2label\": {{\"0\": {value}}}")).unwrap(), expected);
        // The last of two keys counts, so the finite one of the file wins here ...
        assert_eq!(write(&format!("\"norm_eps\": {value}")).unwrap(), expected);
    }
    // ... and not where it is the only one.
    for (key, value) in
        [("norm_eps", "NaN"), ("clip_qkv", "Infinity"), ("rope_base", "1e999"), ("n_layers", "Infinity")]
    {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = lines.iter_mut().find(|line| line.contains(&format!("\"{key}\""))).unwrap();
        *line = format!("\"{key}\": {value},");
        std::fs::write(dir.path().join("config.json"), lines.join("\n")).unwrap();
        let message = Config::from_dir(dir.path()).unwrap_err().to_string();
        assert_says(&message, &[&format!("config key `{key}`: found \"{value}\", expected")]);
    }
}

/// A tensor's entry in the header of a GGUF file: where its number of dimensions stands, and the number.
struct GgufEntry {
    at: usize,
    dimensions: usize,
}

impl GgufEntry {
    fn find(bytes: &[u8], name: &str) -> Self {
        let key = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        Self { at, dimensions: bytes[at].into() }
    }

    fn shape(&self) -> usize {
        self.at + 4
    }

    fn offset(&self) -> usize {
        self.shape() + 8 * self.dimensions + 4
    }
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What is said of nano as a GGUF file that `change` has damaged; `inspect` says it, too.
fn damaged_gguf(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("model.gguf");
    let weights = Weights::open(golden("nano")).unwrap();
    weights.quantize_to(&path, "model", Recipe::of(Kind::Q8_0), &mut |_, _| ()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let message = error_of(&path);
    if let Ok(found) = Checkpoint::inspect(&path) {
        let problems: Vec<String> = found.problems().iter().map(ToString::to_string).collect();
        assert!(problems.iter().any(|problem| message.starts_with(problem.as_str())), "{message}: {problems:?}");
    }
    message
}

#[test]
fn a_tensor_of_a_gguf_file_that_is_not_where_it_should_be_is_named() {
    let (name, other) = ("transformer.blocks.1.attn.c_proj.weight", "transformer.blocks.2.mlp.c_fc.weight");
    let moved = |offset: &dyn Fn(u64) -> u64| {
        damaged_gguf(|bytes| {
            let at = GgufEntry::find(bytes, name).offset();
            let before = number(bytes, at);
            put(bytes, at, offset(before));
        })
    };
    let in_file = format!("tensor `{name}` in ");
    for by in [1, 4, 16, 31] {
        assert_says(&moved(&|offset| offset + by), &[&in_file, "of the data, expected a multiple of 32"]);
    }
    for offset in [1 << 20, 1 << 40, u64::MAX - 31] {
        assert_says(&moved(&|_| offset), &[&in_file, "truncated: shape [64, 64]", "ends behind the file's"]);
    }
    let overlapping = damaged_gguf(|bytes| {
        let place = number(bytes, GgufEntry::find(bytes, other).offset());
        let at = GgufEntry::find(bytes, name).offset();
        put(bytes, at, place + 32);
    });
    assert_says(&overlapping, &[&in_file, &format!("but `{other}` ends at"), "they overlap"]);
    let equal = damaged_gguf(|bytes| {
        let place = number(bytes, GgufEntry::find(bytes, other).offset());
        let at = GgufEntry::find(bytes, name).offset();
        put(bytes, at, place);
    });
    assert_says(&equal, &[name, other, "they overlap"]);
}

#[test]
fn a_tensor_of_a_gguf_file_that_occurs_twice_or_has_an_absurd_shape_is_named() {
    let name = "transformer.blocks.1.attn.c_proj.weight";
    let twice = damaged_gguf(|bytes| {
        let at = GgufEntry::find(bytes, "transformer.blocks.2.attn.c_proj.weight").at;
        bytes[at - name.len()..at].copy_from_slice(name.as_bytes());
    });
    assert_says(&twice, &[&format!("tensor `{name}` in "), "occurs twice in the header"]);
    for (dim, reason) in [
        (!31, "more weights than can be counted"),
        (1 << 60, "more weights than can be counted"),
        (1 << 40, "ends behind the file's"),
        (33, "expected whole blocks of 32 in Q8_0"),
        (0, "expected no dimension of 0"),
    ] {
        let message = damaged_gguf(|bytes| {
            let at = GgufEntry::find(bytes, name).shape();
            put(bytes, at, dim);
        });
        assert_says(&message, &[&format!("tensor `{name}` in "), reason]);
    }
    let dimensions = damaged_gguf(|bytes| {
        let at = GgufEntry::find(bytes, name).at;
        bytes[at..at + 4].copy_from_slice(&1_000_000u32.to_le_bytes());
    });
    assert_says(&dimensions, &[&format!("tensor `{name}` in "), "found 1000000 dimensions, expected at most 4"]);
}

#[test]
fn absurd_counts_and_lengths_in_the_header_of_a_gguf_file_are_refused() {
    for count in [u64::MAX, 1 << 62, 1 << 40, 100_000] {
        let tensors = damaged_gguf(|bytes| put(bytes, 8, count));
        assert_says(&tensors, &[&format!("the header says {count} tensors, which do not fit")]);
        let metadata = damaged_gguf(|bytes| put(bytes, 16, count));
        assert_says(&metadata, &[&format!("the header says {count} entries of metadata, which do not fit")]);
        let length = damaged_gguf(|bytes| put(bytes, 24, count.saturating_mul(100)));
        assert_says(&length, &["not a usable GGUF file: the header takes"]);
    }
    let version = damaged_gguf(|bytes| bytes[4] = 9);
    assert_says(&version, &["not a usable GGUF file: version 9, expected 2 or 3"]);
}

/// A GGUF file by hand: metadata, then nothing.
fn gguf(metadata: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, kind, value) in metadata {
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.as_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(*value);
    }
    bytes
}

#[test]
fn metadata_that_cannot_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested: Vec<u8> = (0..20).flat_map(|_| array(9, 1)).chain(array(0, 0)).collect();
    let name = [&9u64.to_le_bytes()[..], b"steerling"].concat();
    for (metadata, reason) in [
        (vec![("general.alignment", 4, &0u32.to_le_bytes()[..])], "general.alignment is 0, expected a power of two"),
        (vec![("general.alignment", 4, &48u32.to_le_bytes()[..])], "general.alignment is 48, expected a power of two"),
        (vec![("a", 77, &[0; 8][..])], "metadata of type 77"),
        (vec![("a", 9, &array(6, 1 << 61)[..])], "elements of an array, which do not fit"),
        (vec![("a", 9, &array(8, 1 << 61)[..])], "elements of an array, which do not fit"),
        (vec![("a", 9, &nested[..])], "arrays of metadata are nested deeper than 8"),
        (vec![("a", 8, &name[..]), ("a", 8, &name[..])], "metadata `a` occurs twice"),
        (vec![("general.architecture", 4, &[0; 4][..])], "without a text `general.architecture`"),
        (vec![("general.architecture", 8, &name[..])], "config.json"),
    ] {
        std::fs::write(&path, gguf(&metadata)).unwrap();
        assert_says(&error_of(&path), &["model.gguf", reason]);
    }
}

/// What is said of nano whose safetensors header `change` has damaged.
fn damaged_safetensors(change: impl FnOnce(&mut Value)) -> String {
    let dir = nano();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let end = 8 + number(&bytes, 0) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    change(&mut header);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], header.as_bytes(), &bytes[end..]].concat()).unwrap();
    error_of(dir.path())
}

#[test]
fn a_tensor_of_a_safetensors_file_that_is_not_where_it_should_be_is_named() {
    let name = "transformer.blocks.1.attn.c_proj.weight";
    let in_file = format!("tensor `{name}` in ");
    let moved = |start: i64, end: i64| {
        damaged_safetensors(|header| {
            let offsets = &mut header[name]["data_offsets"];
            for (n, by) in [start, end].into_iter().enumerate() {
                offsets[n] = (offsets[n].as_i64().unwrap() + by).into();
            }
        })
    };
    assert_says(&moved(4, 4), &[&in_file, "a hole lies before it"]);
    assert_says(&moved(-4, -4), &[&in_file, "overlaps the tensor before it"]);
    assert_says(&moved(0, 4), &[&in_file, "expected the 16384 bytes of F32 [64, 64]"]);
    assert_says(&moved(1 << 40, 1 << 40), &[&in_file, "truncated: expected shape [64, 64]"]);
    for (key, value, reason) in [
        ("data_offsets", json!([u64::MAX, u64::MAX]), "truncated: expected shape"),
        ("data_offsets", json!([16384, 0]), "expected the 16384 bytes"),
        ("data_offsets", json!([-1, 0]), "not usable in the header"),
        ("shape", json!([1u64 << 40, 1u64 << 40]), "more bytes than can be counted"),
        ("shape", json!([64, 65]), "expected the 16640 bytes of F32 [64, 65]"),
        ("shape", json!("64"), "not usable in the header"),
        ("dtype", json!("Q9"), "not usable in the header"),
        ("dtype", Value::Null, "not usable in the header"),
    ] {
        assert_says(&damaged_safetensors(|header| header[name][key] = value.clone()), &[&in_file, reason]);
    }
}

#[test]
fn an_absurd_length_of_the_header_of_a_safetensors_file_is_refused() {
    let dir = nano();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [u64::MAX, 1 << 63, 1 << 40, bytes.len() as u64] {
        let mut bytes = bytes.clone();
        put(&mut bytes, 0, length);
        std::fs::write(&path, &bytes).unwrap();
        assert_says(&error_of(dir.path()), &[&format!("a header of {length} bytes does not fit a file of")]);
    }
    std::fs::write(&path, [&bytes[..], &[0; 10]].concat()).unwrap();
    assert_says(&error_of(dir.path()), &["10 bytes behind the last tensor belong to none"]);
}
