//! The AgentJob resource and its admission rules (CEL, checked by the API server).

use kube::{
    CustomResource, KubeSchema,
    core::{Message, Rule},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AgentJobStatus, Budget, DesiredState, DisruptionPolicy, Events, ExecutionMode, InputsSource, JobRef, PauseNotice,
    PausePolicy, Phase, RawJson, RetryPolicy, TemplateRef, Timeouts, names, schema,
};

/// What to run: an entry point, inputs, and the pod to run it in.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "kodosumi.io",
    version = "v1alpha1",
    kind = "AgentJob",
    doc = "AgentJob runs one AI agent as a job: it starts the agent in a pod, retries, pauses, resumes and cancels it, and has its result.",
    plural = "agentjobs",
    singular = "agentjob",
    shortname = "aj",
    category = "kodosumi",
    namespaced,
    status = "AgentJobStatus",
    derive = "PartialEq",
    derive = "Default",
    label("app.kubernetes.io/name", "koco"),
    label("app.kubernetes.io/part-of", "koco"),
    // The same as SCHEMA_VERSION: a test compares them.
    annotation("kodosumi.io/schema-version", "7"),
    selectable = ".status.phase",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Succeeded')].reason"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent", description = "Percent, as the agent reports it"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".status.resolved.executionMode", priority = 1),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startTime", priority = 1),
    printcolumn(name = "Finished", type_ = "date", json_path = ".status.completionTime", priority = 1),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.runnerPod", priority = 1),
    printcolumn(name = "Workflow", type_ = "string", json_path = ".status.workflow.id", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be no more than 63 characters"),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Succeeded', 'Failed', 'Cancelled']) || (has(self.status) && has(self.status.phase) && self.status.phase == oldSelf.status.phase)"
    ).message("status.phase is terminal and never changes")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = immutable("executionMode"),
    validation = immutable("entryPoint"),
    validation = immutable("inputsFrom"),
    validation = set_once("inputsSchema"),
    validation = immutable_or("pausePolicy", "", "'Freeze'"),
    validation = immutable("pauseNotice"),
    validation = set_once("template"),
    validation = immutable("retryPolicy"),
    validation = immutable("timeouts"),
    validation = immutable("budget"),
    validation = immutable_or("disruptionPolicy", "", "'Count'"),
    validation = immutable_or("events", ".stdio", "true"),
    validation = Rule::new("has(self.templateRef) == has(oldSelf.templateRef)").message("spec.templateRef is immutable"),
    validation = required("entryPoint"),
    validation = required("template"),
    validation = no_probe("livenessProbe"),
    validation = no_probe("startupProbe")
)]
pub struct AgentJobSpec {
    /// What runs the job's attempts. Default: the operator's `KODO_EXECUTION_MODE`, else Direct. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_mode: Option<ExecutionMode>,

    /// The AgentTemplate in the job's namespace that gives the fields which the job leaves out. koco writes them into the
    /// job once, before anything starts: later changes of the template concern later jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<TemplateRef>,

    /// What the agent is to run, passed on unchanged in `KODO_ENTRY_POINT`. Required, unless the template has it. Immutable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 1024))]
    pub entry_point: String,

    /// Any JSON object, for the agent to read from `KODO_INPUTS_FILE`. Immutable.
    #[serde(default)]
    #[schemars(schema_with = "schema::object")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.inputs is immutable"))]
    pub inputs: RawJson,

    /// ConfigMaps and Secrets in the job's namespace whose keys become further inputs, each with its text; that of a key
    /// `NAME.json` is JSON, for the input `NAME`. A later source wins over an earlier one, and `inputs` over all. Only the
    /// agent's pod reads them, when it starts. Immutable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub inputs_from: Vec<InputsSource>,

    /// A JSON Schema of the inputs. A job whose inputs don't fit fails with `InvalidInputs` before anything starts, and
    /// before its agent starts where `inputsFrom` gives some of them. Draft 2020-12, unless `$schema` names an older one;
    /// references only within it. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.inputsSchema is immutable"))]
    pub inputs_schema: Option<RawJson>,

    /// Any JSON object, for the agent to read from `KODO_EXTRA_FILE`. Immutable.
    #[serde(default, skip_serializing_if = "RawJson::is_empty")]
    #[schemars(schema_with = "schema::object")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.extra is immutable"))]
    pub extra: RawJson,

