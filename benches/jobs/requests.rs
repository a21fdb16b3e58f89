//! The API server's requests by who makes them, out of its audit log.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use serde_json::Value;

/// Who, the verb, and the resource with its subresource.
pub type Kind = (String, String, String);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: usize,
    /// Those that were answered with a conflict (409).
    pub conflicts: usize,
}

pub type Table = BTreeMap<Kind, Count>;

/// Creator of jobs.
pub const CLIENT: &str = "client";
/// The simulated scheduler and kubelet. The watches of the bench are not counted.
pub const NODE: &str = "node";
/// What Argo has in each pod.
const SIDECAR: &str = "argo's sidecar";
/// What the client creates.
const CREATED: [&str; 3] = ["jobs", "agentjobs", "workflows"];
const WRITES: [&str; 4] = ["create", "update", "patch", "delete"];

/// Counts the requests of an audit log's lines; `release` is the prefix of the operator's accounts. Not those that cost
/// the same without jobs: leases, watches, and the API server's own.
pub fn count<'l>(lines: impl Iterator<Item = &'l str>, release: &str) -> Table {
    let mut table = Table::new();
    for event in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (object, verb) = (&event["objectRef"], text(&event["verb"]));
        let mut resource = text(&object["resource"]);
        if event["stage"] != "ResponseComplete" || verb == "watch" || resource == "leases" {
            continue;
        }
        let created = verb == "create" && CREATED.contains(&resource.as_str()) && object["subresource"].is_null();
        if let Some(subresource) = object["subresource"].as_str() {
            resource = format!("{resource}/{subresource}");
        }
        let user = text(&event["user"]["username"]);
        let who = match user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
            Some((_, account)) => account.strip_prefix(release).unwrap_or(account).trim_start_matches('-').to_string(),
            None if user == "system:apiserver" => continue,
            None if user.starts_with("system:kube-") => user.trim_start_matches("system:").to_string(),
            None if resource == "workflowtaskresults" => SIDECAR.to_string(),
            None => if created { CLIENT } else { NODE }.to_string(),
        };
        let count = table.entry((who, verb, resource)).or_default();
        count.all += 1;
        count.conflicts += usize::from(event["responseStatus"]["code"] == 409);
    }
    table
}

/// The sum of those that `wanted` says.
pub fn sum(table: &Table, wanted: impl Fn(&Kind) -> bool) -> Count {
    let chosen = table.iter().filter(|(kind, _)| wanted(kind));
    chosen.fold(Count::default(), |sum, (_, c)| Count { all: sum.all + c.all, conflicts: sum.conflicts + c.conflicts })
}

/// Whether it writes.
pub fn writes((_, verb, _): &Kind) -> bool {
    WRITES.contains(&verb.as_str())
}

/// Adds one to another.
pub fn add(to: &mut Table, more: &Table) {
    for (kind, count) in more {
        let sum = to.entry(kind.clone()).or_default();
        sum.all += count.all;
        sum.conflicts += count.conflicts;
    }
}

/// How many of a kind a job costs: a whole number where all of them cost the same.
pub fn each(all: usize, jobs: usize) -> String {
    if jobs > 0 && all.is_multiple_of(jobs) {
        (all / jobs).to_string()
    } else {
        format!("{:.2}", all as f64 / jobs as f64)
    }
}

/// The log, read on from where it was read to.
pub struct AuditLog {
    path: PathBuf,
    read: u64,
}

impl AuditLog {
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What was written since the last call. An event is there before its request is answered.
    pub fn news(&mut self) -> String {
        let mut file = File::open(&self.path).expect("the audit log");
        file.seek(SeekFrom::Start(self.read)).expect("the audit log");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("the audit log");
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        self.read += text.len() as u64;
        text
    }
}
