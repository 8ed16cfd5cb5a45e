//! `steerling-demo decoding`: quality over tokens per forward.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use steerling_demo::evaluate::{DecodingOptions, DecodingReport, DecodingRow, Quality, Setting, measure_decoding};

const SIZE: (u32, u32) = (960, 1280);

/// Measure what decoding methods do to the text, and how many forwards they spare.
#[derive(Debug, clap::Args)]
pub(crate) struct DecodingArgs {
    /// The checkpoint directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Neutral prompts of each setting
    #[arg(long, value_name = "N", default_value_t = 160, value_parser = clap::value_parser!(u16).range(1..))]
    neutral: u16,
    /// Prompts of each setting on which each concept is amplified, and that begin with it
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    each: u16,
    /// Texts of each setting that each of the notices begins
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    notices: u16,
    /// Also write everything to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the curves, in SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Other seeds draw other prompts and tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
    /// Runtimes that work side by side; the numbers do not depend on it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

/// Measures and prints.
///
/// # Errors
/// If the model cannot be loaded or is not a demo model, or the results cannot be written.
pub(crate) fn run(args: &DecodingArgs) -> Result<ExitCode> {
    let options = DecodingOptions {
        model: args.model.clone(),
        settings: Setting::all(),
        neutral: args.neutral.into(),
        each: args.each.into(),
        notices: args.notices.into(),
        seed: args.seed,
        threads: args.threads.into(),
    };
    let style = ProgressStyle::with_template("{msg} [{bar:24}] {pos}/{len} {elapsed}")
        .expect("the template names only keys that exist");
    let progress = ProgressBar::new(0).with_style(style);
    progress.enable_steady_tick(Duration::from_millis(250));
    let report = measure_decoding(&options, progress.clone());
    progress.finish_and_clear();
    let report = report?;
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", serde_json::to_value(&report)?);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.plot {
        draw(&report, path).map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
    }
    super::emit(&report.markdown())?;
    Ok(ExitCode::SUCCESS)
}

/// A measure: how it is called, of which sort of text it is, and the number.
type Measure = (&'static str, fn(&DecodingRow) -> &Quality, fn(&Quality) -> Option<f64>);

const MEASURES: [Measure; 4] = [
    ("free text: concept found, %", |row| &row.free, |text| percent(text, 0)),
    ("free text: grammatical sentences, %", |row| &row.free, |text| percent(text, 1)),
    ("free text: log-likelihood, nats a token", |row| &row.free, |text| text.nats),
    ("notices that keep their wording, %", |row| &row.notices, |text| percent(text, 0)),
];

fn percent(text: &Quality, measure: usize) -> Option<f64> {
    text.shares[measure].share.map(|share| 100.0 * share)
}

fn draw(report: &DecodingReport, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(out, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    for (part, (name, sort, measure)) in area.split_evenly((MEASURES.len(), 1)).iter().zip(MEASURES) {
        let mut curves: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for row in report.rows.iter().filter(|row| !row.aligned) {
            let text = sort(row);
            let point = measure(text).map(|quality| (text.tokens_per_forward, quality));
            curves.entry(row.method).or_default().extend(point);
        }
        let points = || curves.values().flatten();
        let right = points().map(|point| point.0).fold(1.0, f64::max);
        let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.1), high.max(p.1)));
        let margin = (high - low).max(1e-3) * 0.08;
        let mut chart = ChartBuilder::on(part)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.9..right * 1.02, low - margin..high + margin)?;
        chart.configure_mesh().x_desc("tokens a forward").y_desc(name).light_line_style(WHITE).draw()?;
        for (n, (method, curve)) in curves.iter_mut().enumerate() {
            curve.sort_by(|a, b| a.0.total_cmp(&b.0));
            let colour = Palette99::pick(n).to_rgba();
            let line = chart.draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?;
            line.label(*method).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(curve.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        let labels = SeriesLabelPosition::LowerLeft;
        chart
            .configure_series_labels()
            .position(labels)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    area.present()?;
    Ok(())
}
