//! What the page of a job shows of it, from what the archive keeps. Pure. Used by [`super::job`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    jobs::PhaseWord,
    text::{Moment, cut, duration, indented, visible},
};
use crate::{
    api::{Spent, TemplateRef, Usage, conditions},
    database::Summary,
};

/// How much is shown of inputs and results, in bytes.
const SHOWN: usize = 64 * 1024;

/// What is read of what the archive keeps of a job. All may be missing: another release may have written it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Kept {
    pub labels: Option<BTreeMap<String, String>>,
    pub spec: Option<Spec>,
    pub status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    inputs: Option<Box<RawValue>>,
    inputs_from: Option<Box<RawValue>>,
    template_ref: Option<TemplateRef>,
    pause_policy: Option<String>,
    disruption_policy: Option<String>,
    retry_policy: Option<Box<RawValue>>,
    timeouts: Option<Box<RawValue>>,
    budget: Option<Box<RawValue>>,
    ttl_seconds_after_finished: Option<i64>,
    containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    name: String,
    image: String,
    env: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    active_run: Option<i64>,
    runner_pod: Option<String>,
    retry: Option<Retry>,
    resolved: Option<Resolved>,
    workflow: Option<Workflow>,
    result: Option<Box<RawValue>>,
    error: Option<JobError>,
    progress: Option<KeptProgress>,
    spent: Option<Spent>,
    conditions: Vec<KeptCondition>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Retry {
    failures: i64,
    retry_after: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Resolved {
    retry_policy: RetryPolicy,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RetryPolicy {
    maximum_attempts: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Workflow {
    id: String,
    status: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JobError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct KeptCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KeptProgress {
    percent: Option<i64>,
    message: Option<String>,
    usage: Usage,
    time: String,
}

/// A field with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub name: &'static str,
    pub text: String,
    pub moment: Option<Moment>,
}

/// Adds a fact that there is.
fn add(facts: &mut Vec<Fact>, name: &'static str, text: impl Into<String>) {
    let text = text.into();
    if !text.is_empty() {
        facts.push(Fact { name, text: visible(&text), moment: None });
    }
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: Option<Moment>,
}

/// How far an agent says that it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: Option<i64>,
    pub message: String,
    pub since: Option<Moment>,
}

impl Progress {
    fn of(kept: &KeptProgress, now: i64) -> Self {
        Self {
            percent: kept.percent.map(|percent| percent.clamp(0, 100)),
            message: visible(kept.message.as_deref().unwrap_or_default()),
            since: Moment::parse(&kept.time, now),
        }
    }
}

/// JSON, or the beginning of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Json {
    pub text: String,
    pub is_cut: bool,
}

impl Json {
    pub fn of(raw: &RawValue) -> Self {
        // Cut before it is indented, so that a page costs little whatever the job.
        let (part, first) = cut(raw.get(), SHOWN);
        let text = visible(&indented(part));
        let (text, second) = cut(&text, 2 * SHOWN);
        Self { text: text.into(), is_cut: first || second }
    }
}

/// What changes while a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    pub phase: PhaseWord,
    pub reason: String,
    pub message: String,
    /// The type and the message of the last error.
    pub error: Option<(String, String)>,
    pub result: Option<Json>,
    pub progress: Option<Progress>,
    pub facts: Vec<Fact>,
    pub attempts: Vec<Fact>,
    pub conditions: Vec<Condition>,
}

impl Overview {
    pub fn of(s: &Summary, status: &Status, now: i64) -> Self {
        let outcome = status.conditions.iter().find(|c| c.kind == conditions::SUCCEEDED);
        let conditions = status.conditions.iter().map(|c| Condition {
            kind: visible(&c.kind),
            status: visible(&c.status),
            reason: visible(&c.reason),
            message: visible(&c.message),
            since: Moment::parse(&c.last_transition_time, now),
        });
        Self {
            phase: PhaseWord::of(&s.phase),
            reason: outcome.map(|c| visible(&c.reason)).unwrap_or_default(),
            message: outcome.map(|c| visible(&c.message)).unwrap_or_default(),
            error: status.error.as_ref().map(|e| (visible(&e.kind), visible(&e.message))),
            result: status.result.as_deref().map(Json::of),
            progress: status.progress.as_ref().map(|progress| Progress::of(progress, now)),
            facts: facts(s, status, now),
            attempts: attempts(s, status, now),
            conditions: conditions.collect(),
        }
    }
}

