use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::*;
use crate::config::Preset;

/// A config with these counts, all else as released.
fn config(known: usize, unknown: usize) -> Config {
    let mut config = Config::preset(Preset::Tiny);
    let concept = config.concept.as_mut().unwrap();
    concept.n_concepts = known;
    concept.unknown.as_mut().unwrap().n_concepts = unknown;
    config
}

fn nano() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/nano")
}

/// The values of one column, null where `None`.
enum Values {
    Int(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
    Bool(Vec<Option<bool>>),
}

use Values::{Bool, Double, Int, Text};

fn text(values: &[&str]) -> Values {
    Text(values.iter().map(|v| Some((*v).to_owned())).collect())
}

/// A directory with a label file of these columns.
fn labels(columns: &[(&str, Values)]) -> tempfile::TempDir {
    let fields: Vec<String> = columns
        .iter()
        .map(|(name, values)| match values {
            Int(_) => format!("optional int64 {name};"),
            Double(_) => format!("optional double {name};"),
            Text(_) => format!("optional binary {name} (UTF8);"),
            Bool(_) => format!("optional boolean {name};"),
        })
        .collect();
    let schema = parse_message_type(&format!("message schema {{ {} }}", fields.join(" "))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join(LABELS_FILE)).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, values) in columns {
        match values {
            Int(v) => write_column::<Int64Type, _>(&mut group, v),
            Double(v) => write_column::<DoubleType, _>(&mut group, v),
            Bool(v) => write_column::<BoolType, _>(&mut group, v),
            Text(v) => {
                let v: Vec<_> = v.iter().map(|v| v.as_deref().map(ByteArray::from)).collect();
                write_column::<ByteArrayType, _>(&mut group, &v);
            }
        }
    }
    group.close().unwrap();
    writer.close().unwrap();
    dir
}

fn write_column<D: DataType<T = T>, T: Clone>(
    group: &mut parquet::file::writer::SerializedRowGroupWriter<'_, File>,
    values: &[Option<T>],
) {
    let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    let present: Vec<T> = values.iter().flatten().cloned().collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<D>().write_batch(&present, Some(&levels), None).unwrap();
    column.close().unwrap();
}

/// Five known and three unknown concepts, in no particular order and with gaps.
fn animals() -> Catalog {
    let flags = |set: [u8; 6]| Bool(set.iter().map(|s| (*s < 2).then_some(*s == 1)).collect());
    let dir = labels(&[
        ("concept_id", Int([3, 0, 1, 6, 4, 5].map(Some).to_vec())),
        ("unrelated", Double(vec![Some(0.5); 6])),
        ("head", text(&["known", "known", "known", "unknown", "known", "unknown"])),
        ("concept_name", text(&["Cat", "category", "cat cat", "cat", "Dog", ""])),
        (
            "concept_description",
            Text(
                [Some("the cat; a cat's life"), None, Some("Überschrift"), Some("a hidden cat"), Some("no cat"), None]
                    .map(|d| d.map(str::to_owned))
                    .to_vec(),
            ),
        ),
        ("public_group_id", Double(vec![Some(9.0), None, Some(9.0), Some(9.0), Some(2.0), Some(f64::NAN)])),
        (
            "group_name",
            Text([None, None, Some("felines"), Some("other"), None, None].map(|n| n.map(str::to_owned)).to_vec()),
        ),
        ("is_steerable", flags([1, 1, 1, 0, 1, 2])),
        ("is_tone", flags([0, 0, 0, 0, 1, 0])),
        ("is_alignment", flags([0, 0, 1, 0, 0, 2])),
        ("is_demographic", flags([0; 6])),
    ]);
    Catalog::open(dir.path(), &config(5, 3)).unwrap()
}

fn ids<'a>(concepts: impl IntoIterator<Item = Concept<'a>>) -> Vec<u32> {
    concepts.into_iter().map(|concept| concept.id).collect()
}

