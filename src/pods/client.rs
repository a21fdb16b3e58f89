//! The calls that list, create and delete runner pods. They decide nothing.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use serde_json::Value;

use super::PodView;
use crate::platform::store;

/// How much of the API server's message is kept, in characters: a webhook may return a text of any length.
const MAX_WORDS: usize = 1024;

/// Why a call for a pod failed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The API server refused the pod: the template is wrong, or a quota, policy or webhook forbids it.
    #[error("{0}")]
    Refused(String),
    /// A pod of the same name that is not this run's exists.
    #[error("pod {0} exists and is not this run's: delete it")]
    Foreign(String),
    /// The request failed.
    #[error("{0}: {1}")]
    Api(String, kube::Error),
    /// The template nests too deeply to be read.
    #[error("{field} can't be read: {source}")]
    Unreadable {
        /// The field.
        field: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The template does not make a pod.
    #[error("spec.template is not a pod template: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl PodError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Unreadable { .. } | Self::Malformed(_) => "PodRefused",
            Self::Foreign(_) => "PodNameTaken",
            Self::Api(..) => "ApiServer",
        }
    }
    /// Whether retrying is pointless until a user or administrator changes something.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Api(..))
    }
}

/// The result of creating a pod.
#[derive(Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It was created; its UID.
    Created(String),
    /// It existed already and is this run's; its UID. The response to an earlier create may have been lost.
    Existed(String),
}

impl CreateOutcome {
    /// The pod's UID.
    pub fn uid(&self) -> &str {
        match self {
            Self::Created(uid) | Self::Existed(uid) => uid,
        }
    }
}

/// The runner pods of a namespace.
#[derive(Clone)]
pub struct Pods {
    typed: Api<Pod>,
    raw: Api<DynamicObject>,
}

impl Pods {
    /// The runner pods of a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        let resource = ApiResource::erase::<Pod>(&());
        Self {
            typed: Api::namespaced(client.clone(), namespace),
            raw: Api::namespaced_with(client, namespace, &resource),
        }
    }

    /// Reads a pod from the API server, not a cache; `None` if it doesn't exist.
    pub async fn get(&self, name: &str) -> Result<Option<PodView>, PodError> {
        let found = self.typed.get_opt(name).await.map_err(|e| self.error("get", name, e))?;
        Ok(found.as_ref().map(PodView::of))
    }

    fn error(&self, verb: &str, name: &str, source: kube::Error) -> PodError {
        PodError::Api(format!("{verb} pod {}/{name}", self.typed.namespace().unwrap_or_default()), source)
    }

    /// Creates a pod, or finds the one that exists already for the same run.
    pub async fn create(&self, pod: Value, run_uid: &str) -> Result<CreateOutcome, PodError> {
        let pod: DynamicObject = serde_json::from_value(pod)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        match self.raw.create(&PostParams::default(), &pod).await {
            Ok(made) => Ok(CreateOutcome::Created(made.metadata.uid.unwrap_or_default())),
            Err(kube::Error::Api(e)) if e.code == 409 && e.reason == "AlreadyExists" => {
                let there = self.get(&name).await?.filter(|p| p.run_uid.as_deref() == Some(run_uid));
                there.map(|p| CreateOutcome::Existed(p.uid)).ok_or(PodError::Foreign(name))
            }
            Err(kube::Error::Api(e)) if matches!(e.code, 400 | 403 | 404 | 405 | 413 | 422) => {
                Err(PodError::Refused(e.message.chars().take(MAX_WORDS).collect()))
            }
            Err(e) => Err(self.error("create", &name, e)),
        }
    }

    /// Deletes a pod, identified by its UID, with its grace period. Succeeds if it is gone already.
    pub async fn delete(&self, name: &str, uid: &str) -> Result<(), PodError> {
        let deleted = store::delete(&self.typed, name, uid, DeleteParams::default()).await;
        deleted.map_err(|e| self.error("delete", name, e))
    }
}
