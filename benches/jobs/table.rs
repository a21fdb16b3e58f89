//! Tables in Markdown, for the benches' reports. Pure.

use std::fmt::Write;

pub fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

pub fn head(text: &mut String, cells: &[&str]) {
    row(text, cells.iter().map(ToString::to_string));
    row(text, cells.iter().map(|_| "---".to_string()));
}

/// A dash where there is none.
pub fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".into(),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
