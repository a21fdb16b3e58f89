//! Bars beside each other, one panel for each figure; or lines over time.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LABEL: f64 = 130.0;
const VALUE: f64 = 80.0;
const BAR: f64 = 18.0;
const GAP: f64 = 6.0;
const HEAD: f64 = 34.0;
const COLOURS: [&str; 10] =
    ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b", "#ff9da6", "#bab0ac"];

/// One figure of several shapes. A bar may have parts, one behind the other.
pub struct Panel {
    pub title: String,
    /// What the parts are, if there are several.
    pub parts: Vec<String>,
    pub bars: Vec<(String, Vec<f64>)>,
}

/// One figure over time, of several things.
pub struct Lines {
    pub title: String,
    /// Seconds and values.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Space for a title.
const TOP: f64 = 40.0;
/// The height of lines.
const PLOT: f64 = 160.0;

/// A picture of all panels.
pub fn draw(title: &str, panels: &[Panel]) -> String {
    let height = |p: &Panel| HEAD + p.bars.len() as f64 * (BAR + GAP) + GAP;
    let mut svg = begin(title, TOP + panels.iter().map(height).sum::<f64>());
    let mut top = TOP;
    for panel in panels {
        draw_panel(&mut svg, panel, top);
        top += height(panel);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A picture of lines over the same time; `marks` are the seconds at which something happened, and what.
pub fn draw_lines(title: &str, all: &[Lines], marks: &[(f64, String)]) -> String {
    let mut svg = begin(title, TOP + all.len() as f64 * (HEAD + PLOT + 24.0));
    let points = || all.iter().flat_map(|l| &l.lines).flat_map(|(_, points)| points);
    let end = points().map(|(at, _)| *at).fold(f64::MIN_POSITIVE, f64::max);
    let x = |at: f64| LABEL + at / end * (WIDTH - LABEL - 10.0);
    let mut top = TOP;
    for lines in all {
        let names: Vec<String> = lines.lines.iter().map(|(name, _)| name.clone()).collect();
        heading(&mut svg, &lines.title, &names, top);
        let (above, below) = (top + HEAD, top + HEAD + PLOT);
        let values = lines.lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
        let most = values.filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        for (label, y) in [(most, above), (0.0, below)] {
            text(&mut svg, 10.0, y + 4.0, "11", &format!("{label:.1}"));
            rectangle(&mut svg, (LABEL, y), (WIDTH - LABEL - 10.0, 0.5), "#ccc");
        }
        for (at, what) in marks {
            rectangle(&mut svg, (x(*at), above), (1.0, PLOT), "#999");
            text(&mut svg, x(*at) + 4.0, above + 12.0, "10", what);
        }
        for ((_, points), colour) in lines.lines.iter().zip(COLOURS) {
            let points = points.iter().filter(|(_, value)| value.is_finite());
            let points = points.map(|(at, value)| format!("{:.1},{:.1}", x(*at), below - value / most * PLOT));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>");
        }
        text(&mut svg, WIDTH - 60.0, below + 16.0, "11", &format!("{end:.0} s"));
        top = below + 24.0;
    }
    svg.push_str("</svg>\n");
    svg
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, 10.0, 24.0, "16", title);
    svg
}

/// A title, and what has which colour.
fn heading(svg: &mut String, title: &str, names: &[String], top: f64) {
    text(svg, 10.0, top + 22.0, "13", title);
    let mut right = WIDTH - 10.0;
    for (name, colour) in names.iter().zip(COLOURS).rev() {
        right -= 22.0 + 5.5 * name.len() as f64;
        rectangle(svg, (right, top + 12.0), (11.0, 11.0), colour);
        text(svg, right + 15.0, top + 22.0, "10", name);
    }
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64) {
    heading(svg, &panel.title, &panel.parts, top);
    let sum = |parts: &[f64]| parts.iter().filter(|v| v.is_finite()).sum::<f64>();
    let longest = panel.bars.iter().map(|(_, parts)| sum(parts)).fold(f64::MIN_POSITIVE, f64::max);
    for (n, (name, parts)) in panel.bars.iter().enumerate() {
        let y = top + HEAD + n as f64 * (BAR + GAP);
        text(svg, 10.0, y + 13.0, "12", name);
        let mut x = LABEL;
        for (value, colour) in parts.iter().filter(|v| v.is_finite()).zip(COLOURS) {
            let length = value.max(0.0) / longest * (WIDTH - LABEL - VALUE);
            rectangle(svg, (x, y), (length, BAR), colour);
            x += length;
        }
        text(svg, x + 6.0, y + 13.0, "12", &format!("{:.1}", sum(parts)));
    }
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ =
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, size: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{words}</text>");
}
