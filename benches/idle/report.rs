//! What the bench tells, as Markdown, and what there is to reach. Pure.

use serde::Serialize;

use crate::{
    requests::{self, Table},
    table::{self, head, row},
    temporal_metrics::Operations,
    usage::PerProcess,
};

const AT_REST: &str = "at rest";
const CONTROLLER_RESTARTED: &str = "controller restarted";

/// What was measured from one moment to another.
#[derive(Serialize)]
pub struct Stretch {
    pub name: String,
    pub seconds: f64,
    /// Milliseconds.
    pub cpu: PerProcess,
    /// MiB.
    pub peak: PerProcess,
    /// Requests to the API server but leases and watches.
    #[serde(skip)]
    pub requests: Table,
    /// Requests to Temporal.
    pub temporal: Operations,
}

/// What a target is measured against.
pub struct Target {
    pub what: &'static str,
    pub limit: f64,
    pub is: f64,
}

impl Stretch {
    fn cores(&self, process: &str) -> f64 {
        self.cpu.get(process).copied().unwrap_or(f64::NAN) / self.seconds / 1000.0
    }

    fn peak(&self, process: &str) -> f64 {
        self.peak.get(process).copied().unwrap_or(f64::NAN)
    }

    /// Requests of the roles a second.
    fn rate(&self, wanted: impl Fn(&requests::Kind) -> bool) -> f64 {
        let ours = |kind: &requests::Kind| ["controller", "gateway", "worker"].contains(&kind.0.as_str());
        requests::sum(&self.requests, |kind| ours(kind) && wanted(kind)).all as f64 / self.seconds
    }
}

/// What the stretches are to reach, as far as they were measured.
pub fn targets(stretches: &[Stretch]) -> Vec<Target> {
    let mut all = Vec::new();
    let mut add = |what, limit, is| all.push(Target { what, limit, is });
    for stretch in stretches {
        match stretch.name.as_str() {
            AT_REST => {
                add("at rest: requests to the API server a second", 1.0, stretch.rate(|_| true));
                add("at rest: writes to the API server a second", 0.1, stretch.rate(requests::writes));
                add("at rest: the gateway's memory, MiB", 256.0, stretch.peak("gateway"));
                add("at rest: the controller's memory, MiB", 256.0, stretch.peak("controller"));
                add("at rest: the gateway's processors", 0.05, stretch.cores("gateway"));
                add("at rest: the controller's processors", 0.05, stretch.cores("controller"));
            }
            CONTROLLER_RESTARTED => {
                add("controller restarted: seconds until it has looked at each job", 10.0, stretch.seconds);
                add("controller restarted: its memory, MiB", 512.0, stretch.peak("controller"));
            }
            _ => {}
        }
    }
    all
}

/// Parts of a processor may be small.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.1 { format!("{value:.4}") } else { table::number(value) }
}

fn heading<'c>(text: &mut String, first: &[&'c str], more: impl IntoIterator<Item = &'c str>) {
    head(text, &first.iter().copied().chain(more).collect::<Vec<_>>());
}

/// All tables.
pub fn tables(stretches: &[Stretch]) -> String {
    let mut text = String::new();
    let names: Vec<String> = stretches.first().map(|s| s.cpu.keys().cloned().collect()).unwrap_or_default();
    heading(&mut text, &["stretch", "s"], names.iter().map(String::as_str));
    for stretch in stretches {
        let cells = names.iter().map(|n| format!("{} / {}", number(stretch.cores(n)), number(stretch.peak(n))));
        row(&mut text, [stretch.name.clone(), number(stretch.seconds)].into_iter().chain(cells));
    }
    text.push_str("\nProcessors used / the most memory in MiB.\n\n");
    head(&mut text, &["to reach", "limit", "is", ""]);
    for target in targets(stretches) {
        let word = if target.is <= target.limit { "reached" } else { "missed" };
        row(&mut text, [target.what.to_string(), number(target.limit), number(target.is), word.to_string()]);
    }
    let stretch_names: Vec<&str> = stretches.iter().map(|s| s.name.as_str()).collect();
    text.push_str("\nRequests to the API server, but leases and watches:\n\n");
    heading(&mut text, &["who", "verb", "resource"], stretch_names.iter().copied());
    let kinds: std::collections::BTreeSet<_> = stretches.iter().flat_map(|s| s.requests.keys()).collect();
    for kind in kinds {
        let counts = stretches.iter().map(|s| s.requests.get(kind).map_or(0, |c| c.all).to_string());
        row(&mut text, [kind.0.clone(), kind.1.clone(), kind.2.clone()].into_iter().chain(counts));
    }
    text.push_str("\nRequests to Temporal:\n\n");
    heading(&mut text, &["operation"], stretch_names);
    let operations: std::collections::BTreeSet<_> = stretches.iter().flat_map(|s| s.temporal.keys()).collect();
    for operation in operations {
        let counts = stretches.iter().map(|s| number(s.temporal.get(operation).copied().unwrap_or(0.0)));
        row(&mut text, [operation.clone()].into_iter().chain(counts));
    }
    text
}
