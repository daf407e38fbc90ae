//! Hit ratios over the time to live, as SVG. Decides: nothing. The horizontal axis is logarithmic.

use std::fmt::Write as _;

/// A line for each series.
pub fn draw(series: &[(String, Vec<(f64, f64)>)]) -> String {
    let times = || series.iter().flat_map(|(_, points)| points.iter().map(|(at, _)| at.ln()));
    let (first, last) = (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
    let x = |at: f64| MARGIN + (at.ln() - first) / (last - first) * (WIDTH - 2.0 * MARGIN);
    let y = |ratio: f64| HEIGHT - MARGIN - ratio * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"16\">share of checks answered from the cache, by time to live</text>\n"
    );
    for percent in [0, 25, 50, 75, 90, 100] {
        let at = y(f64::from(percent) / 100.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {at:.1}H{}\" stroke=\"#dddddd\"/><text x=\"4\" y=\"{at:.1}\">{percent} %</text>",
            WIDTH - MARGIN
        );
    }
    for (at, _) in series.first().map(|(_, points)| points.as_slice()).unwrap_or_default() {
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{at} s</text>", x(*at) - 8.0, HEIGHT - MARGIN + 14.0);
    }
    for (at, (name, points)) in series.iter().enumerate() {
        let line: Vec<_> = points.iter().map(|(at, ratio)| format!("{:.1},{:.1}", x(*at), y(*ratio))).collect();
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/><text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            line.join(" "),
            MARGIN + 130.0 * at as f64,
            HEIGHT - 4.0
        );
    }
    svg + "</svg>\n"
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 44.0;
const COLOURS: [&str; 3] = ["#0072b2", "#009e73", "#d55e00"];
