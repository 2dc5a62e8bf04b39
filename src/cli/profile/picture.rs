//! The picture of a profile: cost of a draft step against acceptance, identity against bridges.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use skipstone_engine::adapt::{FillerKind, Measurement, Profile};

/// Size in pixels.
const SIZE: (u32, u32) = (800, 520);

/// Text beside the axes.
const FONT: (&str, u32) = ("sans-serif", 14);

/// Draws `profile` as SVG into `path`.
pub(super) fn draw(profile: &Profile, path: &Path) -> anyhow::Result<()> {
    let picture = svg(profile).context("the picture can't be drawn")?;
    fs::write(path, picture).with_context(|| format!("can't write {}", path.display()))
}

/// The picture as text.
fn svg(profile: &Profile) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawing)?;
        let all = profile.measurements.iter();
        let cheapest = all.clone().map(|point| point.cost).fold(1.0, f64::min);
        let worst = all.map(|point| point.acceptance).fold(1.0, f64::min);
        let mut chart = ChartBuilder::on(&area)
            .caption(
                format!("{}: what a draft costs, and how often it is right", profile.model.name),
                ("sans-serif", 17),
            )
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(cheapest - 0.03..1.0, (worst - 0.03).max(0.0)..1.0)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc("cost of a draft step, in plain steps")
            .y_desc("acceptance of a drafted token")
            .x_label_formatter(&|value| format!("{value:.2}"))
            .y_label_formatter(&|value| format!("{value:.2}"))
            .label_style(FONT)
            .draw()
            .map_err(drawing)?;
        for (kind, colour) in [
            (FillerKind::Identity, RGBColor(150, 150, 150)),
            (FillerKind::Bias, RGBColor(230, 150, 40)),
            (FillerKind::LowRank, RGBColor(30, 110, 190)),
            (FillerKind::StandIn, RGBColor(40, 150, 90)),
        ] {
            let of_kind = |point: &&Measurement| point.kind == kind;
            let points: Vec<(f64, f64)> = profile
                .measurements
                .iter()
                .filter(of_kind)
                .map(|point| (point.cost, point.acceptance))
                .collect();
            if points.is_empty() {
                continue;
            }
            let name = match kind {
                FillerKind::Identity => "skipped, nothing in its place",
                FillerKind::Bias => "bias bridge",
                FillerKind::LowRank => "low-rank bridge",
                FillerKind::StandIn => "stand-in",
            };
            chart
                .draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))
                .map_err(drawing)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
        }
        let plans = profile.plans.iter().map(|plan| (plan.cost, plan.acceptance()));
        let line = RGBColor(180, 40, 40);
        chart
            .draw_series(LineSeries::new(plans, line.stroke_width(2)))
            .map_err(drawing)?
            .label("plans of the profile, as measured")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], line.stroke_width(2)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .label_font(FONT)
            .draw()
            .map_err(drawing)?;
        area.present().map_err(drawing)?;
    }
    Ok(text)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_its_series() {
        let profile = Profile::example();
        profile.check().unwrap();
        let picture = svg(&profile).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        for words in ["m.gguf", "low-rank bridge", "nothing in its place", "cost of a draft step"] {
            assert!(picture.contains(words), "no {words:?}");
        }
        assert_eq!(picture.matches("<circle").count(), 2 + 2, "two points and two legends");
    }
}
