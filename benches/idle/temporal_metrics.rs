//! How many requests Temporal's frontend had, by what was asked, out of the server's own metrics.

use std::collections::BTreeMap;

/// A count for each operation.
pub type Operations = BTreeMap<String, f64>;

/// Those since the server's start.
pub async fn requests() -> Operations {
    let address = std::env::var("TEMPORAL_METRICS").expect("TEMPORAL_METRICS is set by tests/api/run");
    let answer = reqwest::get(format!("http://{address}/metrics")).await.expect("Temporal's metrics");
    read(&answer.text().await.expect("Temporal's metrics"))
}

/// Those of the frontend, in Prometheus' text format.
pub fn read(text: &str) -> Operations {
    let mut all = Operations::new();
    for line in text.lines().filter(|line| line.starts_with("service_requests{")) {
        let Some((labels, value)) = line.rsplit_once(' ') else { continue };
        let label = |name: &str| labels.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        if label("service_name") == Some("frontend")
            && let (Some(operation), Ok(value)) = (label("operation"), value.parse::<f64>())
        {
            *all.entry(operation.to_string()).or_default() += value;
        }
    }
    all
}

/// What came between two readings, without what did not.
pub fn difference(before: &Operations, after: &Operations) -> Operations {
    let more = after.iter().map(|(name, count)| (name.clone(), count - before.get(name).copied().unwrap_or(0.0)));
    more.filter(|(_, count)| *count > 0.0).collect()
}
