//! Plots as SVG, for the report.

use crate::{
    models::Figure,
    npcs::{self, Case},
};
use plotters::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A plot of that size; the text of an SVG.
fn drawn(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let done = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        done.expect("nothing that is drawn into a string fails");
        area.present().expect("nothing that is drawn into a string fails");
    }
    svg
}

fn color(number: usize) -> RGBColor {
    const COLORS: [RGBColor; 6] = [
        RGBColor(27, 94, 148),
        RGBColor(196, 78, 32),
        RGBColor(44, 130, 70),
        RGBColor(120, 70, 150),
        RGBColor(150, 120, 30),
        RGBColor(90, 90, 90),
    ];
    COLORS[number % COLORS.len()]
}

/// A little more than what is there, on a scale of logarithms.
fn around(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(f64::MIN_POSITIVE, f64::max);
    least / 1.5..most * 1.5
}

/// What an NPC costs by the number of NPCs, a line for each number of threads.
pub(crate) fn scaling(cases: &[Case]) -> String {
    let threads: BTreeSet<usize> = cases.iter().map(|case| case.threads).collect();
    drawn((640, 400), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .caption("ns per NPC and tick, by the number of NPCs", ("sans-serif", 16))
            .build_cartesian_2d(
                around(cases.iter().map(|case| case.entities as f64)).log_scale(),
                0.0..cases.iter().flat_map(|case| case.spread).fold(0.0, f64::max) * 1.1,
            )?;
        chart
            .configure_mesh()
            .x_desc("NPCs")
            .y_desc("ns per NPC")
            .x_label_formatter(&|count| format!("{count:.0}"))
            .y_label_formatter(&|nanos| format!("{nanos:.0}"))
            .draw()?;
        for (number, threads) in threads.into_iter().enumerate() {
            let of_threads = || cases.iter().filter(move |case| case.threads == threads);
            let points = of_threads().map(|case| (case.entities as f64, case.ns_per_npc));
            let color = color(number);
            chart
                .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?
                .label(npcs::threads(threads))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            chart.draw_series(points.map(|point| Circle::new(point, 3, color.filled())))?;
            let spreads = of_threads().map(|case| {
                let x = case.entities as f64;
                PathElement::new([(x, case.spread[0]), (x, case.spread[1])], color)
            });
            chart.draw_series(spreads)?;
        }
        let mut labels = chart.configure_series_labels();
        let labels = labels.position(SeriesLabelPosition::LowerLeft);
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        Ok(())
    })
}

/// Bars from left to right on a scale of logarithms, with their names.
pub(crate) fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> String {
    let height = 70 + 28 * bars.len() as u32;
    let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let least = bars.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min) / 2.0;
    drawn((760, height), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(32)
            .caption(title, ("sans-serif", 16))
            .build_cartesian_2d((least..most * 30.0).log_scale(), 0.0..bars.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(unit)
            .x_label_formatter(&|value| format!("{value}"))
            .draw()?;
        for (number, (name, value)) in bars.iter().rev().enumerate() {
            let (low, high) = (number as f64 + 0.15, number as f64 + 0.85);
            let bar = Rectangle::new([(least, low), (*value, high)], color(0).mix(0.6).filled());
            chart.draw_series([bar])?;
            let label = format!("{name}: {value:.1}");
            chart.draw_series([Text::new(
                label,
                (*value * 1.1, number as f64 + 0.68),
                ("sans-serif", 13),
            )])?;
        }
        Ok(())
    })
}

/// How far all figures are off, beside the distribution that chance alone would give.
pub(crate) fn errors(figures: &[Figure]) -> String {
    const WIDTH: f64 = 0.5;
    let mut counts: BTreeMap<i64, f64> = BTreeMap::new();
    for figure in figures.iter().filter(|figure| figure.z != 0.0) {
        *counts.entry((figure.z / WIDTH).floor() as i64).or_default() += 1.0;
    }
    let count: f64 = counts.values().sum();
    let normal = |z: f64| count * WIDTH * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let most = counts.values().copied().fold(normal(0.0), f64::max);
    drawn((640, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .caption("Figures by their distance from the reference", ("sans-serif", 16))
            .build_cartesian_2d(-5.0..5.0, 0.0..most * 1.1)?;
        chart.configure_mesh().x_desc("standard errors (Welch's z)").y_desc("figures").draw()?;
        chart.draw_series(counts.iter().map(|(bin, count)| {
            let low = *bin as f64 * WIDTH;
            Rectangle::new([(low, 0.0), (low + WIDTH * 0.95, *count)], color(0).mix(0.5).filled())
        }))?;
        let points = (-50..=50).map(|tenth| f64::from(tenth) / 10.0).map(|z| (z, normal(z)));
        chart.draw_series(LineSeries::new(points, color(1).stroke_width(2)))?;
        Ok(())
    })
}

/// A statistic step by step: the reference as a band of its mean and standard deviation, and what was found as a line.
pub(crate) fn series(figures: &[&Figure]) -> String {
    let steps = || figures.iter().filter_map(|figure| Some((figure.step? as f64, *figure)));
    let values = figures.iter().flat_map(|figure| {
        let spread = |[mean, sd]: [f64; 2]| [mean - sd, mean + sd];
        spread(figure.known).into_iter().chain(spread(figure.found))
    });
    let (least, most) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    let room = ((most - least) * 0.1).max(1e-9);
    let last = steps().map(|(step, _)| step).fold(1.0, f64::max);
    let title = figures.first().map_or("", |figure| &figure.statistic);
    drawn((300, 200), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(22)
            .y_label_area_size(46)
            .caption(title, ("sans-serif", 12))
            .build_cartesian_2d(0.0..last, least - room..most + room)?;
        chart.configure_mesh().x_labels(5).y_labels(4).disable_mesh().draw()?;
        let upper = steps().map(|(step, figure)| (step, figure.known[0] + figure.known[1]));
        let lower = steps().map(|(step, figure)| (step, figure.known[0] - figure.known[1]));
        let mut band: Vec<(f64, f64)> = upper.collect();
        let lower: Vec<(f64, f64)> = lower.collect();
        band.extend(lower.into_iter().rev());
        chart.draw_series([Polygon::new(band, color(1).mix(0.25))])?;
        let known = steps().map(|(step, figure)| (step, figure.known[0]));
        chart.draw_series(LineSeries::new(known, color(1).stroke_width(1)))?;
        let found = steps().map(|(step, figure)| (step, figure.found[0]));
        chart.draw_series(LineSeries::new(found.clone(), color(0).stroke_width(1)))?;
        chart.draw_series(found.map(|point| Circle::new(point, 2, color(0).filled())))?;
        Ok(())
    })
}
