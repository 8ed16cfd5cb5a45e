//! Likelihoods against the recorded ones, and the methods against one another.

use steerling::Denoiser as _;
use steerling::Runtime;
use steerling::score::{MaskedRow, Score, ScoreItem, ScoreJob, ScoreMethod, ScoreParams, TokenScoreJob, masked_rows};

use crate::compute::{is_strict, within};
use crate::goldens;

fn finish(mut job: ScoreJob, runtime: &mut Runtime) -> Vec<Score> {
    loop {
        if let Some(scores) = job.advance(runtime).unwrap() {
            return scores;
        }
    }
}

fn scores(runtime: &mut Runtime, items: &[(&[u32], &[u32])], params: ScoreParams) -> Vec<Score> {
    let item = |(context, continuation): &(&[u32], &[u32])| ScoreItem {
        context: context.to_vec(),
        continuation: continuation.to_vec(),
    };
    let config = runtime.info().config.clone();
    let job = ScoreJob::new(items.iter().map(item).collect(), &params, &config).unwrap();
    finish(job, runtime)
}

const CONTEXT: [u32; 20] =
    [28, 110, 31, 237, 403, 75, 96, 236, 310, 253, 76, 335, 429, 121, 393, 68, 417, 217, 291, 163];

#[test]
fn recorded_masks_give_the_recorded_likelihood() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let config = runtime.info().config.clone();
    let golden = goldens::json("nano/mc_loglikelihood.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let item =
            ScoreItem { context: goldens::ids(&case["context"]), continuation: goldens::ids(&case["continuation"]) };
        let row = |(noisy, p): (&serde_json::Value, f32)| {
            let noisy = goldens::ids(noisy).split_off(item.context.len());
            let masked = (0..noisy.len()).filter(|i| noisy[*i] == config.special.mask).collect();
            MaskedRow { masked, weight: 1.0 / f64::from(p) }
        };
        let batch = |chunk: &serde_json::Value| {
            let noisy = chunk["noisy"].as_array().unwrap();
            noisy.iter().zip(goldens::floats(&chunk["p_mask"])).map(row).collect()
        };
        let batches = case["chunks"].as_array().unwrap().iter().map(batch).collect();
        let cfg = case["cfg"].as_f64().unwrap() as f32;
        let score = finish(ScoreJob::of_masks(item, batches, cfg, &config).unwrap(), &mut runtime).remove(0);
        let recorded = case["loglikelihood_f64"].as_f64().unwrap();
        assert!((score.loglikelihood - recorded).abs() < within(1e-3), "{} against {recorded}", score.loglikelihood);
    }
    assert_eq!((runtime.page_use().active, runtime.page_use().reserved), (0, 0));
}

#[test]
fn the_exact_value_is_the_mean_of_estimates_with_many_seeds() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for (continuation, cfg_scale) in [(&[421, 351][..], 0.0), (&[421, 351, 200], 1.0), (&[7, 8, 9, 10, 11], 0.0)] {
        let params = ScoreParams { method: ScoreMethod::Exact, samples: 8, batch: 4, cfg_scale, seed: 0 };
        let exact = scores(&mut runtime, &[(&CONTEXT, continuation)], params)[0];
        assert_eq!(exact.standard_error, Some(0.0));
        let estimate = |seed| {
            let params = ScoreParams { method: ScoreMethod::MonteCarlo, seed, ..params };
            scores(&mut runtime, &[(&CONTEXT, continuation)], params)[0]
        };
        let estimates: Vec<Score> = (0..200).map(estimate).collect();
        let n = estimates.len() as f64;
        let mean = estimates.iter().map(|score| score.loglikelihood).sum::<f64>() / n;
        let variance = estimates.iter().map(|score| (score.loglikelihood - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = (variance / n).sqrt();
        assert!(error > 0.0 && (mean - exact.loglikelihood).abs() < 5.0 * error, "{mean} +- {error}, {exact:?}");
        // What an estimate says of its own error is right on average.
        let claimed = estimates.iter().map(|score| score.standard_error.unwrap().powi(2)).sum::<f64>() / n;
        assert!((0.6..1.6).contains(&(claimed / variance)), "{claimed} against {variance}");
    }
}

#[test]
fn from_left_to_right_the_parts_of_a_text_add_up() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let params = ScoreParams { method: ScoreMethod::LeftToRight, ..ScoreParams::default() };
    // Across the boundary of an attention block (16).
    let text: Vec<u32> = CONTEXT.into_iter().chain((0..20).map(|i| (i * 31 + 5) % 400)).collect();
    let (context, rest) = text.split_at(9);
    let (a, b) = rest.split_at(11);
    let longer = [context, a].concat();
    let found = scores(&mut runtime, &[(context, rest), (context, a), (&longer, b)], params);
    assert!(
        (found[0].loglikelihood - found[1].loglikelihood - found[2].loglikelihood).abs() < within(1e-4),
        "{found:?}"
    );
    assert!(found.iter().all(|score| !score.is_greedy));
}

