//! An execution as Kodosumi's clients know one: its status, and the events that no runner sends, from what the archive keeps
//! of the AgentJob. Pure. Used by [`super::outputs`], [`super::timeline`] and [`super::frames`].

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::{
    api::{ErrorStatus, Phase},
    database::Summary,
};

/// How deep lists are looked into.
const MAX_DEPTH: usize = 32;

/// What an execution's status is, in Kodosumi's words. It has one more, `awaiting`, for locks, which agents can't open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Starting,
    Running,
    Finished,
    Error,
}

impl Status {
    /// Of an execution, also if its job was deleted before it ended.
    pub fn of(summary: &Summary) -> Self {
        match Phase::ALL.into_iter().find(|phase| phase.as_str() == summary.phase) {
            Some(Phase::Succeeded) => Self::Finished,
            Some(Phase::Failed | Phase::Cancelled) => Self::Error,
            _ if summary.ended().is_some() => Self::Error,
            Some(Phase::Running | Phase::Paused | Phase::Cancelling) => Self::Running,
            Some(Phase::Pending | Phase::Retrying) | None => Self::Starting,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Error => "error",
        }
    }
}

/// What is kept of an AgentJob, as far as it is needed here. JSON of any depth is passed on unread.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    spec: Spec,
    status: Option<JobStatus>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    inputs: Option<Box<RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct JobStatus {
    active_run: Option<i64>,
    result: Option<Box<RawValue>>,
    error: Option<ErrorStatus>,
}

/// An execution.
pub struct Execution {
    pub summary: Summary,
    object: Object,
}

/// What Kodosumi says of a flow and its execution.
#[derive(Serialize)]
struct Meta<'a> {
    fid: String,
    username: Option<&'a str>,
    app_url: Option<&'a str>,
    panel_url: Option<&'a str>,
    entry_point: &'a str,
    kodosumi: &'static str,
    tags: [&'a str; 0],
    summary: &'a str,
    description: Option<&'a str>,
    deprecated: bool,
    author: Option<&'a str>,
    organization: Option<&'a str>,
    version: Option<&'a str>,
}

