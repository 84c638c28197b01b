//! Plots of the rates over the number of clients, as SVG. Both axes are logarithmic: rates differ by factors.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::Row;

const SIZE: (u32, u32) = (900, 520);
/// Colours that people with any colour vision can tell apart (Okabe and Ito), by the beginning of a system's name.
const COLOURS: [(&str, RGBColor); 5] = [
    ("holdfast", RGBColor(213, 94, 0)),
    ("jetstream", RGBColor(120, 120, 120)),
    ("etcd", RGBColor(0, 114, 178)),
    ("redis", RGBColor(204, 121, 167)),
    ("zookeeper", RGBColor(0, 158, 115)),
];

/// The name of the file, and the picture.
pub(crate) fn rates(title: &str, rows: &[&Row]) -> Result<(String, String)> {
    let mut picture = String::new();
    draw(title, rows, &mut picture).map_err(|error| anyhow!("cannot draw {title}: {error}"))?;
    let name: String = title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    Ok((name + ".svg", picture))
}

fn draw(title: &str, rows: &[&Row], picture: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let clients = rows.iter().map(|row| row.clients as f64).fold(1.0, f64::max);
    let fewest = rows.iter().map(|row| row.clients as f64).fold(clients, f64::min);
    let rates = || rows.iter().flat_map(|row| row.cells.values().filter_map(|cell| cell.rate()));
    let rate = rates().fold(1.0, f64::max);
    let least = rates().fold(rate, f64::min).max(0.1);

    let area = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(70)
        // The last label needs room at the right.
        .build_cartesian_2d((fewest..clients * 1.1).log_scale(), (least / 1.3..rate * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("clients (8 connections)")
        .y_desc("per second")
        .x_label_formatter(&|clients| format!("{clients:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    let mut labels: Vec<&String> = rows.iter().flat_map(|row| row.cells.keys()).collect();
    labels.sort();
    labels.dedup();
    for label in labels {
        let points: Vec<(f64, f64)> =
            rows.iter().filter_map(|row| Some((row.clients as f64, row.cells.get(label)?.rate()?))).collect();
        if points.is_empty() {
            continue;
        }
        let colour = COLOURS.iter().find(|(name, _)| label.starts_with(name)).map_or(BLACK, |(_, colour)| *colour);
        // One server is a thin line, three a thick one.
        let style = colour.stroke_width(if label.ends_with("-3") { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(label.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measured;
    use crate::peers::report::{Cell, Shape};

    #[test]
    fn each_system_with_a_rate_has_a_line() {
        let row = |clients, rate| {
            let mut row = Row::new("lock + unlock", "cycles", clients, Shape::Rate);
            let mut cell = Cell::default();
            cell.add(&Measured { rate, times: vec![std::time::Duration::from_millis(1)] });
            row.cells.insert("holdfast-3".to_owned(), cell);
            row.cells.insert("etcd-3".to_owned(), Cell::lacking("none"));
            row
        };
        let rows = [row(1, 100.0), row(64, 2000.0)];
        let (name, picture) = rates("lock + unlock", &rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(name, "lock-unlock.svg");
        assert!(picture.starts_with("<svg") && picture.contains("holdfast-3") && !picture.contains("etcd-3"));
    }
}
