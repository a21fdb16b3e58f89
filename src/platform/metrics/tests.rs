use std::fmt::Write;

use super::*;

/// The table of `docs/metrics.md`.
fn table() -> String {
    let mut table = "| metric | type | labels | |\n|---|---|---|---|\n".to_string();
    for Described { name, kind, labels, help } in Metrics::default().described() {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(" ")).unwrap();
    }
    table
}

#[test]
fn the_reference_has_what_is_registered() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- metrics -->\n", "<!-- end -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (written, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
        return;
    }
    assert_eq!(written, table(), "UPDATE=1 cargo test --lib the_reference_has writes docs/metrics.md");
}

#[test]
fn no_text_of_others_is_a_label() {
    use crate::protocol::error_types;
    assert_eq!(error_types::word("OOMKilled"), "OOMKilled");
    assert_eq!(error_types::word("canary"), "Custom");
    let metrics = Metrics::default();
    metrics.jobs.ended.of(["Direct", "Failed", error_types::word("canary")]).inc();
    let text = metrics.encode(Format::OpenMetrics).unwrap();
    let line = r#"koco_jobs_ended_total{mode="Direct",phase="Failed",error="Custom"} 1"#;
    assert!(text.contains(line) && !text.contains("canary"), "{text}");
    assert!(text.contains(concat!("koco_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
}

#[test]
fn what_is_set_at_a_scrape_is_never_old() {
    let metrics = Metrics::default();
    let jobs = metrics.jobs.jobs.clone();
    metrics.before_scrapes(move || _ = jobs.of(["Running", "Direct"]).inc());
    metrics.encode(Format::Text).unwrap();
    let text = metrics.encode(Format::Text).unwrap();
    assert!(text.contains("# TYPE koco_jobs gauge\nkoco_jobs{phase=\"Running\",mode=\"Direct\"} 2\n"), "{text}");
}
