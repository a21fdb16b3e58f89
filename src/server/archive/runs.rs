//! Follows the AgentRuns and writes what becomes of them to the database, so that each run of an execution is known when
//! it is gone. Started by [`crate::server::run`], once for each watched namespace.

use futures::{FutureExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{BATCH, tried};
use crate::{
    api::{AgentRun, ErrorStatus, TerminationSource, Usage},
    database::{Database, DatabaseError, Run},
    lifecycle,
    platform::{
        clock,
        notices::Notices,
        store,
        watch::{Item, config, items},
    },
};

/// What is kept of a run, as it is stored and answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Run")]
#[serde(rename_all = "camelCase")]
pub struct Kept<'a> {
    /// Counts the runs of a job, from 1.
    number: i32,
    /// The attempt that it is for, from 1.
    attempt: i32,
    /// Whether it continues an attempt that a pause has evicted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
    /// The name of its pod.
    pod: &'a str,
    /// The UID of its pod, once its runner has registered.
    #[serde(rename = "podUID", skip_serializing_if = "Option::is_none")]
    pod_uid: Option<&'a str>,
    /// When its agent could start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    start_time: Option<&'a Time>,
    /// When its end was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    completion_time: Option<&'a Time>,
    /// How it ended: `Succeeded`, `Failed`, `Evicted` or `Cancelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// Who reported that: its `Runner`, the `Kubelet` or `Koco` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_by: Option<&'static str>,
    /// The error, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorStatus>,
    /// The exit code, of the agent or of its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// How long its agent was active, without pauses.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_millis: Option<i64>,
    /// What its agent has reported to have used.
    #[serde(skip_serializing_if = "Usage::is_empty")]
    usage: Usage,
    /// How many events it has, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<i64>,
    /// How many of them were not known to be stored when it ended, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    events_missing: Option<i64>,
}

/// An AgentRun as it is written; `None` for one that was never stored.
fn record(run: &AgentRun) -> Option<Run> {
    let (id, end) = (&run.spec.identity, run.termination());
    // A runner that reports that it has started no agent sends no events, unless it counts them.
    let silent = id.tombstone || end.is_some_and(|end| !end.started && end.source == TerminationSource::Runner);
    let events = end.and_then(|end| end.events).or(silent.then_some(0));
    let started = end.is_none_or(|end| end.started);
    let kept = Kept {
        number: id.number,
        attempt: id.attempt,
        resumed: id.resumed,
        pod: &id.pod_name,
        pod_uid: run.status.as_ref().and_then(|status| status.pod_uid.as_deref()),
        start_time: run.could_start().filter(|_| started),
        completion_time: end.map(|end| &end.time),
        outcome: end.map(|end| end.kind.as_str()),
        reported_by: end.map(|end| end.source.as_str()),
        error: end.and_then(|end| end.error.as_ref()),
        exit_code: end.and_then(|end| end.exit_code),
        active_millis: end.map(|end| end.active_millis).filter(|millis| *millis > 0),
        usage: lifecycle::usage(run),
        events,
        events_missing: end.and_then(|end| end.events_missing),
    };
    Some(Run {
        namespace: run.metadata.namespace.clone()?,
        job_uid: id.job_uid.clone(),
        number: id.number.into(),
        version: i64::try_from(store::version(run)?).ok()?,
        ended: run.is_closed(),
        events,
        object: serde_json::to_string(&kept).ok()?,
    })
}

/// Writes the runs of a namespace, or of all, for ever. Calls `synced` once all that there are have been written.
pub async fn follow(client: Client, database: Database, namespace: Option<String>, synced: impl FnOnce()) {
    let (mut synced, notices) = (Some(synced), Notices::default());
    let runs = items::<AgentRun>(client, namespace.as_deref());
    let mut events = watcher(runs, config()).default_backoff().boxed();
    let mut batch = Vec::new();
    let take = |item: Item<AgentRun>, batch: &mut Vec<Run>| match item.object {
        // Not what only says that it is a run: its name is what only one object can have.
        Ok(run) if run.has_its_name() => batch.extend(record(&run)),
        Ok(_) => {}
        Err(ref error) => _ = notices.unreadable("AgentRun", item.meta(), error),
    };
    while let Some(event) = events.next().await {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let mut listed = false;
            match event {
                Ok(watcher::Event::Init) => {}
                Ok(watcher::Event::InitApply(run) | watcher::Event::Apply(run) | watcher::Event::Delete(run)) => {
                    take(run, &mut batch);
                }
                Ok(watcher::Event::InitDone) => listed = true,
                Err(error) => tracing::warn!(%error, "watching AgentRuns"),
            }
            if listed {
                flush(&database, &mut batch).await;
                if let Some(synced) = synced.take() {
                    synced();
                }
            }
            if batch.len() < BATCH {
                next = events.next().now_or_never().flatten();
            }
        }
        flush(&database, &mut batch).await;
    }
}

