//! The sampler and small helpers against their records.

use steerling::canvas::GenerationBlock;
use steerling::decode::Sampler;
use steerling::kernels::softmax::row_stats;
use steerling::params::GenerateParams;

use crate::goldens;

#[test]
fn entropy_temperature_and_nucleus_are_those_of_the_reference() {
    let golden = goldens::json("sampling.json");
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let row = &golden["rows"][case["row"].as_str().unwrap()];
        let logits: Vec<f32> =
            row.as_array().unwrap().iter().map(|x| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32)).collect();
        let config = &case["config"];
        let params = GenerateParams {
            use_entropy_sampling: config["use_entropy_sampling"].as_bool().unwrap(),
            temperature: config["temperature"].as_f64().unwrap() as f32,
            top_p: config["top_p"].as_f64().unwrap() as f32,
            ..GenerateParams::default()
        };
        let stats = row_stats(&logits, logits.len())[0];
        let sampler = Sampler::new(&params);
        let mut temperature = params.temperature;
        if params.use_entropy_sampling {
            let found = sampler.entropy_temperature(&logits, &stats);
            let recorded = |name: &str| case[name].as_f64().unwrap();
            assert!((f64::from(found.entropy) - recorded("entropy")).abs() < 1e-4, "{case}: {found:?}");
            // With top_p 1 the count ends where a float32 sum passes 1, which is a matter of rounding.
            let heat = if params.top_p < 1.0 {
                assert_eq!(found.effective_k as f64, recorded("effective_k"), "{case}: {found:?}");
                1e-5
            } else {
                1e-2
            };
            assert!((f64::from(found.temperature) - recorded("temperature_used")).abs() < heat, "{case}: {found:?}");
            temperature = found.temperature;
        }
        let Some(distribution) = case.get("distribution") else {
            let argmax = goldens::ids(&case["tokens_seed_0_to_5"]);
            assert!(argmax.iter().all(|id| *id == sampler.draw(&logits, &stats, 0.99)), "{case}");
            continue;
        };
        let ids = goldens::ids(&distribution["ids"]);
        let probs = goldens::floats(&distribution["probs"]);
        if params.use_entropy_sampling || (params.temperature > 0.0 && params.top_p > 0.0) {
            let nucleus = sampler.nucleus(&logits, &stats, temperature);
            let total: f32 = nucleus.iter().map(|(_, p)| p).sum();
            // With top_p 1 the end of the nucleus is where a float32 sum reaches 1: compare what has weight.
            let ours: Vec<_> = nucleus.iter().map(|(id, p)| (*id, p / total)).filter(|(_, p)| *p > 1e-6).collect();
            let theirs: Vec<_> = ids.iter().copied().zip(probs.iter().copied()).filter(|(_, p)| *p > 1e-6).collect();
            let tolerance = if params.top_p < 1.0 {
                assert_eq!(nucleus.len(), ids.len(), "{case}");
                1e-5
            } else {
                5e-3
            };
            assert!(ours.len().abs_diff(theirs.len()) <= 2, "{case}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                // Equal logits may stand in any order.
                assert_eq!(logits[ours.0 as usize], logits[theirs.0 as usize], "{case}");
                assert!((ours.1 - theirs.1).abs() < tolerance, "{case}");
            }
        }
        // Draws over the unit interval hit every probability as often as recorded.
        let n = 4000;
        let drawn: Vec<u32> =
            (0..n).map(|i| sampler.draw(&logits, &stats, (f64::from(i) + 0.5) / f64::from(n))).collect();
        for (id, p) in ids.iter().zip(&probs).take_while(|(_, p)| **p > 0.01) {
            if logits.iter().filter(|logit| **logit == logits[*id as usize]).count() > 1 {
                continue;
            }
            let hits = drawn.iter().filter(|other| *other == id).count();
            assert!((hits as f32 / n as f32 - p).abs() < 6e-3, "{case}: id {id} drawn {hits} of {n}");
        }
        checked += 1;
    }
    assert!(checked >= 28, "{checked}");
}

#[test]
fn the_transfer_schedule_is_that_of_the_reference() {
    for case in goldens::json("helpers.json")["num_transfer_tokens"].as_array().unwrap() {
        let (masked, steps) = (case["masked"].as_u64().unwrap() as usize, case["steps"].as_u64().unwrap() as usize);
        let block = GenerationBlock { start: 0, end: masked, steps };
        let ours: Vec<u32> = (0..steps).map(|t| block.quota(masked, t) as u32).collect();
        assert_eq!(ours, goldens::ids(&case["out"]), "{case}");
    }
}
