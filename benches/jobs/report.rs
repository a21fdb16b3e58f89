//! What the bench tells: tables for people, JSON, and a picture. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    figures::{Measured, PROCESSES, targets},
    requests::{self, each},
    svg::Panel,
    table::{head, number, percentile, reach, row},
};

/// Less than this, in milliseconds a job, is no work for it: the difference of two measurements.
const NOTHING: f64 = 0.5;

/// The rounds of each shape, in the order of the shapes.
pub type Rounds<'r> = [(&'r str, Vec<Measured>)];

fn together<'r>(rounds: &Rounds<'r>) -> Vec<(&'r str, Measured)> {
    rounds.iter().map(|(shape, rounds)| (*shape, Measured::together(rounds))).collect()
}

/// Nothing is a dash.
fn some(value: f64) -> String {
    if value.abs() < NOTHING { "-".into() } else { number(value) }
}

/// All tables, as Markdown.
pub fn tables(rounds: &Rounds<'_>) -> String {
    let all = together(rounds);
    let mut text = String::new();
    speed(&mut text, rounds, &all);
    cpu(&mut text, &all);
    memory(&mut text, &all);
    reached(&mut text, &all);
    requests_by_user(&mut text, &all);
    text
}

fn speed(text: &mut String, rounds: &Rounds<'_>, all: &[(&str, Measured)]) {
    head(
        text,
        &[
            "shape",
            "done/s",
            "by round",
            "create to first line, p50 ms",
            "p99",
            "agent's end to job's, p50 ms",
            "p99",
            "requests a job, node's not counted",
            "conflicts a write",
        ],
    );
    for ((shape, m), (_, rounds)) in all.iter().zip(rounds) {
        let rates: Vec<String> = rounds.iter().map(|r| number(r.rate())).collect();
        let at = |values: &[f64], part| number(percentile(values, part));
        let (requests, conflicts) = match m.own_requests() {
            0 => ("-".into(), "-".into()),
            sum => (each(sum, m.jobs), format!("{:.2} %", m.conflicts() * 100.0)),
        };
        row(
            text,
            [
                shape.to_string(),
                number(m.rate()),
                rates.join(", "),
                at(&m.to_first_line, 0.5),
                at(&m.to_first_line, 0.99),
                at(&m.to_done, 0.5),
                at(&m.to_done, 0.99),
                requests,
                conflicts,
            ],
        );
    }
}

fn known(all: &[(&str, Measured)]) -> Vec<(&'static str, &'static str)> {
    PROCESSES.into_iter().filter(|(name, _)| all.iter().any(|(_, m)| m.cpu.contains_key(*name))).collect()
}

fn cpu(text: &mut String, all: &[(&str, Measured)]) {
    let known = known(all);
    let headings: Vec<&str> = known.iter().map(|(_, heading)| *heading).collect();
    text.push_str("\nMilliseconds of CPU for one job, less what is used without jobs:\n\n");
    head(text, &[&["shape"], headings.as_slice(), &["sum"]].concat());
    for (shape, m) in all {
        let sum: f64 = known.iter().map(|(name, _)| m.cpu_each(name)).sum();
        let cells = known.iter().map(|(name, _)| some(m.cpu_each(name)));
        row(text, std::iter::once(shape.to_string()).chain(cells).chain([number(sum)]));
    }
    text.push_str("\nMilliseconds of CPU a second without jobs: ");
    let idle = known.iter().map(|(name, heading)| {
        let rates = all.iter().filter_map(|(_, m)| m.idle.get(*name));
        format!("{heading} {}", number(rates.sum::<f64>() / all.len() as f64))
    });
    text.push_str(&idle.collect::<Vec<_>>().join(", "));
    text.push_str(".\n");
}

fn memory(text: &mut String, all: &[(&str, Measured)]) {
    let known = known(all);
    let headings: Vec<&str> = known.iter().map(|(_, heading)| *heading).collect();
    text.push_str("\nThe most memory, in MiB, while jobs of this shape ran:\n\n");
    head(text, &[&["shape"], headings.as_slice()].concat());
    for (shape, m) in all {
        let cells = known.iter().map(|(name, _)| number(m.peak.get(*name).copied().unwrap_or(f64::NAN)));
        row(text, std::iter::once(shape.to_string()).chain(cells));
    }
}