#[test]
fn the_recorded_labels_load_and_concepts_without_a_row_get_generated_names() {
    let config = Config::from_dir(nano()).unwrap();
    let catalog = Catalog::open(nano(), &config).unwrap();
    assert_eq!((catalog.len(), catalog.known_len(), catalog.unknown_len()), (256, 96, 160));
    for concept in catalog.iter() {
        // The recorded file names every second known and every third unknown concept.
        let expected = match (concept.head, concept.index) {
            (Head::Known, i) if i % 2 == 0 => format!("known name {i}"),
            (Head::Unknown, i) if i % 3 == 0 => format!("discovered name {i}"),
            (head, i) => format!("{} #{i}", head.as_str()),
        };
        assert_eq!(concept.name, expected);
        // The file does not speak of steering.
        assert!(concept.flags.steerable && concept.group.is_none() && concept.description.is_empty());
    }
    assert_eq!(catalog.labelled(), 48 + 54);
}

#[test]
fn a_directory_without_labels_has_generated_names_and_a_plain_backbone_has_no_concepts() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path(), &config(12, 8)).unwrap();
    assert_eq!(catalog.get(11).unwrap().name, "known #11");
    let concept = catalog.unknown(7).unwrap();
    assert_eq!((concept.name, concept.id, concept.index, concept.head), ("unknown #7", 19, 7, Head::Unknown));
    assert!(catalog.get(20).is_none() && catalog.unknown(8).is_none() && catalog.unknown(u32::MAX).is_none());

    let plain = Config { concept: None, ..config(12, 8) };
    let catalog = Catalog::open(nano(), &plain).unwrap();
    assert!(catalog.is_empty());
    assert!(matches!(catalog.resolve("concept", &ConceptRef::Id(0)), Err(Error::Unsupported(_))));
}

#[test]
fn every_column_ends_up_in_the_concept() {
    let catalog = animals();
    let shown = serde_json::to_value(catalog.get(1).unwrap()).unwrap();
    let expected = json!({
        "id": 1, "index": 1, "head": "known", "name": "cat cat", "description": "Überschrift",
        "group": {"id": 9, "name": "felines"},
        "flags": {"steerable": true, "tone": false, "alignment": true, "demographic": false},
    });
    assert_eq!(shown, expected);
    let shown = serde_json::to_value(catalog.unknown(1).unwrap()).unwrap();
    assert_eq!((&shown["id"], &shown["index"], &shown["head"]), (&json!(6), &json!(1), &json!("unknown")));
    assert_eq!(catalog.get(4).unwrap().group, Some(Group { id: 2, name: "group #2" }));
    assert!(catalog.get(4).unwrap().flags.tone);
    // An empty name, and no row at all in a file that says what may be steered.
    assert_eq!(catalog.get(5).unwrap().name, "unknown #0");
    assert_eq!((catalog.get(2).unwrap().name, catalog.get(2).unwrap().flags.steerable), ("known #2", false));
    assert_eq!(catalog.labelled(), 5);
}

#[test]
fn a_group_starts_with_the_concept_asked_for() {
    let catalog = animals();
    assert_eq!(catalog.group(3), [3, 1, 6]);
    assert_eq!(catalog.group(6), [6, 1, 3]);
    assert_eq!(catalog.group(4), [4]);
    assert_eq!(catalog.group(0), [0]);
    assert!(catalog.group(8).is_empty());
}

#[test]
fn names_and_groups_are_those_that_reading_the_whole_catalogue_finds() {
    let nano = Catalog::open(nano(), &Config::from_dir(self::nano()).unwrap()).unwrap();
    for catalog in [animals(), nano] {
        for concept in catalog.iter() {
            let same_name = catalog.iter().filter(|other| other.name == concept.name);
            assert_eq!(ids(catalog.named(concept.name)), ids(same_name));
            let same_group = |other: &Concept<'_>| other.group.is_some() && other.group == concept.group;
            let others = ids(catalog.iter().filter(|other| other.id != concept.id && same_group(other)));
            assert_eq!(catalog.group(concept.id), [vec![concept.id], others].concat());
        }
        assert_eq!(catalog.named("no such name").count(), 0);
    }
}

