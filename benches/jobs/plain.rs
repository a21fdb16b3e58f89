//! Pods without koco's runner: those of Kubernetes Jobs, and those of Argo's Workflows. The agent is the container, and
//! starts with it.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};

use crate::{
    argo,
    harness::{
        kubelet::End,
        node::Player,
        player::{Diary, LifeEnd},
    },
};

/// What each agent takes.
const SECOND: Duration = Duration::from_secs(1);

/// Plays both.
pub fn player() -> Player {
    Arc::new(|client, pod, end, diary| {
        async move {
            token(&client, &pod).await;
            // Argo's sidecar says that it is there, and later that it has reported all.
            let result = argo::TaskResult::of(&client, &pod);
            if let Some(result) = &result {
                result.begin().await;
            }
            let ended = tokio::select! {
                () = agent(&pod, &diary) => End::exit(0, None),
                () = end.cancelled() => End::exit(143, None),
            };
            if let Some(result) = &result {
                result.complete().await;
            }
            ended
        }
        .boxed()
    })
}

async fn agent(pod: &Pod, diary: &Diary) {
    let owner = pod.metadata.owner_references.iter().flatten().next().map_or("", |o| o.uid.as_str());
    let life = diary.started(owner, 1);
    tokio::time::sleep(SECOND).await;
    diary.ended(life, LifeEnd::ByItself);
}

/// The kubelet asks for the token of a pod that mounts one.
async fn token(client: &Client, pod: &Pod) {
    let sources = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| v.projected.as_ref());
    let mounts = sources.flat_map(|p| p.sources.iter().flatten()).any(|s| s.service_account_token.is_some());
    if !mounts {
        return;
    }
    let accounts: Api<ServiceAccount> =
        Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let pod = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let request = TokenRequest {
        spec: TokenRequestSpec { bound_object_ref: Some(pod), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    accounts.create_token_request("default", &PostParams::default(), &request).await.expect("a token");
}
