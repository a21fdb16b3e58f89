//! What the bench tells, as Markdown, and what there is to reach. Pure.

use serde::Serialize;

use crate::{
    requests::{self, Table},
    table::{Target, at_most, head, number, reach, row},
    temporal_metrics::Operations,
    usage::PerProcess,
};

/// koco's roles, as the audit log knows them.
pub const OURS: [&str; 3] = ["controller", "gateway", "worker"];
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

impl Stretch {
    fn cores(&self, process: &str) -> f64 {
        self.cpu.get(process).copied().unwrap_or(f64::NAN) / self.seconds / 1000.0
    }

    fn peak(&self, process: &str) -> f64 {
        self.peak.get(process).copied().unwrap_or(f64::NAN)
    }

    /// Requests of the roles a second.
    fn rate(&self, wanted: impl Fn(&requests::Kind) -> bool) -> f64 {
        let ours = |kind: &requests::Kind| OURS.contains(&kind.0.as_str());
        requests::sum(&self.requests, |kind| ours(kind) && wanted(kind)).all as f64 / self.seconds
    }
}

/// What a role uses for runners at rest.
#[derive(Serialize)]
pub struct Use {
    role: &'static str,
    /// Processors for a thousand.
    cores: f64,
    /// KiB for one: the most at rest, less what there was without any.
    memory: f64,
}

impl Use {
    /// Processors and MiB for so many, if each takes as much as the next.
    fn of(&self, runners: f64) -> (f64, f64) {
        (self.cores / 1000.0 * runners, self.memory / 1024.0 * runners)
    }
}

/// By what they used for so many, and the memory in MiB that they had without.
pub fn uses(stretches: &[Stretch], empty: &PerProcess, runners: usize) -> Vec<Use> {
    let Some(rest) = stretches.iter().find(|s| s.name == AT_REST) else { return Vec::new() };
    let one = |role| Use {
        role,
        cores: rest.cores(role) / runners as f64 * 1000.0,
        memory: (rest.peak(role) - empty.get(role).copied().unwrap_or(f64::NAN)) / runners as f64 * 1024.0,
    };
    ["gateway", "controller"].map(one).into()
}

/// What the stretches are to reach, as far as they were measured.
pub fn targets(stretches: &[Stretch]) -> Vec<Target> {
    let mut all = Vec::new();
    let mut add = |what: &str, limit, is| all.push(at_most(what, is, limit));
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

fn heading<'c>(text: &mut String, first: &[&'c str], more: impl IntoIterator<Item = &'c str>) {
    head(text, &first.iter().copied().chain(more).collect::<Vec<_>>());
}

fn each(text: &mut String, uses: &[Use]) {
    text.push_str("\nFor runners at rest; the last two columns are computed from the first two:\n\n");
    heading(
        text,
        &["role", "processors for 1,000", "KiB for one", "processors for 100,000", "MiB for 100,000"],
        std::iter::empty(),
    );
    for one in uses {
        let (cores, memory) = one.of(100_000.0);
        let cells = [one.cores, one.memory, cores, memory].map(number);
        row(text, std::iter::once(one.role.to_string()).chain(cells));
    }
}

/// All tables.
pub fn tables(stretches: &[Stretch], uses: &[Use]) -> String {
    let mut text = String::new();
    let names: Vec<String> = stretches.first().map(|s| s.cpu.keys().cloned().collect()).unwrap_or_default();
    heading(&mut text, &["stretch", "s"], names.iter().map(String::as_str));
    for stretch in stretches {
        let cells = names.iter().map(|n| format!("{} / {}", number(stretch.cores(n)), number(stretch.peak(n))));
        row(&mut text, [stretch.name.clone(), number(stretch.seconds)].into_iter().chain(cells));
    }
    text.push_str("\nProcessors used / the most memory in MiB.\n");
    each(&mut text, uses);
    reach(&mut text, &targets(stretches));
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
