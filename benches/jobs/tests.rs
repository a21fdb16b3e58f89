//! Tests of what `make bench-jobs` computes. A test target of its own: a bench without cargo's harness has none.

mod compare;
mod figures;
#[allow(dead_code)] // its picture is the bench's
mod report;
#[allow(dead_code)] // so is the log
mod requests;
mod svg;
#[allow(dead_code)] // so are titles
mod table;
#[allow(dead_code)]
mod usage;

use std::collections::BTreeMap;

use figures::{Measured, difference, less_idle, targets};
use requests::{Count, count, each, sum};
use serde_json::json;
use table::percentile;
use usage::{PerProcess, Processes, cpu_millis, peak_mib};

fn per_process(list: &[(&str, f64)]) -> PerProcess {
    list.iter().map(|(name, value)| ((*name).to_string(), *value)).collect()
}

#[test]
fn a_process_may_have_any_name() {
    let rest = "S 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20 0 8 0 555 0";
    assert_eq!(cpu_millis(&format!("42 (a ) b) {rest}")), Some(1500.0));
    assert_eq!(cpu_millis("42 (x) S 1 2"), None);
    let own = std::fs::read_to_string("/proc/self/stat").expect("our own");
    assert!(cpu_millis(&own).is_some(), "{own}");
}

