//! The Kubernetes client, and what we need to know of the cluster and of ourselves in it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client};

use super::settings::PodSettings;
use crate::{api::names, pods::RunnerPodSettings};

/// A client with bounded calls, from the pod's account or the kubeconfig.
pub async fn client() -> Result<Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    // A watch is kept open by the server's bookmarks; everything else answers well within this.
    config.read_timeout = Some(Duration::from_secs(330));
    config.connect_timeout = Some(Duration::from_secs(10));
    Client::try_from(config)
}

/// Asks until it is answered: what follows can't begin without.
async fn patiently<T, E, F, Fut>(what: &'static str, ask: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times();
    ask.retry(backoff).notify(|error, _| tracing::warn!(%error, what, "waiting")).await
}

/// The short id of this cluster, from the UID of `kube-system`.
pub async fn cluster(client: &Client) -> Result<String, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let found = patiently("reading namespace kube-system for the cluster's id", || api.get("kube-system")).await?;
    Ok(names::cluster(found.metadata.uid.as_deref().unwrap_or_default()))
}

/// Why the gateway's certificate authority is not known.
#[derive(Debug, thiserror::Error)]
pub enum GatewayCaError {
    /// The gateway has not published it yet, so that no pod could reach it.
    #[error("the gateway has not published its certificate authority yet: is it running?")]
    Missing,
    /// The API server did not say.
    #[error("reading the gateway's certificate authority: {0}")]
    Api(#[from] kube::Error),
}

/// What runner pods need of the operator.
#[derive(Clone)]
pub struct Runners {
    client: Client,
    namespace: String,
    pods: PodSettings,
}

impl Runners {
    /// For an operator in `namespace`.
    pub fn new(client: Client, namespace: &str, pods: PodSettings) -> Self {
        Self { client, namespace: namespace.into(), pods }
    }

    /// With the authority that the gateway has published by now: it may have been replaced since the last pod.
    pub async fn settings(&self) -> Result<RunnerPodSettings, GatewayCaError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let map = api.get_opt(names::GATEWAY_CA).await?;
        let pem = map.and_then(|m| m.data).and_then(|mut d| d.remove("ca.crt")).filter(|pem| !pem.is_empty());
        pem.map(|pem| self.pods.with_ca(pem)).ok_or(GatewayCaError::Missing)
    }
}