#[test]
fn the_likeliest_tokens_from_left_to_right_are_greedy_by_every_method() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let params = ScoreParams { method: ScoreMethod::LeftToRight, ..ScoreParams::default() };
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let vocab = runtime.info().config.vocab_size as u32;
        let candidates: Vec<Vec<u32>> = (0..vocab).map(|id| [&greedy[..], &[id]].concat()).collect();
        let items: Vec<(&[u32], &[u32])> = candidates.iter().map(|ids| (&CONTEXT[..], &ids[..])).collect();
        let found = scores(&mut runtime, &items, params);
        let likelihood: f64 = found.iter().map(|score| score.loglikelihood.exp()).sum();
        if greedy.is_empty() {
            assert!((likelihood - 1.0).abs() < within(1e-4), "{likelihood}");
        }
        let best = (0..found.len()).max_by(|a, b| found[*a].loglikelihood.total_cmp(&found[*b].loglikelihood)).unwrap();
        assert_eq!(found.iter().filter(|score| score.is_greedy).count(), 1);
        assert!(found[best].is_greedy);
        greedy.push(best as u32);
    }
    for method in [ScoreMethod::Exact, ScoreMethod::MonteCarlo, ScoreMethod::LeftToRight] {
        let params = ScoreParams { method, ..params };
        let other = [greedy[0], greedy[1], (greedy[2] + 1) % 400];
        let found = scores(&mut runtime, &[(&CONTEXT, &greedy), (&CONTEXT, &other)], params);
        assert_eq!((found[0].is_greedy, found[1].is_greedy), (true, false), "{method:?}");
    }
}

#[test]
fn neighbours_do_not_change_a_score_and_nothing_has_likelihood_one() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let long: Vec<u32> = (0..90).map(|i| (i * 13) % 400).collect();
    let items: [(&[u32], &[u32]); 4] = [(&CONTEXT, &[1, 2, 3]), (&[], &long), (&CONTEXT, &[]), (&long, &CONTEXT)];
    let params = ScoreParams { samples: 12, batch: 5, cfg_scale: 0.5, seed: 3, ..ScoreParams::default() };
    let together = scores(&mut runtime, &items, params);
    for (item, together) in items.iter().zip(&together) {
        let alone = scores(&mut goldens::runtime(goldens::model("nano"), 2), &[*item], params)[0];
        let off = (alone.loglikelihood - together.loglikelihood).abs();
        assert!(off <= if is_strict() { 0.0 } else { within(1e-3) }, "{alone:?} for {together:?}");
        let rest = |score: &Score| (score.tokens, score.is_greedy, score.method);
        assert_eq!(rest(&alone), rest(together));
        if is_strict() {
            assert_eq!(alone.standard_error, together.standard_error);
        }
    }
    let empty = together[2];
    assert_eq!((empty.loglikelihood, empty.tokens, empty.is_greedy, empty.forwards), (0.0, 0, true, 0));
    assert_eq!(together[0].method, ScoreMethod::Exact);
    assert_eq!(together[3].method, ScoreMethod::MonteCarlo);
}