#[test]
fn the_peak_is_in_mib() {
    assert_eq!(peak_mib("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
    assert_eq!(peak_mib("Name: x\n"), None);
}

#[test]
fn processes_are_read_by_name() {
    let named = Processes::named("etcd=12  kube-apiserver=13\nbroken x=y");
    assert_eq!(named.0, [("etcd".to_string(), 12), ("kube-apiserver".to_string(), 13)]);
    let us = ("us".to_string(), std::process::id() as i32);
    assert!(usage::memory(us.1).is_some_and(|mib| mib > 0.0));
    let (one, two) = (Processes(vec![us.clone()]).peaks()["us"], Processes(vec![us.clone(), us]).peaks()["us"]);
    assert!(one > 0.0 && two >= 2.0 * one, "those of one name count together: {one}, {two}");
}

#[test]
fn percentiles_are_values_that_were_measured() {
    let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (100.0, 198.0));
    assert_eq!(percentile(&[7.0], 0.99), 7.0);
    assert!(percentile(&[], 0.5).is_nan());
}

#[test]
fn what_is_used_without_jobs_is_subtracted_by_time() {
    let (used, idle) = (per_process(&[("a", 900.0), ("b", 50.0)]), per_process(&[("a", 100.0)]));
    assert_eq!(less_idle(&used, 3000.0, &idle, 1000.0), per_process(&[("a", 600.0), ("b", 50.0)]));
    assert_eq!(difference(&idle, &used), per_process(&[("a", 800.0), ("b", 50.0)]));
}

fn event(user: &str, verb: &str, resource: &str, code: u16) -> String {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let mut object = json!({ "resource": resource });
    if !subresource.is_empty() {
        object["subresource"] = json!(subresource);
    }
    json!({
        "stage": "ResponseComplete", "verb": verb, "user": { "username": user }, "objectRef": object,
        "responseStatus": { "code": code },
    })
    .to_string()
}

#[test]
fn requests_are_counted_by_who_makes_them() {
    let koco = "system:serviceaccount:t-main-k:koco-abcde-controller";
    let log = [
        event("kubernetes-admin", "create", "agentjobs", 201),
        event("kubernetes-admin", "create", "pods/binding", 201),
        event("kubernetes-admin", "create", "serviceaccounts/token", 201),
        event(koco, "update", "agentjobs/status", 200),
        event(koco, "update", "agentjobs/status", 409),
        event(koco, "watch", "pods", 200),
        event(koco, "update", "leases", 200),
        event("system:serviceaccount:kube-system:job-controller", "create", "pods", 201),
        event("system:apiserver", "get", "namespaces", 200),
        "half a li".into(),
    ];
    let table = count(log.iter().map(String::as_str), "koco-abcde");
    let shown: Vec<_> =
        table.iter().map(|((w, v, r), c)| (w.as_str(), v.as_str(), r.as_str(), c.all, c.conflicts)).collect();
    assert_eq!(
        shown,
        [
            ("client", "create", "agentjobs", 1, 0),
            ("controller", "update", "agentjobs/status", 2, 1),
            ("job-controller", "create", "pods", 1, 0),
            ("node", "create", "pods/binding", 1, 0),
            ("node", "create", "serviceaccounts/token", 1, 0),
        ]
    );
    assert_eq!(sum(&table, |(who, ..)| who != requests::NODE), Count { all: 4, conflicts: 1 });
}

#[test]
fn a_count_is_whole_where_each_job_costs_the_same() {
    assert_eq!((each(400, 200).as_str(), each(401, 200).as_str(), each(0, 200).as_str()), ("2", "2.00", "0"));
    assert_eq!(each(250, 200), "1.25");
}

/// So many jobs, this much of the API server's and Temporal's processors, in so many seconds.
fn measured(jobs: usize, api_server: f64, temporal: f64, seconds: f64) -> Measured {
    let cpu = per_process(&[(figures::API_SERVER, api_server), (figures::TEMPORAL, temporal)]);
    Measured { jobs, seconds, cpu, to_first_line: vec![10.0], to_done: vec![20.0], ..Measured::default() }
}

#[test]
fn rounds_are_added_up() {
    let rounds = [measured(100, 1000.0, 0.0, 2.0), measured(100, 3000.0, 0.0, 3.0)];
    let all = Measured::together(&rounds);
    assert_eq!((all.jobs, all.rate(), all.cpu_each(figures::API_SERVER)), (200, 40.0, 20.0));
    assert_eq!(all.to_done, [20.0, 20.0]);
}

#[test]
fn targets_are_ratios_of_one_run() {
    let of = BTreeMap::from([
        ("Job", measured(100, 1000.0, 0.0, 1.0)),
        ("Direct", measured(100, 3000.0, 0.0, 2.0)),
        ("Temporal", measured(100, 4100.0, 3000.0, 5.1)),
        ("bare twin", measured(100, 0.0, 2000.0, 3.0)),
    ]);
    let reached: Vec<_> = targets(&of).iter().map(|t| ((t.is * 100.0).round() / 100.0, t.reached)).collect();
    // Direct: API server, rate, conflicts; Temporal: the same; its server in bare twins. No single activity was measured.
    let expected = [(3.0, true), (0.5, true), (0.0, true), (4.1, false), (19.61, false), (0.0, true), (1.5, true)];
    assert_eq!(reached, expected);
    assert!(targets(&BTreeMap::from([("Job", Measured::default())])).is_empty());
}

#[test]
fn ratios_are_of_the_same_shape_and_of_what_it_uses() {
    let before = [("Direct", vec![measured(100, 1000.0, 0.0, 1.0)]), ("Job", vec![measured(100, 500.0, 0.0, 1.0)])];
    let mut later = measured(100, 1100.0, 0.0, 2.0);
    later.cpu.insert("bench".into(), 9000.0);
    let ratios = compare::ratios(&before, &[("Direct", vec![later])]);
    assert_eq!(ratios.len(), 1);
    assert_eq!((ratios[0].rate, ratios[0].cpu, ratios[0].roles.is_nan()), (0.5, 1.1, true));
    assert_eq!(compare::table(&ratios).lines().last(), Some("| Direct | 0.50 | 1.10 | - | 1.10 |"));
}

#[test]
fn a_report_has_each_shape_in_every_table() {
    let mut job = measured(4, 100.0, 0.0, 2.0);
    job.requests = count(std::iter::repeat_n(event("admin", "create", "jobs", 201).as_str(), 8), "koco");
    let rounds = [("Job", vec![job.clone(), job]), ("bare twin", vec![measured(4, 0.0, 40.0, 1.0)])];
    let text = report::tables(&rounds);
    assert!(text.contains("| Job | 2.00 | 2.00, 2.00 | 10.0 | 10.0 | 20.0 | 20.0 | 2 | 0.00 % |"), "{text}");
    assert!(text.contains("| bare twin | - | 10.0 |"), "{text}");
    assert!(text.contains("| client | create | jobs | 2 |"), "{text}");
    let value = report::json(&rounds, json!("a test"));
    assert_eq!(value["shapes"][1]["all"]["jobsPerSecond"], 4.0);
    assert_eq!(value["shapes"][1]["rounds"][0]["createToFirstLineMillis"]["p50"], 10.0);
}

#[test]
fn the_longest_bar_is_as_long_as_there_is_room() {
    let panel = svg::Panel {
        title: "a < b".into(),
        parts: vec!["x".into(), "y".into()],
        bars: vec![("one".into(), vec![1.0, 3.0]), ("two".into(), vec![2.0, f64::NAN])],
    };
    let text = svg::draw("title", &[panel]);
    for part in ["a &lt; b", "width=\"172.5\"", "width=\"517.5\"", "width=\"345.0\"", ">4.0<", ">2.0<"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("<rect").count(), 1 + 2 + 3);
}

#[test]
fn lines_share_the_time_and_skip_what_was_not_measured() {
    let lines = |title: &str, points: &[(f64, f64)]| svg::Lines {
        title: title.into(),
        lines: vec![("one".into(), points.to_vec())],
    };
    let all = [lines("a", &[(0.0, 0.0), (5.0, f64::NAN), (10.0, 4.0)]), lines("b", &[(5.0, 1.0)])];
    let text = svg::draw_lines("title", &all, &[(5.0, "restart".into())]);
    assert!(text.contains("points=\"130.0,234.0 890.0,74.0\""), "{text}");
    assert!(text.contains("points=\"510.0,292.0\""), "{text}");
    assert_eq!(text.matches(">restart<").count(), 2);
}