fn reached(text: &mut String, all: &[(&str, Measured)]) {
    reach(text, &targets(&all.iter().cloned().collect()));
}

fn requests_by_user(text: &mut String, all: &[(&str, Measured)]) {
    text.push_str("\nRequests for one job; in brackets, conflicts in all of them:\n\n");
    let shapes: Vec<_> = all.iter().filter(|(_, m)| !m.requests.is_empty() && m.own_requests() >= m.jobs).collect();
    let kinds: std::collections::BTreeSet<_> = shapes.iter().flat_map(|(_, m)| m.requests.keys()).collect();
    let names: Vec<&str> = shapes.iter().map(|(shape, _)| *shape).collect();
    head(text, &[&["who", "verb", "resource"], names.as_slice()].concat());
    for kind in kinds {
        // What costs a hundredth of a request is no job's.
        if shapes.iter().all(|(_, m)| m.requests.get(kind).is_none_or(|c| c.all * 100 < m.jobs && c.conflicts == 0)) {
            continue;
        }
        let cells = shapes.iter().map(|(_, m)| match m.requests.get(kind) {
            None => "-".to_string(),
            Some(count) if count.conflicts > 0 => format!("{} ({})", each(count.all, m.jobs), count.conflicts),
            Some(count) => each(count.all, m.jobs),
        });
        let (who, verb, resource) = kind;
        row(text, [who.clone(), verb.clone(), resource.clone()].into_iter().chain(cells));
    }
    let sums = shapes.iter().map(|(_, m)| each(requests::sum(&m.requests, |_| true).all, m.jobs));
    row(text, ["sum", "", ""].map(String::from).into_iter().chain(sums));
}

/// All figures of all rounds.
pub fn json(rounds: &Rounds<'_>, about: Value) -> Value {
    let finite = |value: f64| if value.is_finite() { json!(value) } else { Value::Null };
    let one = |m: &Measured| {
        let requests = m.requests.iter().map(|((who, verb, resource), count)| {
            json!({ "who": who, "verb": verb, "resource": resource, "all": count.all, "conflicts": count.conflicts })
        });
        let at =
            |values: &[f64]| json!({ "p50": finite(percentile(values, 0.5)), "p99": finite(percentile(values, 0.99)) });
        json!({
            "jobs": m.jobs, "seconds": m.seconds, "jobsPerSecond": m.rate(), "cpuMillis": m.cpu,
            "idleCpuMillisPerSecond": m.idle, "peakMiB": m.peak, "requests": requests.collect::<Vec<_>>(),
            "createToFirstLineMillis": at(&m.to_first_line), "agentEndToJobEndMillis": at(&m.to_done),
        })
    };
    let shapes = rounds.iter().map(|(shape, rounds)| {
        json!({ "shape": shape, "rounds": rounds.iter().map(one).collect::<Vec<_>>(), "all": one(&Measured::together(rounds)) })
    });
    let of: BTreeMap<&str, Measured> = together(rounds).into_iter().collect();
    json!({ "about": about, "shapes": shapes.collect::<Vec<_>>(), "targets": targets(&of) })
}

/// What the picture shows.
pub fn panels(rounds: &Rounds<'_>) -> Vec<Panel> {
    let all = together(rounds);
    let bars = |figure: &dyn Fn(&Measured) -> Vec<f64>| -> Vec<(String, Vec<f64>)> {
        all.iter().map(|(shape, m)| (shape.to_string(), figure(m))).collect()
    };
    let known = known(&all);
    let parts = known.iter().map(|(_, heading)| heading.to_string()).collect();
    let plain = |title: &str, figure: &dyn Fn(&Measured) -> f64| Panel {
        title: title.into(),
        parts: Vec::new(),
        bars: bars(&|m| vec![figure(m)]),
    };
    vec![
        plain("created to done, jobs a second", &Measured::rate),
        Panel {
            title: "CPU for one job, ms".into(),
            parts,
            bars: bars(&|m| known.iter().map(|(name, _)| m.cpu_each(name)).collect()),
        },
        plain("create to the agent's first line, p50 ms", &|m| percentile(&m.to_first_line, 0.5)),
        plain("agent's end to the job's, p50 ms", &|m| percentile(&m.to_done, 0.5)),
        plain("agent's end to the job's, p99 ms", &|m| percentile(&m.to_done, 0.99)),
    ]
}
