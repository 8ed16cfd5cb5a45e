//! Work over many rows gives the same bits in chunks as row by row.

use std::sync::Arc;

use candle_core::Tensor;
use steerling::Model;
use steerling::attribute::inputs::{InputJob, InputMethod};
use steerling::attribute::{Contributions, ReplayJob, Trace, TraceCommit};
use steerling::embed::{EmbedJob, EmbeddingType, Pooling};
use steerling::steer::{ConceptKey, EpsilonMode, InjectionSpec, SteeringSpec, WeightEdit};

use crate::compute::is_strict;
use crate::goldens;

/// More than a chunk holds.
const ROWS: usize = 300;

/// Models whose heads are evaluated in every way that there is.
const MODELS: [&str; 6] = [
    "nano",
    "variants/topk_none",
    "variants/topk_features",
    "variants/no_epsilon",
    "variants/topk_on_logits",
    "variants/no_unknown",
];

fn hidden(model: &Model) -> Tensor {
    let context = model.info().config.context;
    let sequence = |n: usize| -> Vec<u32> { (0..context.min(64)).map(|i| ((i * 31 + n * 17) % 500) as u32).collect() };
    let parts: Vec<Tensor> =
        (0..ROWS.div_ceil(context.min(64))).map(|n| goldens::plain_hidden(model, &sequence(n), &[])).collect();
    Tensor::cat(&parts, 0).unwrap().narrow(0, 0, ROWS).unwrap()
}

fn edits() -> Vec<Vec<WeightEdit>> {
    let edit = |concept, weight, epsilon| WeightEdit { concept, weight, epsilon };
    let both = |epsilon| vec![edit(ConceptKey::Known(5), 2.5, epsilon), edit(ConceptKey::Known(9), 0.1, epsilon)];
    vec![Vec::new(), both(EpsilonMode::Keep), both(EpsilonMode::Drop)]
}

/// The same of parts of these sizes.
fn in_parts<T>(hidden: &Tensor, size: usize, mut of: impl FnMut(&Tensor, usize) -> Vec<T>) -> Vec<T> {
    let starts = (0..ROWS).step_by(size);
    starts.flat_map(|start| of(&hidden.narrow(0, start, size.min(ROWS - start)).unwrap(), start)).collect()
}

#[test]
fn contributions_and_composed_features_do_not_depend_on_chunks() {
    for name in MODELS {
        let model = goldens::model(name);
        let hidden = hidden(&model);
        let tokens: Vec<u32> = (0..ROWS as u32).map(|i| i * 7 % 500).collect();
        for edits in edits() {
            let contributions = |hidden: &Tensor, start: usize| -> Vec<Contributions> {
                let tokens = &tokens[start..start + hidden.dim(0).unwrap()];
                model.contributions(hidden, tokens, &edits).unwrap()
            };
            let composed =
                |hidden: &Tensor, _: usize| goldens::floats_of_rows(&model.composed(hidden, &edits).unwrap());
            let (all, all_composed) = (contributions(&hidden, 0), composed(&hidden, 0));
            assert_eq!((all.len(), all_composed.len()), (ROWS, ROWS));
            if !is_strict() {
                continue;
            }
            for size in [1, 100] {
                assert!(in_parts(&hidden, size, contributions) == all, "{name}, {edits:?}, in parts of {size}");
                assert!(in_parts(&hidden, size, composed) == all_composed, "{name}, {edits:?}, in parts of {size}");
            }
        }
    }
}

#[test]
fn embeddings_do_not_depend_on_chunks() {
    for name in MODELS {
        let mut runtime = goldens::runtime(goldens::model(name), 8);
        let context = runtime.info().config.context.min(100);
        let texts: Vec<Vec<u32>> =
            (0..4).map(|n| (0..context as u32).map(|i| (i * 11 + n * 3) % 500).collect()).collect();
        let mut read = |texts: Vec<Vec<u32>>| {
            let mut job = EmbedJob::new(texts, Pooling::None).unwrap();
            let states = loop {
                if let Some(states) = job.advance(&mut runtime).unwrap() {
                    break states;
                }
            };
            let kinds = [EmbeddingType::Composed, EmbeddingType::Known, EmbeddingType::Unknown, EmbeddingType::Epsilon];
            let vectors = kinds.map(|kind| states.embeddings(runtime.model(), kind).unwrap());
            (vectors, states.concepts(runtime.model()).unwrap())
        };
        let (vectors, concepts) = read(texts.clone());
        assert_eq!(concepts.iter().map(Vec::len).sum::<usize>(), 4 * context);
        for (n, text) in texts.iter().enumerate().filter(|_| is_strict()) {
            let (own_vectors, own_concepts) = read(vec![text.clone()]);
            for (own, all) in own_vectors.iter().zip(&vectors) {
                assert!(own[0] == all[n], "{name}: text {n}");
            }
            assert!(own_concepts[0] == concepts[n], "{name}: concepts of text {n}");
        }
    }
}

/// Beside short steps a forward pass has few rows, and may yield no hidden state at all: a prompt before it is long.
#[test]
fn replays_and_occlusion_do_not_depend_on_the_rows_of_a_forward_pass() {
    let injection = InjectionSpec::suppress(vec![ConceptKey::Known(3)]);
    let specs = edits().into_iter().flat_map(|set_weights| {
        [Vec::new(), vec![injection.clone()]].map(|injections| SteeringSpec {
            injections,
            set_weights: set_weights.clone(),
            ..SteeringSpec::default()
        })
    });
    let commits = (0..9).map(|i| TraceCommit { step: i / 3, position: 208 - i, id: 7 + i as u32 }).collect();
    let trace = Trace { prompt_ids: (0..200).map(|i| i * 3 % 500).collect(), seq_length: 210, commits };
    for spec in specs {
        let mut runtime = goldens::runtime(goldens::model("variants/no_epsilon"), 2);
        let spec = if spec.set_weights.is_empty() && spec.injections.is_empty() { None } else { Some(spec) };
        let steering = spec.map(|spec| Arc::new(runtime.model().steering(&spec).unwrap()));
        let mut found = Vec::new();
        for rows in [None, Some(64), Some(130)] {
            runtime.share_with(rows);
            let mut replay = ReplayJob::new(&trace, steering.clone(), runtime.model());
            let replayed = loop {
                if let Some(done) = replay.advance(&mut runtime).unwrap() {
                    break done;
                }
            };
            let (method, positions) = (InputMethod::Occlusion, [203, 204]);
            let mut job = InputJob::new(&trace, Some(&positions), method, steering.clone(), runtime.model()).unwrap();
            let occluded = loop {
                if let Some(done) = job.advance(&mut runtime).unwrap() {
                    break done;
                }
            };
            assert_eq!((replayed.len(), occluded.len()), (9, 2));
            found.push((replayed, occluded));
        }
        assert!(!is_strict() || found.windows(2).all(|pair| pair[0] == pair[1]), "{steering:?}");
    }
}
