//! Reads a suspect and what it refers to, one GET after the other, from the API server and not a cache.

use anyhow::Context;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, Client, ResourceExt};

use super::super::text::say;
use crate::{
    api::{AgentJob, AgentRun, JobRef, names},
    audit::{Finding, Suspect, judge},
    platform::clock,
    pods::{PodView, view},
    runs::Runs,
    temporal::Temporal,
};

/// Something that doesn't fit.
pub(super) struct Found {
    /// `Pod`, `AgentRun`, `AgentJob` or `Workflow`.
    pub kind: &'static str,
    /// The object's namespace; of a workflow its job's.
    pub namespace: String,
    /// The object's name, or the workflow's id.
    pub name: String,
    /// The object's UID.
    pub uid: Option<String>,
    /// The name of the job that it belongs to, or did.
    pub job: Option<String>,
    /// What doesn't fit.
    pub finding: Finding,
}

impl Found {
    pub fn order(&self) -> impl Ord {
        (self.finding.kind, self.namespace.clone(), self.name.clone())
    }
}

pub(super) struct Reader {
    client: Client,
    /// The only namespace that is compared.
    namespace: Option<String>,
    temporal: Option<Temporal>,
}

impl Reader {
    pub fn new(client: Client, namespace: Option<String>, temporal: Option<Temporal>) -> Self {
        Self { client, namespace, temporal }
    }

    pub fn temporal(&self) -> Option<&Temporal> {
        self.temporal.as_ref()
    }

    /// What doesn't fit of a suspect now.
    pub async fn look(&self, suspect: &Suspect) -> anyhow::Result<Option<Found>> {
        let looked = match suspect {
            Suspect::Pod { namespace, name } => self.pod(namespace, name).await,
            Suspect::Run { namespace, name } => self.run(namespace, name).await,
            Suspect::Job { namespace, name } => self.job(namespace, name).await,
            Suspect::Workflow { id, job_uid } => self.workflow(id, job_uid).await,
        };
        match looked {
            // Of another version of koco. The roles skip it, too, and say so by an event.
            Err(e) if e.downcast_ref::<kube::Error>().is_some_and(|e| matches!(e, kube::Error::SerdeError(_))) => {
                say(format_args!("warning: skipped, because it can't be read: {suspect:?}: {e:#}"));
                Ok(None)
            }
            looked => looked,
        }
    }

    async fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Option<Found>> {
        let Some(pod) = self.get::<Pod>(namespace, name).await? else { return Ok(None) };
        let owner = view::owner(&pod.metadata).map(|owner| owner.name.clone());
        let run = match &owner {
            Some(owner) => self.get::<AgentRun>(namespace, owner).await?,
            None => None,
        };
        let job_name = run.as_ref().map(|run| run.spec.identity.job_name.clone());
        let job = match &job_name {
            Some(job) => self.get::<AgentJob>(namespace, job).await?,
            None => None,
        };
        let finding = judge::pod(&PodView::of(&pod), run.as_ref(), job.as_ref(), &Time(clock::now()));
        let label = || pod.labels().get(names::LABEL_JOB_NAME).cloned();
        let job = job_name.or_else(|| owner.as_deref().and_then(names::job_of).map(str::to_string)).or_else(label);
        Ok(finding.map(|finding| found("Pod", namespace, &pod, job, finding)))
    }

    async fn run(&self, namespace: &str, name: &str) -> anyhow::Result<Option<Found>> {
        let Some(run) = self.get::<AgentRun>(namespace, name).await? else { return Ok(None) };
        let job = run.spec.identity.job_name.clone();
        let finding = judge::run(&run, self.get::<AgentJob>(namespace, &job).await?.as_ref());
        Ok(finding.map(|finding| found("AgentRun", namespace, &run, Some(job), finding)))
    }

    async fn job(&self, namespace: &str, name: &str) -> anyhow::Result<Option<Found>> {
        let Some(job) = self.get::<AgentJob>(namespace, name).await? else { return Ok(None) };
        let runs = Runs::new(self.client.clone(), namespace).list(&job.reference()).await?;
        let mut pods = Vec::new();
        for run in &runs {
            let pod = self.get::<Pod>(namespace, &run.spec.identity.pod_name).await?;
            pods.extend(pod.as_ref().map(PodView::of));
        }
        let finding = judge::job(&job, &runs, &pods);
        Ok(finding.map(|finding| found("AgentJob", namespace, &job, Some(name.into()), finding)))
    }

    async fn workflow(&self, id: &str, job_uid: &str) -> anyhow::Result<Option<Found>> {
        let Some(temporal) = &self.temporal else { return Ok(None) };
        let Some(open) = temporal.open_workflow(id, job_uid).await.with_context(|| format!("describing {id}"))? else {
            return Ok(None);
        };
        let Some(JobRef { namespace, name, uid }) = open.job else { return Ok(None) };
        if self.namespace.as_ref().is_some_and(|only| *only != namespace) {
            return Ok(None);
        }
        let job = self.get::<AgentJob>(&namespace, &name).await?.filter(|job| job.uid() == uid);
        let mut finding = judge::workflow(job.as_ref());
        if finding.is_none() {
            for number in open.waits_for {
                let run = self.get::<AgentRun>(&namespace, &names::run(&name, &uid, number)).await?;
                let pod = match &run {
                    Some(run) => self.get::<Pod>(&namespace, &run.spec.identity.pod_name).await?,
                    None => None,
                };
                finding = finding.or(judge::activity(number, run.as_ref(), pod.as_ref().map(PodView::of).as_ref()));
            }
        }
        let (uid, job) = (None, Some(name));
        Ok(finding.map(|finding| Found { kind: "Workflow", namespace, name: id.into(), uid, job, finding }))
    }

    async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, kube::Error>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        if !names::is_object_name(name) {
            return Ok(None);
        }
        Api::<K>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }
}

fn found(
    kind: &'static str,
    namespace: &str,
    object: &impl ResourceExt,
    job: Option<String>,
    finding: Finding,
) -> Found {
    Found { kind, namespace: namespace.into(), name: object.name_any(), uid: object.uid(), job, finding }
}
