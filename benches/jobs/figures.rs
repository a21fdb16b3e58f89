//! What is computed from a measurement. Pure.

use std::collections::BTreeMap;

use crate::{
    requests::{self, Table},
    table::{Target, at_most},
    usage::PerProcess,
};

/// What jobs used: what was used in all that time, less what the same processes use in it when there are none.
pub fn less_idle(used: &PerProcess, millis: f64, idle: &PerProcess, idle_millis: f64) -> PerProcess {
    let less = |(name, cpu): (&String, &f64)| {
        let rate = idle.get(name).map_or(0.0, |idle| idle / idle_millis);
        (name.clone(), cpu - rate * millis)
    };
    used.iter().map(less).collect()
}

/// The difference of two readings.
pub fn difference(before: &PerProcess, after: &PerProcess) -> PerProcess {
    after.iter().map(|(name, cpu)| (name.clone(), cpu - before.get(name).copied().unwrap_or(0.0))).collect()
}

/// What was measured of some jobs of one shape.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub jobs: usize,
    /// From the first create to the last end.
    pub seconds: f64,
    /// Milliseconds, idle subtracted.
    pub cpu: PerProcess,
    /// Milliseconds a second of each while there are no jobs.
    pub idle: PerProcess,
    /// MiB.
    pub peak: PerProcess,
    pub requests: Table,
    /// Milliseconds from a job's create call to its agent's first line.
    pub to_first_line: Vec<f64>,
    /// Milliseconds from its agent's end until a watch shows the job's.
    pub to_done: Vec<f64>,
}

impl Measured {
    /// All rounds of a shape as one.
    pub fn together(rounds: &[Self]) -> Self {
        let mut all = Self::default();
        for round in rounds {
            all.jobs += round.jobs;
            all.seconds += round.seconds;
            for (name, cpu) in &round.cpu {
                *all.cpu.entry(name.clone()).or_default() += cpu;
            }
            for (name, rate) in &round.idle {
                *all.idle.entry(name.clone()).or_default() += rate / rounds.len() as f64;
            }
            for (name, peak) in &round.peak {
                let most = all.peak.entry(name.clone()).or_default();
                *most = most.max(*peak);
            }
            requests::add(&mut all.requests, &round.requests);
            all.to_first_line.extend(&round.to_first_line);
            all.to_done.extend(&round.to_done);
        }
        all
    }

    /// Jobs a second.
    pub fn rate(&self) -> f64 {
        self.jobs as f64 / self.seconds
    }

    /// Milliseconds of a process for one job.
    pub fn cpu_each(&self, process: &str) -> f64 {
        self.cpu.get(process).map_or(0.0, |cpu| cpu / self.jobs as f64)
    }

    /// Milliseconds of several processes together for one job.
    pub fn cpu_of(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        self.cpu.keys().filter(|name| wanted(name)).map(|name| self.cpu_each(name)).sum()
    }

    /// Conflicts for each write to the API server.
    pub fn conflicts(&self) -> f64 {
        let writes = requests::sum(&self.requests, requests::writes);
        writes.conflicts as f64 / (writes.all.max(1)) as f64
    }

    /// Requests but for the node's.
    pub fn own_requests(&self) -> usize {
        requests::sum(&self.requests, |(who, ..)| who != requests::NODE).all
    }
}

fn at_least(what: impl Into<String>, is: f64, limit: f64) -> Target {
    Target { what: what.into(), is, limit, reached: is >= limit }
}

/// The targets of those shapes that were measured.
pub fn targets(of: &BTreeMap<&str, Measured>) -> Vec<Target> {
    let both = |a: &str, b: &str| Some((of.get(a)?, of.get(b)?));
    let cpu = |(a, b): (&Measured, &Measured), process: &str| a.cpu_each(process) / b.cpu_each(process);
    let mut list = Vec::new();
    if let Some(pair) = both("Direct", "Job") {
        list.push(at_most("Direct, CPU of the API server in Kubernetes Jobs", cpu(pair, API_SERVER), 3.0));
        list.push(at_least("Direct, jobs a second in Kubernetes Jobs'", pair.0.rate() / pair.1.rate(), 0.45));
        list.push(at_most("Direct, conflicts for each write", pair.0.conflicts(), 0.01));
    }
    if let Some(pair) = both("Temporal", "Job") {
        list.push(at_most("Temporal, CPU of the API server in Kubernetes Jobs", cpu(pair, API_SERVER), 4.0));
        let enough = of.get("Argo").map_or(20.0, |argo| argo.rate().min(20.0));
        list.push(at_least("Temporal, jobs a second: 20, or Argo's", pair.0.rate(), enough));
        list.push(at_most("Temporal, conflicts for each write", pair.0.conflicts(), 0.01));
    }
    if let Some(pair) = both("Temporal", "bare twin") {
        list.push(at_most("Temporal, CPU of Temporal in bare twins", cpu(pair, TEMPORAL), 1.5));
    }
    if let Some(pair) = both("Temporal", "one activity") {
        list.push(at_most("Temporal, CPU of Temporal in single activities", cpu(pair, TEMPORAL), 2.5));
    }
    list
}

pub const API_SERVER: &str = "kube-apiserver";
pub const TEMPORAL: &str = "temporal";
/// koco's own.
pub const ROLES: [&str; 3] = ["controller", "gateway", "temporal-worker"];

/// A process, and its heading.
pub const PROCESSES: [(&str, &str); 10] = [
    (API_SERVER, "API server"),
    ("etcd", "etcd"),
    ("kube-controller-manager", "controller manager"),
    ("argo", "Argo's controller"),
    (TEMPORAL, "Temporal"),
    ("controller", "controller"),
    ("gateway", "gateway"),
    ("temporal-worker", "worker"),
    ("twin", "twin's worker"),
    ("bench", "bench"),
];