    /// The desired state of the job. Cancelled is final.
    #[serde(default)]
    #[x_kube(validation = Rule::new("oldSelf != 'Cancelled' || self == 'Cancelled'").message("spec.desiredState: Cancelled is final"))]
    pub desired_state: DesiredState,

    /// How a pause stops a running agent. Default: Freeze. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_policy: Option<PausePolicy>,

    /// A signal that the agent gets before it is frozen, to reach a safe point. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_notice: Option<PauseNotice>,

    /// The pod to run the agent in, as in a Job. The first container is the agent. Required, unless the template has it.
    /// Immutable.
    // Not typed: fields of a newer Kubernetes pass through, and the API server validates the pod.
    #[serde(default, skip_serializing_if = "RawJson::is_empty")]
    #[schemars(schema_with = "schema::template")]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("spec.template is immutable"),
        validation = Rule::new("has(self.spec.containers[0].command) && size(self.spec.containers[0].command) > 0").message("spec.template.spec.containers[0].command is required: the runner starts it"),
        validation = Rule::new("!has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Never'").message("spec.template.spec.restartPolicy must be Never or unset: spec.retryPolicy decides on retries"),
        validation = Rule::new("self.spec.containers.all(c, !has(c.restartPolicy) && !has(c.restartPolicyRules))").message("spec.template.spec.containers[*].restartPolicy and restartPolicyRules must be unset: spec.retryPolicy decides on retries"),
        validation = Rule::new("!has(self.spec.hostPID) || !self.spec.hostPID").message("spec.template.spec.hostPID must be false: the runner has to be the first process of its container"),
        validation = Rule::new("!has(self.spec.shareProcessNamespace) || !self.spec.shareProcessNamespace").message("spec.template.spec.shareProcessNamespace must be false: the runner has to be the first process of its container"),
        validation = Rule::new("!has(self.spec.activeDeadlineSeconds)").message("spec.template.spec.activeDeadlineSeconds must be unset: it would count paused time; use spec.timeouts.execution"),
        validation = Rule::new("!has(self.spec.containers[0].lifecycle) || !has(self.spec.containers[0].lifecycle.postStart)").message("spec.template.spec.containers[0].lifecycle.postStart must be unset: it could run before the runner has taken its token"),
        validation = Rule::new("!has(self.spec.containers[0].livenessProbe) || !has(self.spec.containers[0].livenessProbe.exec)").message("spec.template.spec.containers[0].livenessProbe.exec must be unset: it could run before the runner has taken its token"),
        validation = Rule::new("!has(self.spec.containers[0].readinessProbe) || !has(self.spec.containers[0].readinessProbe.exec)").message("spec.template.spec.containers[0].readinessProbe.exec must be unset: it could run before the runner has taken its token"),
        validation = Rule::new("!has(self.spec.containers[0].startupProbe) || !has(self.spec.containers[0].startupProbe.exec)").message("spec.template.spec.containers[0].startupProbe.exec must be unset: it could run before the runner has taken its token"),
        validation = Rule::new("!has(self.spec.volumes) || self.spec.volumes.all(v, !has(v.name) || !v.name.startsWith('koco-'))").message("spec.template.spec.volumes[*].name: names that start with koco- are the operator's"),
        validation = Rule::new("!has(self.spec.initContainers) || self.spec.initContainers.all(c, !has(c.name) || !c.name.startsWith('koco-'))").message("spec.template.spec.initContainers[*].name: names that start with koco- are the operator's"),
        validation = Rule::new("!has(self.spec.initContainers) || self.spec.initContainers.all(c, !has(c.restartPolicyRules))").message("spec.template.spec.initContainers[*].restartPolicyRules must be unset: they could restart the agent; spec.retryPolicy decides on retries"),
        validation = Rule::new("self.spec.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, !has(m.name) || !m.name.startsWith('koco-')))").message("spec.template.spec.containers[*].volumeMounts[*].name: volumes whose names start with koco- are the operator's"),
        validation = Rule::new("!has(self.spec.initContainers) || self.spec.initContainers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, !has(m.name) || !m.name.startsWith('koco-')))").message("spec.template.spec.initContainers[*].volumeMounts[*].name: volumes whose names start with koco- are the operator's"),
        validation = Rule::new("!has(self.spec.volumes) || self.spec.volumes.all(v, !has(v.projected) || !has(v.projected.sources) || v.projected.sources.all(s, !has(s.serviceAccountToken) || !has(s.serviceAccountToken.audience) || s.serviceAccountToken.audience != 'koco-gateway'))").message("spec.template.spec.volumes[*].projected.sources[*].serviceAccountToken.audience: tokens for koco-gateway are the runner's"),
        // As the kubelet reads a path: relative to /, whatever slashes and dots are in it.
        validation = Rule::new("!has(self.spec.containers[0].volumeMounts) || self.spec.containers[0].volumeMounts.all(m, !has(m.mountPath) || !m.mountPath.matches('^/*([.]/+)*koco(/|$)'))").message("spec.template.spec.containers[0].volumeMounts[*].mountPath: /koco is the operator's"),
        validation = Rule::new("!has(self.spec.containers[0].volumeMounts) || self.spec.containers[0].volumeMounts.all(m, !has(m.mountPath) || !m.mountPath.matches('(^|/)[.][.](/|$)'))").message("spec.template.spec.containers[0].volumeMounts[*].mountPath: must not contain .., which could lead to /koco"),
        validation = Rule::new("!has(self.spec.containers[0].env) || self.spec.containers[0].env.all(e, !has(e.name) || !(e.name in ['KODO_FID', 'KODO_ENTRY_POINT', 'KODO_ATTEMPT', 'KODO_RESUMED', 'KODO_INPUTS_FILE', 'KODO_EXTRA_FILE', 'KODO_RESULT_FILE', 'KODO_ERROR_FILE', 'KODO_PROGRESS_FILE']))").message("spec.template.spec.containers[0].env: KODO_FID, KODO_ENTRY_POINT, KODO_ATTEMPT, KODO_RESUMED and KODO_*_FILE are set by the runner")
    )]
    pub template: RawJson,

    /// When and how often a failed agent is retried. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,

    /// Time-outs. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// How much the job's agents may use, over all attempts. Once it is exceeded, the agent gets SIGTERM and its grace
    /// period, and the job fails with `BudgetExceeded`, which is never retried. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,

    /// How a drain, a lost node or a deleted pod affects an agent that had started. Default: Count. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption_policy: Option<DisruptionPolicy>,

    /// What of the agent's events is kept in the archive, where there is one. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,

    /// How many ended pods are kept for their logs. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failed_pods_history_limit: Option<i32>,

    /// How many ended AgentRuns are kept; at least as many as `failedPodsHistoryLimit`, because a run's pod is deleted
    /// with it. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub run_history_limit: Option<i32>,

    /// How long the job is kept after its end, in seconds. Unset: kept. A GitOps tool would apply a deleted job again,
    /// and its agent would run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
}

