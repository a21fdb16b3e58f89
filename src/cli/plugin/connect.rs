//! Connects to the cluster like kubectl: flags, `KUBECONFIG`, `~/.kube/config`, and in a pod its account. Also explains
//! errors of the API server to users.

use std::{path::PathBuf, pin::Pin, time::Duration};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};

use secrecy::ExposeSecret;
use tower::{BoxError, util::MapFutureLayer};

use super::{Usage, server::OwnToken};
use crate::{
    api::{AgentJob, AgentRun, Seconds, names},
    platform::clock,
};

/// Which cluster and namespace, and as who.
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
    /// User to act as: a name, or system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", global = true, value_name = "USER")]
    pub user: Option<String>,
    /// Group to act as, with --as; may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub groups: Vec<String>,
    /// How long to wait for the answer to each request, such as 10s. What is followed may last longer. 0: without limit
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", value_parser = limit)]
    pub request_timeout: Duration,
}

/// A limit as kubectl takes it: a number alone counts seconds.
fn limit(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => Seconds::parse(text),
    }
}

/// Reads the name of a job, also as `-o name` prints it.
pub(super) fn job_name(text: &str) -> Result<String, String> {
    let name = match text.split_once('/') {
        Some(("agentjob.kodosumi.io" | "agentjobs.kodosumi.io" | "agentjob" | "agentjobs" | "aj", name)) => name,
        _ => text,
    };
    match names::is_object_name(name) {
        true => Ok(name.into()),
        false => Err("no name of an AgentJob: lower-case letters, digits, - and .".into()),
    }
}

/// A cluster, and a namespace in it.
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
    pub namespace: String,
    /// Whether that was asked for, and not just the kubeconfig's.
    pub chosen: bool,
    /// The token of the kubeconfig's user, if it has one and acts as that user.
    pub token: Option<OwnToken>,
    /// How long to wait for the answer to a request.
    pub limit: Option<Duration>,
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
        self.impersonate(&mut config)?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let limit = Some(self.request_timeout).filter(|limit| !limit.is_zero());
        let token = own_token(&config);
        let limited = MapFutureLayer::new(move |answer| in_time(answer, limit));
        let client = ClientBuilder::try_from(config)?.with_layer(&clock::reader()).with_layer(&limited).build();
        Ok(Session { client, namespace, chosen: self.namespace.is_some(), token, limit })
    }

    /// Acts as another user, instead of one that the kubeconfig may name.
    fn impersonate(&self, config: &mut Config) -> anyhow::Result<()> {
        if let Some(user) = &self.user {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups = Some(self.groups.clone()).filter(|groups| !groups.is_empty());
        }
        ensure!(
            self.user.is_some() || self.groups.is_empty(),
            Usage("--as-group takes effect together with --as alone: name the user, too")
        );
        Ok(())
    }
}

/// The token of the kubeconfig's user, unless it acts as another.
fn own_token(config: &Config) -> Option<OwnToken> {
    let user = &config.auth_info;
    if user.impersonate.is_some() {
        return None;
    }
    let file = user.token_file.as_ref().map(|file| OwnToken::File(file.into()));
    file.or_else(|| user.token.as_ref().map(|token| OwnToken::Text(token.expose_secret().to_string())))
}

type Answer<R> = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

/// A request's answer, if it begins in time.
async fn in_time<R>(answer: Answer<R>, limit: Option<Duration>) -> Result<R, BoxError> {
    let Some(limit) = limit else { return answer.await };
    let answered = tokio::time::timeout(limit, answer).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} (--request-timeout)", Seconds::from(limit)).into()))
}

impl Session {
    /// The same cluster, in this namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.into(), chosen: true, ..self.clone() }
    }

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
    let kind = status.details.as_ref().map(|d| d.kind.as_str()).unwrap_or_default();
    match status.code {
        404 if kind == "namespaces" => format!("there is no namespace {namespace}: kubectl create namespace makes one"),
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
    fn a_name_may_be_that_of_an_object() {
        assert_eq!(job_name("a-1"), Ok("a-1".into()));
        assert_eq!(job_name("agentjob.kodosumi.io/a"), Ok("a".into()));
        assert_eq!(job_name("aj/a"), Ok("a".into()));
        for wrong in ["pod/a", "../a", "", "aj/", "A"] {
            assert!(job_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_written_as_for_kubectl() {
        assert_eq!(limit("0"), Ok(Duration::ZERO));
        assert_eq!((limit("5"), limit("1m")), (Ok(Duration::from_secs(5)), Ok(Duration::from_secs(60))));
        assert!(limit("soon").is_err());
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_an_error() {
        let never = Box::pin(std::future::pending::<Result<(), BoxError>>());
        let error = in_time(never, Some(Duration::from_millis(1))).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 1ms"), "{error}");
        assert!(in_time(Box::pin(async { Ok(()) }), None).await.is_ok());
    }

    #[test]
    fn a_group_alone_is_nobody() {
        let mut config = Config::new("http://localhost".parse().unwrap());
        let target = |user: Option<&str>, groups: &[&str]| Target {
            user: user.map(str::to_string),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            ..Target::default()
        };
        let error = target(None, &["g"]).impersonate(&mut config).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
        target(Some("u"), &["g", "h"]).impersonate(&mut config).unwrap();
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("u"));
        assert_eq!(config.auth_info.impersonate_groups, Some(vec!["g".into(), "h".into()]));
        target(None, &[]).impersonate(&mut config).unwrap();
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("u"), "the kubeconfig's stays");
    }

    #[test]
    fn a_missing_job_and_a_missing_operator_are_told_apart() {
        let details = json!({ "name": "x", "group": "kodosumi.io", "kind": "agentjobs" });
        let job = said(json!({ "code": 404, "message": "agentjobs \"x\" not found", "details": details }));
        assert_eq!(job, "there is no AgentJob x in the namespace n");
        assert!(said(json!({ "code": 404, "message": "404 page not found" })).contains("not installed"));
        assert!(said(json!({ "code": 404, "message": "?", "details": {} })).contains("not installed"));
        let details = json!({ "name": "n", "kind": "namespaces" });
        let namespace = said(json!({ "code": 404, "message": "namespaces \"n\" not found", "details": details }));
        assert!(namespace.starts_with("there is no namespace n:"), "{namespace}");
        assert_eq!(said(json!({ "code": 403, "message": "agentjobs is forbidden" })), "agentjobs is forbidden");
    }
}
