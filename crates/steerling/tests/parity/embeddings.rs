//! Embeddings against the recorded ones.

use steerling::Denoiser as _;
use steerling::Runtime;
use steerling::embed::{EmbedJob, EmbeddingType, Pooling, TextStates};

use crate::compute::{is_strict, within};
use crate::goldens::{self, Tensors};

fn states(runtime: &mut Runtime, texts: Vec<Vec<u32>>, pooling: Pooling) -> TextStates {
    let mut job = EmbedJob::new(texts, pooling).unwrap();
    loop {
        if let Some(states) = job.advance(runtime).unwrap() {
            return states;
        }
    }
}

const TYPES: [(&str, EmbeddingType); 4] = [
    ("hidden", EmbeddingType::Hidden),
    ("composed", EmbeddingType::Composed),
    ("known", EmbeddingType::Known),
    ("unknown", EmbeddingType::Unknown),
];

const POOLINGS: [(&str, Pooling); 4] =
    [("mean", Pooling::Mean), ("last", Pooling::Last), ("first", Pooling::First), ("none", Pooling::None)];

#[test]
fn every_type_and_pooling_is_that_of_the_reference() {
    let golden = Tensors::open("nano/embeddings.safetensors");
    let texts: Vec<Vec<u32>> =
        goldens::json("nano/embeddings.json")["ids"].as_array().unwrap().iter().map(goldens::ids).collect();
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for (pooling_name, pooling) in POOLINGS {
        let states = states(&mut runtime, texts.clone(), pooling);
        for (type_name, kind) in TYPES {
            let ours = states.embeddings(runtime.model(), kind).unwrap();
            for (n, ours) in ours.iter().enumerate() {
                let name = format!("{n}.{type_name}.{pooling_name}");
                let recorded = golden.get(&name).flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let ours = ours.concat();
                assert_eq!(ours.len(), recorded.len(), "{name}");
                let off = ours.iter().zip(&recorded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < within(5e-5), "{name}: off by {off}");
            }
        }
    }
}

/// Texts of all lengths at once, cut into forwards of bounded size, give what each gives alone.
#[test]
fn long_texts_and_many_texts_do_not_disturb_one_another() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let text = |n: usize, len: usize| -> Vec<u32> { (0..len).map(|i| ((i * 7 + n * 31) % 500) as u32).collect() };
    let texts: Vec<Vec<u32>> = [512, 3, 77, 512, 400, 1].iter().enumerate().map(|(n, len)| text(n, *len)).collect();
    for pooling in [Pooling::Mean, Pooling::None, Pooling::Last] {
        let together = states(&mut runtime, texts.clone(), pooling);
        let together = together.embeddings(runtime.model(), EmbeddingType::Epsilon).unwrap();
        for (text, together) in texts.iter().zip(together) {
            let alone = states(&mut goldens::runtime(goldens::model("nano"), 1), vec![text.clone()], pooling);
            let alone = alone.embeddings(runtime.model(), EmbeddingType::Epsilon).unwrap().remove(0);
            let (alone, together) = (alone.concat(), together.concat());
            let off = alone.iter().zip(&together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let tolerance = if is_strict() { 0.0 } else { within(5e-5) };
            assert_eq!(alone.len(), together.len());
            assert!(off <= tolerance, "{} tokens, {pooling:?}: off by {off}", text.len());
        }
    }
    assert_eq!((runtime.page_use().active, runtime.page_use().reserved), (0, 0));
}

#[test]
fn mean_concept_weights_are_the_mean_over_positions() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 1);
    let text: Vec<u32> = (0..40).map(|i| (i * 11 + 2) % 500).collect();
    let each = states(&mut runtime, vec![text.clone()], Pooling::None).concepts(runtime.model()).unwrap().remove(0);
    let mean = states(&mut runtime, vec![text.clone()], Pooling::Mean).concepts(runtime.model()).unwrap().remove(0);
    assert_eq!((each.len(), mean.len()), (40, 1));
    for (index, weight) in &mean[0].known {
        let sum: f32 = each.iter().flat_map(|row| &row.known).filter(|(i, _)| i == index).map(|(_, w)| w).sum();
        assert!((sum / 40.0 - weight).abs() < within(1e-6));
    }
    assert!(each.iter().all(|row| row.known.len() == 8 && row.unknown.len() == 16));
    assert!(mean[0].known.is_sorted_by(|a, b| a.1 >= b.1));
}

/// Heads that select by attention give the features that were recorded for each position.
#[test]
fn embeddings_of_attention_heads_are_the_recorded_features() {
    for variant in ["attn_known", "attn_unknown", "attn_unknown_dense"] {
        let golden = Tensors::open(&format!("variants/{variant}/golden.safetensors"));
        let mut runtime = goldens::runtime(goldens::model(&format!("variants/{variant}")), 2);
        let states = states(&mut runtime, golden.ids("input_ids"), Pooling::None);
        for (name, kind) in [("known_features", EmbeddingType::Known), ("unk_hat", EmbeddingType::Unknown)] {
            let ours = states.embeddings(runtime.model(), kind).unwrap().remove(0).concat();
            let recorded = golden.get(name).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let off = ours.iter().zip(&recorded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(ours.len() == recorded.len() && off < within(5e-5), "{variant} {name}: off by {off}");
        }
    }
}