/// The answer to `/outputs/status`.
#[derive(Serialize)]
struct Told<'a> {
    status: &'static str,
    timestamp: f64,
    r#final: Option<&'a str>,
    fid: String,
    summary: &'a str,
    description: Option<&'a str>,
    tags: [&'a str; 0],
    deprecated: bool,
    author: Option<&'a str>,
    organization: Option<&'a str>,
    version: Option<&'a str>,
    kodosumi_version: &'static str,
    app_url: Option<&'a str>,
    entry_point: &'a str,
    username: Option<&'a str>,
    locks: [&'a str; 0],
}

/// What answers where Kodosumi names its version.
pub const VERSION: &str = concat!("koco ", env!("CARGO_PKG_VERSION"));

/// Milliseconds as Kodosumi's seconds.
pub fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

impl Execution {
    /// As the archive has it.
    pub fn new(summary: Summary, object: &str) -> Self {
        Self { summary, object: serde_json::from_str(object).unwrap_or_default() }
    }

    fn owner(&self) -> Option<&str> {
        Some(self.summary.owner.as_str()).filter(|owner| !owner.is_empty())
    }

    pub fn status(&self) -> Status {
        Status::of(&self.summary)
    }

    /// The number of its newest run.
    pub fn run(&self) -> i64 {
        self.object.status.as_ref().and_then(|status| status.active_run).unwrap_or_default()
    }

    /// When its status last changed, as far as that is kept.
    pub fn changed(&self) -> f64 {
        let Summary { created, started, .. } = self.summary;
        seconds(self.summary.ended().or(started).unwrap_or(created))
    }

    /// Seconds from its start to its end.
    pub fn runtime(&self) -> Option<f64> {
        Some(seconds(self.summary.ended()? - self.summary.created))
    }

    /// The payload of `inputs`.
    pub fn inputs(&self) -> String {
        let inputs = self.object.spec.inputs.as_ref().map_or("{}", |inputs| inputs.get());
        format!(r#"{{"dict":{inputs}}}"#)
    }

    /// The payload of `meta`.
    pub fn meta(&self) -> String {
        let meta = Meta {
            fid: self.summary.fid.to_string(),
            username: self.owner(),
            app_url: None,
            panel_url: None,
            entry_point: &self.summary.entry_point,
            kodosumi: VERSION,
            tags: [],
            summary: &self.summary.name,
            description: None,
            deprecated: false,
            author: None,
            organization: None,
            version: None,
        };
        // It always serializes.
        format!(r#"{{"dict":{}}}"#, serde_json::to_string(&meta).unwrap_or_default())
    }

    /// Why it has not succeeded, in the runner's words where there are some; `None` if it has, or has not ended.
    pub fn error(&self) -> Option<String> {
        if self.status() != Status::Error {
            return None;
        }
        let ended = match self.summary.phase.as_str() {
            "Cancelled" => "Cancelled: the job was cancelled",
            "Failed" => "Failed: the job failed",
            _ => "Deleted: the job was deleted before it ended",
        };
        let error = self.object.status.as_ref().and_then(|status| status.error.as_ref());
        let error = error.filter(|_| self.summary.finished.is_some());
        Some(error.map_or_else(|| ended.to_string(), |error| format!("{}: {}", error.kind, error.message)))
    }

    /// The payload of a `final` that the agent has not sent: its result, as Kodosumi would write one of that type.
    pub fn result(&self) -> String {
        let result = self.object.status.as_ref().and_then(|status| status.result.as_ref());
        wrapped(result.map_or("null", |result| result.get()), 0)
    }

    /// What stands for its result as long as there is none, or if it has failed.
    pub fn without_result(&self) -> String {
        match self.error() {
            Some(error) => json!({ "Text": { "body": error } }).to_string(),
            None => json!({ "Markdown": { "body": "no result, yet. please be patient." } }).to_string(),
        }
    }

    /// The answer to a question for its status. `last` is the payload of its `final`, if it has succeeded.
    pub fn told(&self, last: Option<&str>) -> String {
        let failed = self.error().map(|_| self.without_result());
        let told = Told {
            status: self.status().as_str(),
            timestamp: self.changed(),
            r#final: last.or(failed.as_deref()),
            fid: self.summary.fid.to_string(),
            summary: &self.summary.name,
            description: None,
            tags: [],
            deprecated: false,
            author: None,
            organization: None,
            version: None,
            kodosumi_version: VERSION,
            app_url: None,
            entry_point: &self.summary.entry_point,
            username: self.owner(),
            locks: [],
        };
        serde_json::to_string(&told).unwrap_or_default()
    }
}

/// A JSON value with the name of its Python type, as Kodosumi serializes what an entry point returns.
fn wrapped(json: &str, depth: usize) -> String {
    let kind = match json.as_bytes().first() {
        Some(b'{') => "dict",
        Some(b'"') => "str",
        Some(b't' | b'f') => "bool",
        Some(b'[') if depth < MAX_DEPTH => {
            let items: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
            let items: Vec<String> = items.into_iter().map(|item| wrapped(item.get(), depth + 1)).collect();
            return format!(r#"{{"__list__":[{}]}}"#, items.join(","));
        }
        Some(b'[') => "list",
        Some(b'n') | None => return r#"{"TypeError":"None"}"#.into(),
        Some(_) if json.contains(['.', 'e', 'E']) => "float",
        Some(_) => "int",
    };
    format!(r#"{{"{kind}":{json}}}"#)
}

#[cfg(test)]
pub mod tests {
    use serde_json::Value;

    use super::*;

    /// An execution of that phase, with more of its object.
    pub fn execution(phase: &str, object: Value) -> Execution {
        let ended = ["Succeeded", "Failed", "Cancelled"].contains(&phase).then_some(1_767_225_603_500);
        let summary = Summary {
            fid: "6955b900aabbccddeeff0011".parse().unwrap(),
            namespace: "ns".into(),
            namespace_uid: "u".into(),
            name: "report".into(),
            uid: "1".into(),
            owner: "ann".into(),
            entry_point: "report:main".into(),
            mode: "Direct".into(),
            phase: phase.into(),
            attempt: 1,
            error: String::new(),
            created: 1_767_225_600_000,
            started: Some(1_767_225_601_000),
            finished: ended,
            deleted: None,
            last_row: 0,
            run: 1,
        };
        Execution::new(summary, &object.to_string())
    }

    #[test]
    fn each_phase_is_one_of_kodosumis_statuses() {
        let expected = ["starting", "running", "running", "starting", "running", "finished", "error", "error"];
        let found: Vec<_> =
            Phase::ALL.into_iter().map(|phase| execution(phase.as_str(), json!({})).status().as_str()).collect();
        assert_eq!(found, expected);
        assert_eq!(execution("", json!({})).status(), Status::Starting);
        let mut deleted = execution("Running", json!({}));
        deleted.summary.deleted = Some(1);
        assert_eq!(deleted.status(), Status::Error, "its job is gone");
        assert_eq!(deleted.error().unwrap(), "Deleted: the job was deleted before it ended");
    }

    #[test]
    fn meta_has_all_of_kodosumis_fields_in_their_order() {
        assert_eq!(
            execution("Running", json!({})).meta(),
            format!(
                "{}{VERSION}{}",
                r#"{"dict":{"fid":"6955b900aabbccddeeff0011","username":"ann","app_url":null,"panel_url":null,"entry_point":"report:main","kodosumi":""#,
                r#"","tags":[],"summary":"report","description":null,"deprecated":false,"author":null,"organization":null,"version":null}}"#
            )
        );
    }

    #[test]
    fn a_status_has_all_of_kodosumis_fields_in_their_order() {
        let running = execution("Running", json!({})).told(None);
        assert_eq!(
            running,
            format!(
                "{}{VERSION}{}",
                r#"{"status":"running","timestamp":1767225601.0,"final":null,"fid":"6955b900aabbccddeeff0011","summary":"report","description":null,"tags":[],"deprecated":false,"author":null,"organization":null,"version":null,"kodosumi_version":""#,
                r#"","app_url":null,"entry_point":"report:main","username":"ann","locks":[]}"#
            )
        );
        let failed =
            execution("Failed", json!({ "status": { "error": { "type": "AgentFailed", "message": "exit code 1" } } }));
        let told: Value = serde_json::from_str(&failed.told(None)).unwrap();
        assert_eq!((&told["status"], &told["timestamp"]), (&json!("error"), &json!(1_767_225_603.5)));
        assert_eq!(told["final"], r#"{"Text":{"body":"AgentFailed: exit code 1"}}"#, "in JSON, as a text");
        let finished = execution("Succeeded", json!({})).told(Some(r#"{"str":"x"}"#));
        assert_eq!(serde_json::from_str::<Value>(&finished).unwrap()["final"], r#"{"str":"x"}"#);
    }

    #[test]
    fn a_cancelled_execution_has_an_error_and_a_successful_one_none() {
        assert_eq!(execution("Cancelled", json!({})).error().unwrap(), "Cancelled: the job was cancelled");
        assert_eq!(execution("Failed", json!({})).error().unwrap(), "Failed: the job failed");
        let retried = json!({ "status": { "error": { "type": "AgentFailed", "message": "the attempt before" } } });
        for phase in ["Succeeded", "Running", "Retrying"] {
            assert_eq!(execution(phase, retried.clone()).error(), None, "{phase}");
        }
        assert!(execution("Running", retried).without_result().contains("no result, yet."));
    }

    #[test]
    fn a_result_has_the_name_of_its_python_type() {
        for (result, expected) in [
            (r#"{"b":1.0,"a":[null]}"#, r#"{"dict":{"b":1.0,"a":[null]}}"#),
            (r#""x\n""#, r#"{"str":"x\n"}"#),
            ("7", r#"{"int":7}"#),
            ("-1.5e3", r#"{"float":-1.5e3}"#),
            ("true", r#"{"bool":true}"#),
            (r#"[1, [], "a"]"#, r#"{"__list__":[{"int":1},{"__list__":[]},{"str":"a"}]}"#),
            ("null", r#"{"TypeError":"None"}"#),
        ] {
            let inputs = format!(r#"{{"b": {result}}}"#);
            let object = format!(r#"{{"spec":{{"inputs":{inputs}}},"status":{{"result":{result},"activeRun":2}}}}"#);
            let found = Execution::new(execution("Succeeded", json!({})).summary, &object);
            assert_eq!((found.result().as_str(), found.run()), (expected, 2));
            assert_eq!(found.inputs(), format!(r#"{{"dict":{inputs}}}"#), "as they are");
        }
        assert_eq!(execution("Succeeded", json!({ "status": null })).result(), r#"{"TypeError":"None"}"#);
    }

    #[test]
    fn what_nests_deeply_is_passed_on() {
        let deep = format!("{}{}", "[".repeat(9000), "]".repeat(9000));
        let found = wrapped(&deep, 0);
        assert!(found.contains(r#"{"list":[["#), "{}", &found[..500]);
        assert_eq!(found.matches('[').count(), 9000);
    }
}
