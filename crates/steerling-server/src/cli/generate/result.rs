//! The end of a generation: the answer of `POST /generate`, or a line for people.

use serde_json::{Value, json};
use steerling::params::Decoding;
use steerling::{Canvas, Outcome, Runtime};

use super::{GenerateArgs, Timings};

/// The answer of `POST /generate`.
pub(in crate::cli) fn json(
    args: &GenerateArgs,
    runtime: &Runtime,
    canvas: &Canvas,
    outcome: &Outcome,
    timings: Timings,
    warnings: &[String],
) -> Value {
    let usage = canvas.usage;
    let commits = canvas.commits().len();
    json!({
        "id": format!("gen-{:016x}", rand::random::<u64>()),
        "model": runtime.info().name,
        "text": outcome.text,
        "token_ids": outcome.token_ids,
        "prompt_tokens": canvas.prompt_len(),
        "completion_tokens": outcome.token_ids.len(),
        "finish_reason": outcome.finish_reason.as_str(),
        "seed": canvas.params().seed,
        "trace": args.return_trace.then(|| trace(runtime, canvas)),
        "usage": {
            "forwards": usage.forwards,
            "rows": usage.rows,
            "cached_blocks": usage.cached_blocks,
            "tokens_per_forward": usage.tokens_per_forward(commits),
            "drafts": usage.drafts,
            "drafts_accepted": usage.accepted,
        },
        "timings": {
            "queue_ms": 0,
            "prefill_ms": timings.prefill.as_millis() as u64,
            "decode_ms": timings.decode.as_millis() as u64,
            "total_ms": (timings.prefill + timings.decode).as_millis() as u64,
        },
        "attribution": null,
        "warnings": warnings,
    })
}

fn trace(runtime: &Runtime, canvas: &Canvas) -> Value {
    let commit = |commit: &steerling::canvas::Commit| {
        json!({
            "step": commit.step,
            "block": commit.block,
            "position": commit.position,
            "id": commit.id,
            "text": runtime.tokenizer().token_text(commit.id),
            "confidence": commit.confidence,
            "target_logit": commit.target_logit,
        })
    };
    json!({
        "prompt_ids": canvas.ids()[..canvas.prompt_len()],
        "seq_length": canvas.ids().len(),
        "stop": canvas.params().stop,
        "stop_tokens": canvas.params().stop_tokens,
        "policies": [],
        "commits": canvas.commits().iter().map(commit).collect::<Vec<_>>(),
    })
}

/// One line for standard error.
pub(in crate::cli) fn summary(canvas: &Canvas, outcome: &Outcome, timings: Timings) -> String {
    let seconds = (timings.prefill + timings.decode).as_secs_f64();
    let tokens = outcome.token_ids.len();
    let speed = canvas.commits().len() as f64 / seconds.max(1e-9);
    let why = match outcome.finish_reason.as_str() {
        "length" => "all positions filled".to_owned(),
        other => format!("ended by {}", other.replace('_', " ")),
    };
    let forwards = match canvas.params().decoding {
        Decoding::Confidence => String::new(),
        _ => format!(", {:.2} tokens a forward", canvas.usage.tokens_per_forward(canvas.commits().len())),
    };
    format!("{tokens} tokens in {seconds:.1} s ({speed:.1} tokens/s{forwards}), {why}, seed {}", canvas.params().seed)
}
