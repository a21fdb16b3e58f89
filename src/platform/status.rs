//! Writes to an AgentJob's status: only what differs, and only on the version that was read.

use backon::{ExponentialBuilder, Retryable};
use json_patch::{PatchOperation, ReplaceOperation, TestOperation, jsonptr::PointerBuf};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    api::{AgentJob, AgentJobStatus},
    protocol::workflow::JobRef,
};

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Somebody else wrote since it was read: read again.
    #[error("the AgentJob was changed meanwhile")]
    Conflict,
    /// There is no such job any more.
    #[error("the AgentJob is gone")]
    Gone,
    /// The API server did not take it.
    #[error("the API server: {0}")]
    Api(kube::Error),
    /// A status that is no JSON; never with ours.
    #[error("status can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<kube::Error> for StatusError {
    fn from(e: kube::Error) -> Self {
        match &e {
            kube::Error::Api(s) if s.code == 409 => Self::Conflict,
            // A patch that does not fit the object as it is by now, told without a cause; a status that the schema refuses
            // comes with one.
            kube::Error::Api(s)
                if s.code == 422 && s.details.as_ref().is_none_or(|d| d.causes.is_empty() && d.name.is_empty()) =>
            {
                Self::Conflict
            }
            kube::Error::Api(s) if s.code == 404 => Self::Gone,
            _ => Self::Api(e),
        }
    }
}

/// The operations that turn one status into another, bound to the object's version; empty if they are equal.
fn difference(job: &AgentJob, new: &AgentJobStatus) -> Result<Vec<PatchOperation>, StatusError> {
    let old = job.status.as_ref().map_or_else(|| Ok(json!({})), serde_json::to_value)?;
    let (before, after) = (json!({ "status": old }), json!({ "status": serde_json::to_value(new)? }));
    let changes = json_patch::diff(&before, &after).0;
    if changes.is_empty() {
        return Ok(changes);
    }
    let mut patch = Vec::with_capacity(changes.len() + 3);
    if let Some(uid) = &job.metadata.uid {
        let path = PointerBuf::from_tokens(["metadata", "uid"]);
        patch.push(PatchOperation::Test(TestOperation { path, value: json!(uid) }));
    }
    // Setting the version that was read makes the API server answer with a conflict if it is not the newest.
    if let Some(version) = &job.metadata.resource_version {
        let path = PointerBuf::from_tokens(["metadata", "resourceVersion"]);
        patch.push(PatchOperation::Replace(ReplaceOperation { path, value: json!(version) }));
    }
    if job.status.is_none() {
        let path = PointerBuf::from_tokens(["status"]);
        patch.push(PatchOperation::Add(json_patch::AddOperation { path, value: Value::Object(Default::default()) }));
    }
    patch.extend(changes);
    Ok(patch)
}

/// Writes what differs between the job's status and `new`, if anything does. Answers the job as it is then.
/// [`StatusError::Conflict`] if the job was changed since it was read.
pub async fn write(api: &Api<AgentJob>, job: &AgentJob, new: &AgentJobStatus) -> Result<Option<AgentJob>, StatusError> {
    let patch = difference(job, new)?;
    if patch.is_empty() {
        return Ok(None);
    }
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let patch: Patch<()> = Patch::Json(json_patch::Patch(patch));
    Ok(Some(api.patch_status(name, &PatchParams::default(), &patch).await?))
}

/// Reads a job from the API server. [`StatusError::Gone`] also if one of the same name has another UID.
pub async fn read(api: &Api<AgentJob>, job: &JobRef) -> Result<AgentJob, StatusError> {
    let found = api.get(&job.name).await?;
    if found.uid() == job.uid { Ok(found) } else { Err(StatusError::Gone) }
}

/// Reads a job, lets `change` decide on a new status, and writes it; again after a conflict. `known` may be a cached copy to
/// begin with: if it is old, the write conflicts and the next round reads. Answers the job after the write.
pub async fn modify<E, F>(api: &Api<AgentJob>, job: &JobRef, known: Option<AgentJob>, change: F) -> Result<AgentJob, E>
where
    F: Fn(&AgentJob, &mut AgentJobStatus) -> Result<(), E>,
    E: From<StatusError> + std::fmt::Debug,
{
    let known = std::sync::Mutex::new(known);
    let round = || async {
        let cached = known.lock().ok().and_then(|mut k| k.take());
        let current = match cached {
            Some(cached) => cached,
            None => read(api, job).await.map_err(Round::Status)?,
        };
        let mut status = current.status.clone().unwrap_or_default();
        change(&current, &mut status).map_err(Round::Refused)?;
        let written = write(api, &current, &status).await.map_err(Round::Status)?;
        Ok(written.unwrap_or(current))
    };
    let backoff = ExponentialBuilder::default()
        .with_min_delay(std::time::Duration::from_millis(2))
        .with_max_delay(std::time::Duration::from_millis(200))
        .with_max_times(20)
        .with_jitter();
    let done = round.retry(backoff).when(|e| matches!(e, Round::Status(StatusError::Conflict))).await;
    done.map_err(|e| match e {
        Round::Status(e) => e.into(),
        Round::Refused(e) => e,
    })
}

#[derive(Debug)]
enum Round<E> {
    Status(StatusError),
    Refused(E),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Phase;

    fn job() -> AgentJob {
        let mut job = AgentJob::default();
        job.metadata.uid = Some("u".into());
        job.metadata.resource_version = Some("7".into());
        job
    }

    #[test]
    fn an_equal_status_is_not_written() {
        let mut job = job();
        assert!(difference(&job, &AgentJobStatus::default()).unwrap().is_empty());
        job.status = Some(AgentJobStatus { phase: Some(Phase::Running), ..Default::default() });
        assert!(difference(&job, &job.status.clone().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_write_names_the_object_and_the_version_that_was_read() {
        let new = AgentJobStatus { phase: Some(Phase::Running), ..Default::default() };
        let patch = serde_json::to_value(difference(&job(), &new).unwrap()).unwrap();
        assert_eq!(patch[0], json!({ "op": "test", "path": "/metadata/uid", "value": "u" }));
        assert_eq!(patch[1], json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": "7" }));
        assert_eq!(patch[2], json!({ "op": "add", "path": "/status", "value": {} }));
        assert_eq!(patch[3], json!({ "op": "add", "path": "/status/phase", "value": "Running" }));
    }
}
