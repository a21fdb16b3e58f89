//! The API server's audit log: who really created and deleted pods, who wrote jobs and runs, and all requests of the
//! roles. It is written before a request is answered, so a request that is not in it was not answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
};

use serde_json::Value;

use super::cluster;

/// The requests about things in a namespace.
pub fn of_namespace(namespace: &str) -> Vec<Value> {
    about(namespace).into_iter().filter(|e| e["objectRef"]["namespace"] == namespace).collect()
}

/// The requests that have to do with a namespace: with things in it, or by its accounts.
fn about(namespace: &str) -> Vec<Value> {
    let file = File::open(cluster::get().dev.join("log/audit.log")).expect("the audit log");
    // Most lines are of other tests, and parsing costs.
    let lines = BufReader::new(file).lines().map_while(Result::ok).filter(|line| line.contains(namespace));
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    events.filter(|e| e["stage"] == "ResponseComplete").collect()
}

fn pods<'a>(events: &'a [Value], verb: &'a str) -> impl Iterator<Item = &'a Value> {
    let about = move |e: &&Value| {
        e["objectRef"]["resource"] == "pods" && e["objectRef"]["subresource"].is_null() && e["verb"] == verb
    };
    events.iter().filter(about)
}

/// The names of the pods that were created, once for each time.
pub fn created(namespace: &str) -> Vec<String> {
    let events = of_namespace(namespace);
    let answered = |code: i64| {
        let found = pods(&events, "create").filter(move |e| e["responseStatus"]["code"] == code);
        found.filter_map(|e| e["objectRef"]["name"].as_str().map(str::to_string))
    };
    // A client that went away before it was answered may have created one all the same: then the next try finds it.
    let unanswered: BTreeSet<String> = answered(504).collect();
    let (made, there): (Vec<_>, BTreeSet<_>) = (answered(201).collect(), answered(409).collect());
    let unseen = unanswered.into_iter().filter(|name| there.contains(name) && !made.contains(name));
    made.iter().cloned().chain(unseen).collect()
}

/// How many creates of pods were tried.
pub fn tried(namespace: &str) -> usize {
    pods(&of_namespace(namespace), "create").count()
}

/// How many writes to the status of jobs and of runs succeeded.
pub fn status_writes(namespace: &str) -> usize {
    let ours = |e: &&Value| e["objectRef"]["resource"] == "agentjobs" || e["objectRef"]["resource"] == "agentruns";
    let status = |e: &&Value| e["objectRef"]["subresource"] == "status" && e["verb"] != "get";
    of_namespace(namespace).iter().filter(ours).filter(status).filter(|e| e["responseStatus"]["code"] == 200).count()
}

/// How many writes to runs, their spec or their status, succeeded.
pub fn run_writes(namespace: &str) -> usize {
    let writes = ["create", "update", "patch", "delete"];
    let about = |e: &&Value| {
        e["objectRef"]["resource"] == "agentruns" && e["verb"].as_str().is_some_and(|verb| writes.contains(&verb))
    };
    let succeeded = |e: &&Value| e["responseStatus"]["code"].as_i64().is_some_and(|code| code < 300);
    of_namespace(namespace).iter().filter(about).filter(succeeded).count()
}

/// Requests of one kind: the role, or `client` for the creator of jobs; the verb; the resource with its subresource.
pub type Kind = (String, String, String);

/// How many requests of a kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: usize,
    /// Those that were answered with a conflict (409).
    pub conflicts: usize,
}

/// The namespace of a test's operator, where that has one of its own.
pub fn operators(namespace: &str) -> String {
    format!("{namespace}-k")
}

/// How many requests of each kind a test's roles have made, which must run with accounts of their own (see
/// [`super::chart`]), and how many jobs were created. Not those of the node, the scheduler, or a test that
/// reads. A watch counts once it has ended.
pub fn requests(namespace: &str) -> BTreeMap<Kind, Count> {
    let account = format!("system:serviceaccount:{}:", operators(namespace));
    let mut counted: BTreeMap<Kind, Count> = BTreeMap::new();
    for event in about(namespace) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let object = &event["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let who = match event["user"]["username"].as_str().and_then(|user| user.strip_prefix(&account)) {
            Some(role) => role.to_string(),
            None if event["verb"] == "create" && resource == "agentjobs" => "client".into(),
            None => continue,
        };
        let count = counted.entry((who, text(&event["verb"]), resource)).or_default();
        count.all += 1;
        count.conflicts += usize::from(event["responseStatus"]["code"] == 409);
    }
    counted
}