#[test]
fn listings_filter_by_head_steerability_and_flag_and_count_what_they_leave_out() {
    let catalog = animals();
    let page = catalog.list(Filter::default(), 6, 10);
    assert_eq!((page.total, ids(page.items)), (8, vec![6, 7]));
    let page = catalog.list(Filter::REFERENCE, 1, 2);
    assert_eq!((page.total, ids(page.items)), (4, vec![1, 3]));
    let list = |filter| ids(catalog.list(filter, 0, 100).items);
    assert_eq!(list(Filter { head: Some(Head::Unknown), ..Filter::default() }), [5, 6, 7]);
    assert_eq!(list(Filter { steerable: Some(false), ..Filter::default() }), [2, 5, 6, 7]);
    assert_eq!(list(Filter { flag: Some(Flag::Tone), ..Filter::default() }), [4]);
    assert_eq!(list(Filter { flag: Some(Flag::Alignment), head: Some(Head::Known), steerable: Some(true) }), [1]);
    assert_eq!(catalog.list(Filter::default(), 100, 10), Page { total: 8, items: Vec::new() });
}

#[test]
fn searches_weigh_names_threefold_per_word_and_leave_ties_in_the_order_of_the_file() {
    let catalog = animals();
    let search = |query: &str, filter| -> Vec<(u32, u64)> {
        let page = catalog.search(query, filter, 0, 10).unwrap();
        page.items.iter().map(|hit| (hit.concept.id, hit.score)).collect()
    };
    assert_eq!(search("CAT", Filter::REFERENCE), [(1, 6), (3, 5), (4, 1)]);
    assert_eq!(search("cat  cat", Filter::REFERENCE), [(1, 12), (3, 10), (4, 2)]);
    assert_eq!(search("dog überschrift no", Filter::REFERENCE), [(4, 4), (1, 1)]);
    assert_eq!(search("cat", Filter::default()), [(1, 6), (3, 5), (6, 4), (4, 1)]);
    // A tie: id 3 stands before id 1 in the file.
    assert_eq!(search("life überschrift", Filter::REFERENCE), [(3, 1), (1, 1)]);
    assert!(search(" ", Filter::default()).is_empty());
    let page = catalog.search("cat", Filter::default(), 1, 2).unwrap();
    assert_eq!((page.total, ids(page.items.iter().map(|hit| hit.concept))), (4, vec![3, 6]));
}

