//! The operator's settings for runner pods, and the gateway's certificate authority, which is watched so that creating
//! a pod costs no read of it. Used by the roles that create pods.

use clap::Args;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceRequirements, SecurityContext};
use kube::{Api, Client, runtime::WatchStreamExt, runtime::watcher};
use serde_json::Value;
use tokio::sync::watch;

use super::RunnerPodSettings;
use crate::api::{json_object, names};

/// The init container's resources, if the operator sets none.
pub const DEFAULT_RESOURCES: &str =
    r#"{"requests":{"cpu":"10m","memory":"16Mi"},"limits":{"cpu":"500m","memory":"64Mi"}}"#;
/// The init container's security context, if the operator sets none: it meets the restricted Pod Security Standard.
pub const DEFAULT_SECURITY_CONTEXT: &str = concat!(
    r#"{"runAsNonRoot":true,"runAsUser":65532,"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,"#,
    r#""capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"RuntimeDefault"}}"#
);

/// The settings of roles that create pods.
#[derive(Args, Clone, Debug)]
pub struct PodSettings {
    /// Image with koco-runner, put into every runner pod
    #[arg(long, env = "KOCO_RUNNER_IMAGE", default_value = concat!("kodosumi/koco:", env!("CARGO_PKG_VERSION")))]
    pub runner_image: String,
    /// Its pull policy
    #[arg(long, env = "KOCO_RUNNER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub runner_image_pull_policy: String,
    /// Secrets to pull it with, by name in the namespaces of the jobs, separated by commas
    #[arg(long, env = "KOCO_RUNNER_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub runner_image_pull_secrets: Vec<String>,
    /// Resources of the init container that copies koco-runner, as JSON
    #[arg(long, env = "KOCO_RUNNER_RESOURCES", default_value = DEFAULT_RESOURCES,
        value_parser = json_object::<ResourceRequirements>, hide_default_value = true)]
    pub runner_resources: Value,
    /// Its security context, as JSON
    #[arg(long, env = "KOCO_RUNNER_SECURITY_CONTEXT", default_value = DEFAULT_SECURITY_CONTEXT,
        value_parser = json_object::<SecurityContext>, hide_default_value = true)]
    pub runner_security_context: Value,
    /// The gateway's URL, as runner pods reach it
    #[arg(long, env = "KOCO_GATEWAY_URL", default_value = "https://koco-gateway.koco-system.svc:8443")]
    pub gateway_url: String,
}

/// The gateway's certificate authority is not known yet: a pod could not connect.
#[derive(Debug, thiserror::Error)]
#[error("the gateway has not published its certificate authority yet: is it running?")]
pub struct NoGateway;

/// The settings of runner pods, up to date.
#[derive(Clone)]
pub struct PodConfig {
    settings: PodSettings,
    authority: watch::Receiver<Option<String>>,
}

impl PodConfig {
    /// For an operator in `namespace`. Watches the gateway's authority until the last copy is dropped.
    pub fn follow(client: Client, namespace: &str, settings: PodSettings) -> Self {
        let (tx, authority) = watch::channel(None);
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        tokio::spawn(async move {
            let mut maps = watcher::watch_object(api, names::GATEWAY_CA).default_backoff().boxed();
            loop {
                let map = tokio::select! {
                    map = maps.next() => map,
                    () = tx.closed() => return,
                };
                match map {
                    Some(Ok(map)) => {
                        let pem = map.and_then(|m| m.data).and_then(|mut d| d.remove("ca.crt"));
                        tx.send_replace(pem.filter(|pem| !pem.is_empty()));
                    }
                    Some(Err(error)) => tracing::warn!(%error, "watching ConfigMap {}", names::GATEWAY_CA),
                    None => return,
                }
            }
        });
        Self { settings, authority }
    }

    /// The settings with the gateway's current authority.
    pub fn settings(&self) -> Result<RunnerPodSettings, NoGateway> {
        let gateway_ca = self.authority.borrow().clone().ok_or(NoGateway)?;
        Ok(RunnerPodSettings {
            image: self.settings.runner_image.clone(),
            pull_policy: self.settings.runner_image_pull_policy.clone(),
            pull_secrets: self.settings.runner_image_pull_secrets.clone(),
            gateway_url: self.settings.gateway_url.clone(),
            gateway_ca,
            resources: self.settings.runner_resources.clone(),
            security_context: self.settings.runner_security_context.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_object_is_refused_at_the_start() {
        assert!(json_object::<ResourceRequirements>(DEFAULT_RESOURCES).is_ok());
        assert!(json_object::<SecurityContext>(DEFAULT_SECURITY_CONTEXT).is_ok());
        for wrong in ["", "[]", "null", r#"{"requests":1}"#] {
            assert!(json_object::<ResourceRequirements>(wrong).is_err(), "{wrong}");
        }
        assert!(json_object::<SecurityContext>(r#"{"runAsUser":"root"}"#).is_err());
    }
}
