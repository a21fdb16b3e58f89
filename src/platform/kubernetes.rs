//! The Kubernetes client, and what we need to know of the cluster and of ourselves in it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client};

use crate::api::names;

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

/// The gateway's certificate authority, as the gateway published it. Waits until it has.
pub async fn gateway_ca(client: &Client, namespace: &str) -> Result<String, String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    patiently("reading the gateway's certificate authority", || async {
        let map = api.get(names::GATEWAY_CA).await.map_err(|e| e.to_string())?;
        let pem = map.data.and_then(|mut d| d.remove("ca.crt"));
        pem.ok_or_else(|| format!("ConfigMap {} has no ca.crt yet: the gateway writes it", names::GATEWAY_CA))
    })
    .await
}