/// That koco fills the job from its template, which it does once.
const FILLED: &str = "has(self.templateRef) && has(self.templateRef.revision) && has(oldSelf.templateRef) && \
    !has(oldSelf.templateRef.revision)";

/// A field that changes only from unset to what the job's template says.
fn immutable(field: &str) -> Rule {
    let rule = format!(
        "has(oldSelf.{field}) ? has(self.{field}) && self.{field} == oldSelf.{field} : !has(self.{field}) || ({FILLED})"
    );
    Rule::new(rule).message(Message::Message(format!("spec.{field} is immutable")))
}

/// The same of a field that has a default: it may be said or not. Earlier releases stored it.
fn immutable_or(field: &str, part: &str, default: &str) -> Rule {
    let value = |of: &str| format!("(has({of}.{field}) ? {of}.{field}{part} : {default})");
    let rule = format!("{} == {} || (!has(oldSelf.{field}) && {FILLED})", value("self"), value("oldSelf"));
    Rule::new(rule).message(Message::Message(format!("spec.{field} is immutable")))
}

/// The same of a field whose own rule, and the chart's policy, compare its values.
fn set_once(field: &str) -> Rule {
    let rule = format!("has(oldSelf.{field}) ? has(self.{field}) : !has(self.{field}) || ({FILLED})");
    Rule::new(rule).message(Message::Message(format!("spec.{field} is immutable")))
}

/// A field that a job has that is not still to be filled from its template.
fn required(field: &str) -> Rule {
    let rule = format!("has(self.{field}) || (has(self.templateRef) && !has(self.templateRef.revision))");
    Rule::new(rule).message(Message::Message(format!("spec.{field} is required")))
}