fn facts(s: &Summary, status: &Status, now: i64) -> Vec<Fact> {
    let mut facts = Vec::new();
    add(&mut facts, "Namespace", &s.namespace);
    add(&mut facts, "Entry point", &s.entry_point);
    add(&mut facts, "Mode", &s.mode);
    add(&mut facts, "Owner", &s.owner);
    let times =
        [("Created", Some(s.created)), ("Started", s.started), ("Finished", s.finished), ("Deleted", s.deleted)];
    for (name, at) in times {
        let moment = at.map(|at| Moment::of(at, now));
        facts.extend(moment.map(|moment| Fact { name, text: String::new(), moment: Some(moment) }));
    }
    if let Some(started) = s.started {
        add(&mut facts, "Duration", duration(started, s.ended().unwrap_or(now)));
    }
    if let Some(workflow) = &status.workflow {
        let state = workflow.status.as_deref().map(|state| format!(" ({state})")).unwrap_or_default();
        add(&mut facts, "Workflow", format!("{}{state}", workflow.id));
    }
    add(&mut facts, "Execution id", s.fid.to_string());
    add(&mut facts, "UID", &s.uid);
    facts
}

fn attempts(s: &Summary, status: &Status, now: i64) -> Vec<Fact> {
    let mut facts = Vec::new();
    let most = status.resolved.as_ref().and_then(|resolved| resolved.retry_policy.maximum_attempts);
    let of = match most {
        Some(0) => ", of any number".to_string(),
        Some(most) => format!(" of {most}"),
        None => String::new(),
    };
    add(&mut facts, "Attempt", format!("{}{of}", s.attempt));
    add(&mut facts, "Newest run", status.active_run.map(|run| run.to_string()).unwrap_or_default());
    add(&mut facts, "Its pod", status.runner_pod.clone().unwrap_or_default());
    let reported = status.progress.as_ref().map_or_else(Usage::default, |progress| progress.usage);
    let used = reported.at_least(status.spent.unwrap_or_default().usage);
    add(&mut facts, "Reported", used.words().join(", "));
    if let Some(retry) = &status.retry {
        add(&mut facts, "Failed attempts", retry.failures.to_string());
        let next = retry.retry_after.as_deref().filter(|_| s.ended().is_none());
        if let Some(moment) = next.and_then(|at| Moment::parse(at, now)) {
            facts.push(Fact { name: "Not before", text: String::new(), moment: Some(moment) });
        }
    }
    facts
}

/// What a job was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    pub facts: Vec<Fact>,
    pub labels: Vec<(String, String)>,
    pub containers: Vec<(String, String, String)>,
    pub inputs: Option<Json>,
}

impl Given {
    pub fn of(spec: &Spec, labels: Option<&BTreeMap<String, String>>) -> Self {
        let mut facts = Vec::new();
        let raw = |json: &Option<Box<RawValue>>| json.as_deref().map(|json| cut(json.get(), 4096).0.to_string());
        add(&mut facts, "Pause policy", spec.pause_policy.as_deref().unwrap_or_default());
        add(&mut facts, "Disruption policy", spec.disruption_policy.as_deref().unwrap_or_default());
        add(&mut facts, "Retry policy", raw(&spec.retry_policy).unwrap_or_default());
        add(&mut facts, "Time-outs", raw(&spec.timeouts).unwrap_or_default());
        add(&mut facts, "Budget", raw(&spec.budget).unwrap_or_default());
        let template = spec.template_ref.as_ref().map(ToString::to_string);
        add(&mut facts, "Template", template.unwrap_or_default());
        add(&mut facts, "Inputs from", raw(&spec.inputs_from).unwrap_or_default());
        let ttl = spec.ttl_seconds_after_finished.map(|seconds| format!("{seconds} s after its end"));
        add(&mut facts, "Deleted", ttl.unwrap_or_default());
        let container = |c: &Container| (visible(&c.name), visible(&c.image), visible(&c.env.join(", ")));
        Self {
            facts,
            labels: labels.into_iter().flatten().map(|(name, value)| (visible(name), visible(value))).collect(),
            containers: spec.containers.iter().map(container).collect(),
            inputs: spec.inputs.as_deref().map(Json::of),
        }
    }
}

/// From the database. What can't be read is left out.
pub fn kept(object: &str) -> Kept {
    serde_json::from_str(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_results_are_shown_in_part() {
        let large = RawValue::from_string(format!("[{}1]", "1,".repeat(SHOWN))).unwrap();
        let shown = Json::of(&large);
        assert!(shown.is_cut && shown.text.len() <= 2 * SHOWN);
        let deep = RawValue::from_string(format!("{}{}", "[".repeat(9000), "]".repeat(9000))).unwrap();
        assert!(Json::of(&deep).text.len() <= 2 * SHOWN);
    }
}
