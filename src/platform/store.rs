//! Reads and writes of koco's own resources, of any kind. A status is written by one PUT of `/status` without a spec:
//! the API server keeps the stored one, so that inputs and template are not transferred. It is bound to the UID and the
//! resourceVersion that were read. Used by the roles and by [`crate::runs`].

use backon::{ExponentialBuilder, Retryable};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    core::Request,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// Why an object could not be read or written. `what` is verb and object: `update status of AgentJob ns/name`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object was changed since it was read.
    #[error("{what}: conflict, it was changed since it was read")]
    Conflict {
        /// Verb and object.
        what: String,
    },
    /// The object is gone.
    #[error("{what}: it is gone")]
    Gone {
        /// Verb and object.
        what: String,
    },
    /// The API server refuses the request for good: a retry would be refused, too.
    #[error("{what}: {words}")]
    Invalid {
        /// Verb and object.
        what: String,
        /// The API server's message.
        words: String,
    },
    /// The request failed.
    #[error("{what}: {source}")]
    Api {
        /// Verb and object.
        what: String,
        /// The cause.
        source: kube::Error,
    },
    /// The object can't be serialized; never happens with koco's.
    #[error("{what}: {source}")]
    Json {
        /// Verb and object.
        what: String,
        /// The cause.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// From the client's error.
    pub fn of(what: impl Into<String>, source: kube::Error) -> Self {
        let what = what.into();
        match &source {
            kube::Error::Api(s) if s.code == 409 => Self::Conflict { what },
            kube::Error::Api(s) if s.code == 404 => Self::Gone { what },
            kube::Error::Api(s) if s.code == 422 => Self::Invalid { what, words: s.message.clone() },
            _ => Self::Api { what, source },
        }
    }

    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::Gone { .. } => "Gone",
            Self::Invalid { .. } => "Invalid",
            Self::Api { .. } | Self::Json { .. } => "ApiServer",
        }
    }

    /// Whether the object was changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the object does not exist any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// A resource of koco's: namespaced, with a status.
pub trait Stored: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned {}
impl<K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned> Stored for K {}

/// `VERB KIND namespace/name`, for errors.
pub fn what<K: Stored>(verb: &str, object: &K) -> String {
    let meta = object.meta();
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    format!("{verb} {} {namespace}/{name}", K::kind(&()))
}

/// The version of an object as a number that grows with each write, so that a copy can be told from an older one. Not
/// across a restore of the cluster's data.
pub fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

/// Whether a copy of an object is newer than another of it. A write's response and the watch come in any order.
pub fn is_newer<K: Resource>(copy: &K, than: &K) -> bool {
    match (version(copy), version(than)) {
        (Some(copy), Some(than)) => copy > than,
        _ => true,
    }
}

/// The body of a status write.
fn status_body<K: Stored>(object: &K, status: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let meta = object.meta();
    serde_json::to_vec(&json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "status": status,
    }))
}

/// Writes the whole status of an object as it was read. Returns the object after the write.
/// [`StoreError::Conflict`] if it was changed since, or another object has its name by now.
pub async fn put_status<K: Stored>(client: &Client, object: &K, status: &impl Serialize) -> Result<K, StoreError> {
    let what = what("update status of", object);
    let meta = object.meta();
    let url = K::url_path(&(), meta.namespace.as_deref());
    let body = match status_body(object, status) {
        Ok(body) => body,
        Err(source) => return Err(StoreError::Json { what, source }),
    };
    let name = meta.name.as_deref().unwrap_or_default();
    let request = Request::new(url).replace_subresource("status", name, &PostParams::default(), body);
    let request = request.map_err(|e| StoreError::Api { what: what.clone(), source: kube::Error::BuildRequest(e) })?;
    client.request::<K>(request).await.map_err(|e| StoreError::of(what, e))
}

/// Reads an object by name. [`StoreError::Gone`] also if the one of that name has another UID than `uid`.
pub async fn read<K>(api: &Api<K>, name: &str, uid: &str) -> Result<K, StoreError>
where
    K: Stored,
{
    let what = || format!("get {} {}/{name}", K::kind(&()), api.namespace().unwrap_or_default());
    let found = api.get(name).await.map_err(|e| StoreError::of(what(), e))?;
    if found.meta().uid.as_deref() == Some(uid) { Ok(found) } else { Err(StoreError::Gone { what: what() }) }
}

/// Deletes exactly the object of this UID. Succeeds if it is gone already, also if another one has its name by now.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: &str, params: DeleteParams) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let exact = Preconditions { uid: Some(uid.into()), resource_version: None };
    match api.delete(name, &DeleteParams { preconditions: Some(exact), ..params }).await {
        Ok(_) => Ok(()),
        // 404: gone. 409: another object has the name.
        Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

/// Repeats a read-decide-write cycle while it ends in a conflict: 20 times, with growing waits up to 200 ms.
pub async fn retry_conflicts<T, E, F, Fut>(round: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Round<E>>>,
    E: From<StoreError>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(std::time::Duration::from_millis(2))
        .with_max_delay(std::time::Duration::from_millis(200))
        .with_max_times(20)
        .with_jitter();
    let done = round.retry(backoff).when(|e| matches!(e, Round::Store(e) if e.is_conflict())).await;
    done.map_err(|e| match e {
        Round::Store(e) => e.into(),
        Round::Refused(e) => e,
    })
}

/// How a cycle of [`retry_conflicts`] failed.
#[derive(Debug)]
pub enum Round<E> {
    /// By the API server.
    Store(StoreError),
    /// By the decision.
    Refused(E),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AgentJob, AgentJobStatus, Phase};

    #[test]
    fn a_status_write_names_the_object_and_its_version_and_carries_no_spec() {
        let mut job = AgentJob::default();
        job.metadata.name = Some("a".into());
        job.metadata.namespace = Some("n".into());
        job.metadata.uid = Some("u".into());
        job.metadata.resource_version = Some("7".into());
        job.spec.entry_point = "canary".into();
        let status = AgentJobStatus { phase: Some(Phase::Running), ..Default::default() };
        let body: serde_json::Value = serde_json::from_slice(&status_body(&job, &status).unwrap()).unwrap();
        assert_eq!(
            body,
            json!({
                "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
                "metadata": { "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7" },
                "status": { "phase": "Running" },
            })
        );
    }
}
