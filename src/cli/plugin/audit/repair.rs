//! `--repair`: asks koco's controller to repair, by an annotation with the time: on the job, or on the run or pod if
//! there is no job. A workflow without a job has no object to annotate: its cancellation is requested from Temporal,
//! as koco does when a job is deleted.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::look::Found;
use crate::{
    api::{AgentJob, AgentRun, names},
    audit::Kind,
    platform::clock,
    temporal::Temporal,
};

/// What is asked about findings; several of one job are asked about once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Job { namespace: String, name: String },
    Run { namespace: String, name: String },
    Pod { namespace: String, name: String },
    Workflow { id: String },
}

impl Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job { namespace, name } => write!(f, "agentjob.kodosumi.io/{name} in {namespace}"),
            Self::Run { namespace, name } => write!(f, "agentrun.kodosumi.io/{name} in {namespace}"),
            Self::Pod { namespace, name } => write!(f, "pod/{name} in {namespace}"),
            Self::Workflow { id } => write!(f, "workflow {id}"),
        }
    }
}

/// What to ask about a finding.
pub(super) fn target(found: &Found) -> Target {
    let (namespace, name) = (found.namespace.clone(), found.name.clone());
    match (found.finding.kind, &found.job) {
        (Kind::PodWithoutRun, _) => Target::Pod { namespace, name },
        (Kind::RunWithoutJob, _) => Target::Run { namespace, name },
        (Kind::WorkflowWithoutJob, _) => Target::Workflow { id: name },
        (_, Some(job)) => Target::Job { namespace, name: job.clone() },
        // All others have a job.
        (_, None) => Target::Job { namespace, name },
    }
}

/// What became of each request: nothing, or why it failed.
pub(super) type Asked = BTreeMap<Target, Option<String>>;

/// Asks about all findings.
pub(super) async fn ask(client: &Client, temporal: Option<&Temporal>, found: &[Found]) -> Asked {
    let (time, mut asked) = (clock::now().to_string(), Asked::new());
    for target in found.iter().map(target) {
        if asked.contains_key(&target) {
            continue;
        }
        let failed = match &target {
            Target::Job { namespace, name } => annotate::<AgentJob>(client, namespace, name, &time).await,
            Target::Run { namespace, name } => annotate::<AgentRun>(client, namespace, name, &time).await,
            Target::Pod { namespace, name } => annotate::<Pod>(client, namespace, name, &time).await,
            Target::Workflow { id } => match temporal {
                Some(temporal) => {
                    let done = temporal.cancel(id, "its AgentJob is gone: kubectl koco audit --repair").await;
                    done.map_err(|e| e.to_string())
                }
                None => Err("there is no connection to Temporal".into()),
            },
        };
        asked.insert(target, failed.err());
    }
    asked
}

async fn annotate<K>(client: &Client, namespace: &str, name: &str, time: &str) -> Result<(), String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { names::ANNOTATION_REPAIR: time } } }));
    let api = Api::<K>::namespaced(client.clone(), namespace);
    match api.patch_metadata(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Finding;

    fn found(kind: Kind, name: &str, job: Option<&str>) -> Found {
        let finding = Finding { kind, message: String::new(), is_garbage: false };
        let (namespace, name, job) = ("n".to_string(), name.to_string(), job.map(str::to_string));
        Found { kind: "x", namespace, name, uid: None, job, finding }
    }

    #[test]
    fn the_job_is_asked_about_if_there_is_one() {
        let words = |kind, job| target(&found(kind, "x", job)).to_string();
        assert_eq!(words(Kind::LivePodOfEndedJob, Some("j")), "agentjob.kodosumi.io/j in n");
        assert_eq!(words(Kind::ActivityWithoutRunner, Some("j")), "agentjob.kodosumi.io/j in n");
        assert_eq!(words(Kind::RunWithoutJob, Some("j")), "agentrun.kodosumi.io/x in n");
        assert_eq!(words(Kind::PodWithoutRun, Some("j")), "pod/x in n");
        assert_eq!(words(Kind::WorkflowWithoutJob, Some("j")), "workflow x");
    }
}