#[test]
fn references_are_integers_or_objects_of_one_known_key() {
    let parse = |json: &str| serde_json::from_str::<ConceptRef>(json);
    for (json, expected) in [
        ("20353", ConceptRef::Id(20353)),
        (r#"{"unknown":17}"#, ConceptRef::Unknown(17)),
        (r#"{"name":"cat"}"#, ConceptRef::Name("cat".into())),
        (r#"{"search":"cats and dogs"}"#, ConceptRef::Search("cats and dogs".into())),
    ] {
        assert_eq!(parse(json).unwrap(), expected);
        assert_eq!(serde_json::to_string(&expected).unwrap(), json);
    }
    for (json, message) in [
        ("-1", "invalid value: integer `-1`"),
        ("4294967296", "invalid value: integer `4294967296`"),
        ("1.5", "invalid type: floating point"),
        (r#""cat""#, "invalid type: string"),
        ("{}", "invalid length 0"),
        (r#"{"id":1}"#, "unknown field `id`, expected one of `unknown`, `name`, `search`"),
        (r#"{"name":"a","search":"b"}"#, "`name` and `search` together"),
        (r#"{"unknown":-3}"#, "invalid value: integer `-3`"),
        (r#"{"name":null}"#, "invalid type: null"),
    ] {
        let error = parse(json).unwrap_err().to_string();
        assert!(error.contains(message), "{json}: {error}");
    }
}

#[test]
fn references_resolve_or_say_why_not() {
    let catalog = animals();
    let resolve = |concept: ConceptRef| catalog.resolve("steering.amplify[0].concept", &concept).map(|c| c.id);
    assert_eq!(resolve(ConceptRef::Id(7)).unwrap(), 7);
    assert_eq!(resolve(ConceptRef::Unknown(2)).unwrap(), 7);
    assert_eq!(resolve(ConceptRef::Name("Dog".into())).unwrap(), 4);
    // Names are exact: `Cat` is another concept than `cat`, which is an unknown one here.
    assert_eq!(resolve(ConceptRef::Name("cat".into())).unwrap(), 6);
    assert_eq!(resolve(ConceptRef::Search("cat".into())).unwrap(), 1);
    for concept in
        [ConceptRef::Id(8), ConceptRef::Unknown(3), ConceptRef::Name("DOG".into()), ConceptRef::Search("hidden".into())]
    {
        match resolve(concept.clone()) {
            Err(Error::UnknownConcept { field, .. }) => assert_eq!(field, "steering.amplify[0].concept"),
            other => panic!("{concept:?}: {other:?}"),
        }
    }
    assert!(matches!(resolve(ConceptRef::Search(" ".into())), Err(Error::Invalid { .. })));

    let twice = labels(&[
        ("concept_id", Int([2, 0, 1].map(Some).to_vec())),
        ("head", text(&["unknown", "known", "known"])),
        ("concept_name", text(&["same", "same", "other"])),
    ]);
    let catalog = Catalog::open(twice.path(), &config(2, 1)).unwrap();
    match catalog.resolve("concept", &ConceptRef::Name("same".into())) {
        Err(Error::AmbiguousConcept { candidates, .. }) => assert_eq!(candidates, [0, 2]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_may_not_be_steered_needs_force() {
    let catalog = animals();
    let hidden = ConceptRef::Unknown(1);
    match catalog.resolve_steerable("concept", &hidden, false) {
        Err(Error::NotSteerable { id: 6, name, .. }) => assert_eq!(name, "cat"),
        other => panic!("{other:?}"),
    }
    assert_eq!(catalog.resolve_steerable("concept", &hidden, true).unwrap().id, 6);
    assert_eq!(catalog.resolve_steerable("concept", &ConceptRef::Id(4), false).unwrap().id, 4);
}

#[test]
fn files_that_do_not_fit_are_refused_with_column_and_row() {
    let id = |ids: &[i64]| ("concept_id", Int(ids.iter().map(|i| Some(*i)).collect()));
    let name = || ("concept_name", text(&["a", "b"]));
    let head = || ("head", text(&["known", "known"]));
    let cases: Vec<(Vec<(&str, Values)>, &str)> = vec![
        (vec![id(&[0, 1]), name()], "column `head` is missing; the file has concept_id, concept_name"),
        (vec![("concept_id", text(&["0", "1"])), head(), name()], "column `concept_id`: found BYTE_ARRAY"),
        (vec![("concept_id", Double(vec![Some(0.0), Some(1.0)])), head(), name()], "column `concept_id`: found DOUBLE"),
        (
            vec![id(&[0, 1]), head(), ("concept_name", Int(vec![Some(1), Some(2)]))],
            "column `concept_name`: found INT64",
        ),
        (vec![id(&[0, 1]), head(), name(), ("is_tone", Int(vec![Some(1), Some(0)]))], "column `is_tone`: found INT64"),
        (vec![id(&[0, 8]), head(), name()], "row 1: column `concept_id`: found 8, the config has ids 0..8 (5 known, 3"),
        (vec![id(&[0, -1]), head(), name()], "row 1: column `concept_id`: found -1"),
        (vec![("concept_id", Int(vec![Some(0), None])), head(), name()], "row 1: column `concept_id`: found null"),
        (vec![id(&[1, 1]), head(), name()], "row 1: column `concept_id`: found 1 a second time"),
        (
            vec![id(&[0, 5]), head(), name()],
            "row 1: column `head`: found `known` for id 5, expected `unknown` from 5 on",
        ),
        (
            vec![id(&[0, 1]), ("head", Text(vec![Some("known".into()), None])), name()],
            "row 1: column `head`: found null for id 1, expected `known` below 5",
        ),
        (
            vec![id(&[0, 1]), head(), name(), ("public_group_id", Double(vec![Some(1.0), Some(2.5)]))],
            "row 1: column `public_group_id`: found 2.5, expected an integer",
        ),
    ];
    for (columns, expected) in cases {
        let dir = labels(&columns);
        match Catalog::open(dir.path(), &config(5, 3)) {
            Err(Error::Checkpoint { path, message }) => {
                assert_eq!(path, dir.path().join(LABELS_FILE));
                assert!(message.contains(expected), "{message:?} lacks {expected:?}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let bytes = std::fs::read(nano().join(LABELS_FILE)).unwrap();
    let config = Config::from_dir(nano()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for len in [0, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(dir.path().join(LABELS_FILE), &bytes[..len]).unwrap();
        assert!(matches!(Catalog::open(dir.path(), &config), Err(Error::Checkpoint { .. })), "{len}");
    }
}

#[test]
fn a_damaged_footer_is_an_error_and_no_panic() {
    let config = Config::from_dir(nano()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Bits that make an offset negative, and that hide a dictionary: the parquet reader asserts both.
    for (at, bits) in [(1538, 0x01), (1543, 0x80)] {
        let mut bytes = std::fs::read(nano().join(LABELS_FILE)).unwrap();
        bytes[at] ^= bits;
        std::fs::write(dir.path().join(LABELS_FILE), bytes).unwrap();
        assert!(matches!(Catalog::open(dir.path(), &config), Err(Error::Checkpoint { .. })), "{at}");
    }
}

#[test]
fn a_file_as_large_as_the_released_one_loads_within_seconds() {
    let (known, unknown) = (33_732, 101_196);
    let all = known + unknown;
    let name = |i: i64| format!("concept {}", if i < 1900 { i / 2 } else { i });
    let description = |i: i64| {
        format!("a description of about a hundred characters that says what concept {i} is about, word{}", i % 1000)
    };
    let some = |f: &dyn Fn(i64) -> String| Text((0..all).map(|i| Some(f(i))).collect());
    let dir = labels(&[
        ("concept_id", Int((0..all).map(Some).collect())),
        ("head", some(&|i| if i < known { "known" } else { "unknown" }.to_owned())),
        ("concept_name", some(&name)),
        ("concept_description", some(&description)),
        ("public_group_id", Int((0..all).map(|i| (i % 3 != 0).then_some(i / 50)).collect())),
        ("group_name", Text((0..all).map(|i| (i % 3 != 0).then(|| format!("group {}", i / 50))).collect())),
        ("is_steerable", Bool((0..all).map(|i| Some(i % 2 == 0)).collect())),
        ("is_tone", Bool((0..all).map(|i| Some(i % 7 == 0)).collect())),
    ]);
    let start = std::time::Instant::now();
    let catalog = Catalog::open(dir.path(), &config(known as usize, unknown as usize)).unwrap();
    let loaded = start.elapsed();
    assert!(loaded.as_secs() < 10, "took {loaded:?}");
    assert_eq!((catalog.len(), catalog.labelled()), (all as usize, all as usize));
    for (i, concept) in (0..all).zip(catalog.iter()) {
        assert_eq!((concept.name, concept.description), (&*name(i), &*description(i)));
        assert_eq!(concept.group.map(|g| g.id), (i % 3 != 0).then_some(i / 50));
        assert_eq!((concept.flags.steerable, concept.flags.tone), (i % 2 == 0, i % 7 == 0));
        assert_eq!(concept.head == Head::Known, i < known);
    }
    let page = catalog.search("word8 concept", Filter::REFERENCE, 0, 10).unwrap();
    assert_eq!(page.total, known as usize / 2);
    assert_eq!(page.items[0].concept.id, 8);
}