/// Writes what was taken, however long that takes.
async fn flush(database: &Database, batch: &mut Vec<Run>) {
    let runs = std::mem::take(batch);
    if !runs.is_empty() {
        let now = clock::now().as_millisecond();
        tried("writing runs", DatabaseError::reason, || database.upsert_runs(runs.clone(), now)).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(identity: Value, status: Value) -> AgentRun {
        let mut run = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": "a-1", "namespace": "n", "uid": "r", "resourceVersion": "7" },
            "spec": {
                "identity": { "jobName": "a", "jobUID": "u", "number": 1, "attempt": 1, "podName": "a-1-x",
                    "executionMode": "Direct", "heartbeat": "30s" },
                "grant": { "time": "2026-01-01T00:00:01Z" },
            },
            "status": { "readyTime": "2026-01-01T00:00:02Z", "podUID": "p" },
        });
        json_patch::merge(&mut run["spec"]["identity"], &identity);
        json_patch::merge(&mut run["status"], &status);
        serde_json::from_value(run).unwrap()
    }

    fn kept(run: &AgentRun) -> (Run, Value) {
        let record = record(run).unwrap();
        let object = serde_json::from_str(&record.object).unwrap();
        (record, object)
    }

    #[test]
    fn a_run_is_kept_with_its_pod_and_its_end() {
        let (open, object) = kept(&run(json!({ "attempt": 2, "resumed": true }), json!({})));
        assert_eq!((open.job_uid.as_str(), open.number, open.version), ("u", 1, 7));
        assert_eq!((open.ended, open.events), (false, None));
        let expected = json!({ "number": 1, "attempt": 2, "resumed": true, "pod": "a-1-x", "podUID": "p",
            "startTime": "2026-01-01T00:00:02Z" });
        assert_eq!(object, expected);
        let end = json!({ "type": "Failed", "source": "Runner", "time": "2026-01-01T00:00:09Z", "started": true,
            "error": { "type": "AgentFailed", "message": "m" }, "exitCode": 3, "activeMillis": 7000, "events": 5,
            "eventsMissing": 2, "result": "large" });
        let (ended, object) = kept(&run(json!({}), json!({ "termination": end })));
        assert_eq!((ended.ended, ended.events), (true, Some(5)));
        let expected = json!({ "number": 1, "attempt": 1, "pod": "a-1-x", "podUID": "p",
            "startTime": "2026-01-01T00:00:02Z", "completionTime": "2026-01-01T00:00:09Z", "outcome": "Failed",
            "reportedBy": "Runner", "error": { "type": "AgentFailed", "message": "m" }, "exitCode": 3,
            "activeMillis": 7000, "events": 5, "eventsMissing": 2 });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_run_without_an_agent_has_no_events_and_of_a_lost_one_they_are_not_known() {
        let end = |source: &str, started: bool| {
            let end = json!({ "type": "Failed", "source": source, "time": "2026-01-01T00:00:09Z", "started": started });
            let (record, object) = kept(&run(json!({}), json!({ "termination": end })));
            (record.events, object["startTime"].is_string())
        };
        assert_eq!(end("Runner", false), (Some(0), false));
        assert_eq!(end("Runner", true), (None, true));
        assert_eq!((end("Kubelet", false), end("Koco", true)), ((None, false), (None, true)));
        let mut tombstone = run(json!({ "tombstone": true }), json!({}));
        (tombstone.spec.grant, tombstone.status) = (None, None);
        let (record, _) = kept(&tombstone);
        assert_eq!((record.ended, record.events), (true, Some(0)));
    }
}
