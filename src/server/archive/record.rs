//! What is kept of an AgentJob. Pure. Used by [`super`].
//!
//! Kept are the fields below and no others: commands, arguments and the values of environment variables may hold
//! credentials, annotations a copy of the whole spec, and `extra` is for the agent alone.

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    api::{
        AgentJob, AgentJobStatus, Budget, DisruptionPolicy, ExecutionMode, InputsSource, PausePolicy, Phase, RawJson,
        RetryPolicy, TemplateRef, Timeouts, fid as fid_of, names,
    },
    database::{Execution, Fid, Summary},
    platform::store,
};

/// The most bytes of inputs that are kept; of larger ones size and digest.
const MAX_INPUTS: usize = 256 * 1024;
/// The most bytes of what a search looks at.
const MAX_SEARCH: usize = 64 * 1024;

/// What is kept, as it is stored and answered.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept<'a> {
    labels: Option<&'a std::collections::BTreeMap<String, String>>,
    spec: Spec<'a>,
    status: Option<&'a AgentJobStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    execution_mode: Option<ExecutionMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template_ref: Option<&'a TemplateRef>,
    entry_point: &'a str,
    inputs: RawJson,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    inputs_from: &'a [InputsSource],
    pause_policy: PausePolicy,
    disruption_policy: DisruptionPolicy,
    retry_policy: Option<&'a RetryPolicy>,
    timeouts: Option<&'a Timeouts>,
    budget: Option<&'a Budget>,
    ttl_seconds_after_finished: Option<i32>,
    containers: Vec<Container>,
}

/// A container of the job's template.
#[derive(Serialize, Default)]
struct Container {
    name: String,
    image: String,
    /// The names of its variables.
    env: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Template {
    spec: TemplateSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TemplateSpec {
    containers: Vec<TemplateContainer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TemplateContainer {
    name: String,
    image: String,
    env: Vec<Variable>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Variable {
    name: String,
}

/// The fid of a job, if it is stored.
pub(super) fn fid(meta: &ObjectMeta) -> Option<Fid> {
    let created = meta.creation_timestamp.as_ref()?.0.as_second();
    fid_of(created, meta.uid.as_deref()?).parse().ok()
}

/// Whether a job has ended and waits to be deleted until it is in the archive.
pub(super) fn waits(job: &AgentJob) -> bool {
    let ended = job.status.as_ref().and_then(|s| s.phase).is_some_and(Phase::is_terminal);
    let goes = job.spec.ttl_seconds_after_finished.is_some() && job.metadata.deletion_timestamp.is_none();
    ended && goes && !job.is_archived()
}

/// An AgentJob as it is written.
pub(super) fn execution(job: &AgentJob, namespace_uid: &str) -> Option<Execution> {
    let (meta, spec, status) = (&job.metadata, &job.spec, job.status.as_ref());
    let fid = fid(meta)?;
    let phase = status.and_then(|s| s.phase);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mode = status.and_then(|s| s.execution_mode()).or(spec.execution_mode);
    let error = status.and_then(|s| s.error.as_ref());
    let annotation = meta.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_OWNER));
    let summary = Summary {
        fid,
        namespace: text(&meta.namespace),
        namespace_uid: namespace_uid.into(),
        name: text(&meta.name),
        uid: text(&meta.uid),
        owner: annotation.map(|owner| head(owner, 256).to_string()).unwrap_or_default(),
        entry_point: spec.entry_point.clone(),
        mode: mode.map(ExecutionMode::as_str).unwrap_or_default().into(),
        phase: phase.map(Phase::as_str).unwrap_or_default().into(),
        attempt: status.and_then(|s| s.attempt).unwrap_or_default().into(),
        error: error.map(|e| e.kind.clone()).unwrap_or_default(),
        created: meta.creation_timestamp.as_ref()?.0.as_millisecond(),
        started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_millisecond()),
        finished: status.and_then(|s| s.completion_time.as_ref()).map(|t| t.0.as_millisecond()),
        deleted: None,
        last_row: 0,
        run: status.and_then(|s| s.active_run).unwrap_or_default().into(),
    };
    let kept = Kept {
        labels: meta.labels.as_ref(),
        spec: Spec {
            execution_mode: spec.execution_mode,
            template_ref: spec.template_ref.as_ref(),
            entry_point: &spec.entry_point,
            inputs: inputs(&spec.inputs),
            inputs_from: &spec.inputs_from,
            pause_policy: spec.pause_policy(),
            disruption_policy: spec.disruption_policy(),
            retry_policy: spec.retry_policy.as_ref(),
            timeouts: spec.timeouts.as_ref(),
            budget: spec.budget.as_ref(),
            ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
            containers: containers(&spec.template),
        },
        status,
    };
    let version = i64::try_from(store::version(job)?).ok()?;
    Some(Execution { summary, version, search: search(job), object: serde_json::to_string(&kept).ok()? })
}

fn inputs(inputs: &RawJson) -> RawJson {
    if inputs.size() <= MAX_INPUTS {
        return inputs.clone();
    }
    let digest = hex::encode(Sha256::digest(inputs.get()));
    json!({ "truncated": true, "size": inputs.size(), "digest": format!("sha256:{digest}") }).into()
}

fn containers(template: &RawJson) -> Vec<Container> {
    let template: Template = template.read().unwrap_or_default();
    let kept = template.spec.containers.into_iter().map(|c| Container {
        name: c.name,
        image: c.image,
        env: c.env.into_iter().map(|variable| variable.name).collect(),
    });
    kept.collect()
}

/// What a search looks at: inputs, result, error.
fn search(job: &AgentJob) -> String {
    let mut text = String::new();
    let mut add = |part: &str| {
        let left = MAX_SEARCH.saturating_sub(text.len() + 1);
        text.push_str(head(part, left));
        text.push('\n');
    };
    // A half for the inputs, so that there is room for the result.
    add(head(&unescaped(head(job.spec.inputs.get(), MAX_SEARCH / 2)), MAX_SEARCH / 2));
    if let Some(status) = &job.status {
        if let Some(error) = &status.error {
            add(&error.kind);
            add(&error.message);
        }
        if let Some(result) = &status.result {
            add(&unescaped(head(result.get(), MAX_SEARCH)));
        }
    }
    text
}

/// The first bytes of a text, whole characters.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes.min(text.len()))]
}

