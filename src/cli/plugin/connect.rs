//! Connects to the cluster like kubectl: flags, `KUBECONFIG`, `~/.kube/config`, and in a pod its account. Also explains
//! errors of the API server to users.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    api::{AgentJob, AgentRun},
    platform::clock,
};

/// Which cluster and namespace.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Target {
    /// Namespace; default: that of the kubeconfig's context
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Path to the kubeconfig
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// A cluster, and a namespace in it.
pub(super) struct Session {
    client: Client,
    pub namespace: String,
}

impl Target {
    /// Reads the kubeconfig. Sends no request yet.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &options).await.with_context(|| path.display().to_string())?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.context("the kubeconfig")?,
            None => Config::infer().await.context("no way to reach Kubernetes: neither a kubeconfig nor in a pod")?,
        };
        // A paused agent writes no logs for as long as it is paused.
        config.read_timeout = None;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = ClientBuilder::try_from(config)?.with_layer(&clock::reader()).build();
        Ok(Session { client, namespace })
    }
}

impl Session {
    pub fn jobs(&self) -> Api<AgentJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn runs(&self) -> Api<AgentRun> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The runs of a job, by number.
    pub async fn runs_of(&self, job: &AgentJob) -> Result<Vec<AgentRun>, kube::Error> {
        let found = self.runs().list(&ListParams::default().fields(&runs_selector(job))).await?;
        let mut runs: Vec<_> = found.items.into_iter().filter(|r| r.spec.identity.job_uid == job.uid()).collect();
        runs.sort_by_key(AgentRun::number);
        Ok(runs)
    }

    pub fn events(&self) -> Api<Event> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads a job.
    pub async fn job(&self, name: &str) -> anyhow::Result<AgentJob> {
        self.jobs().get(name).await.map_err(|e| self.explain(e, name))
    }

    /// Explains an error about a job to the user.
    pub fn explain(&self, error: kube::Error, name: &str) -> anyhow::Error {
        match &error {
            kube::Error::Api(status) => anyhow!(words(status, name, &self.namespace)),
            _ => anyhow::Error::new(error).context("the API server can't be reached"),
        }
    }
}

/// Selects runs by the job's name; callers check the UID.
pub(super) fn runs_selector(job: &AgentJob) -> String {
    format!("spec.identity.jobName={}", job.metadata.name.as_deref().unwrap_or_default())
}

fn words(status: &kube::core::Status, name: &str, namespace: &str) -> String {
    let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
    match status.code {
        404 if named => format!("there is no AgentJob {name} in the namespace {namespace}"),
        404 => "this cluster knows no AgentJobs, or no AgentRuns: koco is not installed, or only a part of it (there is no \
                CRD agentjobs.kodosumi.io, or agentruns.kodosumi.io)"
            .into(),
        401 => "not authenticated: the API server refuses the kubeconfig's credentials".into(),
        _ => status.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::{Value, json};

    use super::*;

    fn said(status: Value) -> String {
        let status: Status = serde_json::from_value(status).unwrap();
        words(&status, "x", "n")
    }

    #[test]
    fn a_missing_job_and_a_missing_operator_are_told_apart() {
        let details = json!({ "name": "x", "group": "kodosumi.io", "kind": "agentjobs" });
        let job = said(json!({ "code": 404, "message": "agentjobs \"x\" not found", "details": details }));
        assert_eq!(job, "there is no AgentJob x in the namespace n");
        assert!(said(json!({ "code": 404, "message": "404 page not found" })).contains("not installed"));
        assert!(said(json!({ "code": 404, "message": "?", "details": {} })).contains("not installed"));
        assert_eq!(said(json!({ "code": 403, "message": "agentjobs is forbidden" })), "agentjobs is forbidden");
    }
}