#[test]
fn an_estimate_of_more_rows_than_are_prepared_at_a_time_is_the_mean_of_its_batches() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let config = runtime.info().config.clone();
    let continuation: Vec<u32> = (0..100).map(|i| (i * 13 + 7) % 400).collect();
    let item = ScoreItem { context: CONTEXT.to_vec(), continuation };
    let params =
        ScoreParams { method: ScoreMethod::MonteCarlo, samples: 2500, batch: 1000, seed: 5, ..ScoreParams::default() };
    // Two windows of 2^18 ids, with a batch that lies in both.
    assert!(params.positions(&item) > 1 << 18);
    let whole = finish(ScoreJob::new(vec![item.clone()], &params, &config).unwrap(), &mut runtime)[0];
    let mut batch = |(b, rows)| {
        let rows = masked_rows(params.seed, b, rows, item.continuation.len());
        let job = ScoreJob::of_masks(item.clone(), vec![rows], 0.0, &config).unwrap();
        finish(job, &mut runtime)[0].loglikelihood
    };
    let means: Vec<f64> = [1000, 1000, 500].into_iter().enumerate().map(&mut batch).collect();
    let mean = means.iter().sum::<f64>() / 3.0;
    let off = (whole.loglikelihood - mean).abs();
    assert!(off <= if is_strict() { 0.0 } else { within(1e-3) }, "{whole:?}, {mean}");
    assert!(whole.forwards > 1 && whole.standard_error.is_some_and(|error| error > 0.0));
}

#[test]
fn what_a_likelihood_needs_is_known_without_computing_it() {
    let item = |context: usize, continuation: usize| ScoreItem {
        context: CONTEXT[..context].to_vec(),
        continuation: CONTEXT[..continuation].to_vec(),
    };
    let needs = |method, cfg_scale, item: &ScoreItem| {
        ScoreParams { method, samples: 50, cfg_scale, ..ScoreParams::default() }.positions(item)
    };
    // Rows of the method, and one for each token that may be compared with the likeliest one.
    assert_eq!(needs(ScoreMethod::MonteCarlo, 0.0, &item(4, 10)), (50 + 10) * 14);
    assert_eq!(needs(ScoreMethod::Auto, 0.0, &item(4, 10)), (50 + 10) * 14);
    assert_eq!(needs(ScoreMethod::Auto, 0.0, &item(4, 3)), (7 + 3) * 7);
    assert_eq!(needs(ScoreMethod::LeftToRight, 0.0, &item(4, 10)), 10 * 14);
    assert_eq!(needs(ScoreMethod::LeftToRight, 1.5, &item(4, 10)), 2 * 10 * 14);
    assert_eq!(needs(ScoreMethod::LeftToRight, 1.5, &item(0, 10)), 10 * 10);
    assert_eq!(needs(ScoreMethod::MonteCarlo, 0.0, &item(4, 0)), 0);
}

#[test]
fn tokens_from_left_to_right_add_up_to_the_likelihood_and_know_their_rivals() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let config = runtime.info().config.clone();
    let item = |at: usize| ScoreItem { context: CONTEXT[..at].to_vec(), continuation: CONTEXT[at..].to_vec() };
    let mut tokens = |items: Vec<ScoreItem>, top: usize| {
        let mut job = TokenScoreJob::new(items, top, &config).unwrap();
        loop {
            if let Some(found) = job.advance(&mut runtime).unwrap() {
                break found;
            }
        }
    };
    let found = tokens(vec![item(0), item(20), item(7)], 3);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [20, 0, 13]);
    // The same numbers wherever the text is cut.
    assert!(found[0][7..].iter().zip(&found[2]).all(|(a, b)| (a.logprob - b.logprob).abs() < within(1e-5)));
    for token in &found[0] {
        assert_eq!(token.top.len(), 3);
        assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1) && token.logprob <= token.top[0].1);
    }
    let all = &tokens(vec![item(19)], 512)[0][0];
    let known = all.top.iter().find(|(id, _)| *id == CONTEXT[19]).unwrap();
    assert_eq!(known.1, all.logprob);
    let sum: f64 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
    assert!((sum - 1.0).abs() < within(1e-5), "{sum}");
    assert!(tokens(vec![], 1).is_empty());
    let params = ScoreParams { method: ScoreMethod::LeftToRight, ..ScoreParams::default() };
    let whole = scores(&mut runtime, &[(&CONTEXT[..7], &CONTEXT[7..])], params)[0];
    let sum: f64 = found[2].iter().map(|token| token.logprob).sum();
    assert!((whole.loglikelihood - sum).abs() < within(1e-9), "{} against {sum}", whole.loglikelihood);
    let beyond = ScoreItem { context: vec![1], continuation: vec![512] };
    assert!(TokenScoreJob::new(vec![beyond], 1, &config).is_err());
}
