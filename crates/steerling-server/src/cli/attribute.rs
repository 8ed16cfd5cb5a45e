//! `steerling attribute`: one prompt, and the concepts behind every token.

use anyhow::{Context, Result};
use console::style;
use serde_json::Value;
use steerling::{Canvas, Denoiser, Generation};
use steerling_server::explain;

use super::bars::{bar, column};
use super::generate::{GenerateArgs, result};
use super::output::{emit, note};
use super::progress;
use super::steer::drive;

/// Generate text and tell which concepts made each token.
///
/// One block a token: its logit, the shares of known concepts, unknown concepts and the rest, and the concepts with
/// the largest contributions, in logits.
#[derive(Debug, clap::Args)]
pub(crate) struct AttributeArgs {
    /// Known concepts shown of each token
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Attribution")]
    top_known: usize,
    /// Unknown concepts shown of each token
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Attribution")]
    top_unknown: usize,
    #[command(flatten)]
    generate: GenerateArgs,
}

/// Generates and prints.
///
/// # Errors
/// If the model cannot be loaded or has no concept heads, the prompt or a parameter is refused, or the device fails.
pub(crate) fn run(args: &AttributeArgs) -> Result<()> {
    args.generate.check()?;
    let prompt = args.generate.prompt()?;
    let model = &args.generate.model;
    let mut runtime = progress::load(&model.source(), &model.runtime())?;
    anyhow::ensure!(runtime.model().heads().is_some(), "this checkpoint has no concept heads to attribute tokens to");
    let ids = args.generate.encode(runtime.tokenizer(), &prompt)?;
    let (params, warnings) = args.generate.params(&ids, &runtime)?;
    for warning in &warnings {
        note(format_args!("warning: {warning}"));
    }
    let canvas = Canvas::new(&ids, params, &runtime.limits().canvas)?.attributed()?;
    let mut lanes = [Generation::new(canvas, runtime.tokenizer())];
    let (timings, outcomes) = drive(&mut runtime, &mut lanes)?;
    let (canvas, outcome) = (&lanes[0].canvas, outcomes.first().context("one lane has one outcome")?);
    let top = [args.top_known, args.top_unknown];
    let attribution = explain::attribution(canvas, outcome, &explain::model_of(&runtime), top);
    if args.generate.json {
        let mut answer = result::json(&args.generate, &runtime, canvas, outcome, timings, &warnings);
        if let (Value::Object(answer), Value::Object(attribution)) = (&mut answer, attribution) {
            answer.extend(attribution);
        }
        emit(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    emit(&format!("{}\n\n", outcome.text))?;
    for token in attribution["tokens"].as_array().into_iter().flatten() {
        emit(&block(token))?;
    }
    let verify = &attribution["verify"];
    let error = number(&verify["max_abs_error"]);
    match verify["passed"].as_bool() {
        Some(true) => note(format_args!("the parts of every logit add up: off by {error:.1e} at most")),
        _ => note(format_args!("warning: the parts of a logit are off by {error:.1e}, more than rounding explains")),
    }
    note(result::summary(canvas, outcome, timings));
    Ok(())
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap_or(f64::NAN) as f32
}

/// A token and its concepts.
fn block(token: &Value) -> String {
    let fractions = &token["fractions"];
    let [known, unknown, epsilon] = ["known", "unknown", "epsilon"].map(|part| 100.0 * number(&fractions[part]));
    let text = column(&format!("{:?}", token["text"].as_str().unwrap_or_default()), 20);
    let logit = number(&token["target_logit"]);
    let mut block = format!(
        "{:>5} {} {logit:>8.3}  known {known:.0} %, unknown {unknown:.0} %, rest {epsilon:.0} %\n",
        token["position"].as_u64().unwrap_or_default(),
        style(text).bold(),
    );
    for share in ["known", "unknown"].iter().filter_map(|head| token[*head].as_array()).flatten() {
        let contribution = number(&share["contribution"]);
        block.push_str(&format!(
            "      {} {} {contribution:+.3}\n",
            column(share["name"].as_str().unwrap_or_default(), 34),
            bar(contribution, logit.abs()),
        ));
    }
    block
}
