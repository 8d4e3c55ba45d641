//! The result as a picture: throughput and latency percentiles over the measured time.

use crate::bench::report::PartReport;
use crate::bench::{BenchError, Report};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// Width and height of the picture.
const SIZE: (u32, u32) = (960, 640);
const TEAL: RGBColor = RGBColor(27, 127, 92);
const BLUE: RGBColor = RGBColor(46, 98, 168);
const AMBER: RGBColor = RGBColor(201, 130, 22);
const RED: RGBColor = RGBColor(184, 50, 60);

/// What is drawn of each part of the measured time.
type Value = fn(&PartReport) -> f64;

/// Draws `report` into the SVG file at `path`.
///
/// # Errors
/// When the file cannot be written, or nothing was measured.
pub(super) fn draw(report: &Report, path: &Path) -> Result<(), BenchError> {
    let failed = |why: String| BenchError::Plot { path: path.to_owned(), why };
    if report.series.is_empty() {
        return Err(failed("no message was measured".to_owned()));
    }
    let mut svg = String::new();
    picture(report, &mut svg).map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, svg).map_err(|error| failed(error.to_string()))
}

fn picture(report: &Report, svg: &mut String) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    // The last part is cut short when the time is up, and its rate says nothing.
    let whole = report.series.len().saturating_sub(1).max(1);
    let parts = &report.series[..whole];
    let (above, below) = area.split_vertically(SIZE.1 / 2);
    let title = format!(
        "{}: {} connections x {} in flight x {} B",
        report.scenario, report.connections, report.in_flight, report.size
    );
    rates(parts, &title, &above)?;
    latencies(parts, &below)?;
    area.present()?;
    Ok(())
}

fn rates(
    parts: &[PartReport],
    title: &str,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
) -> Result<(), Box<dyn Error>> {
    let value: Value = |part| part.messages_per_second;
    let most = parts.iter().map(value).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(96)
        .build_cartesian_2d(0.0..end(parts), 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc("seconds").y_desc("messages/s").y_label_formatter(&short).draw()?;
    chart.draw_series(LineSeries::new(points(parts, value), TEAL.stroke_width(2)))?;
    Ok(())
}

fn latencies(parts: &[PartReport], area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
    let lines: [(&str, RGBColor, Value); 4] = [
        ("p50", TEAL, |part| part.p50),
        ("p99", BLUE, |part| part.p99),
        ("p99.9", AMBER, |part| part.p99_9),
        ("max", RED, |part| part.max),
    ];
    let values = || parts.iter().filter(|part| part.max > 0.0);
    let least = values().map(|part| part.p50).fold(f64::INFINITY, f64::min).clamp(0.001, 1e8);
    let most = values().map(|part| part.max).fold(least, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(96)
        .build_cartesian_2d(0.0..end(parts), (least / 1.5..most * 1.5).log_scale())?;
    chart.configure_mesh().x_desc("seconds").y_desc("latency, us").y_label_formatter(&short).draw()?;
    for (name, colour, value) in lines {
        chart
            .draw_series(LineSeries::new(points(parts, value), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

/// The time that the parts take, seconds.
fn end(parts: &[PartReport]) -> f64 {
    parts.last().map_or(1.0, |part| part.until_seconds)
}

/// What there is to draw: where nothing came, there is no latency.
fn points(parts: &[PartReport], value: Value) -> impl Iterator<Item = (f64, f64)> {
    parts.iter().map(move |part| (part.until_seconds, value(part))).filter(|(_, value)| *value > 0.0)
}

fn short(value: &f64) -> String {
    match *value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.0} k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}
