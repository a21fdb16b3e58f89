//! What the benches' reports are made of: tables in Markdown, numbers, and what there is to reach. Pure.

use std::fmt::Write;

use serde::Serialize;

/// One thing to reach.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub what: String,
    pub is: f64,
    pub limit: f64,
    pub reached: bool,
}

pub fn at_most(what: impl Into<String>, is: f64, limit: f64) -> Target {
    Target { what: what.into(), is, limit, reached: is <= limit }
}

/// What there is to reach, if there is anything.
pub fn reach(text: &mut String, list: &[Target]) {
    if list.is_empty() {
        return;
    }
    text.push('\n');
    head(text, &["to reach", "limit", "is", ""]);
    for target in list {
        let verdict = if target.reached { "reached" } else { "missed" };
        row(text, [target.what.clone(), number(target.limit), number(target.is), verdict.to_string()]);
    }
}

/// The value that `part` of all don't exceed; not a number if there are none.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// How the program was built, for titles.
pub fn build() -> &'static str {
    if cfg!(debug_assertions) { "dev build" } else { "release build" }
}

pub fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

pub fn head(text: &mut String, cells: &[&str]) {
    row(text, cells.iter().map(ToString::to_string));
    row(text, cells.iter().map(|_| "---".to_string()));
}

/// A dash where there is none. Parts of a processor may be small.
pub fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".into(),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v if v.abs() >= 0.1 || v == 0.0 => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}
