//! `steerling steer`: one prompt under steering.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use console::style;
use serde_json::{Map, Value, json};
use steerling::steer::Steering;
use steerling::{Canvas, Denoiser, Generation, Outcome, Runtime};
use steerling_server::explain;

use super::bars::{bar, column, one_line};
use super::generate::{GenerateArgs, Timings, result};
use super::output::{emit, note};
use super::progress;

/// Tokens of a direction that are shown.
const TOP_TOKENS: usize = 8;

/// Generate text under steering.
///
/// A CONCEPT is a global id, `unknown:INDEX`, `search:WORDS` or an exact name; `=TARGET` behind it sets the strength.
/// The text goes to standard output, the directions and the tokens that they promote to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct SteerArgs {
    /// Concept to bring out; repeatable
    #[arg(long, value_name = "CONCEPT[=TARGET]", help_heading = "Steering")]
    amplify: Vec<String>,
    /// Concept to keep away, with its group; repeatable
    #[arg(long, value_name = "CONCEPT[=TARGET]", help_heading = "Steering")]
    suppress: Vec<String>,
    /// Also steer concepts that the catalogue marks as not steerable
    #[arg(long, help_heading = "Steering")]
    force: bool,
    /// Also generate without steering, with the same seed
    #[arg(long, help_heading = "Steering")]
    compare: bool,
    #[command(flatten)]
    generate: GenerateArgs,
}

/// Generates and prints.
///
/// # Errors
/// If the model cannot be loaded, a concept, the prompt or a parameter is refused, or the device fails.
pub(crate) fn run(args: &SteerArgs) -> Result<()> {
    let steering = json!({
        "amplify": entries(&args.amplify)?, "suppress": entries(&args.suppress)?, "force": args.force
    });
    ensure!(!args.amplify.is_empty() || !args.suppress.is_empty(), "nothing to steer by: give --amplify or --suppress");
    args.generate.check()?;
    let prompt = args.generate.prompt()?;
    let model = &args.generate.model;
    let mut runtime = progress::load(&model.source(), &model.runtime())?;
    let spec = explain::steering(steering, &explain::model_of(&runtime)).map_err(|error| anyhow!(error))?;
    let steering = Arc::new(runtime.model().steering(&spec)?);
    let ids = args.generate.encode(runtime.tokenizer(), &prompt)?;
    let (params, warnings) = args.generate.params(&ids, &runtime)?;
    for warning in &warnings {
        note(format_args!("warning: {warning}"));
    }
    let spec = runtime.limits().canvas;
    let steered = Canvas::new(&ids, params.clone(), &spec)?.steered(steering.clone());
    let mut lanes = vec![Generation::new(steered, runtime.tokenizer())];
    if args.compare {
        lanes.push(Generation::new(Canvas::new(&ids, params, &spec)?, runtime.tokenizer()));
    }
    let (timings, outcomes) = drive(&mut runtime, &mut lanes)?;
    if args.generate.json {
        let one = |lane: usize| {
            let canvas = &lanes[lane].canvas;
            result::json(&args.generate, &runtime, canvas, &outcomes[lane], timings, &warnings)
        };
        let answer = json!({ "steered": one(0), "default": args.compare.then(|| one(1)) });
        emit(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    directions(&runtime, &steering)?;
    if let [steered] = &outcomes[..] {
        emit(&format!("{}\n", steered.text))?;
    } else {
        for (name, outcome) in ["steered", "default"].iter().zip(&outcomes) {
            emit(&format!("{}\n{}\n\n", style(name).bold().underlined(), outcome.text))?;
        }
    }
    note(result::summary(&lanes[0].canvas, &outcomes[0], timings));
    Ok(())
}

/// Steps all lanes together until each has ended.
pub(super) fn drive(runtime: &mut Runtime, lanes: &mut [Generation]) -> Result<(Timings, Vec<Outcome>)> {
    for lane in lanes.iter_mut() {
        ensure!(runtime.admit(&mut lane.canvas)?, "the generations do not fit --kv-cache-mib; raise it");
    }
    let mut timings = Timings::default();
    loop {
        let start = Instant::now();
        let mut batch: Vec<&mut Canvas> =
            lanes.iter_mut().map(|lane| &mut lane.canvas).filter(|canvas| canvas.finish_reason().is_none()).collect();
        if batch.is_empty() {
            break;
        }
        runtime.step(&mut batch).context("a denoising step failed")?;
        let updates = lanes.iter_mut().filter_map(Generation::update).count();
        *(if updates == 0 { &mut timings.prefill } else { &mut timings.decode }) += start.elapsed();
    }
    lanes.iter().for_each(|lane| runtime.release(lane.canvas.id()));
    let outcomes = lanes.iter_mut().map(|lane| lane.outcome().context("a finished canvas has an outcome"));
    Ok((timings, outcomes.collect::<Result<_>>()?))
}

/// What the directions are and which tokens they promote, on standard error.
fn directions(runtime: &Runtime, steering: &Steering) -> Result<()> {
    for injection in &steering.injections {
        let (alpha, peak, layer) = (injection.alpha, injection.peak, injection.inject_layer);
        note(format_args!(
            "direction with alpha {alpha:.3} from layer {layer} on: {:+.2} logits at most",
            alpha * peak
        ));
        for (id, alignment) in runtime.model().top_tokens(&injection.direction, TOP_TOKENS, false)? {
            let text = format!("{:?}", runtime.tokenizer().token_text(id));
            note(format_args!("  {} {} {:+.2}", column(&text, 24), bar(alignment, peak), alpha * alignment));
        }
    }
    Ok(())
}

/// The entries of a preset as a request writes them.
fn entries(flags: &[String]) -> Result<Vec<Value>> {
    flags.iter().map(|flag| entry(flag)).collect()
}

fn entry(flag: &str) -> Result<Value> {
    let mut entry = Map::new();
    let concept = match flag.rsplit_once('=') {
        Some((concept, target)) => {
            let Ok(target) = target.parse::<f32>() else {
                bail!("`{}` in {flag:?} is no number", one_line(target, 40));
            };
            entry.insert("target".to_owned(), json!(target));
            concept
        }
        None => flag,
    };
    let named = match (concept.parse::<u32>(), concept.split_once(':')) {
        (Ok(id), _) => json!(id),
        (_, Some(("search", words))) => json!({ "search": words }),
        (_, Some(("unknown", index))) => match index.parse::<u32>() {
            Ok(index) => json!({ "unknown": index }),
            Err(_) => bail!("`{}` in {flag:?} is no index", one_line(index, 40)),
        },
        _ => json!({ "name": concept }),
    };
    entry.insert("concept".to_owned(), named);
    Ok(Value::Object(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concept_is_named_as_in_a_request() {
        assert_eq!(entry("12").unwrap(), json!({"concept": 12}));
        assert_eq!(entry("unknown:3=-2.5").unwrap(), json!({"concept": {"unknown": 3}, "target": -2.5}));
        assert_eq!(entry("search:sea salt=4").unwrap(), json!({"concept": {"search": "sea salt"}, "target": 4.0}));
        assert_eq!(entry("Politics: news").unwrap(), json!({"concept": {"name": "Politics: news"}}));
        assert!(entry("12=high").is_err() && entry("unknown:x").is_err());
    }
}
