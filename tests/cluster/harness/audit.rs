//! The API server's audit log: who really created and deleted pods, and who wrote jobs. It is written before a request is
//! answered, so what is not there has not happened.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use serde_json::Value;

use super::cluster;

/// The requests about things in a namespace.
pub fn of_namespace(namespace: &str) -> Vec<Value> {
    let file = File::open(cluster::get().dev.join("log/audit.log")).expect("the audit log");
    // Most lines are of other tests, and parsing costs.
    let word = format!("\"namespace\":\"{namespace}\"");
    let lines = BufReader::new(file).lines().map_while(Result::ok).filter(|line| line.contains(&word));
    lines.filter_map(|line| serde_json::from_str(&line).ok()).filter(of(namespace)).collect()
}

fn of(namespace: &str) -> impl Fn(&Value) -> bool {
    move |e| e["objectRef"]["namespace"] == namespace && e["stage"] == "ResponseComplete"
}

fn pods<'a>(events: &'a [Value], verb: &'a str) -> impl Iterator<Item = &'a Value> {
    let about = move |e: &&Value| {
        e["objectRef"]["resource"] == "pods" && e["objectRef"]["subresource"].is_null() && e["verb"] == verb
    };
    events.iter().filter(about)
}

/// The names of the pods that were created.
pub fn created(namespace: &str) -> Vec<String> {
    let events = of_namespace(namespace);
    let made = pods(&events, "create").filter(|e| e["responseStatus"]["code"] == 201);
    made.filter_map(|e| e["objectRef"]["name"].as_str().map(str::to_string)).collect()
}

/// How many creates of pods were tried.
pub fn tried(namespace: &str) -> usize {
    pods(&of_namespace(namespace), "create").count()
}

/// How many writes to the status of jobs succeeded.
pub fn status_writes(namespace: &str) -> usize {
    let about = |e: &&Value| e["objectRef"]["resource"] == "agentjobs" && e["objectRef"]["subresource"] == "status";
    of_namespace(namespace).iter().filter(about).filter(|e| e["responseStatus"]["code"] == 200).count()
}
