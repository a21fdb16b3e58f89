//! What benches share that measure in the cluster that is up: a client, and a namespace of their own.

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use koco::platform::{kubernetes, metrics::RequestMetrics};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

/// Measures in a namespace that is deleted afterwards, also after Ctrl-C.
pub async fn in_namespace<T>(measure: impl AsyncFnOnce(Client, &str) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let client = kubernetes::client(&RequestMetrics::default()).await;
    let client = client.context("run this inside the dev cluster, as `make bench-control` does")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = format!("koco-bench-{}", std::process::id());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    namespaces.create(&PostParams::default(), &namespace).await.context("a namespace for the bench")?;
    let done = tokio::select! {
        done = measure(client, &name) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    namespaces.delete(&name, &DeleteParams::default()).await.context("deleting the bench's namespace")?;
    done
}
