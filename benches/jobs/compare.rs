//! How one measurement compares with another of the same run. Pure.

use serde::Serialize;

use crate::{
    figures::{Measured, PROCESSES, ROLES},
    report::Rounds,
    table::{head, number, row},
};

/// One shape's figures, in those of the measurement before.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    pub shape: String,
    /// Jobs a second.
    pub rate: f64,
    /// CPU of a job: all but the bench's own.
    pub cpu: f64,
    /// The same of koco's roles together.
    pub roles: f64,
    /// The same of each process that a job of this shape uses.
    pub processes: Vec<(&'static str, f64)>,
}

/// What a process uses for a job must be a thousandth of its sum to be compared.
const PART: f64 = 0.001;

pub fn ratios(before: &Rounds<'_>, after: &Rounds<'_>) -> Vec<Ratio> {
    let both = before.iter().filter_map(|(shape, rounds)| {
        let (_, later) = after.iter().find(|(s, _)| s == shape)?;
        Some((*shape, Measured::together(rounds), Measured::together(later)))
    });
    both.map(|(shape, before, after)| {
        let sum = |m: &Measured| m.cpu_of(|name| name != "bench");
        let roles = |m: &Measured| m.cpu_of(|name| ROLES.contains(&name));
        let used = |name: &str| before.cpu_each(name).min(after.cpu_each(name)) > PART * sum(&before);
        let processes = PROCESSES.into_iter().map(|(name, _)| name).filter(|name| used(name));
        Ratio {
            shape: shape.into(),
            rate: after.rate() / before.rate(),
            cpu: sum(&after) / sum(&before),
            roles: if roles(&before) > PART * sum(&before) { roles(&after) / roles(&before) } else { f64::NAN },
            processes: processes.map(|name| (name, after.cpu_each(name) / before.cpu_each(name))).collect(),
        }
    })
    .collect()
}

/// A row for each shape.
pub fn table(ratios: &[Ratio]) -> String {
    let known: Vec<_> = PROCESSES
        .into_iter()
        .filter(|(name, _)| ratios.iter().any(|r| r.processes.iter().any(|(n, _)| n == name)))
        .collect();
    let mut text = String::new();
    let headings = known.iter().map(|(_, heading)| *heading);
    let first = ["shape", "jobs/s", "CPU of a job", "of koco's roles"];
    head(&mut text, &first.into_iter().chain(headings).collect::<Vec<_>>());
    for ratio in ratios {
        let of = |name: &str| ratio.processes.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, is)| *is);
        let cells = [ratio.rate, ratio.cpu, ratio.roles].into_iter().chain(known.iter().map(|(name, _)| of(name)));
        row(&mut text, std::iter::once(ratio.shape.clone()).chain(cells.map(number)));
    }
    text
}
