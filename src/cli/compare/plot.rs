//! Curves as SVG: a quantity on the validation images against steps, and against forward passes.

use super::summary::{EXACT, FROZEN, Row, Spread};
use foretune::{Error, Result};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::path::Path;

/// What is drawn over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Mean cross entropy, nats.
    Loss,
    /// Share of images whose top class is right, in %.
    Accuracy,
}

/// Pixels.
const WIDTH: u32 = 1160;
const HEIGHT: u32 = 400;
const LEGEND: u32 = 220;
const LINE: i32 = 22;
const TEXT: (&str, u32) = ("sans-serif", 16);

/// Told apart by most people on white (after Okabe and Ito 2008, its yellow and black left out, two added).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(117, 80, 160),
    RGBColor(140, 86, 75),
];

/// A method as it is drawn.
struct Line<'a> {
    row: &'a Row,
    colour: RGBColor,
    /// Steps, and the mean and band there. The frozen model has one level for all steps.
    points: Vec<(f64, Spread)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<std::io::Error>;

/// The picture of `rows`, for messages at `path`.
pub(super) fn svg(rows: &[Row], quantity: Quantity, path: &Path) -> Result<String> {
    let mut text = String::new();
    draw(rows, quantity, &mut text).map_err(|error| Error::Io {
        action: "draw",
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(text)
}

fn draw(rows: &[Row], quantity: Quantity, text: &mut String) -> Result<(), DrawError> {
    let lines: Vec<Line> =
        rows.iter().enumerate().map(|(at, row)| line(row, at + COLOURS.len() - 1, quantity)).collect();
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (panels, legend) = root.split_horizontally(WIDTH - LEGEND);
    let panels = panels.split_evenly((1, 2));
    let levels = extent(&lines, quantity);
    panel(&panels[0], &lines, "steps", &|_| 1.0, levels.clone(), quantity)?;
    let forwards = |row: &Row| row.forwards_per_step.unwrap_or(1.0);
    panel(&panels[1], &lines, "forward passes", &forwards, levels, quantity)?;
    for (at, line) in (1..).zip(&lines) {
        let y = LINE * at;
        legend.draw(&PathElement::new([(4, y), (28, y)], line.colour.stroke_width(2)))?;
        let style = TEXT.into_font().color(&BLACK);
        legend.draw(&Text::new(line.row.method.clone(), (36, y - LINE / 3), style))?;
    }
    root.present()
}

fn line(row: &Row, at: usize, quantity: Quantity) -> Line<'_> {
    let percent = |spread: Spread| Spread { mean: 100.0 * spread.mean, sd: spread.sd.map(|sd| 100.0 * sd) };
    let scaled = |loss, accuracy| match quantity {
        Quantity::Loss => loss,
        Quantity::Accuracy => percent(accuracy),
    };
    let points = if row.method == FROZEN {
        let last = row.validation_loss.zip(row.validation_accuracy);
        last.map(|(loss, accuracy)| (0.0, scaled(loss, accuracy))).into_iter().collect()
    } else {
        row.curve.iter().map(|point| (point.step as f64, scaled(point.loss, point.accuracy))).collect()
    };
    let colour = match row.method.as_str() {
        FROZEN => RGBColor(130, 130, 130),
        EXACT => BLACK,
        _ => COLOURS[at % COLOURS.len()],
    };
    Line { row, colour, points }
}

/// The range that all lines and bands are within, with some room.
fn extent(lines: &[Line], quantity: Quantity) -> std::ops::Range<f64> {
    let ends = || lines.iter().flat_map(|line| line.points.iter().flat_map(|(_, spread)| spread.band()));
    let (low, high) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max));
    if !(low.is_finite() && high.is_finite()) {
        return 0.0..1.0;
    }
    let floor = if quantity == Quantity::Loss { 1e-3 } else { 0.5 };
    let room = 0.05 * (high - low).max(floor);
    low - room..high + room
}

fn panel(
    area: &Area,
    lines: &[Line],
    along: &str,
    scale: &dyn Fn(&Row) -> f64,
    levels: std::ops::Range<f64>,
    quantity: Quantity,
) -> Result<(), DrawError> {
    let ends = lines.iter().filter_map(|line| line.points.last().map(|(step, _)| step * scale(line.row)));
    let end = ends.fold(1.0, f64::max);
    let mut chart: ChartContext<_, Cartesian2d<RangedCoordf64, RangedCoordf64>> = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..1.02 * end, levels)?;
    let what = match quantity {
        Quantity::Loss => "validation loss, nats",
        Quantity::Accuracy => "validation accuracy, %",
    };
    let ticks = |value: &f64| format!("{}", (value * 1e4).round() / 1e4);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(TEXT)
        .axis_desc_style(TEXT)
        .x_desc(along)
        .y_desc(what)
        .x_label_formatter(&ticks)
        .y_label_formatter(&ticks)
        .draw()?;
    for line in lines {
        let Some(&(first, level)) = line.points.first() else { continue };
        let mut points: Vec<_> = line.points.iter().map(|(step, spread)| (step * scale(line.row), *spread)).collect();
        if line.row.method == FROZEN {
            points = vec![(first, level), (end, level)];
        }
        let means = || points.iter().map(|(x, spread)| (*x, spread.mean));
        if points.iter().any(|(_, spread)| spread.sd.is_some()) {
            let below = points.iter().map(|(x, spread)| (*x, spread.band()[0]));
            let above = points.iter().rev().map(|(x, spread)| (*x, spread.band()[1]));
            let outline: Vec<_> = below.chain(above).collect();
            chart.draw_series([Polygon::new(outline, line.colour.mix(0.15))])?;
        }
        chart.draw_series(LineSeries::new(means(), line.colour.stroke_width(2)))?;
        if line.row.method != FROZEN {
            chart.draw_series(means().map(|point| Circle::new(point, 2, line.colour.filled())))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::record;
    use super::super::summary::{Group, rows};
    use super::*;

    fn drawn(names: &[&str], quantity: Quantity) -> String {
        let group = |name: &&str| Group {
            name: (*name).to_owned(),
            sweep: Vec::new(),
            lr: Some(0.1),
            runs: (0..2).map(|seed| record("k", 0.1, seed, 1.0 + seed as f64, Some(1.0))).collect(),
            forwards_per_step: Some(2.0),
        };
        svg(&rows(names.iter().map(group).collect()), quantity, Path::new("loss.svg")).unwrap()
    }

    #[test]
    fn every_method_is_named_and_has_a_line_in_both_panels() {
        for quantity in [Quantity::Loss, Quantity::Accuracy] {
            let text = drawn(&[FROZEN, "wt <p=1> & \"more\"", EXACT], quantity);
            assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"), "{text}");
            for part in ["frozen", "wt &lt;p=1&gt; &amp; &quot;more&quot;", "exact gradient", "steps", "forward passes"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            // Frozen and exact are drawn, and have bands, in both panels.
            assert_eq!(text.matches("<polygon").count(), 6, "{text}");
        }
    }

    #[test]
    fn nothing_finished_is_a_picture_without_lines() {
        let group =
            Group { name: EXACT.into(), sweep: Vec::new(), lr: None, runs: Vec::new(), forwards_per_step: Some(3.0) };
        let text = svg(&rows(vec![group]), Quantity::Loss, Path::new("loss.svg")).unwrap();
        assert!(text.contains("exact gradient") && !text.contains("NaN"), "{text}");
    }
}