/// JSON with its strings' escapes read, as people would search for them: no JSON any more.
fn unescaped(json: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        // A pair of surrogates is two escapes.
        let lengths = if rest[at + 1..].starts_with('u') { vec![12, 6] } else { vec![2] };
        let read = lengths.into_iter().find_map(|length| {
            let escape = rest.get(at..at + length)?;
            let value: Value = serde_json::from_str(&format!("\"{escape}\"")).ok()?;
            let is_one = length < 12 || escape[6..].starts_with("\\u");
            is_one.then_some((value.as_str()?.to_string(), length))
        });
        let (character, length) = read.unwrap_or_else(|| ("\\".into(), 1));
        text.push_str(&character);
        rest = &rest[at + length..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value, status: Value) -> AgentJob {
        let mut whole = json!({ "entryPoint": "text:main", "template": { "spec": { "containers": [] } } });
        json_patch::merge(&mut whole, &spec);
        let mut job = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "l": "1" },
                "annotations": { "kodosumi.io/owner": "ann", "kubectl.kubernetes.io/last-applied-configuration": "s3cret" } },
            "spec": whole,
        });
        if !status.is_null() {
            job["status"] = status;
        }
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn a_job_is_kept_with_its_inputs_status_and_result() {
        let status = json!({ "phase": "Succeeded", "attempt": 2, "result": { "text": "fine" },
            "startTime": "2026-01-01T00:00:01Z", "completionTime": "2026-01-01T00:00:02Z",
            "spent": { "activeMillis": 900, "usage": { "inputTokens": 5 } }, "fid": fid_of(1_767_225_600, "u") });
        let from = json!([{ "secretRef": { "name": "s" } }]);
        let spec = json!({ "inputs": { "a": 1.0 }, "inputsFrom": from, "executionMode": "Direct", "budget": { "inputTokens": 9 } });
        let job = job(spec, status.clone());
        let kept = execution(&job, "ns").unwrap();
        let s = &kept.summary;
        assert_eq!((s.fid.to_string(), kept.version), (job.status.as_ref().unwrap().fid.clone().unwrap(), 7));
        assert_eq!((s.owner.as_str(), s.phase.as_str(), s.mode.as_str()), ("ann", "Succeeded", "Direct"));
        assert_eq!((s.created + 1000, s.created + 2000), (s.started.unwrap(), s.finished.unwrap()));
        let object: Value = serde_json::from_str(&kept.object).unwrap();
        assert_eq!(object["spec"]["inputs"], json!({ "a": 1.0 }));
        assert_eq!(object["spec"]["inputsFrom"][0]["secretRef"]["name"], json!("s"));
        assert_eq!(object["status"]["result"], status["result"]);
        assert_eq!(
            (&object["spec"]["budget"]["inputTokens"], &object["status"]["spent"]),
            (&json!(9), &status["spent"])
        );
        assert_eq!(object["labels"], json!({ "l": "1" }));
        assert!(kept.search.contains("fine") && kept.search.contains("1.0"), "{}", kept.search);
    }

    #[test]
    fn no_credential_is_kept() {
        let spec = json!({ "extra": { "token": "s3cret" }, "template": { "metadata": { "annotations": { "k": "s3cret" } },
            "spec": { "containers": [{ "name": "agent", "image": "i:1", "command": ["a", "s3cret"], "args": ["s3cret"],
                "env": [{ "name": "TOKEN", "value": "s3cret" }] }],
                "initContainers": [{ "name": "x", "env": [{ "name": "A", "value": "s3cret" }] }] } } });
        let kept = execution(&job(spec, Value::Null), "ns").unwrap();
        assert!(!kept.object.contains("s3cret") && !kept.search.contains("s3cret"), "{}", kept.object);
        let object: Value = serde_json::from_str(&kept.object).unwrap();
        assert_eq!(object["spec"]["containers"], json!([{ "name": "agent", "image": "i:1", "env": ["TOKEN"] }]));
    }

    #[test]
    fn large_inputs_are_kept_by_size_and_digest() {
        let job = job(json!({ "inputs": { "a": "x".repeat(MAX_INPUTS) } }), Value::Null);
        let kept = execution(&job, "ns").unwrap();
        let object: Value = serde_json::from_str(&kept.object).unwrap();
        assert_eq!(object["spec"]["inputs"]["size"], MAX_INPUTS + 8);
        assert!(kept.object.len() < 2000 && kept.search.len() <= MAX_SEARCH);
    }

    #[test]
    fn deep_inputs_are_kept() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let mut job = job(json!({}), Value::Null);
        job.spec.inputs = serde_json::from_str(&deep).unwrap();
        assert!(execution(&job, "ns").unwrap().object.contains(&deep));
    }

    #[test]
    fn a_search_finds_what_people_read() {
        assert_eq!(
            unescaped(r#"{"a":"x\u003cy \"q\"\n\\ \ud83e\udd80 \u00e4\u00f6"}"#),
            "{\"a\":\"x<y \"q\"\n\\ 🦀 äö\"}"
        );
        // Cut off in the middle.
        assert_eq!(unescaped(r"a\u00"), r"a\u00");
        assert_eq!(unescaped(r"a\"), r"a\");
    }

    #[test]
    fn only_what_is_to_be_deleted_waits() {
        let ttl = |status| waits(&job(json!({ "ttlSecondsAfterFinished": 5 }), status));
        assert!(ttl(json!({ "phase": "Failed" })));
        assert!(!ttl(json!({ "phase": "Running" })) && !ttl(Value::Null));
        assert!(!waits(&job(json!({}), json!({ "phase": "Failed" }))));
        let mut told = job(json!({ "ttlSecondsAfterFinished": 5 }), json!({ "phase": "Failed" }));
        told.metadata.annotations = Some([(names::ANNOTATION_ARCHIVED.into(), "x".into())].into());
        assert!(!waits(&told));
    }
}
