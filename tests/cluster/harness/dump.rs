//! Diagnostics of a failed test.

use std::path::Path;

use super::cluster::kubectl;

pub fn print(namespace: &str, logs: &[&Path]) {
    let show = |title: &str, args: &[&str]| {
        let all = [args, &["-n", namespace]].concat();
        let text = kubectl(&all).unwrap_or_else(|e| e);
        eprintln!("--- {title}\n{}", tail(&text, 400));
    };
    show("jobs", &["get", "agentjobs", "-o", "yaml"]);
    show("runs", &["get", "agentruns", "-o", "yaml"]);
    show("pods", &["get", "pods", "-o", "wide", "--show-labels"]);
    show("events", &["get", "events", "--sort-by=.metadata.creationTimestamp"]);
    for log in logs {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        eprintln!("--- the end of {}\n{}", log.display(), tail(&text, 80));
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
