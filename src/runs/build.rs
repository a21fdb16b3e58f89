//! New AgentRuns, from the job. Pure but for the random part of the pod's name.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::RunError;
use crate::api::{
    AgentJob, AgentJobStatus, AgentRun, AgentRunSpec, JobRef, Resolved, RunCommand, RunIdentity, Spent, StartGrant,
    TraceContext, names,
};

/// The parameters of a new run.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Its number.
    pub number: i32,
    /// The attempt that it is for.
    pub attempt: i32,
    /// Whether it continues an evicted attempt.
    pub resumed: bool,
    /// How long the agent was active in earlier runs of that attempt, in milliseconds.
    pub active_millis: i64,
    /// What the agents of the job's earlier runs have used up.
    pub spent: Spent,
    /// The grant, if it is created with one.
    pub grant: Option<StartGrant>,
    /// The command that it is created with, if any.
    pub command: Option<RunCommand>,
}

/// Builds a run. `resolved` is the job's status.
pub fn build(job: &AgentJob, resolved: &Resolved, new: NewRun) -> Result<AgentRun, RunError> {
    let of = job.reference();
    let identity = RunIdentity {
        job_name: of.name.clone(),
        job_uid: of.uid.clone(),
        number: new.number,
        attempt: new.attempt.max(1),
        resumed: new.resumed,
        active_millis: new.active_millis.max(0),
        spent: Some(new.spent).filter(|spent| !spent.is_empty()),
        pod_name: names::pod(&of.name, &of.uid, new.number, &random()?),
        execution_mode: resolved.execution_mode,
        pause_policy: job.spec.pause_policy(),
        heartbeat: resolved.timeouts.heartbeat,
        tombstone: false,
    };
    let spec = AgentRunSpec { identity, grant: new.grant, command: new.command };
    Ok(object(&of, TraceContext::of_job(job), spec))
}

/// A run that is created closed, in place of one that never existed or was deleted: nothing can start under its number
/// any more.
pub fn tombstone(job: &AgentJob, resolved: &Resolved, number: i32, attempt: i32) -> Result<AgentRun, RunError> {
    let spent = spent_by_status(job);
    let new = NewRun { number, attempt, resumed: false, active_millis: 0, spent, grant: None, command: None };
    let mut run = build(job, resolved, new)?;
    run.spec.identity.tombstone = true;
    Ok(run)
}

/// What the agents of a job have used up by its status, which may lag behind the newest run.
pub fn spent_by_status(job: &AgentJob) -> Spent {
    job.status.as_ref().map(AgentJobStatus::used).unwrap_or_default()
}

fn object(job: &JobRef, trace: TraceContext, spec: AgentRunSpec) -> AgentRun {
    let number = spec.identity.number;
    let mut labels = BTreeMap::from([
        (names::LABEL_JOB_UID.to_string(), job.uid.clone()),
        (names::LABEL_JOB_NAME.into(), job.name.clone()),
        (names::LABEL_RUN_NUMBER.into(), number.to_string()),
    ]);
    labels.extend(names::LABELS.map(|(key, value)| (key.into(), value.into())));
    let owner = OwnerReference {
        api_version: names::API_VERSION.into(),
        kind: "AgentJob".into(),
        name: job.name.clone(),
        uid: job.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let given = trace.annotation().map(|given| BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_string(), given)]));
    let metadata = ObjectMeta {
        annotations: given,
        name: Some(names::run(&job.name, &job.uid, number)),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    AgentRun { metadata, spec, status: None }
}

/// Five random characters, of those that Kubernetes uses for generated names.
fn random() -> Result<String, RunError> {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = [0_u8; 5];
    getrandom::fill(&mut bytes).map_err(|e| RunError::Random(e.to_string()))?;
    Ok(bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect())
}