/// A probe that the agent's container must not have.
fn no_probe(probe: &str) -> Rule {
    let rule = format!(
        "(has(self.pausePolicy) && self.pausePolicy == 'Evict') || !has(self.template) || \
         !has(self.template.spec.containers[0].{probe})"
    );
    let message = format!(
        "spec.template.spec.containers[0].{probe} would kill a frozen agent: remove it, or set spec.pausePolicy to Evict"
    );
    Rule::new(rule).message(Message::Message(message))
}

impl AgentJobSpec {
    /// How a pause stops a running agent.
    pub fn pause_policy(&self) -> PausePolicy {
        self.pause_policy.unwrap_or_default()
    }

    /// How a disruption affects an agent that had started.
    pub fn disruption_policy(&self) -> DisruptionPolicy {
        self.disruption_policy.unwrap_or_default()
    }

    /// What is kept of the agent's events.
    pub fn events(&self) -> Events {
        self.events.clone().unwrap_or_default()
    }

    /// How many ended pods are kept.
    pub fn failed_pods_history_limit(&self) -> usize {
        self.failed_pods_history_limit.map_or(3, limit)
    }

    /// How many ended runs are kept.
    pub fn run_history_limit(&self) -> usize {
        self.run_history_limit.map_or(10, limit)
    }

    /// The template that the job is still to be filled from.
    pub fn unfilled(&self) -> Option<&TemplateRef> {
        self.template_ref.as_ref().filter(|template| template.revision.is_none())
    }
}

fn limit(field: i32) -> usize {
    usize::try_from(field).unwrap_or_default()
}

/// The fields of a pod template that koco reads; the API server validates the rest.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Template {
    spec: TemplateSpec,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct TemplateSpec {
    termination_grace_period_seconds: Option<i64>,
    containers: Vec<TemplateContainer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TemplateContainer {
    name: String,
}

impl AgentJob {
    /// The fields of the template that koco reads; empty if it is malformed, which the API server will report.
    fn template(&self) -> TemplateSpec {
        self.spec.template.read::<Template>().unwrap_or_default().spec
    }

    /// The grace period of the agent between SIGTERM and SIGKILL, in seconds: the template's, or Kubernetes' default of
    /// 30.
    pub fn grace_seconds(&self) -> i64 {
        self.template().termination_grace_period_seconds.unwrap_or(30).max(0)
    }

    /// The name of the agent's container: the template's first.
    pub fn agent_container(&self) -> String {
        self.template().containers.into_iter().next().map(|c| c.name).unwrap_or_default()
    }

    /// The same as a duration.
    pub fn grace(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.grace_seconds().unsigned_abs())
    }

    /// Whether it has koco's finalizer.
    pub fn has_finalizer(&self) -> bool {
        self.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == names::FINALIZER))
    }

    /// Whether the server has said that it has this job as it ended.
    pub fn is_archived(&self) -> bool {
        self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(names::ANNOTATION_ARCHIVED))
    }

    /// Whether something of it may still be started: it has not ended, and is neither cancelled nor deleted.
    pub fn may_start(&self) -> bool {
        let is_over = self.status.as_ref().and_then(|s| s.phase).is_some_and(Phase::is_terminal);
        self.metadata.deletion_timestamp.is_none() && self.spec.desired_state != DesiredState::Cancelled && !is_over
    }

    /// The annotation `kodosumi.io/control-request`.
    pub fn control_request(&self) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(names::ANNOTATION_REQUEST).map(String::as_str)
    }

    /// Names this job.
    pub fn reference(&self) -> JobRef {
        JobRef {
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.metadata.name.clone().unwrap_or_default(),
            uid: self.uid().into(),
        }
    }

    /// Drops what koco doesn't decide by, for caches: inputs, a large schema of them, extra, a large result, and the fields
    /// of the template that it doesn't read.
    pub fn trim(&mut self) {
        let template = self.template();
        let names: Vec<_> = template.containers.iter().map(|c| json!({ "name": c.name })).collect();
        self.spec.template.trim_to(&json!({ "spec": {
            "terminationGracePeriodSeconds": template.termination_grace_period_seconds.unwrap_or(30),
            "containers": names,
        } }));
        self.spec.inputs.trim();
        self.spec.extra.trim();
        if let Some(schema) = &mut self.spec.inputs_schema {
            schema.trim_large();
        }
        if let Some(result) = self.status.as_mut().and_then(|s| s.result.as_mut()) {
            result.trim_large();
        }
        self.metadata.managed_fields = None;
    }

    /// The UID that the API server gave the object; empty on one that was never stored.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}
