//! `steerling-demo plot`: the losses of a training as a picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde::Deserialize;

/// Steps that a point of a curve is the mean of.
const WINDOW: u64 = 50;
const SIZE: (u32, u32) = (960, 540);

/// Draw the losses of a training.
#[derive(Debug, clap::Args)]
pub(crate) struct PlotArgs {
    /// What `train --losses` wrote; later files replace the steps of earlier ones
    #[arg(required = true, value_name = "FILE")]
    losses: Vec<PathBuf>,
    /// The picture, in SVG
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Line {
    step: u64,
    losses: BTreeMap<String, f64>,
}

/// Draws.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn run(args: &PlotArgs) -> Result<ExitCode> {
    let mut steps = BTreeMap::new();
    for path in &args.losses {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let line: Line =
                serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
            steps.insert(line.step, line.losses);
        }
    }
    draw(&curves(&steps), &args.out).map_err(|error| anyhow!("drawing {}: {error}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

type Curve = Vec<(f64, f64)>;

/// Means over windows of steps, by the name of the loss. The gradient's length is no loss.
fn curves(steps: &BTreeMap<u64, BTreeMap<String, f64>>) -> BTreeMap<&str, Curve> {
    let mut sums: BTreeMap<(&str, u64), (f64, f64)> = BTreeMap::new();
    for (step, losses) in steps {
        for (name, loss) in losses.iter().filter(|(name, _)| *name != "gradient") {
            let sum = sums.entry((name, step / WINDOW)).or_default();
            *sum = (sum.0 + loss, sum.1 + 1.0);
        }
    }
    let mut curves: BTreeMap<&str, Curve> = BTreeMap::new();
    for ((name, window), (sum, n)) in sums {
        let middle = (window * WINDOW + WINDOW / 2) as f64;
        // The axis is logarithmic.
        curves.entry(name).or_default().push((middle, (sum / n).max(1e-5)));
    }
    curves
}

fn draw(curves: &BTreeMap<&str, Curve>, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.values().flatten();
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let (low, high) = points().fold((1.0f64, 1.0f64), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let area = SVGBackend::new(out, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last, (low..high * 1.2).log_scale())?;
    chart.configure_mesh().x_desc("updates").y_desc("loss").light_line_style(WHITE).draw()?;
    for (n, (name, curve)) in curves.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let line = chart.draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?;
        line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}
