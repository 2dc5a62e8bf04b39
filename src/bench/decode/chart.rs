//! The result as a picture: how much faster each mode is than `off`, by category.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figures::Figures;
use super::report::DecodeReport;

/// The picture could not be drawn or written.
#[derive(Debug, thiserror::Error)]
#[error("can't draw {path}: {reason}")]
pub struct ChartError {
    path: String,
    reason: String,
}

/// Units of the horizontal axis from one group of bars to the next, and those that its bars take.
/// Whole numbers, because the plotting library lets only these be labelled freely.
const GROUP: i32 = 1000;
const BARS: i32 = 800;
/// Pixels for each bar, for what is beside the plot, for what is above and below it, and of the
/// highest bar.
const BAR_PIXELS: usize = 24;
const MARGIN_PIXELS: usize = 140;
const FRAME_PIXELS: usize = 80;
const HEIGHT_PIXELS: usize = 300;
/// Pixels for each line of the legend, which stands above the highest bar.
const LEGEND_PIXELS: usize = 20;

/// Draws `report` as an SVG file: a group of bars for each category and one for all prompts, a bar
/// for each mode but `off`, its height the ratio to `off`, with its 95 % interval.
///
/// # Errors
/// If the file can't be written.
pub fn draw(report: &DecodeReport, path: &Path) -> Result<(), ChartError> {
    try_draw(report, path)
        .map_err(|error| ChartError { path: path.display().to_string(), reason: error.to_string() })
}

fn try_draw(report: &DecodeReport, path: &Path) -> Result<(), Box<dyn Error>> {
    let modes: Vec<(&str, Vec<(&str, &Figures)>)> = report
        .modes
        .0
        .iter()
        .filter(|(name, mode)| {
            report.reference.as_ref() != Some(name) && mode.overall.ratio_to_off.is_some()
        })
        .map(|(name, mode)| (name.as_str(), mode.rows().collect()))
        .collect();
    let groups: Vec<&str> =
        modes.first().map_or(Vec::new(), |(_, rows)| rows.iter().map(|row| row.0).collect());
    let highest =
        modes.iter().flat_map(|(_, rows)| rows).filter_map(|(_, figures)| figures.ratio_high);
    let legend = (modes.len() + 1) * LEGEND_PIXELS;
    let top = highest.fold(1.0, f64::max) * (HEIGHT_PIXELS + legend) as f64 / HEIGHT_PIXELS as f64;
    let height = HEIGHT_PIXELS + legend + FRAME_PIXELS;
    let width = (groups.len() * (modes.len() + 2) * BAR_PIXELS + MARGIN_PIXELS).max(480);

    let root = SVGBackend::new(path, (width as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let centre = |group: usize| group as i32 * GROUP;
    let ends = [-GROUP / 2, centre(groups.len()) - GROUP / 2];
    let axis = (ends[0]..ends[1]).with_key_points((0..groups.len()).map(centre).collect());
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{}, {} threads: decoding speed against off", report.model, report.threads),
            ("sans-serif", 16),
        )
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(44)
        .build_cartesian_2d(axis, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|place| {
            groups.get((place / GROUP) as usize).copied().unwrap_or_default().to_owned()
        })
        .y_label_formatter(&|ratio| format!("{ratio:.1}"))
        .draw()?;
    let bar = BARS / modes.len().max(1) as i32;
    for (number, (name, rows)) in modes.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let left = |group: usize| centre(group) - BARS / 2 + number as i32 * bar;
        let figures = || {
            rows.iter()
                .enumerate()
                .filter_map(|(group, row)| Some((group, row.1.ratio_to_off?, row.1)))
        };
        chart
            .draw_series(figures().map(|(group, ratio, _)| {
                Rectangle::new(
                    [(left(group), 0.0), (left(group) + 9 * bar / 10, ratio)],
                    colour.filled(),
                )
            }))?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
        let style = BLACK.mix(0.7).stroke_width(1);
        chart.draw_series(figures().filter_map(|(group, _, figures)| {
            let middle = left(group) + 9 * bar / 20;
            Some(PathElement::new(
                [(middle, figures.ratio_low?), (middle, figures.ratio_high?)],
                style,
            ))
        }))?;
        let text =
            ("sans-serif", 10).into_font().color(&WHITE).pos(Pos::new(HPos::Center, VPos::Bottom));
        chart.draw_series(figures().map(|(group, ratio, _)| {
            Text::new(format!("{ratio:.2}"), (left(group) + 9 * bar / 20, 0.02 * top), text.clone())
        }))?;
    }
    chart.draw_series([PathElement::new(ends.map(|end| (end, 1.0)), BLACK.stroke_width(1))])?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
