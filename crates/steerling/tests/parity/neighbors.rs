//! Neighbours of concepts against cosines of the embeddings themselves.

use steerling::Model;
use steerling::steer::ConceptKey;

use crate::compute::within;
use crate::goldens;

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

fn check(model: &Model) {
    let heads = model.heads().unwrap();
    let known = (0..heads.known.len() as u32).map(ConceptKey::Known);
    let unknown = (0..heads.unknown.as_ref().map_or(0, |head| head.len()) as u32).map(ConceptKey::Unknown);
    let all: Vec<ConceptKey> = known.chain(unknown).collect();
    let embedding = |key: &ConceptKey| model.concept_embedding(*key).unwrap();
    for focal in [all[3], all[all.len() - 1]] {
        let mut expected: Vec<(ConceptKey, f32)> = all
            .iter()
            .filter(|key| **key != focal)
            .map(|key| (*key, cosine(&embedding(&focal), &embedding(key))))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = model.concept_neighbors(focal, 7).unwrap();
        assert_eq!(found.len(), 7);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.0, expected.0, "{found:?} {expected:?}");
            assert!((found.1 - expected.1).abs() < within(1e-5), "{found:?} {expected:?}");
        }
        assert_eq!(model.concept_neighbors(focal, usize::MAX).unwrap().len(), all.len() - 1);
    }
}

#[test]
fn neighbours_are_those_of_the_embeddings_dense_or_factorised() {
    let names = std::fs::read_dir(goldens::path("variants")).unwrap();
    let variants = names.map(|entry| format!("variants/{}", entry.unwrap().file_name().to_string_lossy()));
    let (mut dense, mut factorised) = (0, 0);
    for name in variants.chain(["nano".to_owned()]) {
        if !goldens::path(&name).join("model.safetensors").exists() {
            continue;
        }
        let model = goldens::model(&name);
        let Some(concept) = &model.info().config.concept else {
            assert!(model.concept_neighbors(ConceptKey::Known(0), 3).is_err());
            continue;
        };
        match concept.unknown.as_ref().is_some_and(|head| head.factorize_rank.is_some()) {
            true => factorised += 1,
            false => dense += 1,
        }
        check(&model);
    }
    assert!(dense > 0 && factorised > 0);
}
