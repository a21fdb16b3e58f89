//! The Kubernetes client, and the cluster's id.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, client::ClientBuilder};
use tokio_util::sync::CancellationToken;

use super::{answers::Observed, clock, metrics::RequestMetrics, settings::Common};
use crate::api::names;

/// How long a connection may be silent. A watch has a bookmark every minute, so that one which has died without a word
/// is soon replaced.
const SILENCE: Duration = Duration::from_secs(75);

/// A client with bounded calls, from the pod's account or the kubeconfig. It reads the API server's clock, and counts its
/// requests.
pub async fn client(metrics: &RequestMetrics) -> Result<Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.read_timeout = Some(SILENCE);
    // It counts from a request, and not from when its connection became idle.
    config.reset_reader_on_write = true;
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(ClientBuilder::try_from(config)?.with_layer(&Observed(metrics.clone())).with_layer(&clock::reader()).build())
}

/// Retries without limit: the caller can't start without the answer.
async fn retried<T, E, F, Fut>(what: &'static str, ask: F) -> Result<T, E>
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

/// The short id of this cluster, from the UID of `kube-system`. Retries without limit.
pub async fn cluster(client: &Client) -> Result<String, kube::Error> {
    retried("reading namespace kube-system for the cluster's id", || ask_cluster(client)).await
}

/// The id that is set, or else that of the cluster. `None` if `stop` comes before the API server answers.
pub async fn cluster_unless_stopped(
    client: &Client,
    common: &Common,
    stop: &CancellationToken,
) -> Result<Option<String>, kube::Error> {
    if common.cluster.is_some() {
        return Ok(common.cluster.clone());
    }
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        found = cluster(client) => found.map(Some),
    }
}

/// The id of the cluster, without retries.
pub async fn ask_cluster(client: &Client) -> Result<String, kube::Error> {
    let found = Api::<Namespace>::all(client.clone()).get("kube-system").await?;
    Ok(names::cluster(found.metadata.uid.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use clap::Parser;
    use futures::FutureExt;
    use kube::client::Body;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        common: Common,
    }

    #[tokio::test]
    async fn the_clusters_id_is_waited_for_until_the_end() {
        let silent = |_: Request<Body>| std::future::pending::<Result<Response<Body>, std::io::Error>>();
        let client = Client::new(tower::service_fn(silent), "default");
        let stop = CancellationToken::new();
        let id = |line: &[&str]| {
            let common = Line::parse_from(line).common;
            cluster_unless_stopped(&client, &common, &stop).now_or_never().map(Result::unwrap)
        };
        assert_eq!((id(&["koco"]), id(&["koco", "--cluster", "c"])), (None, Some(Some("c".into()))));
        stop.cancel();
        assert_eq!((id(&["koco"]), id(&["koco", "--cluster", "c"])), (Some(None), Some(Some("c".into()))));
    }
}
