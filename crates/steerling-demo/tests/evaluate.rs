//! The evaluation of the released demo model, and of one that has learned nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use indicatif::ProgressBar;
use serde_json::Value;
use steerling::params::{Align, Decoding};
use steerling_demo::evaluate::{
    DecodingOptions, DraftsRow, Options, Setting, Size, checks, evaluate, measure_decoding,
};

fn program(model: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steerling-demo"));
    command.arg("evaluate").arg("--model").arg(model).args(args);
    command
}

fn released() -> PathBuf {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo");
    assert!(model.is_dir(), "{} is missing; build it with `steerling-demo train`", model.display());
    model
}

#[test]
fn released_demo_model_passes_every_quick_check() {
    let options = Options { model: released(), size: Size::QUICK, seed: 0, threads: 2 };
    let report = evaluate(&options, ProgressBar::hidden()).unwrap();
    assert!(report.passed(), "{}", report.markdown());
}

/// The recommended threshold, on fewer texts than `docs/decoding.md` tells of.
#[test]
fn threshold_commits_several_tokens_a_forward_where_text_is_predictable_and_harms_no_text() {
    let threshold = Decoding::Threshold { threshold: 0.9, max_per_step: None };
    let setting = |decoding| Setting { decoding, align: Align::Reference, per_step: 1 };
    let settings = [Decoding::Confidence, threshold].map(setting).to_vec();
    let options =
        DecodingOptions { model: released(), settings, neutral: 16, each: 1, notices: 2, seed: 0, threads: 2 };
    let report = measure_decoding(&options, ProgressBar::hidden()).unwrap();
    let [first, threshold] = &report.rows[..] else { panic!("two settings") };
    assert_eq!(first.notices.tokens_per_forward, 1.0);
    assert!(threshold.notices.tokens_per_forward >= 2.5, "{}", report.markdown());
    assert!(threshold.free.tokens_per_forward > 1.0, "{}", report.markdown());
    assert!(threshold.notices.keeps(&first.notices, 0.02), "{}", report.markdown());
    assert!(threshold.free.keeps(&first.free, 0.02), "{}", report.markdown());
    // Two guessed steps spare three tenths of the forwards, and more where tokens are sure.
    let half = |drafts: &[DraftsRow]| drafts.iter().find(|row| row.drafts == 2).unwrap().spared[2];
    assert!(half(&report.free_drafts) >= 0.30, "{}", report.markdown());
    assert!(half(&report.notice_drafts) >= 0.35, "{}", report.markdown());
}

#[test]
fn random_weights_fail_and_the_program_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    support::random_checkpoint(&model, 36);
    let json = dir.path().join("report.json");
    let output = program(&model, &["--quick", "--json", json.to_str().unwrap()]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let failed = rows.iter().filter(|row| row["passed"] == false).map(|row| row["check"].as_str().unwrap());
    let failed: BTreeSet<&str> = failed.collect();
    // What there is to learn. The share of logit mass depends on how large the random embeddings happen to be; and
    // where a concept never occurs, there is nothing to suppress, to bring out by accident, or to repeat.
    for check in [
        checks::AUC_MEAN,
        checks::AUC_WORST,
        checks::TOP_TOKENS,
        checks::AMPLIFY,
        checks::COMPOSE,
        checks::CANARY,
        checks::NOTICES,
        checks::FACTORS_FOUND,
    ] {
        assert!(failed.contains(check.name), "random weights pass `{}`:\n{table}", check.name);
    }
    for row in rows {
        assert!(table.contains(row["check"].as_str().unwrap()), "{row}");
    }
    assert_eq!(report["concepts"].as_array().unwrap().len(), 36);
    assert_eq!(table.matches("**no**").count(), failed.len(), "{table}");
}

#[test]
fn a_model_that_knows_words_passes_what_words_decide_and_fails_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    support::word_checkpoint(dir.path());
    let size = Size {
        documents: 200,
        scored: 2,
        neutral: 8,
        amplified: 2,
        aligned: 1,
        primed: 2,
        pairs: 8,
        verses: 2,
        notices: 1,
    };
    let options = Options { model: dir.path().to_owned(), size, seed: 0, threads: 2 };
    let report = evaluate(&options, ProgressBar::hidden()).unwrap();
    let passed = |check: checks::Check| report.rows.iter().find(|row| row.check == check.name).unwrap().passed;
    for check in [
        checks::AUC_MEAN,
        checks::AUC_WORST,
        checks::TOP_TOKENS,
        checks::AMPLIFY,
        checks::COMPOSE,
        checks::SUPPRESS,
        checks::CANARY_SUPPRESSED,
        checks::FACTORS_FOUND,
    ] {
        assert_eq!(passed(check), Some(true), "{}:\n{}", check.name, report.markdown());
    }
    // It has memorised nothing.
    assert_eq!(passed(checks::CANARY), Some(false), "{}", report.markdown());
    assert_eq!(passed(checks::NOTICES), Some(false), "{}", report.markdown());
    assert!(!report.passed());
}

#[test]
fn numbers_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    support::random_checkpoint(dir.path(), 36);
    let size = Size {
        documents: 12,
        scored: 3,
        neutral: 3,
        amplified: 1,
        aligned: 1,
        primed: 1,
        pairs: 3,
        verses: 2,
        notices: 1,
    };
    let report = |threads| {
        let options = Options { model: dir.path().to_owned(), size, seed: 5, threads };
        serde_json::to_value(evaluate(&options, ProgressBar::hidden()).unwrap()).unwrap()
    };
    let one = report(1);
    assert_eq!(report(3), one);
}

#[test]
fn a_model_with_other_concepts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    support::random_checkpoint(dir.path(), 35);
    let output = program(dir.path(), &["--quick"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: ") && error.contains("has 35 known concepts, the demo model has 36"), "{error}");
    assert!(output.stdout.is_empty());
}
